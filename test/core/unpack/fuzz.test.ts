/** A short run of `npm run fuzz` (docs/unpack.md); what longer ones found is in test/support/attacks. */
import {expect} from 'chai'
import {fuzzCase, fuzzKinds} from '../../support/fuzz/cases.ts'
import {runFuzz} from '../../support/fuzz/run.ts'

describe('damaged archives by the thousand', function () {
  this.timeout(120_000)

  it('are made again, byte for byte, by their number', () => {
    const kinds = new Set<string>()
    for (let seed = 0; seed < 300; seed++) {
      const one = fuzzCase(seed)
      expect(fuzzCase(seed)).to.deep.equal(one)
      kinds.add(one.kind)
    }
    expect([...kinds].sort()).to.deep.equal([...fuzzKinds].sort())
  })

  it('are taken or refused with a reason, without a crash, a hang or an escape', async () => {
    const seed = Date.now()
    console.log(`    seed ${seed}`)
    const report = await runFuzz({
      seed,
      cases: 20_000,
      durationMs: 20_000,
      threads: 1,
      extractEvery: 100,
      childEvery: 10_000,
    })
    const again = report.failures.map((failure) => {
      return `npm run fuzz -- --seed ${failure.seed} --cases 1: ${failure.text}`
    })
    expect(again).to.deep.equal([])
    expect(report.done).to.be.greaterThan(0)
    for (const kind of fuzzKinds) {
      const outcomes = Object.keys(report.counts).filter((what) => what.startsWith(`${kind} `))
      expect(outcomes, kind).to.not.deep.equal([])
    }
    expect(report.counts['links done']).to.be.greaterThan(0)
    expect(report.counts['unpacked here done']).to.be.greaterThan(0)
  })
})
