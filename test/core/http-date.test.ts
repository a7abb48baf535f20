import {expect} from 'chai'
import fc from 'fast-check'
import {
  formatHttpDate,
  formatRfc3339,
  parseHttpDate,
  parseRfc3339,
  wholeSeconds,
} from '../../src/core/http-date.ts'

const example = 784_111_777

describe('an HTTP date', () => {
  it('is read in its three forms', () => {
    for (const text of [
      'Sun, 06 Nov 1994 08:49:37 GMT',
      'Sunday, 06-Nov-94 08:49:37 GMT',
      'Sun Nov  6 08:49:37 1994',
      '  Sun, 06 Nov 1994 08:49:37 GMT ',
    ])
      expect(parseHttpDate(text), text).to.equal(example)
    expect(parseHttpDate('Sun Nov 16 08:49:37 1994')).to.equal(example + 10 * 86_400)
  })

  it('knows the century of a year in two digits', () => {
    expect(parseHttpDate('Friday, 01-Jan-70 00:00:00 GMT')).to.equal(0)
    expect(parseHttpDate('Thursday, 31-Dec-69 00:00:00 GMT')).to.equal(
      Date.UTC(2069, 11, 31) / 1000,
    )
    expect(parseHttpDate('Sunday, 01-Jan-00 00:00:00 GMT')).to.equal(Date.UTC(2000, 0, 1) / 1000)
  })

  it('does not care whether the day has the right name, but whether it exists', () => {
    expect(parseHttpDate('Mon, 06 Nov 1994 08:49:37 GMT')).to.equal(example)
    expect(parseHttpDate('Sat, 29 Feb 2020 00:00:00 GMT')).to.equal(Date.UTC(2020, 1, 29) / 1000)
    for (const text of [
      'Fri, 29 Feb 2019 00:00:00 GMT',
      'Sun, 31 Apr 2020 00:00:00 GMT',
      'Sun, 00 Nov 1994 08:49:37 GMT',
      'Sun Nov  0 08:49:37 1994',
    ])
      expect(parseHttpDate(text), text).to.equal(undefined)
  })

  it('is nothing else', () => {
    for (const text of [
      '',
      '0',
      '784111777',
      '1994-11-06T08:49:37Z',
      'Sun, 06 Nov 1994 08:49:37 UTC',
      'Sun, 06 Nov 1994 08:49:37 +0000',
      'sun, 06 nov 1994 08:49:37 gmt',
      'Sun, 6 Nov 1994 08:49:37 GMT',
      'Sun, 06 Nov 94 08:49:37 GMT',
      'Sun, 06 Nov 1994 24:00:00 GMT',
      'Sun, 06 Nov 1994 08:60:37 GMT',
      'Sun, 06 Nov 1994 08:49:61 GMT',
      'Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT',
      'Xxx, 06 Nov 1994 08:49:37 GMT',
      'Sun Nov 6 08:49:37 1994',
      '9'.repeat(100_000),
    ])
      expect(parseHttpDate(text), text.slice(0, 60)).to.equal(undefined)
  })

  it('comes back from what was written, rounded down to the second', () => {
    fc.assert(
      fc.property(fc.bigInt({min: 0n, max: 253_402_300_799_999_999_999n}), (ns) => {
        const text = formatHttpDate(ns) ?? ''
        expect(text).to.match(/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/)
        expect(parseHttpDate(text)).to.equal(Number(ns / 1_000_000_000n))
        expect(Date.parse(text)).to.equal(Number(ns / 1_000_000_000n) * 1000)
      }),
    )
  })

  it('is left out where there is none to write', () => {
    expect(formatHttpDate(undefined)).to.equal(undefined)
    expect(formatHttpDate(-1n)).to.equal(undefined)
    expect(formatHttpDate(253_402_300_800_000_000_000n)).to.equal(undefined)
  })

  it('rounds down before 1970 too', () => {
    expect(wholeSeconds(-1n)).to.equal(-1)
    expect(wholeSeconds(-1_000_000_000n)).to.equal(-1)
    expect(wholeSeconds(1_999_999_999n)).to.equal(1)
  })
})

describe('an RFC 3339 time', () => {
  it('is written in UTC with as many digits as needed', () => {
    expect(formatRfc3339(1_768_003_200_000_000_000n)).to.equal('2026-01-10T00:00:00Z')
    expect(formatRfc3339(1_768_003_200_500_000_000n)).to.equal('2026-01-10T00:00:00.5Z')
    expect(formatRfc3339(1_768_003_200_000_000_001n)).to.equal('2026-01-10T00:00:00.000000001Z')
    for (const unknown of [undefined, -1n, 253_402_300_800_000_000_000n])
      expect(formatRfc3339(unknown)).to.equal('1970-01-01T00:00:00Z')
  })

  it('is read with any offset and in the spellings that people use', () => {
    for (const text of [
      '2026-01-10T00:00:00Z',
      '2026-01-10t00:00:00z',
      '2026-01-10 00:00:00Z',
      '2026-01-10T00:00:00.000+00:00',
      '2026-01-10T02:30:00+02:30',
      '2026-01-09T19:00:00-05:00',
      '2026-01-10T00:00:00.0000000009Z',
    ])
      expect(parseRfc3339(text), text).to.equal(1_768_003_200_000_000_000n)
    expect(parseRfc3339('1969-12-31T23:59:59.5Z')).to.equal(-500_000_000n)
  })

  it('is nothing else', () => {
    for (const text of [
      '',
      '2026-01-10',
      '2026-01-10T00:00Z',
      '2026-01-10T00:00:00',
      '2026-01-10T00:00:00.Z',
      '2026-02-30T00:00:00Z',
      '2026-13-01T00:00:00Z',
      '2026-01-10T24:00:00Z',
      '2026-01-10T00:00:00+24:00',
      '2026-01-10T00:00:00+0200',
      ' 2026-01-10T00:00:00Z',
      '12026-01-10T00:00:00Z',
      '9999-12-31T23:59:59-00:01',
      'Sat, 10 Jan 2026 00:00:00 GMT',
    ])
      expect(parseRfc3339(text), text).to.equal(undefined)
  })

  it('comes back from what was written, to the nanosecond', () => {
    fc.assert(
      fc.property(fc.bigInt({min: 0n, max: 253_402_300_799_999_999_999n}), (ns) => {
        expect(parseRfc3339(formatRfc3339(ns))).to.equal(ns)
      }),
    )
  })
})
