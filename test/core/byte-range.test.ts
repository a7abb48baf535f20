import {expect} from 'chai'
import fc from 'fast-check'
import {parseRange} from '../../src/core/byte-range.ts'

type Outcome = ReturnType<typeof parseRange>

/** The specification's words one by one, in big numbers and regular expressions: slow and plain. */
function model(text: string, size: number): Outcome {
  if (text.length > 8192) return 'too_large'
  const cut = text.indexOf('=')
  if (cut === -1) return 'malformed'
  if (text.slice(0, cut).trim().toLowerCase() !== 'bytes') return 'other_unit'
  const specs = text.slice(cut + 1).split(',')
  const resolved: ({start: bigint; end: bigint} | undefined)[] = []
  for (const [index, spec] of specs.entries()) {
    if (index === 1000) return 'too_large'
    const match = /^[ \t]*([0-9]{0,64})[ \t]*-[ \t]*([0-9]{0,64})[ \t]*$/.exec(spec)
    const [a, b] = [match?.[1] ?? '', match?.[2] ?? '']
    if (a === '' && b === '') return 'malformed'
    const [first, last] = [BigInt(a || 0), BigInt(b || 0)]
    if (first >= 1n << 64n || last >= 1n << 64n) return 'malformed'
    if (a === '' && last === 0n) return 'malformed'
    if (a !== '' && b !== '' && last < first) return 'malformed'
    const total = BigInt(size)
    const start = a === '' ? (last > total ? 0n : total - last) : first
    const end = a === '' || b === '' || last >= total ? total - 1n : last
    resolved.push(start < total ? {start, end} : undefined)
  }
  if (resolved.length > 1) return 'several'
  const [only] = resolved
  return only ? {start: Number(only.start), end: Number(only.end)} : 'unsatisfiable'
}

const size = 10_240
const of = (text: string, total = size): Outcome => parseRange(text, total)

describe('a Range header', () => {
  it('names one range in each of the three forms', () => {
    expect(of('bytes=0-9')).to.deep.equal({start: 0, end: 9})
    expect(of('bytes=-10')).to.deep.equal({start: 10_230, end: 10_239})
    expect(of('bytes=10230-')).to.deep.equal({start: 10_230, end: 10_239})
    expect(of('bytes=0-')).to.deep.equal({start: 0, end: 10_239})
  })

  it('is clamped to the image', () => {
    expect(of('bytes=10230-99999')).to.deep.equal({start: 10_230, end: 10_239})
    expect(of('bytes=-99999999')).to.deep.equal({start: 0, end: 10_239})
    expect(of('bytes=0-18446744073709551615')).to.deep.equal({start: 0, end: 10_239})
    expect(of('bytes=-18446744073709551615')).to.deep.equal({start: 0, end: 10_239})
  })

  it('may have blanks, another case and leading zeros', () => {
    for (const text of [
      'Bytes = 0 - 4',
      '  bytes=0-4  ',
      'BYTES=\t0\t-\t4',
      `bytes=${'0'.repeat(64)}-4`,
      `bytes=0-${'0'.repeat(63)}4`,
    ])
      expect(of(text), text).to.deep.equal({start: 0, end: 4})
  })

  it('is malformed when it is anything else', () => {
    for (const text of [
      ...['', 'garbage', 'bytes', 'bytes=', 'bytes=-', 'bytes=5-3', 'bytes=-0', 'bytes=+0-1'],
      ...['bytes=0-4,', 'bytes=,0-4', 'bytes=0-1-2', 'bytes=--1', 'bytes=0 1-2', 'bytes=0x1-2'],
      ...['bytes=1.0-2', 'bytes=0-1=2', 'bytes=0-18446744073709551616', 'bytes=1e1-20'],
      ...[`bytes=${'0'.repeat(65)}-4`, 'bytes=18446744073709551615-18446744073709551614'],
      ...['bytes=0-1;5-6', 'bytes=\u0661-2', 'bytes==0-1'],
    ])
      expect(of(text), text).to.equal('malformed')
  })

  it('is refused when it has several ranges, even if one alone could be met', () => {
    expect(of('bytes=0-1,5-6')).to.equal('several')
    expect(of('bytes=0-1,99999-')).to.equal('several')
    expect(of('bytes=0-1 , -5')).to.equal('several')
  })

  it('cannot be met past the end, nor in an empty image', () => {
    expect(of('bytes=99999-')).to.equal('unsatisfiable')
    expect(of('bytes=10240-10240')).to.equal('unsatisfiable')
    expect(of('bytes=18446744073709551615-18446744073709551615')).to.equal('unsatisfiable')
    for (const text of ['bytes=0-', 'bytes=0-0', 'bytes=-1'])
      expect(of(text, 0), text).to.equal('unsatisfiable')
  })

  it('is ignored in another unit', () => {
    expect(of('items=0-1')).to.equal('other_unit')
    expect(of('=0-1')).to.equal('other_unit')
    expect(of('bytesx=garbage')).to.equal('other_unit')
  })

  it('is bounded in length and number, and an earlier mistake wins', () => {
    const specs = (count: number): string => `bytes=${Array<string>(count).fill('0-1').join(',')}`
    expect(of(specs(1000))).to.equal('several')
    expect(of(specs(1001))).to.equal('too_large')
    expect(of(`bytes=x,${specs(1001).slice(6)}`)).to.equal('malformed')
    expect(of('bytes=0-1'.padEnd(8192))).to.deep.equal({start: 0, end: 1})
    expect(of('bytes=0-1'.padEnd(8193))).to.equal('too_large')
    expect(of('x'.repeat(8193))).to.equal('too_large')
  })

  it('is exact to the last byte of the largest image', () => {
    const largest = Number.MAX_SAFE_INTEGER
    expect(of('bytes=9007199254740990-', largest)).to.deep.equal({
      start: largest - 1,
      end: largest - 1,
    })
    expect(of('bytes=9007199254740991-', largest)).to.equal('unsatisfiable')
    expect(of('bytes=9007199254740993-9007199254740992', largest)).to.equal('malformed')
    expect(of('bytes=9007199254740992-9007199254740993', largest)).to.equal('unsatisfiable')
    expect(of('bytes=0-9007199254740993', largest)).to.deep.equal({start: 0, end: largest - 1})
    expect(of('bytes=25769803776-25769803779', 2 ** 40)).to.deep.equal({
      start: 25_769_803_776,
      end: 25_769_803_779,
    })
  })
})

