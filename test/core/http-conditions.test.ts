import {expect} from 'chai'
import fc from 'fast-check'
import {parseRange} from '../../src/core/byte-range.ts'
import {
  decideBytes,
  decideConditions,
  type BytesDecision,
  type BytesPolicy,
  type BytesRequest,
} from '../../src/core/http-conditions.ts'

const modifiedNs = 784_111_777_500_000_000n
const before = 'Sun, 06 Nov 1994 08:49:36 GMT'
const at = 'Sun, 06 Nov 1994 08:49:37 GMT'
const later = 'Sun, 06 Nov 1994 08:49:38 GMT'
const image = {size: 10_240, etag: '"a"', modifiedNs: modifiedNs as bigint | undefined}
const policy: BytesPolicy = {requireRange: false, maxRangeBytes: 4096}

function decide(
  request: Partial<BytesRequest>,
  changes: Partial<typeof image & BytesPolicy> = {},
): BytesDecision {
  const asked = {isHead: false, ...request}
  return decideBytes(asked, {...image, ...changes}, {...policy, ...changes})
}

/** Status, and what is counted of the range, if anything. */
function outcome(...args: Parameters<typeof decide>): string {
  const {status, rangeResult} = decide(...args)
  return rangeResult === undefined ? `${status}` : `${status} ${rangeResult}`
}

describe('a request for bytes', () => {
  it('is answered whole without a Range, whatever the longest range', () => {
    expect(outcome({})).to.equal('200')
    expect(outcome({isHead: true})).to.equal('200')
    expect(outcome({ifRange: '"other"'})).to.equal('200')
  })

  it('gets the range it asks for', () => {
    expect(decide({range: 'bytes=0-9'})).to.deep.equal({
      status: 206,
      start: 0,
      end: 9,
      rangeResult: 'valid',
    })
    expect(outcome({range: 'bytes=0-9', isHead: true})).to.equal('206 valid')
  })

  it('is refused a range that cannot be', () => {
    for (const range of ['bytes=5-3', 'bytes=99999-', 'bytes=0-1,5-6', 'garbage', ''])
      expect(outcome({range}), range).to.equal('416 invalid')
    expect(outcome({range: 'bytes=0-'}, {size: 0})).to.equal('416 invalid')
  })

  it('is refused a range longer than allowed, after clamping', () => {
    expect(outcome({range: 'bytes=0-4095'})).to.equal('206 valid')
    expect(outcome({range: 'bytes=0-4096'})).to.equal('413 invalid')
    expect(outcome({range: 'bytes=10000-99999'})).to.equal('206 valid')
    expect(outcome({range: 'bytes=0-0'}, {maxRangeBytes: 0})).to.equal('413 invalid')
    expect(outcome({range: 'x'.repeat(8193)})).to.equal('413 invalid')
    expect(outcome({range: 'bytes=99999-'}, {maxRangeBytes: 0})).to.equal('416 invalid')
  })

  it('is answered whole when the Range is in another unit or not ASCII', () => {
    for (const range of ['items=0-1', 'bytes=0-1\u00e9', `\u00ff${'x'.repeat(9000)}`])
      expect(outcome({range}), range.slice(0, 20)).to.equal('200')
  })

  it('is a 304 before all else when the client has the bytes', () => {
    for (const range of [undefined, 'bytes=0-9', 'garbage', 'x'.repeat(9000)]) {
      expect(outcome({range, ifNoneMatch: '"a"'})).to.equal('304')
      expect(outcome({range, ifModifiedSince: at})).to.equal('304')
    }
    expect(outcome({ifNoneMatch: '*'})).to.equal('304')
    expect(outcome({ifNoneMatch: 'W/"a"'})).to.equal('304')
    expect(outcome({ifNoneMatch: 'w/"a", "b"'}, {etag: 'W/"a"'})).to.equal('304')
  })

  it('compares dates at whole seconds and ignores those that are none', () => {
    expect(outcome({ifModifiedSince: before})).to.equal('200')
    expect(outcome({ifModifiedSince: later})).to.equal('304')
    expect(outcome({ifModifiedSince: 'yesterday'})).to.equal('200')
    expect(outcome({ifModifiedSince: later}, {modifiedNs: undefined})).to.equal('200')
  })

  it('ignores If-Modified-Since beside any If-None-Match, even one that says nothing', () => {
    for (const ifNoneMatch of ['"b"', '', 'garbage', '"\u00e9"'])
      expect(outcome({ifNoneMatch, ifModifiedSince: later}), ifNoneMatch).to.equal('200')
    expect(outcome({ifNoneMatch: '"a", "\u00e9"'})).to.equal('200')
  })
})

