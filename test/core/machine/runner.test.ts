import {expect} from 'chai'
import {fail} from '../../../src/core/errors.ts'
import type {OwnerId} from '../../../src/core/ids.ts'
import type {RunEvent} from '../../../src/core/image.ts'
import {runClaim, type RunOutcome} from '../../../src/core/machine/runner.ts'
import {FixedClock} from '../../support/fixed-clock.ts'
import {
  newSmallJournal,
  smallDeps,
  type SmallDeps,
  type SmallGoal,
  type SmallState,
  type SmallSteps,
} from '../../support/small-machine.ts'

const owner = 'owner' as OwnerId
const unavailable = () => fail('source_unavailable', {url: 'u', reason: 'r'})

function scene(steps: Partial<SmallSteps>, more: Partial<SmallDeps> = {}) {
  const clock = new FixedClock()
  const journal = newSmallJournal(clock)
  const told: RunEvent[] = []
  const stop = new AbortController()
  const lost = new AbortController()
  const deps = smallDeps(clock, journal, steps, {onEvent: (event) => told.push(event), ...more})
  return {
    clock,
    journal,
    told,
    stop,
    lost,
    add: (state: SmallState, goal: SmallGoal) => journal.add('image', state, goal),
    work: async (): Promise<RunOutcome> => {
      const claim = await journal.claim({owner, leaseMs: 1000})
      if (!claim) throw new Error('nothing to claim')
      return await runClaim(deps, claim, {stop: stop.signal, lost: lost.signal})
    },
  }
}

const shown = (events: RunEvent[]): string[] =>
  events.map(({kind, step, attempt, from, to}) => [kind, step, attempt, `${from}>${to}`].join(' '))

