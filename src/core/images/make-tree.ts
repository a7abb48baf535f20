/** Making an image's tree out of its blob: extracted into a directory, or indexed as EROFS. */
import {join} from 'node:path'
import type {PlacedImage} from '../db/images.ts'
import {fail} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {TreeBackend} from '../image.ts'
import {indexFileName, stagedPlainName, treeIdOf, type Layout} from '../layout.ts'
import {resolveLimits} from '../limits.ts'
import type {UnpackResult} from '../unpack/unpack.ts'
import type {ImagesContext} from './context.ts'
import {indexTree, type IndexedTree} from './index-tree.ts'
import type {ImageOutcome, ImageStepContext} from './lifecycle.ts'
import {withSoundBlob} from './sound-blob.ts'
import {noteTree, removeTree, stageTree} from './trees.ts'

export async function unpack(
  images: ImagesContext,
  image: PlacedImage,
  context: ImageStepContext,
): Promise<ImageOutcome> {
  const {layout, blobs} = images
  const {claim} = context
  const blob = await blobs.stat(image.digest)
  if (!blob) throw fail('blob_damaged', {digest: image.digest, reason: 'the file is gone'})
  const treeId = treeIdOf(claim.run, claim.epoch)
  const backend = await backendFor(images, image)
  const rootfs = await stageTree(layout, claim)
  const request = {
    blobPath: blobs.pathOf(image.digest),
    profile: image.profile,
    limits: resolveLimits(image.profile, image.limits),
    signal: context.signal,
  }
  const make = async (): Promise<Partial<IndexedTree> & {result: UnpackResult}> => {
    const blobBytes = blob.sizeBytes
    if (backend === 'dir') {
      const onProgress = (p: {readBytes: number}): void => context.progress(p.readBytes, blobBytes)
      const result = await withSoundBlob(images, image.digest, context.signal, () =>
        images.unpack({...request, targetDir: rootfs, onProgress}),
      )
      return {result}
    }
    return await indexTree(images, image, {
      ...request,
      ...indexPaths(layout, treeId),
      digest: image.digest,
      blobBytes,
      onProgress: (p, totalBytes) => context.progress(p.readBytes, totalBytes),
    })
  }
  const {result, wasPlainReady, ...digests} = await make()
    .then((made) => {
      failpoint('images.unpacked')
      return made
    })
    .catch(async (error: unknown) => {
      // Nobody will use what is there. Whoever took the run over, or removed the image, does not know of it.
      await removeTree(layout.stagedTree(treeId)).catch(() => undefined)
      throw error
    })
  noteTree(layout, {
    treeId,
    digest: image.digest,
    profile: image.profile,
    entries: result.entries,
    backend,
    ...digests,
  })
  failpoint('images.noted')
  for (const warning of result.warnings) {
    images.log.debug(
      {run_id: claim.run, image: image.name, step: 'unpack', ...warning},
      'archive entry',
    )
  }
  return {
    patch: {
      treeId,
      treeBackend: backend,
      entries: result.entries,
      treeBytes: result.totalBytes,
    },
    detail: {
      backend,
      format: result.format,
      entries: result.entries,
      files: result.files,
      total_bytes: result.totalBytes,
      warnings: result.warningsTotal,
      ...(wasPlainReady === true ? {is_plain_ready: true} : {}),
      ...(result.warnings.length > 0 ? {first_warnings: result.warnings.slice(0, 5)} : {}),
    },
  }
}

/** What was asked for; `auto` is settled here, by what this host can mount. */
export async function backendFor(images: ImagesContext, image: PlacedImage): Promise<TreeBackend> {
  if (image.backend !== 'auto') return image.backend
  return (await images.canMountErofs()).isAble ? 'erofs' : 'dir'
}

function indexPaths(layout: Layout, treeId: string): {imagePath: string; plainPath: string} {
  const staged = layout.stagedTree(treeId)
  return {imagePath: join(staged, indexFileName), plainPath: join(staged, stagedPlainName)}
}
