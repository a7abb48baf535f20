/**
 * What the state machine needs to be durable. `core/db` implements it in SQL; a test's in-memory one drives many
 * schedules. Vocabulary: a subject is what moves through states (an image on a host); a run is one effort to bring
 * it to its goal; a claim is the right of one owner to work on a run, until its lease expires and another owner
 * claims it with a higher epoch. Every write names run, owner and epoch, and fails with `lease_lost` when they are
 * not the current ones any more: that is the fence against owners that slept past their lease.
 */
import type {ErrorJson} from './errors.ts'
import type {ImageName, NodeId, OwnerId, RunId} from './ids.ts'
import type {RunEvent} from './image.ts'

export type Claim<S extends string, G extends string> = {
  readonly run: RunId
  readonly epoch: number
  readonly owner: OwnerId
  readonly node: NodeId
  readonly subject: number
  readonly name: ImageName
  readonly goal: G
  /** State when claimed. */
  readonly state: S
  /** Attempt at the step of that state, from 1. */
  readonly attempt: number
  /** The former owner let the lease expire and may still be alive: what it holds open must not be shared with it. */
  readonly isTakeover: boolean
}

/** One step done (or not), for the event row. */
export type StepRecord<S extends string> = {
  step: string
  attempt: number
  from: S
  startedAt: number
  detail?: Record<string, unknown>
}

export interface Journal<S extends string, G extends string, P> {
  /** Takes the next run that is due (or `run`), oldest first; undefined when there is none. */
  claim(request: {owner: OwnerId; leaseMs: number; run?: RunId}): Promise<Claim<S, G> | undefined>
  /** Extends leases; gives back the runs whose lease is lost. */
  renew(claims: readonly Claim<S, G>[], leaseMs: number): Promise<RunId[]>
  /** Notes how far the step at work is. Not durable, and never fails; false when the lease is lost. */
  progress(
    claim: Claim<S, G>,
    step: string,
    doneBytes: number,
    totalBytes?: number,
  ): Promise<boolean>
  /**
   * Runs `effect` behind the fence, in a transaction of its own: for acts on the host that a step must finish before
   * its transition. Synchronous and short; may be run again after a crash.
   *
   * The transaction always writes. So when it is done, the end of an earlier one that failed in its commit is no longer in
   * doubt: either `state`, in which the subject must be, shows that it is done, or it never will be.
   */
  fenced(claim: Claim<S, G>, effect: () => void, state?: S): Promise<void>
  /**
   * Moves the subject from `record.from` to `to` in one transaction with its event, and ends the run when `isLast`.
   * `effect` runs inside that transaction after the fence was checked: for acts on the host that must not be done
   * by two owners. It is synchronous and short; when it throws nothing is written.
   */
  transition(
    claim: Claim<S, G>,
    to: S | 'REMOVED',
    record: StepRecord<S>,
    options: {isLast: boolean; patch?: P; effect?: () => void},
  ): Promise<RunEvent>
  /**
   * Gives the claim back until `dueAt`; the next attempt has number `nextAttempt`. With `isLook` nothing was tried: it
   * is an event when the run begins to wait for this, and none while it goes on waiting for the same.
   */
  wait(
    claim: Claim<S, G>,
    record: StepRecord<S>,
    options: {error: ErrorJson; dueAt: number; nextAttempt: number; isLook?: boolean},
  ): Promise<RunEvent | undefined>
  /** Ends the run in `failedState`, keeping why and where. */
  fail(claim: Claim<S, G>, record: StepRecord<S>, error: ErrorJson): Promise<RunEvent>
  /** Ends the run short of its goal, in `at`, without failure. */
  hold(claim: Claim<S, G>, record: StepRecord<S>, at: S, error: ErrorJson): Promise<RunEvent>
  /** Ends a run whose subject is at its goal already. */
  finish(claim: Claim<S, G>): Promise<void>
  /** Gives the claim back at once, for any other owner; of a lost one says that this owner works on it no more. */
  release(claim: Claim<S, G>): Promise<void>
  /** When the next run is due, or its lease runs out if somebody works on it; undefined when no run of this node is open. */
  nextDueAt(): Promise<number | undefined>
}
