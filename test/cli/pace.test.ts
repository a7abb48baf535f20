import {expect} from 'chai'
import {LineThrottle, Pacer, StepPacer} from '../../src/cli/pace.ts'
import type {Clock} from '../../src/core/clock.ts'

class FakeClock implements Clock {
  at = 1_000_000
  now(): number {
    return this.at
  }
  steady(): number {
    return this.at
  }
  sleep(ms: number): Promise<void> {
    this.at += ms
    return Promise.resolve()
  }
}

describe('the pace of bytes', () => {
  it('is unknown at first, then the rate of a steady stream, with the time left', () => {
    const pacer = new Pacer()
    expect(pacer.next({doneBytes: 0, totalBytes: 10_000, at: 0})).to.deep.equal({})
    for (let s = 1; s <= 4; s++) {
      const pace = pacer.next({doneBytes: s * 1000, totalBytes: 10_000, at: s * 1000})
      expect(pace.bytesPerSecond).to.be.closeTo(1000, 1e-6)
      expect(pace.leftMs).to.be.closeTo((10 - s) * 1000, 1e-3)
    }
  })

  it('follows a line that slows down, without jumping', () => {
    const pacer = new Pacer()
    pacer.next({doneBytes: 0, at: 0})
    pacer.next({doneBytes: 1000, at: 1000})
    const soon = pacer.next({doneBytes: 1100, at: 2000}).bytesPerSecond ?? 0
    expect(soon).to.be.within(700, 800)
    let late = soon
    for (let s = 3; s <= 30; s++)
      late = pacer.next({doneBytes: 1100 + (s - 2) * 100, at: s * 1000}).bytesPerSecond ?? 0
    expect(late).to.be.closeTo(100, 1)
  })

  it('starts again when the bytes go back, and with another step', () => {
    const pacer = new StepPacer()
    pacer.next('download', {doneBytes: 500, at: 0})
    expect(pacer.next('download', {doneBytes: 600, at: 1000}).bytesPerSecond).to.be.closeTo(
      100,
      1e-6,
    )
    expect(pacer.next('download', {doneBytes: 10, at: 2000})).to.deep.equal({})
    pacer.next('download', {doneBytes: 20, at: 3000})
    expect(pacer.next('unpack', {doneBytes: 5000, at: 3100})).to.deep.equal({})
  })

  it('survives two reports of the same moment', () => {
    const pacer = new Pacer()
    pacer.next({doneBytes: 0, at: 5})
    expect(pacer.next({doneBytes: 100, at: 5})).to.deep.equal({})
    expect(pacer.next({doneBytes: 200, at: 1005}).bytesPerSecond).to.be.closeTo(200, 1e-6)
  })
})

describe('progress lines', () => {
  it('come each tenth, or each five seconds, whichever is first', () => {
    const clock = new FakeClock()
    const throttle = new LineThrottle(clock)
    const due: number[] = []
    for (let percent = 0; percent <= 100; percent++) {
      if (throttle.isDue('download', {doneBytes: percent, totalBytes: 100})) due.push(percent)
      clock.at += 100
    }
    expect(due).to.deep.equal([10, 20, 30, 40, 50, 60, 70, 80, 90])
    const slow: number[] = []
    for (let percent = 0; percent <= 10; percent++) {
      if (throttle.isDue('unpack', {doneBytes: percent, totalBytes: 100})) slow.push(percent)
      clock.at += 2000
    }
    expect(slow).to.deep.equal([3, 6, 9])
  })

  it('go by time alone when the total is unknown', () => {
    const clock = new FakeClock()
    const throttle = new LineThrottle(clock)
    expect(throttle.isDue('download', {doneBytes: 1})).to.equal(false)
    clock.at += 4999
    expect(throttle.isDue('download', {doneBytes: 1e9})).to.equal(false)
    clock.at += 1
    expect(throttle.isDue('download', {doneBytes: 2e9})).to.equal(true)
    expect(throttle.isDue('download', {doneBytes: 2e9})).to.equal(false)
  })
})
