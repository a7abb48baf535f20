/** The machine's own loop over a simulated store and host: crashes, thefts of leases, delays, any order, set clocks. */
import {expect} from 'chai'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {simulate} from '../support/simulation/simulate.ts'

const schedules = howMany(60_000, 1_000_000)
/** A minute of two processors, for a million; in their time, as there may be other work beside. */
const cpuMsMax = 2 * 60_000

describe('a simulated store under random schedules', function () {
  this.timeout(1_800_000)

  it(`keeps every promise in ${schedules} of them`, async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const [startedAt, before] = [performance.now(), process.cpuUsage()]
    const counts = await simulate(faultSeed, schedules, 2)
    const seconds = (performance.now() - startedAt) / 1000
    const {user, system} = process.cpuUsage(before)
    const cpuMs = (user + system) / 1000
    expect(counts.schedules).to.equal(schedules)
    if (isLong) expect(cpuMs, 'processor time of a million').to.be.below(cpuMsMax)
    const {transitions, takeovers, crashes, wishes} = counts
    recordRow({
      row: 'simulation',
      injected: `${schedules} random schedules: ${crashes} crashes, ${takeovers} stolen leases, ${wishes} changed wishes, stops, reboots, set clocks`,
      checked: `${transitions} transitions once each, no two writers, no mount or tree out of place, no wish lost`,
      figures: `${seconds.toFixed(1)} s, ${(cpuMs / 1000).toFixed(1)} s of processor time`,
    })
  })
})
