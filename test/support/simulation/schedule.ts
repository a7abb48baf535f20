/**
 * One random schedule: workers that run the machine's own loop over a few images, while the scheduler decides who goes
 * on next, who dies, who is stopped past its lease, when time passes, when somebody sets the clock, and when a shell
 * changes its mind. Everything is decided by the seed.
 */
import type {OwnerId} from '../../../src/core/ids.ts'
import type {Goal, ImageState} from '../../../src/core/image.ts'
import type {ImagePatch} from '../../../src/core/db/journal.ts'
import {lifecycle} from '../../../src/core/images/lifecycle.ts'
import type {Journal} from '../../../src/core/journal.ts'
import {silentLogger} from '../../../src/core/log.ts'
import {runLoop} from '../../../src/core/machine/loop.ts'
import {randomOf} from '../image-maker.ts'
import {SimulatedHost, type Process} from './host.ts'
import {SimulatedStore, type Mistake, type Place} from './store.ts'

export type Counts = {
  schedules: number
  transitions: number
  takeovers: number
  crashes: number
  mounts: number
  wishes: number
}

type Worker = Process & {
  id: OwnerId
  isAlive: boolean
  /** Until when it is stopped, by the steady clock. */
  stoppedUntil: number
  stop: AbortController
}
type Waiting = {worker: Worker; go: () => void}
type Sleeping = Waiting & {at: number}

const settings = {concurrency: 2, leaseMs: 1000, pollMs: 500}
const retry = {maxAttempts: 3, waitMs: 100, waitMaxMs: 400, jitterPercent: 0}
const wishes = ['ACTIVE', 'STORED', 'ACTIVE', 'REMOVED'] as const
const beginnings = ['NEW', 'NEW', 'DOWNLOADED', 'STORED', 'ACTIVE'] as const
const ticksMax = 26
/** No schedule that ends takes as many. */
const calmTicksMax = 3000

/** Resolves when everything that can happen without the scheduler has happened. */
const drained = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve))

export class Schedule {
  readonly #random: () => number
  readonly #store: SimulatedStore
  readonly #host: SimulatedHost
  #now = 1_000_000
  #steady = 0
  #waiting: Waiting[] = []
  #sleeping: Sleeping[] = []
  #workers: Worker[] = []
  #dead: OwnerId[] = []
  #hired = 0
  readonly #wanted: Goal[] = []
  crashes = 0
  wishes = 0

  constructor(seed: number, mistake?: Mistake) {
    this.#random = randomOf(seed)
    this.#store = new SimulatedStore({now: () => this.#now}, {mistake})
    this.#host = new SimulatedHost(this.#store, this.#random)
  }

  /** Runs it to its end. Errors: what was violated. */
  async run(): Promise<void> {
    const images = 1 + this.#below(3)
    for (let n = 0; n < images; n++) this.#addImage(beginnings[this.#below(beginnings.length)])
    const workers = 1 + this.#below(2)
    for (let n = 0; n < workers; n++) this.#hire()
    for (let tick = 0; tick < ticksMax; tick++) {
      this.#meddle()
      await this.#goOn()
    }
    await this.#calmDown()
    this.#host.checkAtEnd()
    for (const place of this.#store.places) this.#checkEnd(place)
    this.#raise()
  }

  addTo(counts: Counts): void {
    counts.schedules++
    counts.transitions += this.#store.transitions
    counts.takeovers += this.#store.takeovers
    counts.crashes += this.crashes
    counts.mounts += this.#host.mounts
    counts.wishes += this.wishes
  }

  #raise(): void {
    if (this.#store.violation !== undefined) throw new Error(this.#store.violation)
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n)
  }

  #addImage(state: ImageState = 'NEW'): void {
    const goal = wishes[this.#below(wishes.length)] ?? 'ACTIVE'
    const {place} = this.#store.register(`image-${this.#below(3)}`, this.#below(2), goal)
    this.#host.settle(place, state)
    this.#wanted.push(goal)
  }

