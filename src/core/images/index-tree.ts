/** Indexing an image: from the plain tar that was made while its blob came, where there is one, or else from the blob. */
import {existsSync} from 'node:fs'
import type {PlainNote} from '../blobs/blob-store.ts'
import type {PlacedImage} from '../db/images.ts'
import type {UnpackLimits} from '../limits.ts'
import type {IndexRequest, UnpackProgress, UnpackResult} from '../unpack/unpack.ts'
import type {ImagesContext} from './context.ts'
import {withSoundBlob} from './sound-blob.ts'
import type {TreeNote} from './trees.ts'

export type IndexTreeRequest = Omit<IndexRequest, 'onProgress'> & {
  plainPath: string
  signal: AbortSignal
  /** `totalBytes` is the size of what is read. */
  onProgress: (progress: UnpackProgress, totalBytes: number) => void
}

export type IndexedTree = Pick<TreeNote, 'index' | 'plain'> & {
  result: UnpackResult
  /** Whether the plain tar was there already. */
  wasPlainReady: boolean
}

/** Writes `request.imagePath`, and `request.plainPath` if no plain tar is there yet. Errors: as unpack; io_failed. */
export async function indexTree(
  images: ImagesContext,
  image: PlacedImage,
  request: IndexTreeRequest & {blobBytes: number},
): Promise<IndexedTree> {
  const {blobBytes, ...rest} = request
  const plain = await usablePlain(images, image, request.limits)
  if (plain) {
    const made = await indexPlain(images, plain, rest)
    if (made) return made
    // It is not what it was. The blob is; others may still be mounted from this one, so it stays until then.
    await images.blobs.forgetPlain(image.digest)
  }
  const {signal, imagePath, plainPath} = rest
  const onProgress = (p: UnpackProgress): void => rest.onProgress(p, blobBytes)
  const result = await withSoundBlob(images, image.digest, signal, () =>
    images.indexTar({...rest, onProgress}),
  )
  const index = await images.blobs.hash(imagePath, {signal})
  if (!existsSync(plainPath)) return {result, index, wasPlainReady: false}
  return {result, index, plain: await images.blobs.hash(plainPath, {signal}), wasPlainReady: false}
}

type UsablePlain = PlainNote & {path: string; isFresh: boolean}

/** The plain tar of a blob, if there is one that this image's limits would have let through. */
async function usablePlain(
  {blobs, freshPlains}: ImagesContext,
  {digest, isBlobVerified}: PlacedImage,
  limits: UnpackLimits,
): Promise<UsablePlain | undefined> {
  const fresh = freshPlains.get(digest)
  freshPlains.delete(digest)
  const note = await blobs.notedPlain(digest)
  const file = await blobs.statPlain(digest)
  if (!note || !file || note.ratio > limits.ratioMax) return undefined
  const isSame = fresh?.mtimeMs === file.mtimeMs && fresh.sizeBytes === file.sizeBytes
  return {...note, path: blobs.plainPathOf(digest), isFresh: isSame && !isBlobVerified}
}

/** Undefined for a tar that lost its digest since it was made: it is read meanwhile, unless this process just made it. */
async function indexPlain(
  images: ImagesContext,
  {path, sizeBytes, digest, format, isFresh}: UsablePlain,
  request: IndexTreeRequest,
): Promise<IndexedTree | undefined> {
  const {signal, imagePath, profile, limits} = request
  const [read, indexed] = await Promise.allSettled([
    isFresh ? {digest} : images.blobs.hash(path, {signal}),
    images.indexTar({
      blobPath: path,
      isPlain: true,
      imagePath,
      digest: request.digest,
      profile,
      limits,
      signal,
      onProgress: (p) => request.onProgress(p, sizeBytes),
    }),
  ])
  if (read.status === 'rejected') throw read.reason
  if (read.value.digest !== digest) return undefined
  if (indexed.status === 'rejected') throw indexed.reason
  return {
    // What the blob is, as when it is read itself.
    result: {...indexed.value, format: format as UnpackResult['format']},
    index: await images.blobs.hash(imagePath, {signal}),
    plain: {digest, sizeBytes},
    wasPlainReady: true,
  }
}
