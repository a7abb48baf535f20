/** What each step of an image's life does. Every one may be cut off anywhere and done again. */
import {withdrawDisk} from '../disks/publications.ts'
import {getBlob, putBlob} from '../db/blobs.ts'
import {getPlacedById, type PlacedImage} from '../db/images.ts'
import type {ImageClaim, ImagePatch} from '../db/journal.ts'
import {listRuns, mayHaveOtherWriter} from '../db/runs.ts'
import {fail, type ImgstoreError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {Goal, ImageState} from '../image.ts'
import {resolveLimits} from '../limits.ts'
import type {Steps} from '../machine/runner.ts'
import type {ImagesContext} from './context.ts'
import {hideDisk, makeDisk, prepareDisk, showDisk} from './disk.ts'
import {downloadBlob} from './download.ts'
import type {ImageOutcome, ImageStep, ImageStepContext} from './lifecycle.ts'
import {backendFor, unpack} from './make-tree.ts'
import {mount, prepare, unmount, unmountFor} from './mounting.ts'
import {PlainMaker} from './plain-maker.ts'
import {rememberBlob} from './sound-blob.ts'
import {discardStaged, publishTree, removeTree, retireImage} from './trees.ts'

type Step = (
  images: ImagesContext,
  image: PlacedImage,
  context: ImageStepContext,
) => Promise<ImageOutcome>

export function imageStepsOf(
  images: ImagesContext,
): Steps<ImageState, Goal, ImageStep, ImagePatch> {
  const withImage =
    (body: Step, ofDisk = body) =>
    async (context: ImageStepContext): Promise<ImageOutcome> => {
      const image = await placedOf(images, context.claim)
      return await (image.kind === 'disk' ? ofDisk : body)(images, image, context)
    }
  return {
    begin: () => Promise.resolve({}),
    download: withImage(download),
    begin_unpack: () => Promise.resolve({}),
    unpack: withImage(inRoom(unpack), inRoom(makeDisk)),
    publish: withImage(publish),
    prepare: withImage(prepare, prepareDisk),
    mount: withImage(mount, showDisk),
    unmount: withImage(unmount, hideDisk),
    erase: withImage(erase),
  }
}

/**
 * Begins only while there is room. A tree in a directory takes about what its archive does, or more if that is compressed;
 * an index takes little, and the raw form of a disk nobody knows before.
 */
function inRoom(body: Step): Step {
  return async (images, image, context) => {
    const {run} = context.claim
    const isCopied = image.kind === 'rootfs' && (await backendFor(images, image)) === 'dir'
    const blob = isCopied ? await images.blobs.stat(image.digest) : undefined
    const comingBytes = blob?.sizeBytes ?? 0
    await images.space.enter({run, comingBytes, heldBytes: 2 * comingBytes})
    try {
      return await body(images, image, context)
    } finally {
      images.space.leave(run)
    }
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
  await discardStaged(images.layout, claim)
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
  if (!(await isFetchedByOther(images, image, claim))) await images.blobs.removePart(image.digest)
}

async function isFetchedByOther(
  {database, node}: ImagesContext,
  {digest}: PlacedImage,
  claim: ImageClaim,
): Promise<boolean> {
  const open = await listRuns(database.db, {node, isOpen: true, limit: 10_000})
  return open.some((run) => run.id !== claim.run && run.digest === digest && run.goal !== 'REMOVED')
}

async function download(
  images: ImagesContext,
  image: PlacedImage,
  context: ImageStepContext,
): Promise<ImageOutcome> {
  const {database, blobs, clock} = images
  const cached = await findBlob(images, image, context.signal)
  if (cached !== undefined) {
    // Plain tars begun for a blob that is there are from before a crash, unless another run is just finishing one.
    if (!(await isFetchedByOther(images, image, context.claim))) {
      await blobs.removePlainParts(image.digest)
    }
    return {detail: {is_cached: true, size_bytes: cached, downloaded_bytes: 0}}
  }
  const settings = images.settings()
  const {claim} = context
  const {run: runId} = claim
  const room = images.space.wanted(runId) ?? {run: runId, comingBytes: 0, heldBytes: 0}
  await images.space.enter(room)
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
      onProgress: (p) => {
        context.progress(p.receivedBytes, p.totalBytes)
        images.space.left(claim.run, (p.totalBytes ?? 0) - p.receivedBytes)
      },
      admit: ({comingBytes, totalBytes}) =>
        images.space.enter({run: claim.run, comingBytes, heldBytes: totalBytes}),
      plainMaker: plainMakerFor(images, image),
    })
    await rememberPlain(images, image, result.plain !== undefined)
    await rememberBlob(images, image.digest)
    failpoint('images.downloaded')
    await putBlob(database.db, image.digest, result.sizeBytes, clock.now())
    return {
      detail: {
        size_bytes: result.sizeBytes,
        downloaded_bytes: result.downloadedBytes,
        resumed_from_bytes: result.resumedFromBytes,
        ...(result.plain === undefined ? {} : {plain_bytes: result.plain.sizeBytes}),
      },
    }
  } catch (error) {
    const partAfter = (await blobs.statPart(image.digest))?.sizeBytes ?? 0
    if (partAfter > partBefore) context.forward()
    throw error
  } finally {
    images.space.leave(claim.run)
  }
}

