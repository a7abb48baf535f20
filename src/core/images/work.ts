/** Running the machine: the loop of a worker, and the same loop for one run inside a command. */
import {pruneSome} from '../db/prune.ts'
import {toImgstoreError} from '../errors.ts'
import type {RunId} from '../ids.ts'
import type {RunEvent} from '../image.ts'
import {runLoop, type LoopDeps} from '../machine/loop.ts'
import type {Goal, ImageState} from '../image.ts'
import type {ImagePatch} from '../db/journal.ts'
import type {ImagesContext} from './context.ts'
import {lifecycle, type ImageStep} from './lifecycle.ts'
import {freeDeadOwners, Owner} from './owners.ts'
import {reconcile} from './reconcile.ts'
import {clearFailed, clearFailing, imageStepsOf} from './steps.ts'

export type WorkOptions = {
  signal: AbortSignal
  once?: boolean
  /** After the stop, how long steps are waited for that do not heed it. */
  releaseWithinMs?: number
  onBeat?: () => void
  onEvent?: (event: RunEvent) => void
}

/** Claims runs and works on them until `signal` aborts or, with `once`, until nothing is left to do. */
export async function work(
  images: ImagesContext,
  options: WorkOptions,
): Promise<{worked: number; failed: number}> {
  await reconcile(images, options.onEvent)
  return await withOwner(images, 'worker', options, async (deps) => {
    const forget = forgetting(images)
    const upkeep = async (): Promise<void> => {
      await freeDeadOwners(images)
      await reconcile(images, options.onEvent)
      await forget()
    }
    return await runLoop({...deps, upkeep}, options)
  })
}

/** How often runs of long ago are looked for, and how many go at once: the write lock is held for a moment only. */
const forgetEveryMs = 60_000
const forgottenAtOnce = 500

/** A part of upkeep: forgets a little of what is old now and then, and more at the next time while there is more. */
function forgetting({database, node, clock, settings}: ImagesContext): () => Promise<void> {
  let dueAt = 0
  return async () => {
    // A clock that was set wrong for a moment must not put this off for years.
    const tick = clock.steady()
    if (tick < dueAt) return
    const before = clock.now() - settings().keepEventsMs
    const {runs, events} = await pruneSome(database.fast, node, before, forgottenAtOnce)
    dueAt = runs + events === 0 ? tick + forgetEveryMs : tick
  }
}

/** Works on one run, in a command, until it is over, waits, or `signal` aborts. */
export async function drive(images: ImagesContext, run: RunId, signal: AbortSignal): Promise<void> {
  await withOwner(images, 'command', {}, async (deps) => await runLoop(deps, {signal, run}))
}

/** Errors: as the database's. */
async function beat({pulse}: ImagesContext, owner: Owner): Promise<void> {
  try {
    await owner.heartbeat()
    delete pulse.trouble
  } catch (error) {
    pulse.trouble = toImgstoreError(error)
    throw error
  }
}

type Deps = LoopDeps<ImageState, Goal, ImageStep, ImagePatch>

async function withOwner<T>(
  images: ImagesContext,
  kind: 'worker' | 'command',
  options: {onEvent?: (event: RunEvent) => void},
  body: (deps: Deps) => Promise<T>,
): Promise<T> {
  const owner = await Owner.register(images, kind)
  const settings = images.settings
  try {
    return await body({
      machine: lifecycle,
      journal: images.journal,
      steps: imageStepsOf(images),
      clock: images.clock,
      log: images.log,
      retry: () => ({
        maxAttempts: settings().maxAttempts,
        waitMs: settings().retryWaitMs,
        waitMaxMs: settings().retryWaitMaxMs,
        jitterPercent: settings().retryJitterPercent,
      }),
      random: Math.random,
      onFailing: (claim) => clearFailing(images, claim),
      onFailed: (claim, error) => clearFailed(images, claim, error),
      ...(options.onEvent ? {onEvent: options.onEvent} : {}),
      owner: owner.id,
      settings,
      heartbeat: () => beat(images, owner),
      dataVersion: () => images.database.dataVersion(),
    })
  } finally {
    await owner.leave()
  }
}
