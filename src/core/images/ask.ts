/** What people ask of images: each writes the wish and the run that fulfils it in one transaction, and returns. */
import {parseDigest, type Digest} from '../digest.ts'
import {addEvent} from '../db/events.ts'
import {
  addImage,
  addPlacement,
  getImage,
  getPlaced,
  updatePlacement,
  type PlacedImage,
  type PlacementPatch,
} from '../db/images.ts'
import type {Query} from '../db/query.ts'
import {addRun, cancelRun, getOpenRun, hurryRun} from '../db/runs.ts'
import {withdrawDisk} from '../disks/publications.ts'
import {fail, toImgstoreError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {parseImageName, type ImageName, type RunId} from '../ids.ts'
import type {Backend, Goal, ImageKind, TreeBackend} from '../image.ts'
import type {LimitOverrides, Profile} from '../limits.ts'
import {parseSourceUrl} from '../sources/source.ts'
import {findMounts} from '../mounts/mount-table.ts'
import type {ImagesContext} from './context.ts'
import {unmountAll} from './mounting.ts'

export type FetchRequest = {
  name: string
  url: string
  digest: string
  /** Without it: a root filesystem. */
  kind?: ImageKind
  profile?: Profile
  limits?: LimitOverrides
  backend?: Backend
  goal?: 'ACTIVE' | 'STORED'
  /** Hash a blob that is there already instead of trusting its size. */
  verify?: boolean
}

export type CheckedRequest = Omit<FetchRequest, 'name' | 'digest'> & {
  name: ImageName
  digest: Digest
}

/** Errors: invalid_name, invalid_digest, invalid_source. */
export function checkRequest(images: ImagesContext, request: FetchRequest): CheckedRequest {
  const name = parseImageName(request.name)
  const digest = parseDigest(request.digest)
  parseSourceUrl(request.url, {allowFile: images.settings().allowFile})
  return {...request, name, digest}
}

/**
 * Registers an image on this host with a run towards its goal.
 *
 * Returns 'unchanged' for a name with the same source, 'taken' (and what differs) for one with another.
 */
export async function register(
  images: ImagesContext,
  request: CheckedRequest,
): Promise<{outcome: 'enqueued' | 'unchanged'} | {outcome: 'taken'; difference: string}> {
  const {database, node, clock} = images
  const result = await database.db.transaction().execute(async (trx) => {
    const now = clock.now()
    const known = await getImage(trx, request.name)
    const kind = request.kind ?? 'rootfs'
    if (known && (known.url !== request.url || known.digest !== request.digest)) {
      const difference = known.digest === request.digest ? 'address' : 'checksum'
      return {outcome: 'taken', difference} as const
    }
    if (known && known.kind !== kind) return {outcome: 'taken', difference: 'kind'} as const
    const placed = await getPlaced(trx, node, request.name)
    if (placed?.goal === 'REMOVED')
      return {outcome: 'taken', difference: 'fate: it is being removed'} as const
    if (placed) return {outcome: 'unchanged'} as const
    const imageId =
      known?.id ??
      (await addImage(trx, {
        name: request.name,
        url: request.url,
        digest: request.digest,
        kind,
        now,
      }))
    const goal = request.goal ?? 'ACTIVE'
    await addPlacement(trx, {
      imageId,
      node,
      goal,
      profile: request.profile ?? images.settings().profile,
      limits: request.limits ?? {},
      backend: request.backend ?? images.settings().backend,
      isBlobVerified: request.verify ?? false,
      now,
    })
    await addRun(trx, {imageId, image: request.name, node, digest: request.digest, goal, now})
    return {outcome: 'enqueued'} as const
  })
  failpoint('images.registered')
  return result
}

/** Errors: image_not_found. */
export async function mustGet(
  q: Query,
  images: ImagesContext,
  name: ImageName,
): Promise<PlacedImage> {
  const image = await getPlaced(q, images.node, name)
  if (!image) throw fail('image_not_found', {name})
  return image
}

/** Sets where an image shall go. A run towards another goal is canceled: its owner finds its lease lost. */
export async function setGoal(images: ImagesContext, name: ImageName, goal: Goal): Promise<void> {
  await images.database.db.transaction().execute(async (trx) => {
    const image = await mustGet(trx, images, name)
    if (image.goal === 'REMOVED' && goal !== 'REMOVED') {
      throw fail('image_busy', {name, reason: 'it is being removed'})
    }
    if (image.state === 'FAILED' && goal !== 'REMOVED') {
      throw fail('wrong_state', {
        name,
        state: image.state,
        needed: `an image that is not FAILED (\`imgstore retry ${name}\`)`,
      })
    }
    const open = await getOpenRun(trx, image.id, images.node)
    if (open?.goal === goal) {
      await hurryRun(trx, open.id, images.clock.now())
      return
    }
    if (!open && image.state === goal && image.goal === goal) return
    await restart(trx, images, image, {goal, held: null})
  })
  failpoint('images.asked')
}

export type RetryOptions = {
  profile?: Profile
  limits?: LimitOverrides
  backend?: Backend
  goal?: 'ACTIVE' | 'STORED'
}

/** Begins a FAILED, held or waiting image anew, with other rules if given. */
export async function retry(
  images: ImagesContext,
  name: ImageName,
  options: RetryOptions,
): Promise<void> {
  await images.database.db.transaction().execute(async (trx) => {
    const image = await mustGet(trx, images, name)
    const open = await getOpenRun(trx, image.id, images.node)
    const rules: PlacementPatch = {
      ...(options.profile === undefined ? {} : {profile: options.profile}),
      ...(options.backend === undefined ? {} : {backend: options.backend}),
      ...(options.limits === undefined ? {} : {limits: {...image.limits, ...options.limits}}),
      ...(options.goal === undefined ? {} : {goal: options.goal}),
    }
    if (image.state === 'FAILED') {
      await restart(trx, images, image, {
        ...rules,
        state: 'NEW',
        failed: null,
        failedFrom: null,
        held: null,
      })
    } else if (open?.status === 'waiting' && isOtherTree(image, options.backend)) {
      await restart(trx, images, image, {...rules, state: 'DOWNLOADED', held: null})
    } else if (open?.status === 'waiting' && (options.goal ?? open.goal) === open.goal) {
      await updatePlacement(trx, image.id, images.node, rules, images.clock.now())
      await hurryRun(trx, open.id, images.clock.now())
    } else if (open?.status === 'waiting') {
      // The run knows its goal from its beginning: another goal takes another run.
      await restart(trx, images, image, {...rules, held: null})
    } else if (open) {
      throw fail('image_busy', {name, reason: `a run is at work on it (${image.state})`})
    } else if (image.held || image.state !== image.goal) {
      const state = isOtherTree(image, options.backend) ? ({state: 'DOWNLOADED'} as const) : {}
      await restart(trx, images, image, {...rules, ...state, held: null})
    } else if (options.backend !== undefined && options.backend !== image.treeBackend) {
      const needed = 'an image that is FAILED or waiting; `imgstore convert` changes the backend'
      throw fail('wrong_state', {name, state: image.state, needed})
    } else if (options.profile !== undefined || options.limits !== undefined) {
      throw fail('wrong_state', {
        name,
        state: image.state,
        needed: 'an image that is FAILED or waiting; `imgstore fetch --replace` begins anew',
      })
    }
  })
  failpoint('images.retried')
}

/** Whether an image that is down has a tree that another backend made: it takes a new one to go on with this. */
function isOtherTree(image: PlacedImage, backend: Backend | undefined): boolean {
  if (backend === undefined || backend === 'auto' || backend === image.treeBackend) return false
  return ['UNPACKED', 'STORED', 'ACTIVATING'].includes(image.state)
}

/** Whether the tree in its place is one of this backend, and stays. */
const hasTreeOf = (image: PlacedImage, backend: TreeBackend): boolean =>
  image.treeBackend === backend && ['STORED', 'ACTIVATING', 'ACTIVE'].includes(image.state)

/**
 * Makes the tree of a STORED or ACTIVE image anew with another backend, from the blob that is there, and brings it to
 * `goal`. An ACTIVE one is taken down in the same transaction, so that whatever happens it is either as it was or on
 * its way; `not_here` means that this process cannot do that, and nothing was changed.
 *
 * Errors: wrong_state, image_busy.
 */
export async function convert(
  images: ImagesContext,
  name: ImageName,
  options: {backend: TreeBackend; goal: 'ACTIVE' | 'STORED'},
): Promise<'converted' | 'unchanged' | 'not_here'> {
  const result = await images.database.db.transaction().execute(async (trx) => {
    const image = await mustGet(trx, images, name)
    if (image.kind !== 'rootfs')
      throw fail('wrong_kind', {name, kind: image.kind, needed: 'rootfs'})
    const {backend, goal} = options
    const open = await getOpenRun(trx, image.id, images.node)
    // It is on its way already: asked twice, or asked again after a crash.
    const isWished = image.backend === backend && !isOtherTree(image, backend)
    if (open?.goal === goal && (isWished || hasTreeOf(image, backend))) return 'converted'
    if (image.goal === 'REMOVED') throw fail('image_busy', {name, reason: 'it is being removed'})
    if (open) throw fail('image_busy', {name, reason: `a run is at work on it (${image.state})`})
    if (image.state !== 'STORED' && image.state !== 'ACTIVE') {
      throw fail('wrong_state', {name, state: image.state, needed: 'STORED or ACTIVE'})
    }
    const isDone = image.treeBackend === backend
    if (isDone && image.goal === goal) return 'unchanged'
    if (image.state === 'ACTIVE' && !takeDown(images, image)) return 'not_here'
    // From DOWNLOADED on everything is made anew; the tree that is there stays until the new one takes its place.
    const state = isDone ? 'STORED' : 'DOWNLOADED'
    const run = await restart(trx, images, image, {backend, goal, state, held: null})
    await addEvent(trx, {
      run,
      image: name,
      node: images.node,
      at: images.clock.now(),
      kind: 'transition',
      attempt: 1,
      epoch: 0,
      from: image.state,
      to: state,
      detail: {backend},
    })
    return isDone ? 'unchanged' : 'converted'
  })
  failpoint('images.converted')
  return result
}

/**
 * Begins a STORED or ACTIVE image anew whose bytes are not what they were: it is taken out of use in the same
 * transaction, and fetched again where its blob is gone. Nothing happens to one that is elsewhere, or on its way.
 *
 * Returns whether it was begun; `not_here` means that this process cannot take it down, and nothing was changed.
 * Errors: image_not_found, image_busy when it is in use.
 */
export async function remake(
  images: ImagesContext,
  name: ImageName,
  {reason, goal}: {reason: string; goal: Goal},
): Promise<'begun' | 'unchanged' | 'not_here'> {
  const result = await images.database.db.transaction().execute(async (trx) => {
    const image = await mustGet(trx, images, name)
    const isSettled = image.state === 'STORED' || image.state === 'ACTIVE'
    const open = await getOpenRun(trx, image.id, images.node)
    if (!isSettled || open || image.goal === 'REMOVED') return 'unchanged'
    if (image.kind === 'disk') withdrawDisk(images.layout.disks, image)
    else if (image.state === 'ACTIVE' && !takeDown(images, image)) return 'not_here'
    const run = await restart(trx, images, image, {state: 'NEW', goal, held: null})
    await addEvent(trx, {
      run,
      image: name,
      node: images.node,
      at: images.clock.now(),
      kind: 'mended',
      attempt: 1,
      epoch: 0,
      from: image.state,
      to: 'NEW',
      detail: {reason},
    })
    return 'begun'
  })
  failpoint('images.remade')
  return result
}

/** Unmounts an ACTIVE image; false when it is not mounted here, or not for this process to unmount. */
function takeDown(images: ImagesContext, image: PlacedImage): boolean {
  if (findMounts(images.layout.mountPoint(image.name)).length === 0) return false
  try {
    unmountAll(images, image)
  } catch (error) {
    const {code, message} = toImgstoreError(error)
    if (code === 'host_cannot_mount') return false
    if (code === 'mount_busy') throw fail('image_busy', {name: image.name, reason: message})
    throw error
  }
  failpoint('images.taken_down')
  return true
}

/** Cancels the open run, changes the placement, and opens a run towards its goal. Returns the new run. */
async function restart(
  q: Query,
  images: ImagesContext,
  image: PlacedImage,
  patch: PlacementPatch,
): Promise<RunId> {
  const {node, clock} = images
  const now = clock.now()
  const open = await getOpenRun(q, image.id, node)
  if (open) {
    await cancelRun(q, open.id, now)
    const {id, attempt, epoch} = open
    await addEvent(q, {
      run: id,
      image: image.name,
      node,
      at: now,
      kind: 'canceled',
      attempt,
      epoch,
      from: image.state,
    })
  }
  await updatePlacement(q, image.id, node, patch, now)
  const goal = patch.goal ?? image.goal
  const {id: imageId, name, digest} = image
  return await addRun(q, {imageId, image: name, node, digest, goal, now})
}
