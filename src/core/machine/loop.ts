/** The loop of one owner: claims runs up to its concurrency, keeps their leases, and works on them side by side. */
import type {Clock} from '../clock.ts'
import {ImgstoreError} from '../errors.ts'
import type {OwnerId, RunId} from '../ids.ts'
import type {Claim} from '../journal.ts'
import {runClaim, type RunnerDeps, type RunOutcome} from './runner.ts'

export type LoopDeps<S extends string, G extends string, K extends string, P> = RunnerDeps<
  S,
  G,
  K,
  P
> & {
  owner: OwnerId
  clock: Clock
  settings: () => {concurrency: number; leaseMs: number; pollMs: number}
  /** Every third of a lease, before leases are renewed: the owner says that it lives. */
  heartbeat: () => Promise<void>
  /** Now and then: frees the runs of dead owners, mends drift. */
  upkeep?: () => Promise<void>
  /** A number that changes when another process wrote to the journal. */
  dataVersion: () => number
}

export type LoopOptions = {
  signal: AbortSignal
  /** Ends when nothing is open any more: what waits, or is another owner's, is waited for. */
  once?: boolean
  /** Works on this run only, and ends when it is over or waits. */
  run?: RunId
  onBeat?: () => void
  /** After the stop, how long steps are waited for that do not heed it; their leases then run out by themselves. */
  releaseWithinMs?: number
}

type Active<S extends string, G extends string> = {
  claim: Claim<S, G>
  lost: AbortController
  ended: Promise<void>
}

export async function runLoop<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  options: LoopOptions,
): Promise<{worked: number; failed: number}> {
  const active = new Map<RunId, Active<S, G>>()
  const totals = {worked: 0, failed: 0}
  const wake = new Wake()
  const wakeNow = (): void => wake.now()
  options.signal.addEventListener('abort', wakeNow, {once: true})
  // Steps also stop when the loop itself fails: nothing goes on behind the back of whoever is told.
  const halt = new AbortController()
  const stop = AbortSignal.any([options.signal, halt.signal])
  const leases = keepLeases(deps, active)
  let upkeepAt = deps.upkeep ? -Infinity : Infinity
  try {
    while (!options.signal.aborted) {
      options.onBeat?.()
      if (deps.clock.steady() >= upkeepAt) {
        await tryUpkeep(deps)
        upkeepAt = deps.clock.steady() + upkeepEveryMs
      }
      const seen = deps.dataVersion()
      await claimAll(deps, {...options, signal: stop}, active, totals, wake)
      if (options.run !== undefined && active.size === 0) break
      if (options.once && active.size === 0 && (await deps.journal.nextDueAt()) === undefined) break
      await waitForWork(deps, wake, seen, upkeepAt, options)
    }
    return totals
  } finally {
    halt.abort()
    await waitForSteps(deps, active, options.releaseWithinMs)
    options.signal.removeEventListener('abort', wakeNow)
    await leases.stop()
  }
}

/** Waits until all steps have ended, or until `withinMs` has passed. */
async function waitForSteps<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  active: Map<RunId, Active<S, G>>,
  withinMs: number | undefined,
): Promise<void> {
  const ended = Promise.all([...active.values()].map((entry) => entry.ended))
  if (withinMs === undefined) {
    await ended
    return
  }
  // The sleep is ended too: a timer left behind would keep the process alive.
  const over = new AbortController()
  await Promise.race([ended, deps.clock.sleep(withinMs, over.signal)])
  over.abort(waking)
}

/** A failure here must not end the work: it is tried again a second later. */
async function tryUpkeep<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
): Promise<void> {
  try {
    await deps.upkeep?.()
  } catch (error) {
    deps.log.warn({error}, 'upkeep failed')
  }
}

/** How often runs of dead owners and drift are looked for: a dead worker's runs are picked up within a second. */
const upkeepEveryMs = 1000