describe('the runner', () => {
  it('goes step by step to the goal, one event each, in order', async () => {
    const s = scene({})
    const run = s.add('raw', 'worn')
    expect(await s.work()).to.equal('done')
    expect(shown(s.told)).to.deep.equal([
      'transition cut 1 raw>cut',
      'transition sew 1 cut>sewn',
      'transition wear 1 sewn>worn',
    ])
    expect(s.told).to.deep.equal(s.journal.events)
    expect(run).to.include({state: 'worn', status: 'done', owner: undefined})
  })

  it('does nothing for what is at its goal already', async () => {
    const s = scene({})
    const run = s.add('worn', 'worn')
    expect(await s.work()).to.equal('done')
    expect(s.told).to.deep.equal([])
    expect(run.status).to.equal('done')
  })

  it('clears nothing for a run that failed here after another owner had taken it over', async () => {
    let cleared = 0
    const s = scene(
      {
        cut: async () => {
          s.clock.advance(1000)
          await s.journal.claim({owner: 'other' as OwnerId, leaseMs: 1000})
          throw fail('source_not_image', {what: 'w'})
        },
      },
      {
        onFailing: () => {
          cleared++
          return Promise.resolve()
        },
      },
    )
    const run = s.add('raw', 'sewn')
    expect(await s.work()).to.equal('lost')
    expect(cleared).to.equal(0)
    expect(run).to.include({state: 'raw', status: 'running', epoch: 2})
  })

  it('clears nothing when a transition was written whose end was told as a failure', async () => {
    let cleared = 0
    const onFailing = (): Promise<void> => {
      cleared++
      return Promise.resolve()
    }
    const s = scene({}, {onFailing})
    const {journal} = s
    const transition = journal.transition.bind(journal)
    journal.transition = async (...args) => {
      await transition(...args)
      throw fail('io_failed', {path: 'the database', reason: 'EIO'})
    }
    const run = s.add('raw', 'worn')
    expect(await s.work()).to.equal('lost')
    expect(cleared).to.equal(0)
    expect(run).to.include({state: 'cut', status: 'running'})
  })

  it('hands on patch, detail and effect, and tidies only after the transition was written', async () => {
    const order: string[] = []
    const s = scene({
      cut: () =>
        Promise.resolve({
          patch: 'blue',
          detail: {size: 3},
          effect: () => order.push('effect'),
          after: () => {
            order.push(`after ${s.journal.events.length}`)
            return Promise.reject(new Error('tidying may fail'))
          },
        }),
    })
    const run = s.add('raw', 'sewn')
    expect(await s.work()).to.equal('done')
    expect(order).to.deep.equal(['effect', 'after 1'])
    expect(run.patches).to.deep.equal(['blue'])
    expect(s.told[0]?.detail).to.deep.equal({size: 3})
  })

  it('waits after a failure that passes, longer each time, and gives up at the last attempt', async () => {
    let failures = 0
    const cleared: string[] = []
    const s = scene(
      {
        sew: () => {
          failures++
          return Promise.reject(unavailable())
        },
      },
      {
        onFailing: (claim) => {
          cleared.push(claim.name)
          return Promise.resolve()
        },
      },
    )
    const run = s.add('raw', 'worn')
    expect(await s.work()).to.equal('waiting')
    expect(run).to.include({status: 'waiting', attempt: 2, dueAt: s.clock.now() + 1000})
    s.clock.advance(1000)
    expect(await s.work()).to.equal('waiting')
    expect(run.dueAt).to.equal(s.clock.now() + 2000)
    expect(cleared).to.deep.equal([])
    s.clock.advance(2000)
    expect(await s.work()).to.equal('failed')
    expect(run).to.include({state: 'torn', status: 'failed'})
    expect(run.failed?.code).to.equal('source_unavailable')
    expect(failures).to.equal(3)
    expect(cleared).to.deep.equal(['image'])
    expect(shown(s.told)).to.deep.equal([
      'transition cut 1 raw>cut',
      'retry sew 1 cut>undefined',
      'retry sew 2 cut>undefined',
      'failed sew 3 cut>torn',
    ])
  })

  it('counts attempts anew when one made progress', async () => {
    let n = 0
    const s = scene({
      cut: (context) => {
        n++
        if (n === 3) context.forward()
        return n < 12 ? Promise.reject(unavailable()) : Promise.resolve({})
      },
    })
    const run = s.add('raw', 'sewn')
    for (;;) {
      const outcome = await s.work()
      if (outcome !== 'waiting') {
        expect(outcome).to.equal('failed')
        break
      }
      s.clock.advance(run.dueAt - s.clock.now())
    }
    // Attempt 3 would have been the last, but moved: it does not count, and three more are made.
    expect(s.told.map(({attempt}) => attempt)).to.deep.equal([1, 2, 3, 1, 2, 3])
  })

  it('fails at once for what is permanent, for an unsafe step, and for a bug only after retries', async () => {
    const permanent = scene({cut: () => Promise.reject(fail('source_not_image', {what: 'x'}))})
    permanent.add('raw', 'sewn')
    expect(await permanent.work()).to.equal('failed')
    const never = scene({burn: () => Promise.reject(unavailable())})
    never.add('raw', 'REMOVED')
    expect(await never.work()).to.equal('failed')
    const bug = scene({cut: () => Promise.reject(new TypeError('x is undefined'))})
    const run = bug.add('raw', 'sewn')
    expect(await bug.work()).to.equal('waiting')
    expect(run.attempt).to.equal(2)
  })

  it('writes the failure even when clearing fails', async () => {
    const s = scene(
      {cut: () => Promise.reject(fail('source_not_image', {what: 'x'}))},
      {onFailing: () => Promise.reject(new Error('cannot clear'))},
    )
    const run = s.add('raw', 'sewn')
    expect(await s.work()).to.equal('failed')
    expect(run.state).to.equal('torn')
  })

  it('holds what the host cannot do, where the table says, without failing', async () => {
    const held = fail('host_cannot_mount', {reason: 'r'})
    for (const wear of [() => Promise.resolve({held}), () => Promise.reject(held)]) {
      const s = scene({wear})
      const run = s.add('sewn', 'worn')
      expect(await s.work()).to.equal('held')
      expect(run).to.include({state: 'sewn', status: 'done'})
      expect(run.held?.code).to.equal('host_cannot_mount')
      expect(shown(s.told)).to.deep.equal(['held wear 1 sewn>sewn'])
    }
    const nowhere = scene({cut: () => Promise.reject(fail('no_space', {path: 'p'}))})
    nowhere.add('raw', 'worn')
    expect(await nowhere.work()).to.equal('failed')
  })

  it('gives the run back when it is told to stop, between steps and within one', async () => {
    const between = scene({
      cut: () => {
        between.stop.abort()
        return Promise.resolve({})
      },
    })
    const run = between.add('raw', 'worn')
    expect(await between.work()).to.equal('released')
    expect(run).to.include({state: 'cut', status: 'pending', owner: undefined})
    const within = scene({
      cut: (context) =>
        new Promise((_, reject) => {
          context.signal.addEventListener('abort', () => reject(unavailable()))
          within.stop.abort()
        }),
    })
    const other = within.add('raw', 'worn')
    expect(await within.work()).to.equal('released')
    expect(other).to.include({state: 'raw', status: 'pending', attempt: 1})
    expect(within.told).to.deep.equal([])
  })

  it('writes nothing and clears nothing away once its lease is lost', async () => {
    const outcomes: ((lose: () => void) => Promise<object>)[] = [
      (lose) => {
        lose()
        return Promise.resolve({})
      },
      (lose) => {
        lose()
        return Promise.reject(fail('source_not_image', {what: 'x'}))
      },
      (lose) => {
        lose()
        return Promise.reject(unavailable())
      },
    ]
    for (const outcome of outcomes) {
      for (const isTold of [true, false]) {
        let cleared = 0
        const s = scene(
          {
            cut: () =>
              outcome(() => {
                s.clock.advance(1000)
                void s.journal.claim({owner: 'thief' as OwnerId, leaseMs: 1000})
                if (isTold) s.lost.abort()
              }),
          },
          {
            onFailing: () => {
              cleared++
              return Promise.resolve()
            },
          },
        )
        const run = s.add('raw', 'sewn')
        expect(await s.work()).to.equal('lost')
        expect(run).to.include({state: 'raw', status: 'running', owner: 'thief', epoch: 2})
        expect(s.told).to.deep.equal([])
        expect(s.journal.events).to.deep.equal([])
        expect(cleared, 'the thief is at work there').to.equal(0)
      }
    }
  })

  it('tells the first step after a takeover that it is one, and no later step', async () => {
    const seen: boolean[] = []
    const note = (context: {isTakeover: boolean}) => {
      seen.push(context.isTakeover)
      return Promise.resolve({})
    }
    const s = scene({cut: note, sew: note})
    s.add('raw', 'sewn')
    await s.journal.claim({owner: 'sleeper' as OwnerId, leaseMs: 1000})
    s.clock.advance(1000)
    expect(await s.work()).to.equal('done')
    expect(seen).to.deep.equal([true, false])
  })

  it('passes progress on, not more often than people can see', async () => {
    const told: number[] = []
    const s = scene({
      cut: (context) => {
        for (let n = 1; n <= 100; n++) {
          context.progress(n, 100)
          s.clock.advance(20)
        }
        return Promise.resolve({})
      },
    })
    s.journal.progress = (_claim?: unknown, _step?: string, doneBytes?: number) => {
      told.push(doneBytes ?? -1)
      return Promise.resolve(true)
    }
    s.add('raw', 'sewn')
    expect(await s.work()).to.equal('done')
    expect(told).to.deep.equal([1, 11, 21, 31, 41, 51, 61, 71, 81, 91])
  })

  it('stops a step whose lease is found lost when its progress is noted', async () => {
    const s = scene({
      cut: async (context) => {
        context.progress(1)
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
        throw fail('interrupted', {what: 'cutting'})
      },
    })
    s.journal.progress = () => Promise.resolve(false)
    s.add('raw', 'sewn')
    expect(await s.work()).to.equal('lost')
    expect(s.journal.events).to.deep.equal([])
  })
})
