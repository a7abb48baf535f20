/** The loop of one owner: claims runs up to its concurrency, keeps their leases, and works on them side by side. */
import type {Clock} from '../clock.ts'
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
  /** Ends when nothing is open any more (waiting runs are waited for). */
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
  const leases = keepLeases(deps, active)
  let upkeepAt = 0
  try {
    while (!options.signal.aborted) {
      options.onBeat?.()
      if (deps.upkeep && deps.clock.now() >= upkeepAt) {
        await deps.upkeep()
        upkeepAt = deps.clock.now() + upkeepEveryMs
      }
      const seen = deps.dataVersion()
      await claimAll(deps, options, active, totals, wake)
      if (options.run !== undefined && active.size === 0) break
      if (options.once && active.size === 0 && (await deps.journal.nextDueAt()) === undefined) break
      await waitForWork(deps, wake, seen, upkeepAt, options)
    }
    const ended = Promise.all([...active.values()].map((entry) => entry.ended))
    await Promise.race([
      ended,
      ...(options.releaseWithinMs === undefined ? [] : [deps.clock.sleep(options.releaseWithinMs)]),
    ])
    return totals
  } finally {
    options.signal.removeEventListener('abort', wakeNow)
    leases.stop()
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
    const claim = await deps.journal.claim(request)
    if (!claim) return
    const lost = new AbortController()
    const ended = runClaim(deps, claim, {stop: options.signal, lost: lost.signal})
      .catch((error: unknown): RunOutcome => {
        deps.log.error({run_id: claim.run, image: claim.name, error}, 'run stopped by an error')
        return 'lost'
      })
      .then((outcome) => {
        active.delete(claim.run)
        if (outcome !== 'released' && outcome !== 'lost' && outcome !== 'waiting') totals.worked++
        if (outcome === 'failed') totals.failed++
        wake.now()
      })
    active.set(claim.run, {claim, lost, ended})
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
  const now = deps.clock.now()
  // What is due but was not claimed waits for a free slot or for another run of the same blob.
  const nextAt = dueAt > now ? dueAt : now + pollMs
  const beatAt = now + Math.max(leaseMs / 3, 250)
  const until = Math.min(nextAt, Math.max(upkeepAt, now + 1), beatAt)
  while (deps.clock.now() < until && !wake.isAwake && !options.signal.aborted) {
    await deps.clock.sleep(Math.max(1, Math.min(pollMs, until - deps.clock.now())), wake.signal)
    if (deps.dataVersion() !== seen) break
  }
  wake.reset()
}

function keepLeases<S extends string, G extends string, K extends string, P>(
  deps: LoopDeps<S, G, K, P>,
  active: Map<RunId, Active<S, G>>,
): {stop(): void} {
  const everyMs = Math.max(50, Math.floor(deps.settings().leaseMs / 3))
  const beat = async (): Promise<void> => {
    try {
      await deps.heartbeat()
      const claims = [...active.values()].map((entry) => entry.claim)
      if (claims.length === 0) return
      for (const run of await deps.journal.renew(claims, deps.settings().leaseMs)) {
        active.get(run)?.lost.abort()
      }
    } catch (error) {
      deps.log.warn({error}, 'renewing leases failed')
    }
  }
  const timer = setInterval(() => void beat(), everyMs)
  return {stop: () => clearInterval(timer)}
}

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
    this.#controller.abort()
  }

  reset(): void {
    if (this.isAwake) this.#controller = new AbortController()
  }
}