function plainMakerFor(images: ImagesContext, image: PlacedImage): PlainMaker {
  const {blobs, decompress, log} = images
  return new PlainMaker({
    blobs,
    digest: image.digest,
    limits: resolveLimits(image.profile, image.limits),
    maxBlobBytes: images.settings().maxBlobBytes,
    isWanted: async () => (await backendFor(images, image)) === 'erofs',
    decompress,
    log,
  })
}

/** What this process made a moment ago need not be read again to be believed. */
async function rememberPlain(
  {blobs, freshPlains}: ImagesContext,
  {digest}: PlacedImage,
  wasMade: boolean,
): Promise<void> {
  const file = wasMade ? await blobs.statPlain(digest) : undefined
  if (file) freshPlains.set(digest, file)
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
    // Whoever put it here may have died before its name was durable.
    if (known === undefined) await blobs.settle(image.digest)
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

async function publish(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  const {treeId} = image
  if (treeId === undefined)
    throw fail('internal', {reason: `${image.name} is UNPACKED without a tree`})
  const retired: string[] = []
  return await Promise.resolve({
    effect: () => {
      // An image that FAILED on its way down may still be mounted: its lower must not go from under it.
      takeOutOfUse(images, image, [images.layout.image(image.name)])
      const replaced = publishTree(
        images.layout,
        image.name,
        treeId,
        images.clock.now(),
        images.blobs.plainPathOf(image.digest),
      )
      failpoint('images.published')
      if (replaced !== undefined) retired.push(replaced)
    },
    after: () => removeAll(retired),
  })
}

async function erase(
  images: ImagesContext,
  image: PlacedImage,
  context: ImageStepContext,
): Promise<ImageOutcome> {
  const {layout, clock} = images
  const retired: string[] = []
  await context.fenced(() => {
    takeOutOfUse(images, image, [layout.image(image.name), layout.overlay(image.name)])
    retired.push(...retireImage(layout, image.name, clock.now()))
    failpoint('images.retired')
  })
  // Done before the row goes: when the image is gone for those who wait, so is what it took on the disk.
  await removeAll(retired)
  await dropPartIfUnused(images, image, context.claim)
  await images.dropBlobIfUnused(image.digest)
  return {}
}

/** Before directories of an image are replaced or deleted. */
function takeOutOfUse(images: ImagesContext, image: PlacedImage, dirs: string[]): void {
  if (image.kind === 'disk') withdrawDisk(images.layout.disks, image)
  unmountFor(images, image, dirs)
}

async function removeAll(paths: string[]): Promise<void> {
  for (const path of paths) await removeTree(path)
}