describe('any Range header at all', () => {
  const number = fc.oneof(
    fc.nat({max: 30}).map(String),
    fc.bigInt({min: 0n, max: (1n << 64n) + 3n}).map(String),
    fc.bigInt({min: (1n << 53n) - 3n, max: (1n << 53n) + 3n}).map(String),
    fc.nat({max: 99}).map((n) => n.toString().padStart(64, '0')),
    fc.constantFrom('', '0', '18446744073709551615', '18446744073709551616', '1'.repeat(65)),
  )
  const blank = fc.constantFrom('', '', '', ' ', '\t', '  ')
  const spec = fc.oneof(
    {
      weight: 8,
      arbitrary: fc
        .tuple(blank, number, blank, fc.constant('-'), blank, number, blank)
        .map((p) => p.join('')),
    },
    {
      weight: 1,
      arbitrary: fc.string({
        unit: fc.constantFrom(...Array.from('0123456789-, =+x.\t')),
        maxLength: 12,
      }),
    },
  )
  const unit = fc.constantFrom('bytes', 'bytes', 'bytes', 'Bytes', ' bytes ', 'items', 'byte', '')
  const header = fc.oneof(
    fc
      .tuple(unit, fc.array(spec, {minLength: 1, maxLength: 3}))
      .map(([u, s]) => `${u}=${s.join(',')}`),
    fc.string({maxLength: 20}),
  )
  const total = fc.oneof(
    fc.nat({max: 30}),
    fc.maxSafeNat(),
    fc.constantFrom(0, 1, Number.MAX_SAFE_INTEGER),
  )

  it('is read as a plain model of the specification reads it', () => {
    fc.assert(
      fc.property(header, total, (text, bytes) => {
        expect(parseRange(text, bytes)).to.deep.equal(model(text, bytes))
      }),
      {numRuns: 5000},
    )
  })

  it('gives a range inside the image or a refusal', () => {
    fc.assert(
      fc.property(header, total, (text, bytes) => {
        const found = parseRange(text, bytes)
        if (typeof found === 'string') return
        expect(found.start).to.be.within(0, found.end)
        expect(found.end).to.be.lessThan(bytes)
      }),
      {numRuns: 1000},
    )
  })
})
