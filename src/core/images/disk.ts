/** Images that are disks: made raw from their blob, shown to those who serve them, and taken out of sight again. */
import {existsSync, linkSync, rmdirSync, statSync} from 'node:fs'
import {join} from 'node:path'
import type {PlacedImage} from '../db/images.ts'
import {publishDisk, readPublication, withdrawDisk} from '../disks/publications.ts'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {diskFileName, treeIdOf} from '../layout.ts'
import {diskLimits} from '../limits.ts'
import type {DiskResult, UnpackProgress} from '../unpack/unpack.ts'
import type {ImagesContext} from './context.ts'
import type {ImageOutcome, ImageStepContext} from './lifecycle.ts'
import {withSoundBlob} from './sound-blob.ts'
import {noteTree, readTreeNote, removeTree, stageTree, type TreeNote} from './trees.ts'

/** The step `unpack` of a disk. */
export async function makeDisk(
  images: ImagesContext,
  image: PlacedImage,
  context: ImageStepContext,
): Promise<ImageOutcome> {
  const {layout, blobs} = images
  const {claim} = context
  const blob = await blobs.stat(image.digest)
  if (!blob) throw fail('blob_damaged', {digest: image.digest, reason: 'the file is gone'})
  const treeId = treeIdOf(claim.run, claim.epoch)
  // A disk has no root to unpack into.
  rmdirSync(await stageTree(layout, claim))
  const diskPath = join(layout.stagedTree(treeId), diskFileName)
  const blobPath = blobs.pathOf(image.digest)
  let made: DiskResult
  try {
    made = await withSoundBlob(images, image.digest, context.signal, () =>
      images.makeDisk({
        blobPath,
        diskPath,
        limits: {...diskLimits, ...given(image)},
        signal: context.signal,
        onProgress: (p: UnpackProgress) => context.progress(p.readBytes, blob.sizeBytes),
      }),
    )
    if (made.isBlob === true) linkBlob(blobPath, diskPath)
    failpoint('images.disk_made')
  } catch (error) {
    await removeTree(layout.stagedTree(treeId)).catch(() => undefined)
    throw error
  }
  const {format, compression, sizeBytes, digest = image.digest} = made
  noteTree(layout, {
    treeId,
    digest: image.digest,
    profile: image.profile,
    entries: 0,
    disk: {digest, sizeBytes},
  })
  failpoint('images.disk_noted')
  return {
    patch: {treeId, treeBytes: sizeBytes},
    detail: {
      format,
      ...(compression === undefined ? {} : {compression}),
      total_bytes: sizeBytes,
    },
  }
}

function given(image: PlacedImage): Partial<typeof diskLimits> {
  const {totalBytesMax, ratioMax} = image.limits
  return {
    ...(totalBytesMax === undefined ? {} : {totalBytesMax}),
    ...(ratioMax === undefined ? {} : {ratioMax}),
  }
}

/** The blob is the disk: one file under two names takes no room twice. */
function linkBlob(blobPath: string, diskPath: string): void {
  try {
    linkSync(blobPath, diskPath)
  } catch (error) {
    throw fromSystemError(error, diskPath, 'make')
  }
}

/** The step `prepare` of a disk. */
export async function prepareDisk(
  images: ImagesContext,
  image: PlacedImage,
): Promise<ImageOutcome> {
  wholeNote(images, image)
  return await Promise.resolve({})
}

/** The step `mount` of a disk: from here on it is served. */
export async function showDisk(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  const {treeId, disk} = wholeNote(images, image)
  const {layout} = images
  return await Promise.resolve({
    effect: () => {
      publishDisk(layout.disks, {
        name: image.name,
        treeId,
        source: layout.disk(image.name),
        size: disk.sizeBytes,
        sha256: disk.digest as Digest,
      })
    },
  })
}

/** The step `unmount` of a disk. Readers that have it open read on. */
export async function hideDisk(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  return await Promise.resolve({
    effect: () => {
      withdrawDisk(images.layout.disks, image)
    },
  })
}

function wholeNote(
  images: ImagesContext,
  image: PlacedImage,
): TreeNote & {disk: NonNullable<TreeNote['disk']>} {
  const {layout} = images
  const note = readTreeNote(layout, image.name)
  const path = layout.disk(image.name)
  const found = existsSync(path) ? statSync(path).size : undefined
  if (note?.disk === undefined || note.treeId !== image.treeId || found !== note.disk.sizeBytes) {
    throw fail('io_failed', {path, reason: 'the disk is gone, cut short or another one'})
  }
  return {...note, disk: note.disk}
}

/** Whether what is shown under the image's name is this image. */
export function isDiskShown(images: ImagesContext, image: PlacedImage): boolean {
  return shownPath(images, image) !== undefined
}

export function shownPath(images: ImagesContext, image: PlacedImage): string | undefined {
  const {layout} = images
  const shown = readPublication(layout.disks, image.name)
  const path = join(layout.disks, `${image.treeId ?? ''}.raw`)
  return shown?.path === path && existsSync(path) ? path : undefined
}
