import {getEventListeners} from 'node:events'
import {expect} from 'chai'
import {fail} from '../../../src/core/errors.ts'
import type {OwnerId} from '../../../src/core/ids.ts'
import {runLoop, type LoopDeps, type LoopOptions} from '../../../src/core/machine/loop.ts'
import {FixedClock} from '../../support/fixed-clock.ts'
import {
  newSmallJournal,
  smallDeps,
  type SmallGoal,
  type SmallState,
  type SmallStep,
  type SmallSteps,
} from '../../support/small-machine.ts'

type Deps = LoopDeps<SmallState, SmallGoal, SmallStep, string>

const settings = {concurrency: 2, leaseMs: 30_000, pollMs: 200}

function scene(steps: Partial<SmallSteps> = {}, more: Partial<Deps> = {}) {
  const clock = new FixedClock()
  const journal = newSmallJournal(clock)
  const counts = {heartbeats: 0, looks: 0, beats: 0}
  const deps: Deps = {
    ...smallDeps(clock, journal, steps),
    owner: 'owner' as OwnerId,
    settings: () => settings,
    heartbeat: () => {
      counts.heartbeats++
      return Promise.resolve()
    },
    dataVersion: () => {
      counts.looks++
      return 1
    },
    ...more,
  }
  const stop = new AbortController()
  const loop = (options: Partial<LoopOptions> = {}) =>
    runLoop(deps, {signal: stop.signal, onBeat: () => counts.beats++, ...options})
  return {clock, journal, counts, stop, loop, deps}
}

/** Lets everything happen that can without time. */
async function settle(): Promise<void> {
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve))
}

async function pass(clock: FixedClock, ms: number, stepMs = 50): Promise<void> {
  for (let left = ms; left > 0; left -= stepMs) {
    clock.advance(Math.min(stepMs, left))
    await settle()
  }
}

