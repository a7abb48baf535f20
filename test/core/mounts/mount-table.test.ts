import {mkdirSync, symlinkSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {
  findMounts,
  mountOf,
  mountsBelow,
  parseMountInfo,
  tablePath,
  unescapeOctal,
  type MountEntry,
} from '../../../src/core/mounts/mount-table.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const parse = (text: string): MountEntry[] => parseMountInfo(Buffer.from(text))

/** The kernel's mangle(): blank, tab, line break and backslash (and in options a comma) as octal. */
function mangle(text: string, escaped: string): string {
  return text.replaceAll(/[^]/g, (c) =>
    escaped.includes(c) ? `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}` : c,
  )
}

function entry(mountPoint: string, mountId: number, parentId: number): MountEntry {
  return {
    ...{mountPoint, mountId, parentId, major: 0, minor: 1, root: '/', options: ['rw']},
    ...{propagation: [], fsType: 'tmpfs', source: `m${mountId}`, superOptions: ['rw']},
  }
}

describe('the mount table', () => {
  it('is read field by field', () => {
    expect(
      parse(
        '36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n',
      ),
    ).to.deep.equal([
      {
        mountId: 36,
        parentId: 35,
        major: 98,
        minor: 0,
        root: '/mnt1',
        mountPoint: '/mnt2',
        options: ['rw', 'noatime'],
        propagation: ['shared:1', 'master:2'],
        fsType: 'ext3',
        source: '/dev/root',
        superOptions: ['rw', 'errors=continue'],
      },
    ])
  })

  it('takes lines without optional fields, with an empty source, and of a mount without a parent', () => {
    const [first, second] = parse(
      '1 1 0:1 / / rw - rootfs rootfs rw\n44 27 0:39 / /x rw - tmpfs  rw\n',
    )
    expect(first).to.include({mountId: 1, parentId: 1})
    expect(first?.propagation).to.deep.equal([])
    expect(second).to.include({source: '', fsType: 'tmpfs'})
  })

  it('keeps the mark of a directory that was removed', () => {
    const [found] = parse('44 27 0:39 /gone//deleted /x rw - ext4 /dev/a rw\n')
    expect(found?.root).to.equal('/gone//deleted')
  })

  it('tells a separator from an optional field and from a path named "-"', () => {
    const [found] = parse('44 27 0:39 / /- rw,x shared:3 - tmpfs - rw\n')
    expect(found).to.include({mountPoint: '/-', fsType: 'tmpfs', source: '-'})
  })

  it('gives back every path that the kernel can print', () => {
    const path = fc
      .array(fc.oneof(fc.constantFrom(' ', '\t', '\n', '\\', '#', '\\040', ','), fc.string()))
      .map((parts) => `/${parts.join('').replaceAll('\0', '')}`)
      .filter((text) => text.isWellFormed())
    fc.assert(
      fc.property(path, path, (mountPoint, upper) => {
        const line =
          `44 27 0:39 / ${mangle(mountPoint, ' \t\n\\')} rw - overlay imgstore:a ` +
          `rw,upperdir=${mangle(upper, ' \t\n\\,')}\n`
        const [found, ...others] = parse(line)
        expect(others).to.deep.equal([])
        expect(found?.mountPoint).to.equal(mountPoint)
        expect(found?.superOptions).to.deep.equal(['rw', `upperdir=${upper}`])
      }),
    )
  })

  it('leaves backslashes alone that are not an octal number', () => {
    for (const text of ['\\', '\\0', '\\04', '\\08x', '\\x41', '\\777'])
      expect(unescapeOctal(Buffer.from(text))).to.equal(text)
    expect(unescapeOctal(Buffer.from('a\\040\\011\\012\\134\\303\\251'))).to.equal('a \t\n\\é')
  })

  it('refuses lines that are not as documented', () => {
    for (const line of [
      '44 27 0:39 / /x rw - tmpfs tmpfs',
      '44 27 0:39 / /x rw tmpfs tmpfs rw',
      '44 27 39 / /x rw - tmpfs tmpfs rw',
      'x 27 0:39 / /x rw - tmpfs tmpfs rw',
      '44 27 0:39 / x rw - tmpfs tmpfs rw',
      '44 27 0:39 / /x rw - tmpfs tmpfs rw more',
    ]) {
      expect(() => parse(`${line}\n`), line).to.throw(ImgstoreError, 'cannot be read')
    }
  })

  it('orders stacked mounts by which lies on which, not by their numbers', () => {
    const table = [entry('/a', 50, 60), entry('/a', 60, 90), entry('/a', 90, 1), entry('/', 1, 0)]
    expect(findMounts('/a', table).map((found) => found.mountId)).to.deep.equal([90, 60, 50])
  })

  it('finds what is mounted strictly below a directory, not beside it', () => {
    const table = ['/', '/s', '/s/a', '/s/a/b', '/st', '/s.d/a'].map((path, i) =>
      entry(path, i + 1, 1),
    )
    expect(mountsBelow('/s', table).map((found) => found.mountPoint)).to.deep.equal([
      '/s/a',
      '/s/a/b',
    ])
    expect(mountsBelow('/', table)).to.have.length(5)
  })

  it('finds the mount that holds a path: the deepest, and the last of those', () => {
    const table = [entry('/', 1, 0), entry('/s', 2, 1), entry('/s', 3, 2), entry('/s/a', 4, 3)]
    expect(mountOf('/s/x', table)?.mountId).to.equal(3)
    expect(mountOf('/s/a', table)?.mountId).to.equal(4)
    expect(mountOf('/sx', table)?.mountId).to.equal(1)
    expect(mountOf('/s/x', [])).to.equal(undefined)
  })

  it('spells a path as the kernel does: links above its last part resolved, that part untouched', () =>
    withTempDir((dir) => {
      mkdirSync(join(dir, 'real'))
      symlinkSync('real', join(dir, 'link'))
      const real = tablePath(join(dir, 'real'))
      expect(tablePath(join(dir, 'link', 'mount'))).to.equal(join(real, 'mount'))
      expect(tablePath(join(dir, 'link'))).to.equal(join(tablePath(dir), 'link'))
      expect(tablePath(join(dir, 'gone/away'))).to.equal(join(dir, 'gone/away'))
    }))
})
