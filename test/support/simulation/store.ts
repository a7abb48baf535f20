/**
 * The store of the simulation: the rules of src/core/db/journal.ts, runs.ts and images/ask.ts in memory, each call one
 * atomic act, and watched: a write that breaks a promise is a violation. It passes the suite that the one in SQL does.
 */
import type {ImagePatch} from '../../../src/core/db/journal.ts'
import {fail, type ErrorJson} from '../../../src/core/errors.ts'
import type {ImageName, NodeId, OwnerId, RunId} from '../../../src/core/ids.ts'
import type {Goal, ImageState, RunEvent, RunStatus} from '../../../src/core/image.ts'
import type {Claim, Journal, StepRecord} from '../../../src/core/journal.ts'

export type SimulatedClaim = Claim<ImageState, Goal>
type Record_ = StepRecord<ImageState>

/** An image on the host. */
export type Place = {
  id: number
  name: ImageName
  digest: number
  state: ImageState | 'REMOVED'
  goal: Goal
  treeId: string | undefined
  held: ErrorJson | undefined
  failed: ErrorJson | undefined
  /** The open run. */
  run: SimulatedRun | undefined
}

export type SimulatedRun = {
  id: RunId
  place: Place
  digest: number
  goal: Goal
  status: RunStatus
  attempt: number
  /** The error of the last wait. */
  waitsFor?: string
  epoch: number
  owner: OwnerId | undefined
  leaseExpiresAt: number
  isTakeover: boolean
  dueAt: number
  /** The transitions it took, by the states that they left. */
  left: ImageState[]
}

/** Mistakes that a journal might make, to see that the simulation notices them. */
export type Mistake = 'no fence' | 'no takeover' | 'effect outside' | 'lost wish'

const node = 'node' as NodeId
const early = (state: Place['state']): boolean => state === 'NEW' || state === 'DOWNLOADING'
/** Stands in for the events that nobody reads. */
const untold = {} as RunEvent

export class SimulatedStore implements Journal<ImageState, Goal, ImagePatch> {
  readonly places: Place[] = []
  readonly runs: SimulatedRun[] = []
  /** Changes with every write. */
  version = 0
  transitions = 0
  takeovers = 0
  violation: string | undefined
  readonly #clock: {now(): number}
  readonly #mistake: Mistake | undefined
  readonly #isTelling: boolean

  constructor(
    clock: {now(): number},
    options: {mistake?: Mistake | undefined; isTelling?: boolean} = {},
  ) {
    this.#clock = clock
    this.#mistake = options.mistake
    this.#isTelling = options.isTelling ?? false
  }

  violate(what: string): void {
    this.violation ??= what
  }

  /** Enters an image with a run; the name is free. */
  register(name: string, digest: number, goal: Goal, dueAt = this.#clock.now()): SimulatedRun {
    const place: Place = {
      id: this.places.length,
      name: name as ImageName,
      digest,
      state: 'NEW',
      goal,
      treeId: undefined,
      held: undefined,
      failed: undefined,
      run: undefined,
    }
    this.places.push(place)
    return this.open(place, goal, dueAt)
  }

