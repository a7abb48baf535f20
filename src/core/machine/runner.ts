/**
 * Works on one claimed run: step after step, one durable transition each, until goal, failure, a wait or a stop.
 * Steps run at least once and must be idempotent; what must happen once goes into a step's `effect`, which the
 * journal runs behind its fence.
 */
import type {Clock} from '../clock.ts'
import {errorToJson, fail, ImgstoreError, toImgstoreError} from '../errors.ts'
import type {RunEvent} from '../image.ts'
import type {Claim, Journal, StepRecord} from '../journal.ts'
import type {Logger} from '../log.ts'
import type {Machine, Transition} from './define.ts'
import {decideRetry, type RetrySettings} from './retry.ts'

export type StepContext<S extends string, G extends string> = {
  claim: Claim<S, G>
  /** True in the first step after a takeover from an owner that may still live. */
  isTakeover: boolean
  attempt: number
  /** Aborts when the worker stops or the lease is lost. */
  signal: AbortSignal
  /** Tells how far the step is. */
  progress(doneBytes: number, totalBytes?: number): void
  /** This attempt brought the work forward for good: attempts are counted anew. */
  forward(): void
  /** See Journal.fenced. */
  fenced(effect: () => void): Promise<void>
}

export type StepOutcome<P> = {
  patch?: P
  detail?: Record<string, unknown>
  /** See Journal.transition. */
  effect?: () => void
  /** What is left to tidy once the transition is written. An error of it is logged only: cleanup finds the rest. */
  after?: () => Promise<void>
  /** The host cannot do the step: the run ends here, without failure. */
  held?: ImgstoreError
}

export type Steps<S extends string, G extends string, K extends string, P> = Record<
  K,
  (context: StepContext<S, G>) => Promise<StepOutcome<P>>
>

export type RunOutcome = 'done' | 'failed' | 'held' | 'waiting' | 'released' | 'lost'

export type RunnerDeps<S extends string, G extends string, K extends string, P> = {
  machine: Machine<S, G, K>
  journal: Journal<S, G, P>
  steps: Steps<S, G, K, P>
  clock: Clock
  log: Logger
  retry: () => RetrySettings
  random: () => number
  onEvent?: (event: RunEvent) => void
  /** Clears what a failed subject leaves behind, before the failure is written. Errors are logged only. */
  onFailing: (claim: Claim<S, G>) => Promise<void>
  /** Clears what nothing needs once the failure is written. Errors are logged only. */
  onFailed?: (claim: Claim<S, G>, error: ImgstoreError) => Promise<void>
}

/** Works on `claim` to an end. `stop` asks to release at the next chance; `lost` says that the lease is gone. */
export async function runClaim<S extends string, G extends string, K extends string, P>(
  deps: RunnerDeps<S, G, K, P>,
  claim: Claim<S, G>,
  signals: {stop: AbortSignal; lost: AbortSignal},
): Promise<RunOutcome> {
  const cursor = {state: claim.state, attempt: claim.attempt, isTakeover: claim.isTakeover}
  // A canceled run is noticed at the next progress, not only when its lease is renewed.
  const gone = new AbortController()
  const lost = AbortSignal.any([signals.lost, gone.signal])
  const around = {
    stop: signals.stop,
    lost,
    either: AbortSignal.any([signals.stop, lost]),
    loseIt: () => gone.abort(),
  }
  try {
    for (;;) {
      if (lost.aborted) return 'lost'
      if ((cursor.state as string) === claim.goal) {
        await deps.journal.finish(claim)
        return 'done'
      }
      const row = deps.machine.next(cursor.state, claim.goal)
      if (!row) throw fail('internal', {reason: `no way from ${cursor.state} to ${claim.goal}`})
      if (signals.stop.aborted) {
        await deps.journal.release(claim)
        return 'released'
      }
      const ended = await runStep(deps, claim, row, cursor, around)
      if (ended !== undefined) return ended
    }
  } catch (error) {
    if (error instanceof ImgstoreError && error.code === 'lease_lost') {
      deps.log.warn({run_id: claim.run, image: claim.name}, 'run was taken over')
      return 'lost'
    }
    throw error
  }
}

/** How often the progress of a step is noted for those who watch. */
const progressEveryMs = 200

type Signals = {stop: AbortSignal; lost: AbortSignal}
/** What may end the work on a claim: from outside, or found out by a step. */
type Around = Signals & {either: AbortSignal; loseIt: () => void}
type Cursor<S> = {state: S; attempt: number; isTakeover: boolean}

