/** Following an image to the end of its run, and working on it here when nobody else does. */
import {lastSeq, listEvents} from '../db/events.ts'
import {getPlaced} from '../db/images.ts'
import {getLatestRun} from '../db/runs.ts'
import {fail} from '../errors.ts'
import type {ImageName, RunId} from '../ids.ts'
import type {FollowEvent, ImageStatus, RunSummary} from '../image.ts'
import type {ImagesContext} from './context.ts'
import {freeDeadOwners, hasLiveWorker} from './owners.ts'
import {findStatus} from './status.ts'
import {drive} from './work.ts'

export type SettleOptions = {
  onEvent?: (event: FollowEvent) => void
  timeoutMs?: number
  signal?: AbortSignal
}
export type Settled = {outcome: 'reached' | 'failed' | 'held' | 'removed'; status?: ImageStatus}

const isOpen = (run: RunSummary | undefined): boolean =>
  run !== undefined && ['pending', 'running', 'waiting'].includes(run.status)

/**
 * Follows the image's open run to its end; works on it in this process while no live worker does.
 *
 * Errors: image_not_found, wait_timeout, interrupted.
 */
export async function settle(
  images: ImagesContext,
  name: ImageName,
  options: SettleOptions,
): Promise<Settled> {
  const first = await findStatus(images, name)
  if (!first) {
    // A worker may have removed it between the caller's wish and this look.
    const [last] = await listEvents(images.database.db, {node: images.node, image: name, limit: 1})
    if (last?.kind === 'removed') return {outcome: 'removed'}
    throw fail('image_not_found', {name})
  }
  const teller = new Teller(images, name, options.onEvent)
  await teller.startAt(first.run)
  const helper = new Helper(images)
  const deadline =
    options.timeoutMs === undefined ? Infinity : images.clock.steady() + options.timeoutMs
  try {
    for (;;) {
      const image = await getPlaced(images.database.db, images.node, name)
      const run = image && (await getLatestRun(images.database.db, image.id, images.node))
      await teller.tell(run)
      if (!image) return {outcome: 'removed'}
      if (!run || !isOpen(run)) return await outcomeOf(images, name, run)
      if (options.signal?.aborted) throw fail('interrupted', {what: `waiting for image ${name}`})
      if (images.clock.steady() >= deadline) {
        throw fail('wait_timeout', {name, state: image.state, timeoutMs: options.timeoutMs ?? 0})
      }
      await helper.help(run)
      await images.clock.sleep(Math.min(images.settings().pollMs, 50), options.signal)
    }
  } finally {
    await helper.stop()
  }
}

async function outcomeOf(
  images: ImagesContext,
  name: ImageName,
  run: RunSummary | undefined,
): Promise<Settled> {
  const status = await findStatus(images, name)
  if (!status) return {outcome: 'removed'}
  if (status.state === 'FAILED') return {outcome: 'failed', status}
  // A run that ended short of its goal; a canceled one leaves that to the run that took its place.
  if (status.held && run?.status === 'done') return {outcome: 'held', status}
  return {outcome: 'reached', status}
}

/** Watches without ever working: until the image's run is over or the signal aborts. */
export async function watch(
  images: ImagesContext,
  name: ImageName,
  options: {onEvent: (event: FollowEvent) => void; signal?: AbortSignal},
): Promise<ImageStatus | undefined> {
  const teller = new Teller(images, name, options.onEvent)
  await teller.startAt((await findStatus(images, name))?.run)
  for (;;) {
    const image = await getPlaced(images.database.db, images.node, name)
    const run = image && (await getLatestRun(images.database.db, image.id, images.node))
    await teller.tell(run)
    if (!image || !isOpen(run) || options.signal?.aborted) return await findStatus(images, name)
    await images.clock.sleep(Math.min(images.settings().pollMs, 100), options.signal)
  }
}

/** Hands on what is new: events in order, and progress when it changed. */
class Teller {
  readonly #images: ImagesContext
  readonly #name: ImageName
  readonly #onEvent: ((event: FollowEvent) => void) | undefined
  #afterSeq = 0
  #progressAt = 0

  constructor(
    images: ImagesContext,
    name: ImageName,
    onEvent: ((event: FollowEvent) => void) | undefined,
  ) {
    this.#images = images
    this.#name = name
    this.#onEvent = onEvent
  }

  /** Begins with the first event of the open run, so that a follower who comes late sees how it came here. */
  async startAt(run: RunSummary | undefined): Promise<void> {
    const {db} = this.#images.database
    this.#afterSeq = await lastSeq(db)
    if (!run || !isOpen(run)) return
    const [first] = await listEvents(db, {
      node: this.#images.node,
      run: run.id,
      afterSeq: 0,
      limit: 1,
    })
    if (first) this.#afterSeq = first.seq - 1
  }

  async tell(run: RunSummary | undefined): Promise<void> {
    if (!this.#onEvent) return
    const filter = {
      node: this.#images.node,
      image: this.#name,
      afterSeq: this.#afterSeq,
      limit: 1000,
    }
    for (const event of await listEvents(this.#images.database.db, filter)) {
      this.#afterSeq = event.seq
      this.#onEvent({kind: 'event', event})
    }
    const {progress, step} = run ?? {}
    if (!run || !progress || step === undefined || progress.at === this.#progressAt) return
    this.#progressAt = progress.at
    this.#onEvent({kind: 'progress', image: this.#name, run: run.id, step, progress})
  }
}

/** How often it is looked whether a worker lives. */
const lookEveryMs = 500

/** Works on a run when nobody else does. */
class Helper {
  readonly #images: ImagesContext
  readonly #abort = new AbortController()
  #driving: Promise<void> | undefined
  #error: unknown
  #lookAt = -Infinity

  constructor(images: ImagesContext) {
    this.#images = images
  }

  async help(run: RunSummary): Promise<void> {
    if (this.#error !== undefined) throw this.#error as Error
    const {clock} = this.#images
    if (this.#driving || clock.steady() < this.#lookAt) return
    const isDue =
      run.status === 'pending' || (run.status === 'waiting' && (run.dueAt ?? 0) <= clock.now())
    if (run.status === 'running') await this.#look()
    else if (isDue && !(await this.#look())) this.#drive(run.id)
  }

  /** True when a worker lives that will take the run. */
  async #look(): Promise<boolean> {
    this.#lookAt = this.#images.clock.steady() + lookEveryMs
    await freeDeadOwners(this.#images)
    const isLive = await hasLiveWorker(this.#images)
    if (!isLive) this.#lookAt = -Infinity
    return isLive
  }

  #drive(run: RunId): void {
    this.#driving = drive(this.#images, run, this.#abort.signal)
      .catch((error: unknown) => {
        this.#error = error
      })
      .finally(() => {
        this.#driving = undefined
      })
  }

  /** Gives back what is still at work here. */
  async stop(): Promise<void> {
    this.#abort.abort()
    await this.#driving
  }
}
