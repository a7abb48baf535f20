/**
 * The journal of the state machine in memory, with the rules of src/core/journal.ts and nothing else: for tests that
 * drive many schedules. Every call is one atomic act.
 */
import type {Clock} from '../../src/core/clock.ts'
import {fail, type ErrorJson} from '../../src/core/errors.ts'
import type {ImageName, NodeId, OwnerId, RunId} from '../../src/core/ids.ts'
import type {ImageState, RunEvent, RunStatus} from '../../src/core/image.ts'
import type {Claim, Journal, StepRecord} from '../../src/core/journal.ts'

export type MemoryRun<S extends string, G extends string, P> = {
  id: RunId
  subject: number
  name: ImageName
  goal: G
  state: S | 'REMOVED'
  status: RunStatus
  attempt: number
  epoch: number
  owner: OwnerId | undefined
  leaseExpiresAt: number
  isTakeover: boolean
  dueAt: number
  patches: P[]
  /** The code of what it last waited for, until a step is done. */
  waitsFor?: string
  held?: ErrorJson
  failed?: ErrorJson
  /** How often each transition was written, by `from>to`. */
  writes: Map<string, number>
}

type Write = RunEvent & {epoch: number}

export class MemoryJournal<S extends string, G extends string, P = never> implements Journal<
  S,
  G,
  P
