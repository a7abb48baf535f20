/**
 * Making something of a blob that has lain on the disk. The danger: bits rot, and a name is trusted for as long as its
 * file has the right size. What is made of a blob is made beside a second look at all its bytes, and is nothing before
 * those were found right.
 */
import {putBlob, removeBlob} from '../db/blobs.ts'
import type {Digest} from '../digest.ts'
import {fail} from '../errors.ts'
import type {ImagesContext} from './context.ts'

/** Remembers a blob whose bytes this process has just hashed and written. */
export async function rememberBlob(
  {blobs, freshBlobs}: ImagesContext,
  digest: Digest,
): Promise<void> {
  const file = await blobs.stat(digest)
  if (file) freshBlobs.set(digest, file)
}

/**
 * Runs `make`, which reads the blob, and gives what it made if the blob is what its name says.
 *
 * Errors: blob_damaged (the blob is then in quarantine, and what was made is worthless); those of `make`.
 * Cost: one pass over the blob, beside `make`; none when this process has just written it.
 */
export async function withSoundBlob<T>(
  images: ImagesContext,
  digest: Digest,
  signal: AbortSignal,
  make: () => Promise<T>,
): Promise<T> {
  if (await isFresh(images, digest)) return await make()
  const [looked, made] = await Promise.allSettled([expectSoundBlob(images, digest, signal), make()])
  // Whatever the unpacker made of wrong bytes, that they are wrong is the reason.
  if (looked.status === 'rejected') throw looked.reason
  if (made.status === 'rejected') throw made.reason
  return made.value
}

async function isFresh({blobs, freshBlobs}: ImagesContext, digest: Digest): Promise<boolean> {
  const fresh = freshBlobs.get(digest)
  freshBlobs.delete(digest)
  const file = await blobs.stat(digest)
  return (
    fresh !== undefined && fresh.mtimeMs === file?.mtimeMs && fresh.sizeBytes === file.sizeBytes
  )
}

/** Reads a blob; a damaged one is moved out of the way. Errors: blob_damaged, io_failed. */
export async function expectSoundBlob(
  {blobs, database, clock}: ImagesContext,
  digest: Digest,
  signal: AbortSignal,
): Promise<void> {
  const found = await blobs.verify(digest, {signal})
  if (found.ok) {
    await putBlob(database.db, digest, found.sizeBytes, clock.now())
    return
  }
  await removeBlob(database.db, digest)
  await blobs.quarantine(digest)
  const reason = `its content has digest sha256:${found.actual} (${found.sizeBytes} bytes); it was moved to quarantine`
  throw fail('blob_damaged', {digest, reason})
}
