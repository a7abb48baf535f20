import {expect} from 'chai'
import fc from 'fast-check'
import {
  escapeOverlayPath,
  fitsOnePage,
  optionBytesMax,
  overlayOptions,
  safeOptions,
} from '../../../src/core/mounts/overlay.ts'

/** Cuts at each separator that has no backslash before it, as ovl_next_opt and ovl_parse_layers do. */
function splitUnescaped(text: string, separator: string): string[] {
  const parts: string[] = []
  let part = ''
  for (let i = 0; i < text.length; i++) {
    const c = text.charAt(i)
    if (c === separator) {
      parts.push(part)
      part = ''
    } else part += c === '\\' ? c + text.charAt(++i) : c
  }
  return [...parts, part]
}

/** Takes one backslash before any character away, as ovl_unescape does. */
function unescape(text: string): string {
  return text.replaceAll(/\\([^]?)/g, '$1')
}

/** What the kernel makes of an option text, by the rules of fs/overlayfs/params.c. */
function readAsKernel(text: string): {lower: string[]; upper: string; work: string} {
  const found = new Map(
    splitUnescaped(text, ',').map((option): [string, string] => {
      const equals = option.indexOf('=')
      return [option.slice(0, equals), option.slice(equals + 1)]
    }),
  )
  expect([...found.keys()]).to.deep.equal(['lowerdir', 'upperdir', 'workdir'])
  return {
    lower: splitUnescaped(found.get('lowerdir') ?? '', ':').map(unescape),
    upper: unescape(found.get('upperdir') ?? ''),
    work: unescape(found.get('workdir') ?? ''),
  }
}

const hostile = fc
  .array(fc.oneof(fc.constantFrom(',', ':', '\\', '\n', ' ', '=', '"', 'é', 'a'), fc.string()))
  .map((parts) => `/${parts.join('').replaceAll('\0', '')}`)

describe('overlay options', () => {
  it('are read by the kernel as the three directories they were made of, whatever those hold', () => {
    fc.assert(
      fc.property(hostile, hostile, hostile, (lowerDir, upperDir, workDir) => {
        const read = readAsKernel(overlayOptions({lowerDir, upperDir, workDir}))
        expect(read).to.deep.equal({lower: [lowerDir], upper: upperDir, work: workDir})
      }),
    )
  })

  it('leave plain paths as a person wrote them', () => {
    expect(
      overlayOptions({lowerDir: '/s/images/a b/rootfs', upperDir: '/s/é/upper', workDir: '/s/w'}),
    ).to.equal('lowerdir=/s/images/a b/rootfs,upperdir=/s/é/upper,workdir=/s/w')
  })

  it('escape exactly commas, colons and backslashes', () => {
    expect(escapeOverlayPath('/a,b:c\\d=e"f\n')).to.equal('/a\\,b\\:c\\\\d=e"f\n')
  })

  it('fit one page up to its last byte before the closing NUL, counted in bytes', () => {
    expect(fitsOnePage('x'.repeat(optionBytesMax))).to.equal(true)
    expect(fitsOnePage('x'.repeat(optionBytesMax + 1))).to.equal(false)
    expect(fitsOnePage('é'.repeat(optionBytesMax / 2 + 1))).to.equal(false)
  })

  it('are never without nodev and nosuid', () => {
    expect(safeOptions({noexec: false})).to.deep.equal(['nodev', 'nosuid'])
    expect(safeOptions({noexec: true})).to.deep.equal(['nodev', 'nosuid', 'noexec'])
  })
})