  /** Cancels the open run of an image and opens another one. */
  open(place: Place, goal: Goal, dueAt = this.#clock.now()): SimulatedRun {
    const old = place.run
    if (old) {
      old.isTakeover ||= old.status === 'running'
      this.#end(old, 'canceled')
    }
    const now = this.#clock.now()
    const run: SimulatedRun = {
      id: `run-${this.runs.length}` as RunId,
      place,
      digest: place.digest,
      goal,
      status: dueAt > now ? 'waiting' : 'pending',
      attempt: 1,
      epoch: 0,
      owner: undefined,
      leaseExpiresAt: 0,
      isTakeover: false,
      dueAt,
      left: [],
    }
    if (this.#mistake !== 'lost wish' || !old) place.goal = goal
    place.run = run
    this.runs.push(run)
    this.version++
    return run
  }

  /** As `mayHaveOtherWriter` of runs.ts. */
  mayHaveOtherWriter(id: RunId, digest: number): boolean {
    return this.runs.some(
      (run) =>
        run.digest === digest && run.id !== id && (run.status === 'running' || run.isTakeover),
    )
  }

  isFetchedByOther(id: RunId, digest: number): boolean {
    return this.places.some(
      ({run}) => run && run.id !== id && run.digest === digest && run.goal !== 'REMOVED',
    )
  }

  /** As `digestsInUse` of images.ts. */
  isInUse(digest: number): boolean {
    return this.places.some(
      (place) =>
        place.digest === digest &&
        place.state !== 'REMOVED' &&
        ((place.state !== 'FAILED' && place.goal !== 'REMOVED') ||
          (place.run !== undefined && place.run.goal !== 'REMOVED')),
    )
  }

  /** As `freeRunsOf` of runs.ts. */
  free(owner: OwnerId, mayStillWork: boolean): void {
    for (const {run} of this.places) {
      if (run?.owner !== owner) continue
      if (mayStillWork) run.isTakeover = true
      this.#giveBack(run)
    }
  }

  claim(request: {
    owner: OwnerId
    leaseMs: number
    run?: RunId
  }): Promise<SimulatedClaim | undefined> {
    const now = this.#clock.now()
    let found: SimulatedRun | undefined
    for (const {run} of this.places) {
      if (!run || (request.run !== undefined && run.id !== request.run)) continue
      if (found && found.dueAt <= run.dueAt) continue
      if (isClaimable(run, now) && !this.#isFetching(run, now)) found = run
    }
    if (!found) return Promise.resolve(undefined)
    if (found.status === 'running') {
      found.isTakeover = true
      this.takeovers++
    }
    if (this.#mistake === 'no takeover') found.isTakeover = false
    found.status = 'running'
    found.owner = request.owner
    found.epoch++
    found.leaseExpiresAt = now + request.leaseMs
    this.version++
    const {id, epoch, place, goal, attempt, isTakeover} = found
    const {name, state} = place
    const claim = {run: id, epoch, owner: request.owner, node, subject: place.id, name}
    return Promise.resolve({...claim, goal, state: state as ImageState, attempt, isTakeover})
  }

  /** Two runs never fetch the same blob at once. */
  #isFetching(run: SimulatedRun, now: number): boolean {
    if (!early(run.place.state) || run.goal === 'REMOVED') return false
    return this.places.some(
      ({run: other, state}) =>
        other !== undefined &&
        other !== run &&
        other.status === 'running' &&
        other.leaseExpiresAt > now &&
        other.digest === run.digest &&
        other.goal !== 'REMOVED' &&
        early(state),
    )
  }

  renew(claims: readonly SimulatedClaim[], leaseMs: number): Promise<RunId[]> {
    const lost: RunId[] = []
    for (const claim of claims) {
      const run = this.#held(claim)
      if (run) run.leaseExpiresAt = this.#clock.now() + leaseMs
      else lost.push(claim.run)
    }
    return Promise.resolve(lost)
  }

  progress(claim: SimulatedClaim): Promise<boolean> {
    return Promise.resolve(this.#held(claim) !== undefined)
  }

  // Every write is async, so that what it throws arrives as a rejection, as from a database.
  // eslint-disable-next-line @typescript-eslint/require-await
  async fenced(claim: SimulatedClaim, effect: () => void, state?: ImageState): Promise<void> {
    const run = this.#fence(claim)
    if (state !== undefined && run.place.state !== state) throw fail('lease_lost', {run: claim.run})
    run.leaseExpiresAt++
    effect()
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async transition(
    claim: SimulatedClaim,
    to: ImageState | 'REMOVED',
    record: Record_,
    options: {isLast: boolean; patch?: ImagePatch; effect?: () => void},
  ): Promise<RunEvent> {
    if (this.#mistake === 'effect outside') options.effect?.()
    const run = this.#fence(claim)
    const {place} = run
    if (this.#mistake !== 'no fence' && place.state !== record.from)
      throw fail('lease_lost', {run: claim.run})
    if (this.#mistake !== 'effect outside') options.effect?.()
    if (place.state !== record.from) this.violate(`${run.id}: ${record.from} when ${place.state}`)
    if (run.left.includes(record.from)) this.violate(`${run.id}: left ${record.from} twice`)
    run.left.push(record.from)
    place.state = to
    place.held = undefined
    if (options.patch?.treeId !== undefined) place.treeId = options.patch.treeId
    delete run.waitsFor
    if (options.isLast) this.#end(run, 'done')
    else Object.assign(run, {attempt: 1, isTakeover: false})
    this.version++
    this.transitions++
    return this.#event(claim, record, {kind: to === 'REMOVED' ? 'removed' : 'transition', to})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async wait(
    claim: SimulatedClaim,
    record: Record_,
    options: {error: ErrorJson; dueAt: number; nextAttempt: number; isLook?: boolean},
  ): Promise<RunEvent | undefined> {
    const run = this.#fence(claim)
    const isRepeated = options.isLook === true && run.waitsFor === options.error.code
    run.waitsFor = options.error.code
    run.status = 'waiting'
    run.owner = undefined
    run.dueAt = options.dueAt
    run.attempt = options.nextAttempt
    this.version++
    if (isRepeated) return undefined
    return this.#event(claim, record, {kind: 'retry', error: options.error, dueAt: options.dueAt})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async fail(claim: SimulatedClaim, record: Record_, error: ErrorJson): Promise<RunEvent> {
    const run = this.#fence(claim)
    run.place.state = 'FAILED'
    run.place.failed = error
    this.#end(run, 'failed')
    return this.#event(claim, record, {kind: 'failed', to: 'FAILED', error})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async hold(
    claim: SimulatedClaim,
    record: Record_,
    at: ImageState,
    error: ErrorJson,
  ): Promise<RunEvent> {
    const run = this.#fence(claim)
    run.place.state = at
    run.place.held = error
    this.#end(run, 'done')
    return this.#event(claim, record, {kind: 'held', to: at, error})
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async finish(claim: SimulatedClaim): Promise<void> {
    const run = this.#fence(claim)
    if (run.place.state !== run.goal) this.violate(`${run.id} was finished at ${run.place.state}`)
    this.#end(run, 'done')
  }

  release(claim: SimulatedClaim): Promise<void> {
    const run = this.#held(claim)
    if (run) this.#giveBack(run)
    else {
      const canceled = this.runs.find(({id}) => id === claim.run)
      if (canceled?.status === 'canceled' && canceled.epoch === claim.epoch && !claim.isTakeover)
        canceled.isTakeover = false
    }
    return Promise.resolve()
  }

  nextDueAt(): Promise<number | undefined> {
    let at = Infinity
    for (const {run} of this.places)
      if (run) at = Math.min(at, run.status === 'running' ? run.leaseExpiresAt : run.dueAt)
    return Promise.resolve(at === Infinity ? undefined : at)
  }

  #giveBack(run: SimulatedRun): void {
    run.status = 'pending'
    run.owner = undefined
    run.dueAt = this.#clock.now()
    this.version++
  }

  #held(claim: SimulatedClaim): SimulatedRun | undefined {
    const run = this.places[claim.subject]?.run
    return run?.id === claim.run &&
      run.status === 'running' &&
      run.owner === claim.owner &&
      run.epoch === claim.epoch
      ? run
      : undefined
  }

  #fence(claim: SimulatedClaim): SimulatedRun {
    const held = this.#held(claim)
    if (held) return held
    const run = this.runs.find(({id}) => id === claim.run)
    if (this.#mistake !== 'no fence' || !run) throw fail('lease_lost', {run: claim.run})
    return run
  }

  #end(run: SimulatedRun, status: 'done' | 'failed' | 'canceled'): void {
    run.status = status
    run.owner = undefined
    if (run.place.run === run) run.place.run = undefined
    this.version++
  }

  #event(
    claim: SimulatedClaim,
    {step, attempt, from, startedAt, detail}: Record_,
    more: Pick<RunEvent, 'kind' | 'to' | 'error' | 'dueAt'>,
  ): RunEvent {
    if (!this.#isTelling) return untold
    const at = this.#clock.now()
    const {run, name: image} = claim
    const told = {seq: this.version, at, run, image, node, step, attempt, from, startedAt}
    return {...told, durationMs: at - startedAt, ...(detail ? {detail} : {}), ...more}
  }
}

function isClaimable(run: SimulatedRun, now: number): boolean {
  if (run.status === 'running') return run.leaseExpiresAt <= now
  return run.status === 'pending' || run.dueAt <= now
}