describe('If-Range', () => {
  const part = (ifRange: string, changes: Partial<typeof image> = {}): string =>
    outcome({range: 'bytes=0-9', ifRange}, changes)

  it('lets the range through for the same strong tag', () => {
    expect(part('"a"')).to.equal('206 valid')
    expect(part(' "a" ')).to.equal('206 valid')
    for (const other of ['"b"', 'W/"a"', 'w/"a"', '"a", "b"', 'a', '*', '', '"\u00e9"'])
      expect(part(other), other).to.equal('200')
    expect(part('W/"a"', {etag: 'W/"a"'})).to.equal('200')
    expect(part('"a"', {etag: 'W/"a"'})).to.equal('200')
  })

  it('lets the range through for a date that is not before the last change', () => {
    expect(part(at)).to.equal('206 valid')
    expect(part(later)).to.equal('206 valid')
    expect(part(before)).to.equal('200')
    expect(part(later, {modifiedNs: undefined})).to.equal('200')
  })

  it('comes before the Range is even read', () => {
    expect(outcome({range: 'garbage', ifRange: '"b"'})).to.equal('200')
    expect(outcome({range: 'x'.repeat(9000), ifRange: '"b"'})).to.equal('200')
    expect(outcome({range: 'garbage', ifRange: '"a"'})).to.equal('416 invalid')
  })
})

describe('a GET where a range is required', () => {
  const required = {requireRange: true}

  it('is refused without a range that is understood', () => {
    for (const request of [
      {},
      {ifRange: '"a"'},
      {range: 'items=0-1'},
      {range: 'bytes=0-1\u00e9'},
      {range: 'garbage'},
      {range: 'bytes=0-1,5-6'},
      {range: 'bytes=99999-'},
    ])
      expect(outcome(request, required), JSON.stringify(request)).to.equal('416 invalid')
    expect(outcome({range: 'x'.repeat(9000)}, required)).to.equal('413 invalid')
    expect(outcome({range: 'bytes=0-4096'}, required)).to.equal('413 invalid')
    expect(outcome({range: 'bytes=0-9'}, required)).to.equal('206 valid')
  })

  it('learns by a 412 that the image changed, after syntax and before the rest', () => {
    const changed = {ifRange: '"b"'}
    for (const range of ['bytes=0-9', 'bytes=0-1,5-6', 'bytes=99999-', 'bytes=0-4096'])
      expect(outcome({...changed, range}, required), range).to.equal('412 invalid')
    for (const range of ['garbage', 'items=0-1'])
      expect(outcome({...changed, range}, required), range).to.equal('416 invalid')
    expect(outcome({...changed, range: 'x'.repeat(9000)}, required)).to.equal('413 invalid')
  })

  it('may still be a 304, and HEAD is as anywhere', () => {
    expect(outcome({ifNoneMatch: '"a"'}, required)).to.equal('304')
    expect(outcome({isHead: true}, required)).to.equal('200')
    expect(outcome({isHead: true, range: 'items=0-1'}, required)).to.equal('200')
    expect(outcome({isHead: true, range: 'bytes=0-9', ifRange: '"b"'}, required)).to.equal('200')
  })
})

describe('a precondition', () => {
  it('fails with 412 before a 304 or a range is thought of', () => {
    expect(outcome({ifMatch: '"b"', ifNoneMatch: '"a"', range: 'garbage'})).to.equal('412')
    expect(outcome({ifMatch: '"b", "a"', range: 'bytes=0-9'})).to.equal('206 valid')
    expect(outcome({ifMatch: '*'})).to.equal('200')
    expect(outcome({ifMatch: '"a"', ifNoneMatch: '"a"'})).to.equal('304')
    expect(outcome({ifUnmodifiedSince: before})).to.equal('412')
    expect(outcome({ifUnmodifiedSince: at})).to.equal('200')
  })

  it('takes no weak tag, and none that is not ASCII', () => {
    for (const ifMatch of ['W/"a"', '', 'a', '"\u00e9", "a"'])
      expect(outcome({ifMatch}), ifMatch).to.equal('412')
    expect(outcome({ifMatch: 'W/"a"'}, {etag: 'W/"a"'})).to.equal('412')
    expect(outcome({ifMatch: '*'}, {etag: 'W/"a"'})).to.equal('200')
  })

  it('of time is ignored beside If-Match, and where a date is missing or none', () => {
    expect(outcome({ifMatch: '"a"', ifUnmodifiedSince: before})).to.equal('200')
    expect(outcome({ifUnmodifiedSince: 'x'})).to.equal('200')
    expect(outcome({ifUnmodifiedSince: before}, {modifiedNs: undefined})).to.equal('200')
  })

  it('holds for what is sent whole, where a Range means nothing', () => {
    expect(decideConditions({ifNoneMatch: '"a"'}, image)).to.equal(304)
    expect(decideConditions({ifMatch: '"b"'}, image)).to.equal(412)
    expect(decideConditions({ifModifiedSince: later}, {...image, modifiedNs: undefined})).to.equal(
      200,
    )
  })
})

