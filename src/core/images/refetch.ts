/**
 * Mending what `verify` found: blobs that are gone or in quarantine are fetched again from where their images came from,
 * and images that live on bytes which are not right any more are made anew. A tree in a directory needs its blob for
 * neither being read nor being mounted; an index needs its tar, and a disk may be its blob.
 */
import {putBlob} from '../db/blobs.ts'
import {getPlaced, listPlaced, type PlacedImage} from '../db/images.ts'
import type {Digest} from '../digest.ts'
import {errorToJson, fail, toImgstoreError, type ErrorJson, type ImgstoreError} from '../errors.ts'
import {newUlid, type ImageName, type RunId} from '../ids.ts'
import {decideRetry} from '../machine/retry.ts'
import {remake} from './ask.ts'
import type {ImagesContext} from './context.ts'
import {downloadBlob} from './download.ts'
import {settle} from './settle.ts'
import {takeDown} from './take-down.ts'
import {readTreeNote} from './trees.ts'

/** What was done about one blob or image; with `error` it was in vain. */
export type Repair = {
  what: 'blob' | 'image'
  /** The digest of the blob or the name of the image. */
  of: string
  error?: ErrorJson
}

export type RepairRequest = {
  /** Blobs that images of this host name and that are damaged or missing. */
  digests: readonly Digest[]
  /** Images of whose trees some file is damaged. */
  images: readonly ImageName[]
  signal: AbortSignal
}

/** Mends one after another what can be mended, and says of each how it went. Errors: interrupted. */
export async function refetchDamaged(
  images: ImagesContext,
  request: RepairRequest,
): Promise<Repair[]> {
  const {digests, signal} = request
  const placed = await listPlaced(images.database.db, images.node)
  const onBadBytes = placed.filter(
    (image) =>
      request.images.includes(image.name) ||
      (digests.includes(image.digest) && livesOnBlob(images, image)),
  )
  const done: Repair[] = []
  const attempt = async (
    what: Repair['what'],
    of: string,
    act: () => Promise<ErrorJson | undefined>,
  ): Promise<void> => {
    try {
      if (signal.aborted) throw fail('interrupted', {what: 'mending'})
      const error = await act()
      done.push({what, of, ...(error ? {error} : {})})
    } catch (error) {
      if (signal.aborted) throw fail('interrupted', {what: 'mending'})
      done.push({what, of, error: errorToJson(toImgstoreError(error))})
    }
  }
  for (const {name} of onBadBytes)
    await attempt('image', name, () => makeAnew(images, name, signal))
  for (const digest of digests) {
    const user = placed.find((image) => image.digest === digest && image.goal !== 'REMOVED')
    if (user) await attempt('blob', digest, () => fetchAgain(images, user, signal))
  }
  return done
}

/** Whether what is mounted or served is the blob itself. */
function livesOnBlob({layout}: ImagesContext, image: PlacedImage): boolean {
  if (image.state !== 'STORED' && image.state !== 'ACTIVE') return false
  if (image.kind === 'rootfs' && image.treeBackend !== 'erofs') return false
  let note: ReturnType<typeof readTreeNote>
  try {
    note = readTreeNote(layout, image.name)
  } catch {
    return true
  }
  return image.kind === 'disk' ? note?.disk?.digest === image.digest : note?.plain === undefined
}

async function makeAnew(
  images: ImagesContext,
  name: ImageName,
  signal: AbortSignal,
): Promise<ErrorJson | undefined> {
  const reason = 'its bytes were damaged'
  const goal = (await getPlaced(images.database.db, images.node, name))?.goal
  if (goal !== undefined && (await remake(images, name, {reason, goal})) === 'not_here') {
    await takeDown(images, name, goal, {signal})
    await remake(images, name, {reason, goal})
  }
  const {outcome, status} = await settle(images, name, {signal})
  return outcome === 'failed' ? status?.failed : undefined
}

/** Fetches a blob that is not there, beside whatever runs do. Errors: those of downloadBlob, space_low. */
async function fetchAgain(
  images: ImagesContext,
  image: PlacedImage,
  signal: AbortSignal,
): Promise<undefined> {
  const {blobs, clock, database, space} = images
  const settings = images.settings()
  const run = newUlid(clock.now()) as RunId
  const once = async (): Promise<void> => {
    if (await blobs.stat(image.digest)) return
    await space.enter({run, comingBytes: 0, heldBytes: 0})
    const result = await downloadBlob({
      source: await images.openSource(image.url),
      blobs,
      digest: image.digest,
      url: image.url,
      isTakeover: false,
      isPrivate: true,
      signal,
      maxBlobBytes: settings.maxBlobBytes,
      onProgress: () => undefined,
      admit: ({comingBytes, totalBytes}) => space.enter({run, comingBytes, heldBytes: totalBytes}),
    })
    await putBlob(database.db, image.digest, result.sizeBytes, clock.now())
  }
  try {
    for (let tries = 1; ; tries++) {
      const error = await failureOf(once)
      if (!error) return
      const waits = {
        maxAttempts: settings.maxAttempts,
        waitMs: settings.retryWaitMs,
        waitMaxMs: settings.retryWaitMaxMs,
        jitterPercent: settings.retryJitterPercent,
      }
      const decision = decideRetry(error, tries, false, waits, Math.random())
      // A person waits for this: what is short of room is told, not waited for.
      if (!decision.isRetried || error.retry === 'wait') throw error
      await clock.sleep(decision.waitMs, signal)
    }
  } finally {
    space.leave(run)
  }
}

async function failureOf(act: () => Promise<void>): Promise<ImgstoreError | undefined> {
  try {
    await act()
    return undefined
  } catch (error) {
    return toImgstoreError(error)
  }
}
