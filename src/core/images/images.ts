/** The images service: what a person can ask of images. */
import {getPlaced} from '../db/images.ts'
import {getOpenRun} from '../db/runs.ts'
import {fail, ImgstoreError} from '../errors.ts'
import {parseImageName, type ImageName} from '../ids.ts'
import type {FollowEvent, ImageStatus, TreeBackend} from '../image.ts'
import {
  checkRequest,
  convert,
  register,
  retry,
  setGoal,
  type CheckedRequest,
  type FetchRequest,
  type RetryOptions,
} from './ask.ts'
import type {ImagesContext} from './context.ts'
import {expectSoundBlob, rememberBlob} from './sound-blob.ts'
import {settle, watch, type SettleOptions, type Settled} from './settle.ts'
import {findStatus, listStatus, statusOf} from './status.ts'
import {takeDown} from './take-down.ts'

export type {FetchRequest} from './ask.ts'
export type {SettleOptions, Settled} from './settle.ts'

export type FetchOptions = FetchRequest & {
  /** Remove an image of that name with another source first. */
  replace?: boolean
  onEvent?: (event: FollowEvent) => void
  signal?: AbortSignal
}

export type FetchOutcome = 'enqueued' | 'unchanged' | 'replaced'

export type RunInImage = {
  cwd?: string
  env?: Record<string, string>
  network?: 'host' | 'none'
  driver?: 'auto' | 'runc' | 'unshare'
  signal?: AbortSignal
}

/** Every function checks its arguments; names that are none are `invalid_name`, unknown ones `image_not_found`. */
export type Images = {
  /** Errors: invalid_digest, invalid_source, name_taken, image_busy. */
  fetch(options: FetchOptions): Promise<{status: ImageStatus; outcome: FetchOutcome}>
  status(name: string): Promise<ImageStatus>
  /** By name. */
  list(): Promise<ImageStatus[]>
  /** Errors: wrong_state when FAILED. */
  activate(name: string): Promise<ImageStatus>
  deactivate(name: string): Promise<ImageStatus>
  /** Errors: image_busy, wrong_state. */
  retry(name: string, options?: RetryOptions): Promise<ImageStatus>
  remove(name: string): Promise<ImageStatus>
  /**
   * Makes the tree anew with another backend, without a download: takes the image down if it is ACTIVE, and makes the
   * run that brings it back (`settle` follows it). Errors: wrong_state, image_busy, blob_damaged, and settle's.
   */
  convert(
    name: string,
    options: {backend: TreeBackend; onEvent?: (event: FollowEvent) => void; signal?: AbortSignal},
  ): Promise<{status: ImageStatus; wasChanged: boolean}>
  /** Errors: wait_timeout, interrupted. */
  settle(name: string, options?: SettleOptions): Promise<Settled>
  watch(
    name: string,
    options: {onEvent: (event: FollowEvent) => void; signal?: AbortSignal},
  ): Promise<ImageStatus | undefined>
  /** Errors: wrong_state when not ACTIVE, command_failed, host_lacks. */
  run(name: string, command: readonly string[], options: RunInImage): Promise<{exitCode: number}>
}

export function openImages(images: ImagesContext): Images {
  const ask =
    (act: (name: ReturnType<typeof parseImageName>) => Promise<void>) =>
    async (text: string): Promise<ImageStatus> => {
      const name = parseImageName(text)
      await act(name)
      return await statusOf(images, name)
    }
  return {
    fetch: (options) => fetchImage(images, options),
    status: async (name) => await statusOf(images, parseImageName(name)),
    list: () => listStatus(images),
    activate: ask((name) => setGoal(images, name, 'ACTIVE')),
    deactivate: ask((name) => setGoal(images, name, 'STORED')),
    retry: (text, options = {}) => ask((name) => retry(images, name, options))(text),
    remove: async (name) => await removeImage(images, parseImageName(name)),
    convert: async (name, options) => await convertImage(images, parseImageName(name), options),
    settle: async (name, options = {}) => await settle(images, parseImageName(name), options),
    watch: async (name, options) => await watch(images, parseImageName(name), options),
    run: (name, command, options) => runInImage(images, name, command, options),
  }
}

/** A worker may be done before the answer is read: what was known before is then what is told. */
async function removeImage(images: ImagesContext, name: ImageName): Promise<ImageStatus> {
  const before = await statusOf(images, name)
  await setGoal(images, name, 'REMOVED')
  return (await findStatus(images, name)) ?? {...before, goal: 'REMOVED'}
}

