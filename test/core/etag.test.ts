import {expect} from 'chai'
import fc from 'fast-check'
import {parseDigest} from '../../src/core/digest.ts'
import {
  defaultEtag,
  digestEtag,
  etagProblem,
  isWeakEtag,
  listEtag,
  matchesEtag,
  safeEtag,
  weakEtag,
} from '../../src/core/etag.ts'

describe('an entity tag', () => {
  it('is made of size and time to the nanosecond', () => {
    expect(defaultEtag(10_240, 1_795_258_011_135_575_261n)).to.equal('"2800-6b01769b-814b6dd"')
    expect(defaultEtag(0, undefined)).to.equal('"0-0-0"')
    expect(weakEtag(10_240, 1_795_258_011_135_575_261n)).to.equal('W/"2800-6b01769b-814b6dd"')
    expect(digestEtag(parseDigest('ab'.repeat(32)))).to.equal(`"sha256-${'ab'.repeat(32)}"`)
  })

  it('can be sent when it is quoted printable ASCII without blanks', () => {
    for (const tag of ['"a"', 'W/"a"', 'w/"a"', '""', '"a,b"', `"${'x'.repeat(1022)}"`])
      expect(etagProblem(tag), tag).to.equal(undefined)
    for (const tag of [
      ...['', 'a', '"a', 'a"', '"', 'W/a', 'W/', 'X/"a"', '"a"b"', '"a b"', '"a\n"', '"a\u007f"'],
      ...['"ü"', '"\ud800"', `"${'x'.repeat(1023)}"`, '"a", "b"', 'W/W/"a"'],
    ]) {
      expect(etagProblem(tag), tag).to.be.a('string')
      expect(safeEtag(tag, 16, 1_000_000_002n), tag).to.equal('W/"10-1-2"')
    }
    expect(safeEtag('"a"', 16, 1n)).to.equal('"a"')
    expect(isWeakEtag('w/"a"')).to.equal(true)
  })

  it('is found in a list, with commas inside quotes', () => {
    const weak = (text: string, tag = '"a"'): boolean => matchesEtag(text, tag, 'weak')
    for (const text of [
      '"a"',
      '*',
      ' * ',
      'W/"a"',
      'w/"a"',
      '"b", "a"',
      '"b","a","c"',
      '"x,y" , "a"',
    ])
      expect(weak(text), text).to.equal(true)
    for (const text of ['', 'a', '"A"', '"b"', '"b,"a"', 'x"a"', '"a', '"a"x', ',', '**'])
      expect(weak(text), text).to.equal(false)
    expect(weak('"a,b"', '"a,b"')).to.equal(true)
    expect(weak('"a"', 'W/"a"')).to.equal(true)
  })

  it('is never matched strongly when either side is weak', () => {
    const strong = (text: string, tag: string): boolean => matchesEtag(text, tag, 'strong')
    expect(strong('"b", "a"', '"a"')).to.equal(true)
    expect(strong('*', 'W/"a"')).to.equal(true)
    for (const [text, tag] of [
      ['W/"a"', 'W/"a"'],
      ['"a"', 'W/"a"'],
      ['W/"a"', '"a"'],
      ['w/"a"', '"a"'],
    ] as const)
      expect(strong(text, tag), `${text} ${tag}`).to.equal(false)
  })

  it('is found in any list that was written with it, and only there', () => {
    const opaque = fc.string({unit: fc.constantFrom('a', 'b', ',', '*', 'W', '/'), maxLength: 4})
    const tag = fc.tuple(fc.constantFrom('', 'W/', 'w/'), opaque).map(([w, o]) => `${w}"${o}"`)
    const strip = (text: string): string => text.replace(/^w\//i, '')
    fc.assert(
      fc.property(
        fc.array(tag, {maxLength: 4}),
        tag,
        fc.constantFrom(',', ', ', ' ,\t'),
        (list, one, join) => {
          const text = list.join(join)
          expect(matchesEtag(text, one, 'weak')).to.equal(list.map(strip).includes(strip(one)))
          expect(matchesEtag(text, one, 'strong')).to.equal(
            one.startsWith('"') && list.includes(one),
          )
        },
      ),
      {numRuns: 2000},
    )
  })
})

describe('the tag of a list', () => {
  const image = {id: 'a', etag: '"1"', size: 5, modifiedNs: 7n as bigint | undefined}

  it('does not depend on the order', () => {
    const other = {...image, id: 'b'}
    expect(listEtag([image, other])).to.equal(listEtag([other, image]))
    expect(listEtag([])).to.match(/^"images-[0-9a-f]{32}"$/)
  })

  it('changes with everything that a client sees change', () => {
    const seen = [
      [],
      [image],
      [{...image, id: 'b'}],
      [{...image, etag: '"2"'}],
      [{...image, size: 6}],
      [{...image, modifiedNs: 8n}],
      [{...image, modifiedNs: undefined}],
      [image, {...image, id: 'b'}],
    ].map(listEtag)
    expect(new Set(seen).size).to.equal(seen.length)
  })

  it('is that of the original, byte by byte', () => {
    // sha256 of: 61 00 22 31 22 00 | 05 00*7 | 07 00*15 | 00
    expect(listEtag([image])).to.equal('"images-4e6b5fe8ee4852b450f392dfbac921b9"')
  })
})