describe('any request for bytes', () => {
  const tags = fc.constantFrom('"a"', '"b"', 'W/"a"', '*', '"b", "a"', 'a', '\u00e9', '')
  const dates = fc.constantFrom(before, at, later, 'never', '\u00e9')
  const ranges = fc.constantFrom(
    ...['bytes=0-9', 'bytes=0-4096', 'bytes=0-1,5-6', 'bytes=99999-', 'garbage', 'items=0-1'],
    ...['bytes=0-9\u00e9', 'x'.repeat(8193)],
  )
  const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
    fc.option(value, {nil: undefined})
  const request = fc.record({
    isHead: fc.boolean(),
    range: maybe(ranges),
    ifRange: maybe(fc.oneof(tags, dates)),
    ifNoneMatch: maybe(tags),
    ifModifiedSince: maybe(dates),
    ifMatch: maybe(tags),
    ifUnmodifiedSince: maybe(dates),
  })
  const target = fc.record({
    size: fc.constantFrom(0, 5, 10_240),
    etag: fc.constantFrom('"a"', 'W/"a"'),
    modifiedNs: fc.constantFrom(modifiedNs, undefined),
  })
  const rules = fc.record({requireRange: fc.boolean(), maxRangeBytes: fc.constantFrom(0, 9, 4096)})

  type Target = {size: number; etag: string; modifiedNs: bigint | undefined}

  /** The numbered steps of the specification in its own order, with every fact worked out beforehand. */
  function model(asked: BytesRequest, to: Target, by: BytesPolicy): string {
    const isAscii = (text: string | undefined): text is string =>
      text !== undefined && !/[^\t -~]/.test(text)
    const list = (text: string): string[] => text.split(',').map((tag) => tag.trim())
    const strip = (tag: string): string => tag.replace(/^w\//i, '')
    const moment = (text: string): number => Date.parse(text) / 1000
    const changed = to.modifiedNs === undefined ? NaN : Number(to.modifiedNs / 1_000_000_000n)
    const isStrong = to.etag.startsWith('"')
    const {ifMatch, ifUnmodifiedSince, ifNoneMatch, ifModifiedSince, ifRange} = asked
    const range = isAscii(asked.range) ? asked.range : undefined

    if (ifMatch !== undefined) {
      const isMatch =
        isAscii(ifMatch) && (ifMatch === '*' || (isStrong && list(ifMatch).includes(to.etag)))
      if (!isMatch) return '412'
    } else if (changed > moment(ifUnmodifiedSince ?? '')) return '412'
    if (ifNoneMatch !== undefined) {
      if (
        isAscii(ifNoneMatch) &&
        (ifNoneMatch === '*' || list(ifNoneMatch).map(strip).includes('"a"'))
      )
        return '304'
    } else if (changed <= moment(ifModifiedSince ?? '')) return '304'

    const isSame =
      ifRange === undefined ||
      (ifRange.startsWith('"') ? isStrong && ifRange === to.etag : changed <= moment(ifRange))
    const isRequired = by.requireRange && !asked.isHead
    if (range === undefined) return isRequired ? '416 invalid' : '200'
    if (!isRequired && !isSame) return '200'
    const found = parseRange(range, to.size)
    if (found === 'other_unit') return isRequired ? '416 invalid' : '200'
    if (found === 'too_large') return '413 invalid'
    if (found === 'malformed') return '416 invalid'
    if (isRequired && !isSame) return '412 invalid'
    if (typeof found === 'string') return '416 invalid'
    if (found.end - found.start + 1 > by.maxRangeBytes) return '413 invalid'
    return `206 valid ${found.start}-${found.end}`
  }

  it('is decided as a plain model of the specification decides it', () => {
    fc.assert(
      fc.property(request, target, rules, (asked, to, by) => {
        const found = decideBytes(asked, to, by)
        const words = [found.status, found.rangeResult].filter((word) => word !== undefined)
        if (found.status === 206) words.push(`${found.start}-${found.end}` as never)
        expect(words.join(' ')).to.equal(model(asked, to, by))
      }),
      {numRuns: 10_000},
    )
  })

  it('never gets a whole body where a range is required', () => {
    fc.assert(
      fc.property(request, target, rules, (asked, to, by) => {
        const {status} = decideBytes({...asked, isHead: false}, to, {...by, requireRange: true})
        expect(status).not.to.equal(200)
      }),
      {numRuns: 2000},
    )
  })
})
