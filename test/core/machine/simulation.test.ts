/**
 * Thousands of random schedules of workers that crash, sleep past their leases, lose them and come back. A schedule
 * that breaks a rule is told by its seed: `IMGSTORE_SIMULATION_SEED=n mocha …` runs that one alone.
 */
import {expect} from 'chai'
import {fail, type ImgstoreError} from '../../../src/core/errors.ts'
import type {OwnerId, RunId} from '../../../src/core/ids.ts'
import type {Claim} from '../../../src/core/journal.ts'
import {runClaim, type StepOutcome} from '../../../src/core/machine/runner.ts'
import type {MemoryRun} from '../../support/memory-journal.ts'
import {
  newSmallJournal,
  smallDeps,
  type SmallDeps,
  type SmallGoal,
  type SmallState,
  type SmallStep,
} from '../../support/small-machine.ts'

const leaseMs = 100
const schedules = 20_000

type Worker = {
  id: OwnerId
  isAlive: boolean
  stop: AbortController
  claim?: Claim<SmallState, SmallGoal>
  lost: AbortController
}
type Paused = {worker: Worker; resume: () => void}

/** Numbers in 0 … 1 that are the same for the same seed (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Resolves when everything that can happen without the scheduler has happened. */
const drained = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve))

class Simulation {
  readonly #random: () => number
  #now = 1_000_000
  readonly #clock = {now: () => this.#now, sleep: () => Promise.reject(new Error('nobody sleeps'))}
  readonly journal = newSmallJournal(this.#clock)
  readonly effects = new Map<string, number>()
  #paused: Paused[] = []
  #workers: Worker[] = []
  #made = 0
  #isCalm = false

  constructor(seed: number) {
    this.#random = randomFrom(seed)
    this.#fence()
  }

  async run(): Promise<void> {
    const goals = ['worn', 'sewn', 'worn', 'REMOVED'] as const
    const runs = 1 + this.#below(3)
    for (let n = 0; n < runs; n++)
      this.journal.add(`image-${n}`, 'raw', goals[this.#below(4)] ?? 'worn')
    const count = 1 + this.#below(3)
    for (let n = 0; n < count; n++) this.#hire()
    for (let tick = 0; tick < 40 && this.#openRuns().length > 0; tick++) await this.#tick()
    // From here on nobody crashes and nothing fails: all must come to an end.
    this.#isCalm = true
    this.#hire()
    for (let tick = 0; this.#openRuns().length > 0; tick++) {
      if (tick > 1000) throw new Error('runs never end')
      if (this.#paused.length === 0 || tick % 8 === 7) this.#now += leaseMs
      await this.#resumeOne()
    }
    this.#check()
  }

  #openRuns(): MemoryRun<SmallState, SmallGoal, string>[] {
    return [...this.journal.runs.values()].filter(
      ({status}) => status !== 'done' && status !== 'failed',
    )
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n)
  }

  #hire(): void {
    const id = `worker-${this.#made++}` as OwnerId
    const worker = {id, isAlive: true, stop: new AbortController(), lost: new AbortController()}
    this.#workers.push(worker)
    void this.#work(worker)
  }

  async #tick(): Promise<void> {
    const dice = this.#random()
    const worker = this.#workers[this.#below(this.#workers.length)]
    if (dice < 0.08) this.#now += this.#below(2 * leaseMs)
    else if (dice < 0.13 && worker) this.#crash(worker)
    else if (dice < 0.17 && worker) {
      worker.stop.abort()
      this.#workers = this.#workers.filter((each) => each !== worker)
      this.#hire()
    } else if (dice < 0.25 && worker?.claim) {
      const lost = await this.journal.renew([worker.claim], leaseMs)
      if (lost.length > 0) worker.lost.abort()
    }
    await this.#resumeOne()
  }

  /** Nothing that the worker was about to do ever happens. */
  #crash(worker: Worker): void {
    worker.isAlive = false
    this.#workers = this.#workers.filter((each) => each !== worker)
    this.#paused = this.#paused.filter((each) => each.worker !== worker)
    this.#hire()
  }