describe('the loop', () => {
  it('drains what is there with `once`, waiting runs too, and says how much it was', async () => {
    let tries = 0
    const s = scene({
      sew: () =>
        ++tries < 3
          ? Promise.reject(fail('source_unavailable', {url: 'u', reason: 'r'}))
          : Promise.resolve({}),
      burn: () => Promise.reject(fail('mount_busy', {path: 'p'})),
    })
    s.journal.add('a', 'raw', 'sewn')
    s.journal.add('b', 'raw', 'REMOVED')
    s.journal.add('later', 'raw', 'sewn', s.clock.now() + 5000)
    const before = s.clock.now()
    expect(await s.clock.until(s.loop({once: true}))).to.deep.equal({worked: 3, failed: 1})
    expect([...s.journal.runs.values()].map(({status}) => status)).to.deep.equal([
      'done',
      'failed',
      'done',
    ])
    expect(s.clock.now() - before).to.be.at.least(5000)
    expect(s.clock.sleeperCount).to.equal(0)
  })

  it('ends at once with `once` when nothing is there', async () => {
    const s = scene()
    expect(await s.loop({once: true})).to.deep.equal({worked: 0, failed: 0})
  })

  it('waits with `once` for a run of another owner, and takes it over when that one is gone', async () => {
    for (const isFinished of [true, false]) {
      const s = scene()
      s.journal.add('foreign', 'raw', 'sewn')
      const other = {owner: 'other' as OwnerId, leaseMs: 5000}
      const claim = await s.journal.claim(other)
      if (!claim) throw new Error('nothing was there to claim')
      let isOver = false
      const running = s.loop({once: true}).finally(() => {
        isOver = true
      })
      await pass(s.clock, 4000)
      expect(isOver).to.equal(false)
      if (isFinished) await s.journal.finish(claim)
      const totals = await s.clock.until(running)
      expect(totals).to.deep.equal({worked: isFinished ? 0 : 1, failed: 0})
    }
  })

  it('works on as many runs at a time as it is told, never on more, and side by side', async () => {
    for (const concurrency of [1, 2, 5]) {
      let now = 0
      let most = 0
      const step = async (context: {signal: AbortSignal}) => {
        most = Math.max(most, ++now)
        await s.clock.sleep(10, context.signal)
        now--
        return {}
      }
      const s = scene({cut: step, sew: step}, {settings: () => ({...settings, concurrency})})
      for (let n = 0; n < 12; n++) s.journal.add(`image-${n}`, 'raw', 'sewn')
      expect((await s.clock.until(s.loop({once: true}))).worked).to.equal(12)
      expect(most).to.equal(concurrency)
    }
  })

  it('heeds a change of concurrency for runs that begin later', async () => {
    const live = {...settings, concurrency: 1}
    let now = 0
    let most = 0
    const cut = async () => {
      most = Math.max(most, ++now)
      if (s.journal.events.length >= 4) live.concurrency = 3
      await s.clock.sleep(10)
      now--
      return {}
    }
    const s = scene({cut}, {settings: () => live})
    for (let n = 0; n < 12; n++) s.journal.add(`image-${n}`, 'raw', 'sewn')
    await s.clock.until(s.loop({once: true}))
    expect(most).to.equal(3)
  })

  it('does not poll the journal when nothing changes', async () => {
    const s = scene({}, {upkeep: () => Promise.resolve()})
    const running = s.loop()
    await settle()
    const {claims} = s.journal
    const {looks} = s.counts
    await pass(s.clock, 60_000, 100)
    // One look at the data version each poll, one claim each upkeep second: nothing more often.
    expect(s.counts.looks - looks).to.be.at.most(2 * (60_000 / settings.pollMs))
    expect(s.journal.claims - claims).to.be.at.most(70)
    s.stop.abort()
    await running
  })

  it('does not poll in a command either, while its one run is at work', async () => {
    const s = scene({cut: async () => (await s.clock.sleep(60_000), {})})
    const {id} = s.journal.add('image', 'raw', 'sewn')
    const running = s.loop({run: id})
    await pass(s.clock, 59_000, 100)
    expect(s.journal.claims).to.be.at.most(2 + 59_000 / settings.pollMs)
    expect(s.clock.sleeps).to.be.at.most(2 * (59_000 / settings.pollMs) + 20)
    await s.clock.until(running)
  })

  it('works on one run only when asked to, and ends when that waits', async () => {
    const s = scene({
      cut: () => Promise.reject(fail('source_unavailable', {url: 'u', reason: 'r'})),
    })
    const other = s.journal.add('other', 'raw', 'sewn')
    const {id} = s.journal.add('image', 'raw', 'sewn')
    expect(await s.clock.until(s.loop({run: id}))).to.deep.equal({worked: 0, failed: 0})
    expect(s.journal.runs.get(id)?.status).to.equal('waiting')
    expect(other.status).to.equal('pending')
  })

  it('wakes up when another process wrote', async () => {
    let version = 1
    const s = scene({}, {dataVersion: () => version})
    const running = s.loop()
    await settle()
    const run = s.journal.add('image', 'raw', 'sewn')
    version++
    await pass(s.clock, settings.pollMs, settings.pollMs)
    expect(run.status).to.equal('done')
    s.stop.abort()
    await running
  })

  it('keeps its leases while a step takes long, and says that it lives', async () => {
    const s = scene({cut: async () => (await s.clock.sleep(300_000), {})})
    const run = s.journal.add('image', 'raw', 'sewn')
    const running = s.loop({once: true})
    await pass(s.clock, 299_000, 1000)
    expect(run).to.include({status: 'running', epoch: 1})
    expect(run.leaseExpiresAt).to.be.greaterThan(s.clock.now())
    expect(s.counts.heartbeats).to.equal(29)
    expect(s.counts.beats).to.be.at.least(29)
    await s.clock.until(running)
    expect(run).to.include({status: 'done', epoch: 1})
  })

  it('goes on as before when somebody sets the clock, back or forward', async () => {
    for (const jumpMs of [-3_600_000, 3_600_000]) {
      let upkeeps = 0
      const upkeep = (): Promise<void> => {
        upkeeps++
        return Promise.resolve()
      }
      const s = scene({}, {upkeep})
      const running = s.loop()
      await pass(s.clock, 10_000, 1000)
      const before = {upkeeps, beats: s.counts.beats}
      s.clock.jump(jumpMs)
      const run = s.journal.add('image', 'raw', 'sewn')
      await pass(s.clock, 10_000, 1000)
      expect(run.status, `${jumpMs}`).to.equal('done')
      expect(upkeeps, 'upkeeps').to.be.at.least(before.upkeeps + 9)
      expect(s.counts.beats, 'beats').to.be.at.least(before.beats + 1)
      s.stop.abort()
      await running
    }
  })

  it('stops a step whose lease was lost, and writes nothing for it', async () => {
    let wasStopped = false
    const s = scene({
      cut: async (context) => {
        await s.clock.sleep(300_000, context.signal)
        wasStopped = context.signal.aborted
        return {}
      },
    })
    const run = s.journal.add('image', 'raw', 'sewn')
    const running = s.loop()
    await settle()
    run.owner = 'thief' as OwnerId
    run.epoch++
    run.leaseExpiresAt = Infinity
    await pass(s.clock, settings.leaseMs, 1000)
    expect(wasStopped).to.equal(true)
    expect(run).to.include({status: 'running', owner: 'thief', state: 'raw'})
    s.stop.abort()
    await running
  })

  it('gives back what it works on when it is stopped, and leaves nothing behind', async () => {
    const s = scene({
      cut: async (context) => {
        await s.clock.sleep(300_000, context.signal)
        context.signal.throwIfAborted()
        return {}
      },
    })
    const run = s.journal.add('image', 'raw', 'sewn')
    const running = s.loop({releaseWithinMs: 10_000})
    await settle()
    expect(run.status).to.equal('running')
    s.stop.abort()
    expect(await running).to.deep.equal({worked: 0, failed: 0})
    expect(run).to.include({status: 'pending', owner: undefined})
    expect(s.clock.sleeperCount).to.equal(0)
    expect(getEventListeners(s.stop.signal, 'abort')).to.have.lengthOf(0)
  })

  it('waits for a step that does not heed the stop only as long as it is told', async () => {
    const s = scene({cut: () => new Promise(() => undefined)})
    const run = s.journal.add('image', 'raw', 'sewn')
    const running = s.loop({releaseWithinMs: 10_000})
    await settle()
    s.stop.abort()
    const before = s.clock.now()
    await s.clock.until(running)
    expect(s.clock.now() - before).to.equal(10_000)
    // Nobody knows what the step is doing: the run is not given to others before its lease has run out.
    expect(run.status).to.equal('running')
    expect(s.clock.sleeperCount).to.equal(0)
  })

  it('goes on when upkeep, a heartbeat or a busy journal fails', async () => {
    const s = scene(
      {cut: async () => (await s.clock.sleep(100_000), {})},
      {
        upkeep: () => Promise.reject(new Error('upkeep')),
        heartbeat: () => Promise.reject(new Error('heartbeat')),
      },
    )
    const claim = s.journal.claim.bind(s.journal)
    let busy = 3
    s.journal.claim = (request) =>
      busy-- > 0 ? Promise.reject(fail('store_busy', {path: 'p'})) : claim(request)
    const run = s.journal.add('image', 'raw', 'sewn')
    await s.clock.until(s.loop({once: true}))
    expect(run.state).to.equal('sewn')
  })

  it('stops its steps before it tells that the journal is broken', async () => {
    let stopped = 0
    const s = scene({
      cut: async (context) => {
        await s.clock.sleep(300_000, context.signal)
        stopped++
        context.signal.throwIfAborted()
        return {}
      },
    })
    s.journal.add('image', 'raw', 'sewn')
    const claim = s.journal.claim.bind(s.journal)
    let claims = 0
    s.journal.claim = (request) =>
      ++claims > 1
        ? Promise.reject(fail('store_invalid', {path: 'p', reason: 'r'}))
        : claim(request)
    const thrown = await s.clock.until(s.loop().catch((error: unknown) => error))
    expect(thrown).to.have.property('code', 'store_invalid')
    expect(stopped).to.equal(1)
    expect(s.clock.sleeperCount).to.equal(0)
  })
})
