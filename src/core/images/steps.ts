/** What each step of an image's life does. Every one may be cut off anywhere and done again. */
import {mkdirSync} from 'node:fs'
import {getBlob, putBlob} from '../db/blobs.ts'
import {getPlacedById, type PlacedImage} from '../db/images.ts'
import type {ImageClaim, ImagePatch} from '../db/journal.ts'
import {listRuns, mayHaveOtherWriter} from '../db/runs.ts'
import {fail, fromSystemError, type ImgstoreError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {Goal, ImageState} from '../image.ts'
import {mountSource, treeIdOf} from '../layout.ts'
import {resolveLimits} from '../limits.ts'
import type {StepContext, StepOutcome, Steps} from '../machine/runner.ts'
import {findMounts} from '../mounts/mount-table.ts'
import {mountOverlay, mountOverlaySync, unmountSync, type OverlaySpec} from '../mounts/mount.ts'
import type {ImagesContext} from './context.ts'
import {downloadBlob} from './download.ts'
import type {ImageStep} from './lifecycle.ts'
import {
  discardStaged,
  noteTree,
  publishTree,
  readTreeNote,
  removeTree,
  retireImage,
  stageTree,
} from './trees.ts'

type Context = StepContext<ImageState, Goal>
type Outcome = StepOutcome<ImagePatch>

export function imageStepsOf(
  images: ImagesContext,
): Steps<ImageState, Goal, ImageStep, ImagePatch> {
  const withImage =
    (body: (images: ImagesContext, image: PlacedImage, context: Context) => Promise<Outcome>) =>
    async (context: Context): Promise<Outcome> =>
      await body(images, await placedOf(images, context.claim), context)
  return {
    begin: () => Promise.resolve({}),
    download: withImage(download),
    begin_unpack: () => Promise.resolve({}),
    unpack: withImage(unpack),
    publish: withImage(publish),
    prepare: withImage(prepare),
    mount: withImage(mount),
    unmount: withImage(unmount),
    erase: withImage(erase),
  }
}

async function placedOf(images: ImagesContext, claim: ImageClaim): Promise<PlacedImage> {
  const image = await getPlacedById(images.database.db, claim.node, claim.subject)
  // The row went with its image; whoever removed it also took the run.
  if (!image) throw fail('lease_lost', {run: claim.run})
  return image
}

/** Clears what a run leaves behind that is about to be FAILED: its staged tree, and the part that no other run needs. */
export async function clearFailing(images: ImagesContext, claim: ImageClaim): Promise<void> {
  await discardStaged(images.layout, claim.run)
  const image = await getPlacedById(images.database.db, claim.node, claim.subject)
  if (image) await dropPartIfUnused(images, image, claim)
  failpoint('images.cleared')
}

/** A blob that is no archive at all is of no use to any retry; others stay, so that one needs no new download. */
export async function clearFailed(
  images: ImagesContext,
  claim: ImageClaim,
  error: ImgstoreError,
): Promise<void> {
  if (error.code !== 'source_not_image') return
  const image = await getPlacedById(images.database.db, claim.node, claim.subject)
  if (image) await images.dropBlobIfUnused(image.digest)
}

async function dropPartIfUnused(
  images: ImagesContext,
  image: PlacedImage,
  claim: ImageClaim,
): Promise<void> {
  const open = await listRuns(images.database.db, {node: images.node, isOpen: true, limit: 10_000})
  const isNeeded = open.some(
    (run) => run.id !== claim.run && run.digest === image.digest && run.goal !== 'REMOVED',
  )
  if (!isNeeded) await images.blobs.removePart(image.digest)
}

async function download(
  images: ImagesContext,
  image: PlacedImage,
  context: Context,
): Promise<Outcome> {
  const {database, blobs, clock} = images
  const cached = await findBlob(images, image, context.signal)
  if (cached !== undefined)
    return {detail: {is_cached: true, size_bytes: cached, downloaded_bytes: 0}}
  const settings = images.settings()
  const {claim} = context
  const run = {id: claim.run, node: claim.node, digest: image.digest}
  const partBefore = (await blobs.statPart(image.digest))?.sizeBytes ?? 0
  try {
    const result = await downloadBlob({
      source: await images.openSource(image.url),
      blobs,
      digest: image.digest,
      url: image.url,
      isTakeover: context.isTakeover || (await mayHaveOtherWriter(database.db, run)),
      signal: context.signal,
      maxBlobBytes: settings.maxBlobBytes,
      onProgress: (p) => context.progress(p.receivedBytes, p.totalBytes),
    })
    failpoint('images.downloaded')
    await putBlob(database.db, image.digest, result.sizeBytes, clock.now())
    return {
      detail: {
        size_bytes: result.sizeBytes,
        downloaded_bytes: result.downloadedBytes,
        resumed_from_bytes: result.resumedFromBytes,
      },
    }
  } catch (error) {
    const partAfter = (await blobs.statPart(image.digest))?.sizeBytes ?? 0
    if (partAfter > partBefore) context.forward()
    throw error
  }
}

/** The size of a blob that is there and to be trusted; a damaged one is moved out of the way. */
async function findBlob(
  images: ImagesContext,
  image: PlacedImage,
  signal: AbortSignal,
): Promise<number | undefined> {
  const {database, blobs, clock, log} = images
  const file = await blobs.stat(image.digest)
  if (!file) return undefined
  const known = await getBlob(database.db, image.digest)
  if (known?.size_bytes === file.sizeBytes && !image.isBlobVerified) return file.sizeBytes
  const checked = await blobs.verify(image.digest, {signal})
  if (checked.ok) {
    await putBlob(database.db, image.digest, checked.sizeBytes, clock.now())
    return checked.sizeBytes
  }
  const movedTo = await blobs.quarantine(image.digest)
  log.warn(
    {image: image.name, digest: image.digest, moved_to: movedTo},
    'blob was damaged and is fetched again',
  )
  return undefined
}

async function unpack(
  images: ImagesContext,
  image: PlacedImage,
  context: Context,
): Promise<Outcome> {
  const {layout, blobs} = images
  const {claim} = context
  const blob = await blobs.stat(image.digest)
  if (!blob) throw fail('blob_damaged', {digest: image.digest, reason: 'the file is gone'})
  const treeId = treeIdOf(claim.run, claim.epoch)
  const rootfs = await stageTree(layout, claim.run, treeId)
  const result = await images
    .unpack({
      blobPath: blobs.pathOf(image.digest),
      targetDir: rootfs,
      profile: image.profile,
      limits: resolveLimits(image.profile, image.limits),
      signal: context.signal,
      onProgress: (p) => context.progress(p.readBytes, blob.sizeBytes),
    })
    .catch(async (error: unknown) => {
      // Nobody will use what is there. Whoever took the run over, or removed the image, does not know of it.
      await removeTree(layout.stagedTree(treeId)).catch(() => undefined)
      throw error
    })
  failpoint('images.unpacked')
  noteTree(layout, {treeId, digest: image.digest, profile: image.profile, entries: result.entries})
  failpoint('images.noted')
  for (const warning of result.warnings) {
    images.log.debug(
      {run_id: claim.run, image: image.name, step: 'unpack', ...warning},
      'archive entry',
    )
  }
  return {
    patch: {treeId, entries: result.entries, treeBytes: result.totalBytes},
    detail: {
      format: result.format,
      entries: result.entries,
      files: result.files,
      total_bytes: result.totalBytes,
      warnings: result.warningsTotal,
      ...(result.warnings.length > 0 ? {first_warnings: result.warnings.slice(0, 5)} : {}),
    },
  }
}

async function publish(images: ImagesContext, image: PlacedImage): Promise<Outcome> {
  const {treeId} = image
  if (treeId === undefined)
    throw fail('internal', {reason: `${image.name} is UNPACKED without a tree`})
  const retired: string[] = []
  return await Promise.resolve({
    effect: () => {
      // An image that FAILED on its way down may still be mounted: its lower must not go from under it.
      unmountAll(images, image)
      const replaced = publishTree(images.layout, image.name, treeId, images.clock.now())
      failpoint('images.published')
      if (replaced !== undefined) retired.push(replaced)
    },
    after: () => removeAll(retired),
  })
}

async function prepare(images: ImagesContext, image: PlacedImage): Promise<Outcome> {
  const {layout} = images
  const able = await images.canMount()
  if (!able.isAble) return {held: fail('host_cannot_mount', {reason: able.reason})}
  if (readTreeNote(layout, image.name)?.treeId !== image.treeId) {
    throw fail('io_failed', {
      path: layout.image(image.name),
      reason: 'the unpacked tree is gone or another one',
    })
  }
  try {
    mkdirSync(layout.upper(image.name), {recursive: true})
    mkdirSync(layout.work(image.name), {recursive: true})
    mkdirSync(layout.mountPoint(image.name), {recursive: true})
  } catch (error) {
    throw fromSystemError(error, layout.overlay(image.name), 'make')
  }
  return {}
}

async function mount(images: ImagesContext, image: PlacedImage): Promise<Outcome> {
  const {layout} = images
  const settings = images.settings()
  const spec: OverlaySpec = {
    lowerDir: layout.rootfs(image.name),
    upperDir: layout.upper(image.name),
    workDir: layout.work(image.name),
    mountPoint: layout.mountPoint(image.name),
    noexec: settings.mountNoexec,
    source: mountSource(image.name),
  }
  // A mount from before a crash, between the kernel's act and ours, is the one we want.
  const isThere = (): boolean => findMounts(spec.mountPoint).length > 0
  if (settings.mountDriver === 'fuse') {
    if (!isThere()) await mountOverlay(spec, {driver: 'fuse'})
    return {}
  }
  return {
    effect: () => {
      if (!isThere()) mountOverlaySync(spec)
      failpoint('images.mounted')
    },
  }
}

/** Unmounts all that is stacked at an image's mount point. */
export function unmountAll(images: ImagesContext, image: {name: PlacedImage['name']}): void {
  const mountPoint = images.layout.mountPoint(image.name)
  for (let left = findMounts(mountPoint).length; left > 0; left--) unmountSync(mountPoint)
}

async function unmount(images: ImagesContext, image: PlacedImage): Promise<Outcome> {
  return await Promise.resolve({
    effect: () => {
      unmountAll(images, image)
      failpoint('images.unmounted')
    },
  })
}

async function erase(
  images: ImagesContext,
  image: PlacedImage,
  context: Context,
): Promise<Outcome> {
  const {layout, clock} = images
  const retired: string[] = []
  await context.fenced(() => {
    unmountAll(images, image)
    retired.push(...retireImage(layout, image.name, clock.now()))
    failpoint('images.retired')
  })
  // Done before the row goes: when the image is gone for those who wait, so is what it took on the disk.
  await removeAll(retired)
  await dropPartIfUnused(images, image, context.claim)
  await images.dropBlobIfUnused(image.digest)
  return {}
}

async function removeAll(paths: string[]): Promise<void> {
  for (const path of paths) await removeTree(path)
}