  async #resumeOne(): Promise<void> {
    const index = this.#below(this.#paused.length)
    const [next] = this.#paused.splice(index, 1)
    next?.resume()
    await drained()
  }

  /** Another worker may do anything before this one goes on; or it never goes on. */
  #pause(worker: Worker): Promise<void> {
    return new Promise((resume) => {
      if (worker.isAlive) this.#paused.push({worker, resume})
    })
  }

  async #work(worker: Worker): Promise<void> {
    const deps = this.#depsOf(worker)
    while (!worker.stop.signal.aborted) {
      await this.#pause(worker)
      const claim = await this.journal.claim({owner: worker.id, leaseMs})
      if (!claim) continue
      worker.claim = claim
      worker.lost = new AbortController()
      await runClaim(deps, claim, {stop: worker.stop.signal, lost: worker.lost.signal})
      delete worker.claim
    }
  }

  #depsOf(worker: Worker): SmallDeps {
    const {journal} = this
    // The journal of this worker: before and after each call it may be overtaken, or die.
    const slow = new Proxy(journal, {
      get: (target, key: keyof typeof journal) => {
        const found: unknown = Reflect.get(target, key)
        if (typeof found !== 'function') return found
        return async (...args: unknown[]): Promise<unknown> => {
          await this.#pause(worker)
          const result: unknown = await Reflect.apply(found, target, args)
          await this.#pause(worker)
          return result
        }
      },
    })
    const step = (name: SmallStep) => async (context: {claim: {run: RunId}}) => {
      await this.#pause(worker)
      return this.#outcomeOf(name, context.claim.run)
    }
    const steps = {cut: step('cut'), sew: step('sew'), wear: step('wear'), burn: step('burn')}
    return smallDeps(this.#clock, slow, steps, {random: this.#random})
  }

  #outcomeOf(step: SmallStep, run: RunId): StepOutcome<string> {
    const dice = this.#isCalm ? 1 : this.#random()
    if (dice < 0.1) throw fail('source_unavailable', {url: 'u', reason: 'r'})
    if (dice < 0.12) throw fail('source_not_image', {what: 'w'}) satisfies ImgstoreError
    if (dice < 0.14) throw fail('host_cannot_mount', {reason: 'r'})
    return {
      effect: () => {
        const key = `${run} ${step}`
        this.effects.set(key, (this.effects.get(key) ?? 0) + 1)
      },
    }
  }

  /** Looks over the journal's shoulder: whoever writes must hold the newest epoch. */
  #fence(): void {
    const {journal} = this
    const push = journal.events.push.bind(journal.events)
    journal.events.push = (...events) => {
      for (const event of events)
        if (journal.runs.get(event.run)?.epoch !== event.epoch)
          throw new Error(`${event.run}: a write of epoch ${event.epoch} is stale`)
      return push(...events)
    }
  }

  #check(): void {
    for (const run of this.journal.runs.values()) {
      const events = this.journal.events.filter((event) => event.run === run.id)
      let at: string | undefined = 'raw'
      let epoch = 0
      for (const event of events) {
        if (event.from !== at) throw new Error(`${run.id}: ${event.from} after ${at}`)
        if (event.epoch < epoch) throw new Error(`${run.id}: epoch ${event.epoch} after ${epoch}`)
        epoch = event.epoch
        at = event.to ?? event.from
      }
      if (at !== run.state) throw new Error(`${run.id}: history says ${at}, it is ${run.state}`)
      const done = events.filter(({kind}) => kind === 'transition' || kind === 'removed')
      for (const {step} of done) {
        const times = this.effects.get(`${run.id} ${step}`)
        if (times !== 1) throw new Error(`${run.id}: ${step} took effect ${times} times`)
      }
      const all = [...this.effects.keys()].filter((key) => key.startsWith(`${run.id} `))
      if (all.length !== done.length) throw new Error(`${run.id}: an effect without a transition`)
      const isThere = run.held ?? run.failed ?? run.state === run.goal
      if (!isThere) throw new Error(`${run.id} ended as ${run.state}, short of ${run.goal}`)
    }
  }
}

describe('the machine under random schedules', () => {
  it(`ends every run, with each step effective once and no stale write, in ${schedules} of them`, async () => {
    const given = process.env['IMGSTORE_SIMULATION_SEED']
    const first = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given)
    const count = given === undefined ? schedules : 1
    let events = 0
    let effects = 0
    for (let seed = first; seed < first + count; seed++) {
      const simulation = new Simulation(seed)
      try {
        await simulation.run()
      } catch (error) {
        throw new Error(`seed ${seed}: ${String(error)}`, {cause: error})
      }
      events += simulation.journal.events.length
      for (const times of simulation.effects.values()) effects += times
    }
    console.log(`    seeds ${first} … ${first + count - 1}: ${events} events, ${effects} effects`)
    expect(events).to.be.greaterThan(effects - 1)
    if (given === undefined) expect(effects).to.be.greaterThan(schedules)
  }).timeout(60_000)
})