async function convertImage(
  images: ImagesContext,
  name: ImageName,
  options: Parameters<Images['convert']>[1],
): Promise<{status: ImageStatus; wasChanged: boolean}> {
  const before = await statusOf(images, name)
  if (before.imageKind !== 'rootfs')
    throw fail('wrong_kind', {name, kind: before.imageKind, needed: 'rootfs'})
  const hasBackend =
    before.treeBackend === options.backend && ['STORED', 'ACTIVE'].includes(before.state)
  // One that is not yet where it goes is followed there: a conversion may have been cut off on its way back.
  if (hasBackend && before.state === before.goal) return {status: before, wasChanged: false}
  if (!hasBackend && !(await images.blobs.stat(before.digest))) {
    throw fail('blob_damaged', {digest: before.digest, reason: 'the file is gone'})
  }
  // Before it is taken down: an image whose tree is good stays as it is.
  await expectSoundBlob(images, before.digest, options.signal ?? new AbortController().signal)
  await rememberBlob(images, before.digest)
  const wish = {
    backend: options.backend,
    goal: before.goal === 'ACTIVE' ? 'ACTIVE' : 'STORED',
  } as const
  let result = await convert(images, name, wish)
  if (result === 'not_here') {
    await takeDown(images, name, before.goal, options)
    result = await convert(images, name, wish)
  }
  return {status: await statusOf(images, name), wasChanged: result === 'converted'}
}

async function fetchImage(
  images: ImagesContext,
  options: FetchOptions,
): Promise<{status: ImageStatus; outcome: FetchOutcome}> {
  const request = checkRequest(images, options)
  let outcome: FetchOutcome | undefined
  let registered = await register(images, request)
  if (registered.outcome === 'taken') {
    if (!options.replace)
      throw fail('name_taken', {name: request.name, difference: registered.difference})
    await removeFirst(images, request, options)
    registered = await register(images, request)
    outcome = 'replaced'
  }
  if (registered.outcome === 'taken') {
    throw fail('image_busy', {
      name: request.name,
      reason: 'another process took the name meanwhile',
    })
  }
  return {status: await statusOf(images, request.name), outcome: outcome ?? registered.outcome}
}

/** Brings the old image down altogether: an overlay's upper must never meet another lower. */
async function removeFirst(
  images: ImagesContext,
  request: CheckedRequest,
  options: FetchOptions,
): Promise<void> {
  try {
    await setGoal(images, request.name, 'REMOVED')
  } catch (error) {
    // Gone meanwhile, as it was being removed already.
    if (error instanceof ImgstoreError && error.code === 'image_not_found') return
    throw error
  }
  const settled = await settle(images, request.name, {
    ...(options.onEvent ? {onEvent: options.onEvent} : {}),
    ...(options.signal ? {signal: options.signal} : {}),
  })
  if (settled.outcome === 'removed') return
  const reason =
    settled.status?.held?.message ?? settled.status?.failed?.message ?? 'it could not be removed'
  throw fail('image_busy', {name: request.name, reason})
}

async function runInImage(
  images: ImagesContext,
  text: string,
  command: readonly string[],
  options: RunInImage,
): Promise<{exitCode: number}> {
  const name = parseImageName(text)
  const status = await statusOf(images, name)
  if (status.imageKind !== 'rootfs')
    throw fail('wrong_kind', {name, kind: status.imageKind, needed: 'rootfs'})
  if (status.state !== 'ACTIVE' || status.isMounted !== true) {
    const image = await getPlaced(images.database.db, images.node, name)
    const run = image && (await getOpenRun(images.database.db, image.id, images.node))
    const state = status.state === 'ACTIVE' ? 'ACTIVE but not mounted here' : status.state
    throw fail('wrong_state', {
      name,
      state,
      needed: run ? 'ACTIVE (a run is under way)' : `ACTIVE (\`imgstore activate ${name}\`)`,
    })
  }
  const {runInRoot} = await import('../mounts/enter.ts')
  const {signal, ...rest} = options
  const result = await runInRoot({
    rootDir: images.layout.mountPoint(name),
    command: [...command],
    name,
    driver: images.settings().runDriver,
    stdio: 'inherit',
    ...(signal ? {signal} : {}),
    ...rest,
  })
  return {exitCode: result.exitCode}
}
