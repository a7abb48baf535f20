/** Taking an image up and down: the mount of an index, if its tree is one, and the overlay above it. */
import type {PlacedImage} from '../db/images.ts'
import {fail, fromSystemError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {mountSource} from '../layout.ts'
import {mountErofsSync} from '../mounts/erofs.ts'
import {findMounts, mountsBelow, type MountEntry} from '../mounts/mount-table.ts'
import {mountOverlay, mountOverlaySync, unmountSync, type OverlaySpec} from '../mounts/mount.ts'
import {adoptRoot} from '../mounts/upper.ts'
import type {ImagesContext} from './context.ts'
import type {ImageOutcome, ImageStepContext} from './lifecycle.ts'
import {readTreeNote} from './trees.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

export async function prepare(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  const {layout} = images
  const able = await images.canMount()
  if (!able.isAble) return {held: fail('host_cannot_mount', {reason: able.reason})}
  if (image.treeBackend === 'erofs') {
    const erofs = await images.canMountErofs()
    if (!erofs.isAble) {
      const way = `\`imgstore convert ${image.name} --backend dir\` does without EROFS`
      return {held: fail('host_cannot_mount', {reason: `${erofs.reason}; ${way}`})}
    }
    await deviceOf(images, image)
  }
  if (readTreeNote(layout, image.name)?.treeId !== image.treeId) {
    throw fail('io_failed', {
      path: layout.image(image.name),
      reason: 'the unpacked tree is gone or another one',
    })
  }
  try {
    makeDirectories(layout.upper(image.name))
    makeDirectories(layout.work(image.name))
    makeDirectories(layout.mountPoint(image.name))
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
    try {
      if (!isThere()) {
        likeBelow(spec)
        await mountOverlay(spec, {driver: 'fuse'})
      }
    } catch (error) {
      unmountIndex(images, image)
      throw error
    }
    return {}
  }
  return {
    effect: () => {
      if (device !== undefined) mountIndex(images, image, device)
      try {
        if (!isThere()) {
          likeBelow(spec)
          mountOverlaySync(spec)
        }
      } catch (error) {
        // An index alone is of no use, and would hold on to its files when they are deleted.
        unmountIndex(images, image)
        throw error
      }
      failpoint('images.mounted')
    },
  }
}

function likeBelow(spec: OverlaySpec): void {
  try {
    adoptRoot(spec)
  } catch (error) {
    throw fromSystemError(error, spec.upperDir, 'set the attributes of')
  }
}

/** The tar that an index refers to. Errors: blob_damaged when it is gone or cut short. */
async function deviceOf(images: ImagesContext, image: PlacedImage): Promise<string> {
  const {blobs, layout} = images
  const {digest} = image
  const plain = readTreeNote(layout, image.name)?.plain
  if (plain === undefined) {
    if (await blobs.stat(digest)) return blobs.pathOf(digest)
    throw fail('blob_damaged', {digest, reason: 'the file is gone'})
  }
  const found = await blobs.statPlain(digest)
  if (found?.sizeBytes === plain.sizeBytes) return blobs.plainPathOf(digest)
  const reason = found ? `has ${found.sizeBytes} bytes, not ${plain.sizeBytes}` : 'is gone'
  throw fail('blob_damaged', {digest, reason: `the plain tar that was made of it ${reason}`})
}

function mountIndex(images: ImagesContext, image: PlacedImage, device: string): void {
  const {layout} = images
  const mountPoint = layout.rootfs(image.name)
  // What somebody else mounted there is refused below: it must not become the image.
  if (isIndex(findMounts(mountPoint).at(-1))) return
  mountErofsSync({imagePath: layout.index(image.name), devicePaths: [device], mountPoint})
  failpoint('images.index_mounted')
}

const isIndex = (entry: MountEntry | undefined): boolean => entry?.fsType === 'erofs'

/** Unmounts all that is stacked at an image's mount point, and then its index. Errors: mount_busy. */
export function unmountAll(images: ImagesContext, image: {name: PlacedImage['name']}): void {
  const place = images.layout.mountPoint(image.name)
  for (let left = findMounts(place).length; left > 0; left--) unmountSync(place)
  unmountIndex(images, image)
}

/**
 * Unmounts an image before directories of it are replaced or deleted. Errors: mount_busy, also for what somebody else
 * mounted in them: its files must not be deleted with ours.
 */
export function unmountFor(images: ImagesContext, image: PlacedImage, dirs: string[]): void {
  unmountAll(images, image)
  for (const dir of dirs) {
    const [below] = mountsBelow(dir)
    if (below) throw fail('mount_busy', {path: dir, below: below.mountPoint})
  }
}

/**
 * Unmounts the index of an image, if it is mounted; what else is mounted there is left alone. Nothing is ever written
 * to it, so whoever reads it still may go on until they are done: the image is down without them.
 */
export function unmountIndex(images: ImagesContext, image: {name: PlacedImage['name']}): boolean {
  const place = images.layout.rootfs(image.name)
  let wasMounted = false
  while (isIndex(findMounts(place).at(-1))) {
    unmountSync(place, {lazy: true})
    wasMounted = true
  }
  return wasMounted
}

export async function unmount(images: ImagesContext, image: PlacedImage): Promise<ImageOutcome> {
  return await Promise.resolve({
    effect: () => {
      unmountAll(images, image)
      failpoint('images.unmounted')
    },
  })
}