> {
  readonly runs = new Map<RunId, MemoryRun<S, G, P>>()
  readonly events: Write[] = []
  /** Calls of `claim` so far. */
  claims = 0
  readonly #clock: Clock
  readonly #failedState: S
  readonly #node = 'node' as NodeId

  constructor(clock: Clock, failedState: S) {
    this.#clock = clock
    this.#failedState = failedState
  }

  /** Opens a run. */
  add(name: string, state: S, goal: G, dueAt = this.#clock.now()): MemoryRun<S, G, P> {
    const id = `run-${String(this.runs.size + 1).padStart(6, '0')}` as RunId
    const run: MemoryRun<S, G, P> = {
      id,
      subject: this.runs.size + 1,
      name: name as ImageName,
      goal,
      state,
      status: dueAt > this.#clock.now() ? 'waiting' : 'pending',
      attempt: 1,
      epoch: 0,
      owner: undefined,
      leaseExpiresAt: 0,
      isTakeover: false,
      dueAt,
      patches: [],
      writes: new Map(),
    }
    this.runs.set(id, run)
    return run
  }

  claim(request: {owner: OwnerId; leaseMs: number; run?: RunId}): Promise<Claim<S, G> | undefined> {
    this.claims++
    const now = this.#clock.now()
    let found: MemoryRun<S, G, P> | undefined
    for (const run of this.runs.values()) {
      if (request.run !== undefined && run.id !== request.run) continue
      const isDue =
        run.status === 'pending' ||
        (run.status === 'waiting' && run.dueAt <= now) ||
        (run.status === 'running' && run.leaseExpiresAt <= now)
      if (isDue && (!found || run.dueAt < found.dueAt)) found = run
    }
    if (!found) return Promise.resolve(undefined)
    found.isTakeover = found.status === 'running' || found.isTakeover
    found.status = 'running'
    found.owner = request.owner
    found.epoch++
    found.leaseExpiresAt = now + request.leaseMs
    return Promise.resolve({
      run: found.id,
      epoch: found.epoch,
      owner: request.owner,
      node: this.#node,
      subject: found.subject,
      name: found.name,
      goal: found.goal,
      state: found.state as S,
      attempt: found.attempt,
      isTakeover: found.isTakeover,
    })
  }

  renew(claims: readonly Claim<S, G>[], leaseMs: number): Promise<RunId[]> {
    const lost: RunId[] = []
    for (const claim of claims) {
      const run = this.#held(claim)
      if (run) run.leaseExpiresAt = this.#clock.now() + leaseMs
      else lost.push(claim.run)
    }
    return Promise.resolve(lost)
  }

  progress(claim: Claim<S, G>): Promise<boolean> {
    return Promise.resolve(this.#held(claim) !== undefined)
  }

  // Every write is async, so that what it throws arrives as a rejection, as from a database.
  // eslint-disable-next-line @typescript-eslint/require-await
  async fenced(claim: Claim<S, G>, effect: () => void, state?: S): Promise<void> {
    const run = this.#fence(claim)
    if (state !== undefined && run.state !== state) throw fail('lease_lost', {run: claim.run})
    effect()
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async transition(
    claim: Claim<S, G>,
    to: S | 'REMOVED',
    record: StepRecord<S>,
    options: {isLast: boolean; patch?: P; effect?: () => void},
  ): Promise<RunEvent> {
    const run = this.#fence(claim)
    if (run.state !== record.from) throw fail('lease_lost', {run: claim.run})
    options.effect?.()
    const key = `${record.from}>${to}`
    run.writes.set(key, (run.writes.get(key) ?? 0) + 1)
    run.state = to
    run.attempt = 1
    run.isTakeover = false
    delete run.waitsFor
    if (options.patch !== undefined) run.patches.push(options.patch)
    if (options.isLast) this.#end(run, 'done')
    return this.#event(claim, record, {kind: to === 'REMOVED' ? 'removed' : 'transition', to})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async wait(
    claim: Claim<S, G>,
    record: StepRecord<S>,
    options: {error: ErrorJson; dueAt: number; nextAttempt: number; isLook?: boolean},
  ): Promise<RunEvent | undefined> {
    const run = this.#fence(claim)
    const isRepeated = options.isLook === true && run.waitsFor === options.error.code
    run.waitsFor = options.error.code
    run.status = 'waiting'
    run.owner = undefined
    run.dueAt = options.dueAt
    run.attempt = options.nextAttempt
    if (isRepeated) return undefined
    return this.#event(claim, record, {
      kind: 'retry',
      error: options.error,
      dueAt: options.dueAt,
    })
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async fail(claim: Claim<S, G>, record: StepRecord<S>, error: ErrorJson): Promise<RunEvent> {
    const run = this.#fence(claim)
    run.state = this.#failedState
    run.failed = error
    this.#end(run, 'failed')
    return this.#event(claim, record, {kind: 'failed', to: this.#failedState, error})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async hold(
    claim: Claim<S, G>,
    record: StepRecord<S>,
    at: S,
    error: ErrorJson,
  ): Promise<RunEvent> {
    const run = this.#fence(claim)
    run.state = at
    run.held = error
    this.#end(run, 'done')
    return this.#event(claim, record, {kind: 'held', to: at, error})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async finish(claim: Claim<S, G>): Promise<void> {
    this.#end(this.#fence(claim), 'done')
  }

  release(claim: Claim<S, G>): Promise<void> {
    const run = this.#held(claim)
    if (run) {
      run.status = 'pending'
      run.owner = undefined
      run.dueAt = this.#clock.now()
    }
    return Promise.resolve()
  }

  nextDueAt(): Promise<number | undefined> {
    const due = [...this.runs.values()]
      .filter((run) => ['pending', 'waiting', 'running'].includes(run.status))
      .map((run) => (run.status === 'running' ? run.leaseExpiresAt : run.dueAt))
    return Promise.resolve(due.length === 0 ? undefined : Math.min(...due))
  }

  #held(claim: Claim<S, G>): MemoryRun<S, G, P> | undefined {
    const run = this.runs.get(claim.run)
    const isHeld =
      run?.status === 'running' && run.owner === claim.owner && run.epoch === claim.epoch
    return isHeld ? run : undefined
  }

  #fence(claim: Claim<S, G>): MemoryRun<S, G, P> {
    const run = this.#held(claim)
    if (!run) throw fail('lease_lost', {run: claim.run})
    return run
  }

  #end(run: MemoryRun<S, G, P>, status: 'done' | 'failed'): void {
    run.status = status
    run.owner = undefined
  }

  #event(
    claim: Claim<S, G>,
    record: StepRecord<S>,
    more: Pick<RunEvent, 'kind'> & {to?: S | 'REMOVED'; error?: ErrorJson; dueAt?: number},
  ): RunEvent {
    const now = this.#clock.now()
    const event = {
      seq: this.events.length + 1,
      at: now,
      run: claim.run,
      image: claim.name,
      node: claim.node,
      step: record.step,
      attempt: record.attempt,
      epoch: claim.epoch,
      from: record.from as unknown as ImageState,
      startedAt: record.startedAt,
      durationMs: now - record.startedAt,
      ...(record.detail === undefined ? {} : {detail: record.detail}),
      ...(more as Pick<RunEvent, 'kind' | 'to'>),
    }
    this.events.push(event)
    return event
  }
}
