/**
 * Thousands of random schedules of workers that crash, sleep past their leases, lose them and come back. A schedule
 * that breaks a promise is told by its seed: `IMGSTORE_SIMULATION_SEED=n mocha …` runs that one alone. The row
 * `simulation` of the fault matrix runs a million of them.
 */
import {expect} from 'chai'
import {runSchedules} from '../../support/simulation/run.ts'
import type {Mistake} from '../../support/simulation/store.ts'
import {testSeed} from '../../support/seed.ts'

const schedules = 20_000

describe('the machine under random schedules', () => {
  it(`ends every run, each step effective once and no wish lost, in ${schedules} of them`, async () => {
    const given = process.env['IMGSTORE_SIMULATION_SEED']
    const first = given === undefined ? testSeed() >>> 0 : Number(given)
    const count = given === undefined ? schedules : 1
    const counts = await runSchedules(first, count)
    console.log(`    seeds ${first} … ${first + count - 1}: ${JSON.stringify(counts)}`)
    expect(counts.schedules).to.equal(count)
    if (given === undefined) {
      expect(counts.transitions).to.be.greaterThan(5 * count)
      expect(counts.takeovers).to.be.greaterThan(count / 4)
      expect(counts.crashes).to.be.greaterThan(count / 2)
    }
  }).timeout(120_000)

  const mistakes: [Mistake, string][] = [
    ['no fence', 'writes without a fence'],
    ['no takeover', 'takes no heed of the owner before'],
    ['effect outside', 'acts on the host before it looks at the fence'],
    ['lost wish', 'forgets what was asked for'],
  ]
  for (const [mistake, does] of mistakes) {
    it(`notices a journal that ${does}`, async () => {
      const thrown = await runSchedules(1, 200, mistake).catch((error: unknown) => error)
      expect(String(thrown)).to.match(/IMGSTORE_SIMULATION_SEED=\d+/)
    })
  }
})