async function runStep<S extends string, G extends string, K extends string, P>(
  deps: RunnerDeps<S, G, K, P>,
  claim: Claim<S, G>,
  row: Transition<S, G, K>,
  cursor: Cursor<S>,
  around: Around,
): Promise<RunOutcome | undefined> {
  const record: StepRecord<S> = {
    step: row.step,
    attempt: cursor.attempt,
    from: cursor.state,
    startedAt: deps.clock.now(),
  }
  const step = {hadProgress: false, toldAt: -Infinity}
  try {
    const outcome = await deps.steps[row.step]({
      claim,
      isTakeover: cursor.isTakeover,
      attempt: cursor.attempt,
      signal: around.either,
      progress: (doneBytes, totalBytes) => {
        const now = deps.clock.steady()
        if (now - step.toldAt < progressEveryMs) return
        step.toldAt = now
        void deps.journal.progress(claim, row.step, doneBytes, totalBytes).then((isHeld) => {
          if (!isHeld) around.loseIt()
        })
      },
      forward: () => {
        step.hadProgress = true
      },
      fenced: (effect) => deps.journal.fenced(claim, effect),
    })
    if (outcome.detail) record.detail = outcome.detail
    if (outcome.held) {
      const at = row.heldAt ?? cursor.state
      tell(deps, await deps.journal.hold(claim, record, at, errorToJson(outcome.held)))
      return 'held'
    }
    const isLast = row.to === 'REMOVED' || (row.to as string) === claim.goal
    const options = {
      isLast,
      ...(outcome.patch === undefined ? {} : {patch: outcome.patch}),
      ...(outcome.effect === undefined ? {} : {effect: outcome.effect}),
    }
    tell(deps, await deps.journal.transition(claim, row.to, record, options))
    await tidy(deps, claim, outcome.after)
    if (row.to === 'REMOVED' || isLast) return 'done'
    cursor.state = row.to
    cursor.attempt = 1
    cursor.isTakeover = false
    return undefined
  } catch (thrown) {
    return await afterError(deps, claim, row, record, thrown, step.hadProgress, around)
  }
}

async function afterError<S extends string, G extends string, K extends string, P>(
  deps: RunnerDeps<S, G, K, P>,
  claim: Claim<S, G>,
  row: Transition<S, G, K>,
  record: StepRecord<S>,
  thrown: unknown,
  hadProgress: boolean,
  signals: Signals,
): Promise<RunOutcome> {
  const error = toImgstoreError(thrown)
  if (signals.lost.aborted || error.code === 'lease_lost') return 'lost'
  if (signals.stop.aborted) {
    await deps.journal.release(claim)
    return 'released'
  }
  if (error.code === 'internal') {
    deps.log.error(
      {run_id: claim.run, image: claim.name, step: row.step, error: thrown},
      'step met a bug',
    )
  }
  const decision =
    row.retry === 'never'
      ? ({isRetried: false} as const)
      : decideRetry(error, record.attempt, hadProgress, deps.retry(), deps.random())
  if (decision.isRetried) {
    const dueAt = deps.clock.now() + decision.waitMs
    const isLook = error.retry === 'wait'
    const options = {error: errorToJson(error), dueAt, nextAttempt: decision.nextAttempt, isLook}
    const event = await deps.journal.wait(claim, record, options)
    if (event) tell(deps, event)
    return 'waiting'
  }
  // What the host must first be helped with is no failure of a subject that has a safe place to stay.
  if (error.retry === 'after_fix' && row.heldAt !== undefined) {
    tell(deps, await deps.journal.hold(claim, record, row.heldAt, errorToJson(error)))
    return 'held'
  }
  // What is cleared below may be another owner's by now, that took the run over. Or it is what the next state needs: a
  // transition that failed may be written all the same, now or after a crash, unless something was written since.
  await deps.journal.fenced(claim, () => undefined, record.from)
  await tidy(deps, claim, () => deps.onFailing(claim))
  tell(deps, await deps.journal.fail(claim, record, errorToJson(error)))
  await tidy(deps, claim, () => deps.onFailed?.(claim, error))
  return 'failed'
}

async function tidy<S extends string, G extends string, K extends string, P>(
  deps: RunnerDeps<S, G, K, P>,
  claim: Claim<S, G>,
  act: (() => Promise<void> | undefined) | undefined,
): Promise<void> {
  try {
    await act?.()
  } catch (error) {
    deps.log.warn({run_id: claim.run, image: claim.name, error}, 'tidying after a step failed')
  }
}

function tell<S extends string, G extends string, K extends string, P>(
  deps: RunnerDeps<S, G, K, P>,
  event: RunEvent,
): void {
  deps.onEvent?.(event)
}
