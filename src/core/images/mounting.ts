/** Taking an image up and down: the mount of an index, if its tree is one, and the overlay above it. */
import {mkdirSync} from 'node:fs'
import type {PlacedImage} from '../db/images.ts'
import {fail, fromSystemError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {mountSource} from '../layout.ts'
import {mountErofsSync} from '../mounts/erofs.ts'
import {findMounts} from '../mounts/mount-table.ts'
import {mountOverlay, mountOverlaySync, unmountSync, type OverlaySpec} from '../mounts/mount.ts'
import type {ImagesContext} from './context.ts'
import type {ImageOutcome, ImageStepContext} from './lifecycle.ts'
import {readTreeNote} from './trees.ts'

export async function prepare(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  const {layout} = images
  const able = await images.canMount()
  if (!able.isAble) return {held: fail('host_cannot_mount', {reason: able.reason})}
  if (image.treeBackend === 'erofs') {
    const erofs = await images.canMountErofs()
    if (!erofs.isAble) return {held: fail('host_cannot_mount', {reason: erofs.reason})}
    await deviceOf(images, image)
  }
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

export async function mount(
  images: ImagesContext,
  image: PlacedImage,
  context: ImageStepContext,
): Promise<ImageOutcome> {
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
  const device = image.treeBackend === 'erofs' ? await deviceOf(images, image) : undefined
  if (settings.mountDriver === 'fuse') {
    if (device !== undefined) await context.fenced(() => mountIndex(images, image, device))
    if (!isThere()) await mountOverlay(spec, {driver: 'fuse'})
    return {}
  }
  return {
    effect: () => {
      if (device !== undefined) mountIndex(images, image, device)
      if (!isThere()) mountOverlaySync(spec)
      failpoint('images.mounted')
    },
  }
}

/** The tar that an index refers to. Errors: blob_damaged when it is gone. */
async function deviceOf(images: ImagesContext, image: PlacedImage): Promise<string> {
  const {blobs, layout} = images
  const isPlain = readTreeNote(layout, image.name)?.plain !== undefined
  const found = isPlain ? await blobs.statPlain(image.digest) : await blobs.stat(image.digest)
  if (!found) throw fail('blob_damaged', {digest: image.digest, reason: 'the file is gone'})
  return isPlain ? blobs.plainPathOf(image.digest) : blobs.pathOf(image.digest)
}

function mountIndex(images: ImagesContext, image: PlacedImage, device: string): void {
  const {layout} = images
  const mountPoint = layout.rootfs(image.name)
  if (findMounts(mountPoint).length > 0) return
  mountErofsSync({imagePath: layout.index(image.name), devicePaths: [device], mountPoint})
  failpoint('images.index_mounted')
}

/** Unmounts all that is stacked at an image's mount point, and then its lower, if that is a mount itself. */
export function unmountAll(images: ImagesContext, image: {name: PlacedImage['name']}): void {
  const {layout} = images
  for (const place of [layout.mountPoint(image.name), layout.rootfs(image.name)]) {
    for (let left = findMounts(place).length; left > 0; left--) unmountSync(place)
  }
}

export async function unmount(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  return await Promise.resolve({
    effect: () => {
      unmountAll(images, image)
      failpoint('images.unmounted')
    },
  })
}
