import {expect} from 'chai'
import fc from 'fast-check'
import {
  byteTicks,
  formatBytes,
  formatMs,
  formatRate,
  quantile,
  throughput,
  ticks,
} from '../../../../src/daemon/http/page/ui/figures.js'

describe('figures of the page', () => {
  it('writes sizes in the largest unit that fits', () => {
    const written = new Map([
      [0, '0 bytes'],
      [1, '1 byte'],
      [1023, '1,023 bytes'],
      [1024, '1 KiB'],
      [1536, '1.5 KiB'],
      [1_048_575, '1 MiB'],
      [659_554_304, '629 MiB'],
      [24 * 2 ** 30, '24 GiB'],
      [Number.MAX_SAFE_INTEGER, '8 PiB'],
    ])
    for (const [bytes, text] of written) expect(formatBytes(bytes)).to.equal(text)
  })

  it('writes rates and durations', () => {
    expect(formatRate(0.4)).to.equal('0 bytes/s')
    expect(formatRate(210.5 * 2 ** 20)).to.equal('211 MiB/s')
    expect([0.0421, 0.42, 1.234, 12.34, 999.4, 999.6, 3100].map(formatMs)).to.deep.equal([
      '0.04 ms',
      '0.42 ms',
      '1.2 ms',
      '12.3 ms',
      '999 ms',
      '1 s',
      '3.1 s',
    ])
  })

  it('gives a quantile that is one of the values, with its part of them at or below it', () => {
    const values = fc.array(fc.double({min: 0, max: 1e6, noNaN: true}), {minLength: 1})
    fc.assert(
      fc.property(values, fc.double({min: 0, max: 1, noNaN: true}), (some, part) => {
        const found = quantile(some, part)
        expect(some).to.include(found)
        const atMost = some.filter((value) => value <= found).length
        expect(atMost).to.be.at.least(part * some.length - 1e-9)
      }),
    )
    expect(quantile([], 0.5)).to.be.NaN
  })

  it('marks an axis from 0 to the largest value or beyond, in few even steps', () => {
    fc.assert(
      fc.property(fc.double({min: 0, max: 1e15, noNaN: true}), (max) => {
        for (const marks of [ticks(max), byteTicks(max)]) {
          expect(marks[0]).to.equal(0)
          expect(marks.at(-1)).to.be.at.least(max * (1 - 1e-9))
          expect(marks.length).to.be.within(2, 6)
          expect(new Set(marks).size).to.equal(marks.length)
        }
      }),
    )
    expect(ticks(7.3)).to.deep.equal([0, 2, 4, 6, 8])
    expect(byteTicks(20e9).map(formatBytes)).to.deep.equal([
      '0 bytes',
      '5 GiB',
      '10 GiB',
      '15 GiB',
      '20 GiB',
    ])
  })

  it('spreads bytes over time without losing any', () => {
    const read = fc
      .tuple(fc.nat(5000), fc.integer({min: 1, max: 3000}), fc.nat(1e7))
      .map(([startMs, tookMs, bytes]) => ({startMs, endMs: startMs + tookMs, bytes}))
    fc.assert(
      fc.property(fc.array(read, {minLength: 1}), fc.integer({min: 20, max: 500}), (reads, ms) => {
        const endMs = Math.max(...reads.map((one) => one.endMs))
        const rates = throughput(reads, ms)
        const bytes = rates.reduce(
          (sum, rate, index) => sum + (rate * Math.min(ms, endMs - index * ms)) / 1000,
          0,
        )
        const expected = reads.reduce((sum, one) => sum + one.bytes, 0)
        expect(bytes).to.be.closeTo(expected, expected * 1e-9 + 1e-6)
      }),
    )
    expect(throughput([], 100)).to.deep.equal([0])
  })
})
