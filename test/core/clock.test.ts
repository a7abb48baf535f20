import {getEventListeners} from 'node:events'
import {expect} from 'chai'
import {systemClock} from '../../src/core/clock.ts'
import {FixedClock} from '../support/fixed-clock.ts'

describe('the clock', () => {
  it('sleeps until its time or until the signal aborts, and leaves no listener behind', async () => {
    const before = systemClock.now()
    await systemClock.sleep(5)
    // Node's timers may fire up to a millisecond early by the wall clock.
    expect(systemClock.now() - before).to.be.at.least(4)
    const controller = new AbortController()
    await systemClock.sleep(1, controller.signal)
    expect(getEventListeners(controller.signal, 'abort')).to.have.lengthOf(0)
    const long = systemClock.sleep(2 ** 40, controller.signal)
    controller.abort()
    await long
    await systemClock.sleep(2 ** 40, controller.signal)
  })

  it('of tests stands still until it is told', async () => {
    const clock = new FixedClock(1000)
    const woken: number[] = []
    const sleeps = [30, 10, 20].map(async (ms) => {
      await clock.sleep(ms)
      woken.push(ms)
    })
    clock.advance(9)
    expect(clock.sleeperCount).to.equal(3)
    clock.advance(1)
    await sleeps[1]
    expect(woken).to.deep.equal([10])
    await clock.until(Promise.all(sleeps))
    expect(woken).to.deep.equal([10, 20, 30])
    expect(clock.now()).to.equal(1030)
  })
})