async function claimAll<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  options: LoopOptions,
  active: Map<RunId, Active<S, G>>,
  totals: {worked: number; failed: number},
  wake: Wake,
): Promise<void> {
  const {concurrency, leaseMs} = deps.settings()
  while (active.size < concurrency && !options.signal.aborted) {
    const request = {
      owner: deps.owner,
      leaseMs,
      ...(options.run === undefined ? {} : {run: options.run}),
    }
    const claim = await claimOne(deps, request)
    if (!claim) return
    const begun = {run_id: claim.run, image: claim.name, attempt: claim.attempt}
    deps.log.info({...begun, state: claim.state, goal: claim.goal}, 'run began')
    const lost = new AbortController()
    const ended = runClaim(deps, claim, {stop: options.signal, lost: lost.signal})
      .then((outcome) => letGo(deps, claim, outcome))
      .catch((error: unknown): RunOutcome => {
        deps.log.error({run_id: claim.run, image: claim.name, error}, 'run stopped by an error')
        return 'lost'
      })
      .then((outcome) => {
        deps.log.info({...begun, outcome}, 'run ended')
        active.delete(claim.run)
        if (outcome !== 'released' && outcome !== 'lost' && outcome !== 'waiting') totals.worked++
        if (outcome === 'failed') totals.failed++
        wake.now()
      })
    active.set(claim.run, {claim, lost, ended})
  }
}

/** Says of a lost run that nobody here is at work on it any more. */
async function letGo<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  claim: Claim<S, G>,
  outcome: RunOutcome,
): Promise<RunOutcome> {
  if (outcome !== 'lost') return outcome
  await deps.journal.release(claim)
  deps.log.info({run_id: claim.run, image: claim.name}, 'let go of a lost run')
  return outcome
}

/** A journal that is busy for long is no reason to end: it is asked again a poll later. */
async function claimOne<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  request: Parameters<typeof deps.journal.claim>[0],
): Promise<Claim<S, G> | undefined> {
  try {
    return await deps.journal.claim(request)
  } catch (error) {
    if (!(error instanceof ImgstoreError && error.retry === 'backoff')) throw error
    deps.log.warn({error}, 'claiming a run failed')
    return undefined
  }
}

/** Sleeps until something may have changed: a run ended, another process wrote, a waiting run is due, upkeep. */
async function waitForWork<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  wake: Wake,
  seen: number,
  upkeepAt: number,
  options: LoopOptions,
): Promise<void> {
  const dueAt = (await deps.journal.nextDueAt()) ?? Infinity
  const {pollMs, leaseMs} = deps.settings()
  const {clock} = deps
  // What is due but was not claimed waits for a free slot or for another run of the same blob.
  const dueInMs = dueAt - clock.now()
  const nextInMs = dueInMs > 0 ? dueInMs : pollMs
  // How long is a matter of the steady clock: somebody may set the other one while this sleeps.
  const now = clock.steady()
  const beatAt = now + Math.max(leaseMs / 3, 250)
  const until = Math.min(now + nextInMs, Math.max(upkeepAt, now + 1), beatAt)
  while (clock.steady() < until && !wake.isAwake && !options.signal.aborted) {
    await clock.sleep(Math.max(1, Math.min(pollMs, until - clock.steady())), wake.signal)
    if (deps.dataVersion() !== seen) break
  }
  wake.reset()
}

function keepLeases<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  active: Map<RunId, Active<S, G>>,
): {stop(): Promise<void>} {
  const everyMs = Math.max(50, Math.floor(deps.settings().leaseMs / 3))
  const renew = async (): Promise<void> => {
    const entries = [...active.values()]
    if (entries.length === 0) return
    const claims = entries.map(({claim}) => claim)
    const lost = await deps.journal.renew(claims, deps.settings().leaseMs)
    // Of these entries only: the loop may have claimed a run again that had ended meanwhile.
    for (const entry of entries) if (lost.includes(entry.claim.run)) entry.lost.abort()
  }
  const warn = (error: unknown): void => deps.log.warn({error}, 'renewing leases failed')
  const over = new AbortController()
  const beating = (async () => {
    for (;;) {
      await deps.clock.sleep(everyMs, over.signal)
      if (over.signal.aborted) return
      // The leases first, and whatever becomes of the heartbeat.
      await renew().catch(warn)
      await deps.heartbeat().catch(warn)
    }
  })()
  return {
    stop: async () => {
      over.abort(waking)
      // A beat that came after the owner had left would enter it again.
      await beating
    },
  }
}

/** Why a sleep ends; given, as the reason that is made otherwise costs more than all else here. */
const waking = 'woken'

/** A sleep that another part can end. */
class Wake {
  #controller = new AbortController()

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  get isAwake(): boolean {
    return this.#controller.signal.aborted
  }

  now(): void {
    this.#controller.abort(waking)
  }

  reset(): void {
    if (this.isAwake) this.#controller = new AbortController()
  }
}