  #hire(): void {
    const worker: Worker = {
      id: `worker-${this.#hired++}` as OwnerId,
      isAlive: true,
      stoppedUntil: 0,
      stop: new AbortController(),
      parts: new Set(),
      pause: () => this.#pause(worker),
    }
    this.#workers.push(worker)
    this.#work(worker).catch((error: unknown) => {
      this.#store.violate(`a worker ended: ${String(error)}`)
    })
  }

  async #work(worker: Worker): Promise<void> {
    await runLoop(
      {
        machine: lifecycle,
        journal: this.#journalOf(worker),
        steps: this.#host.stepsOf(worker),
        clock: {
          now: () => this.#now,
          steady: () => this.#steady,
          sleep: (ms, signal) => this.#sleep(worker, ms, signal),
        },
        log: silentLogger,
        retry: () => retry,
        random: this.#random,
        onFailing: (claim) => this.#host.clearFailing(claim),
        owner: worker.id,
        settings: () => settings,
        heartbeat: () => Promise.resolve(),
        dataVersion: () => this.#store.version,
        upkeep: () => this.#upkeep(worker),
      },
      {signal: worker.stop.signal, releaseWithinMs: 5000},
    )
    this.#store.free(worker.id, true)
  }

  /** Dead workers' runs are freed, and what a reboot took down is brought back. */
  async #upkeep(worker: Worker): Promise<void> {
    await worker.pause()
    for (const owner of this.#dead.splice(0)) this.#store.free(owner, false)
    this.#host.reconcile()
  }

  /** The store as a worker has it: before each write it may be overtaken, or die; in the middle of one it may die too. */
  #journalOf(worker: Worker): Journal<ImageState, Goal, ImagePatch> {
    const store = this.#store
    const pause = (): Promise<void> => worker.pause()
    return {
      claim: async (request) => (await pause(), await store.claim(request)),
      renew: async (claims, leaseMs) => (await pause(), await store.renew(claims, leaseMs)),
      progress: (claim) => store.progress(claim),
      fenced: async (...args) => {
        await pause()
        await store.fenced(...args)
      },
      transition: async (claim, to, record, options) => {
        await pause()
        if (options.effect === undefined || this.#host.isCalm || this.#random() > 0.05)
          return await store.transition(claim, to, record, options)
        // Between the act on the host and the commit.
        await store.fenced(claim, options.effect)
        this.#crash(worker)
        return await new Promise(() => undefined)
      },
      wait: async (...args) => (await pause(), await store.wait(...args)),
      fail: async (...args) => (await pause(), await store.fail(...args)),
      hold: async (...args) => (await pause(), await store.hold(...args)),
      finish: async (claim) => {
        await pause()
        await store.finish(claim)
      },
      release: async (claim) => {
        await pause()
        await store.release(claim)
      },
      nextDueAt: () => store.nextDueAt(),
    }
  }

  #pause(worker: Worker): Promise<void> {
    return new Promise((go) => {
      if (worker.isAlive) this.#waiting.push({worker, go})
    })
  }

  #sleep(worker: Worker, ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) {
        resolve()
        return
      }
      if (!worker.isAlive) return
      const sleeping = {worker, at: this.#steady + ms, go: resolve}
      this.#sleeping.push(sleeping)
      signal?.addEventListener('abort', () => this.#wake(sleeping), {once: true})
    })
  }

  #wake(sleeping: Sleeping): void {
    const at = this.#sleeping.indexOf(sleeping)
    if (at < 0) return
    this.#sleeping.splice(at, 1)
    this.#waiting.push(sleeping)
  }

  #pass(ms: number): void {
    this.#now += ms
    this.#steady += ms
    for (const sleeping of [...this.#sleeping])
      if (sleeping.at <= this.#steady) this.#wake(sleeping)
  }

  /** What happens to processes that they do not do themselves. */
  #meddle(): void {
    const dice = this.#random()
    if (dice > 0.3) return
    const worker = this.#workers[this.#below(this.#workers.length)]
    if (!worker) return
    if (dice < 0.08) this.#pass(this.#below(2 * settings.leaseMs))
    else if (dice < 0.12) this.#crash(worker)
    else if (dice < 0.135) this.#retire(worker)
    else if (dice < 0.165) worker.stoppedUntil = this.#steady + this.#below(4 * settings.leaseMs)
    else if (dice < 0.18) this.#now += (this.#random() - 0.5) * 20 * settings.leaseMs
    else if (dice < 0.185) {
      this.#host.reboot()
      for (const each of [...this.#workers]) this.#crash(each)
    } else this.#wish()
  }

  /** Nothing that the worker was about to do ever happens. */
  #crash(worker: Worker): void {
    worker.isAlive = false
    this.#host.die(worker)
    this.#waiting = this.#waiting.filter((each) => each.worker !== worker)
    this.#sleeping = this.#sleeping.filter((each) => each.worker !== worker)
    this.#workers = this.#workers.filter((each) => each !== worker)
    this.#dead.push(worker.id)
    this.crashes++
    this.#hire()
  }

  /** It is told to end, and does so in its own time. */
  #retire(worker: Worker): void {
    this.#workers = this.#workers.filter((each) => each !== worker)
    worker.stop.abort()
    this.#hire()
  }

  /** A shell asks for something, as src/core/images/ask.ts answers it. */
  #wish(): void {
    this.wishes++
    const n = this.#below(this.#store.places.length + 1)
    const place = this.#store.places[n]
    if (!place) {
      if (n < 5) this.#addImage()
      return
    }
    if (place.state === 'REMOVED') return
    const goal = wishes[this.#below(wishes.length)] ?? 'ACTIVE'
    const {run} = place
    if (place.state === 'FAILED' && goal !== 'REMOVED') {
      Object.assign(place, {state: 'NEW', failed: undefined, held: undefined})
      this.#store.open(place, place.goal)
    } else if (place.goal === 'REMOVED' && goal !== 'REMOVED') return
    else if (run?.goal === goal) {
      if (run.status === 'waiting') Object.assign(run, {dueAt: this.#now, attempt: 1})
    } else if (run || place.state !== goal || place.goal !== goal) {
      place.held = undefined
      this.#wanted[n] = goal
      this.#store.open(place, goal)
    }
  }

  async #goOn(): Promise<void> {
    const from = this.#below(this.#waiting.length)
    for (let n = 0; n < this.#waiting.length; n++) {
      const at = (from + n) % this.#waiting.length
      const next = this.#waiting[at]
      if (!next || next.worker.stoppedUntil > this.#steady) continue
      this.#waiting.splice(at, 1)
      next.go()
      await drained()
      this.#host.check()
      this.#raise()
      return
    }
    // Everybody sleeps: until the first of them wakes.
    let at = Infinity
    for (const sleeping of this.#sleeping) at = Math.min(at, sleeping.at)
    for (const {worker} of this.#waiting) at = Math.min(at, worker.stoppedUntil)
    this.#pass(Math.max(1, at - this.#steady))
  }

  /** From here on nobody crashes and nothing fails: all must come to an end. */
  async #calmDown(): Promise<void> {
    this.#host.isCalm = true
    for (let tick = 0; this.#isBusy(); tick++) {
      if (tick > calmTicksMax) throw new Error('runs never end')
      await this.#goOn()
    }
  }

  #isBusy(): boolean {
    if (this.#store.places.some(({run}) => run !== undefined)) return true
    this.#host.reconcile()
    return this.#store.places.some(({run}) => run !== undefined)
  }

  #checkEnd(place: Place): void {
    const {id, name, state, goal, held} = place
    if (goal !== this.#wanted[id])
      this.#store.violate(`${name} is to be ${goal}, but ${this.#wanted[id]} was asked for`)
    const isThere = state === goal || state === 'FAILED' || held !== undefined
    if (!isThere) this.#store.violate(`${name} ended as ${state}, short of ${goal}`)
  }
}
