/** Reads every blob again and compares it with its name, and what indexed trees were made of with their notes. */
import {removeBlob, putBlob} from '../db/blobs.ts'
import {getPlaced, listPlaced, type PlacedImage} from '../db/images.ts'
import type {Digest} from '../digest.ts'
import {fail, systemCode, toImgstoreError} from '../errors.ts'
import {parseImageName, type ImageName} from '../ids.ts'
import type {MaintenanceContext, TreeFiles} from './context.ts'

export type VerifyReport = {
  checked: number
  bytes: number
  damaged: {digest: Digest; reason: string; quarantinedAs?: string; images: ImageName[]}[]
  /** Blobs that images name and that are not there. They are fetched again by `imgstore retry` or when needed. */
  missing: {digest: Digest; images: ImageName[]}[]
  /**
   * Files of indexed trees and of disks that are not as they were made. `imgstore convert` makes a tree anew from its
   * blob, `imgstore fetch --replace` a disk.
   */
  damagedTrees: {image: ImageName; path: string; reason: string}[]
}

export type VerifyOptions = {
  image?: string
  signal?: AbortSignal
  onProgress?: (progress: {digest: Digest; doneBytes: number; totalBytes: number}) => void
}

/**
 * Verifies the blobs of the store, or of one image.
 *
 * Guarantees: a damaged blob is in quarantine when it is reported: nothing is unpacked from it any more.
 * Errors: invalid_name, image_not_found, interrupted, io_failed.
 */
export async function verify(
  maintenance: MaintenanceContext,
  options: VerifyOptions,
): Promise<VerifyReport> {
  const {blobs, database, clock} = maintenance
  const images = await imagesToVerify(maintenance, options.image)
  const named = (digest: Digest): ImageName[] =>
    images.filter((image) => image.digest === digest).map((image) => image.name)
  const report: VerifyReport = {checked: 0, bytes: 0, damaged: [], missing: [], damagedTrees: []}
  for (const {digest, sizeBytes} of await blobsToVerify(
    maintenance,
    options.image === undefined ? undefined : images,
  )) {
    const result: Looked | undefined = await verifyOne(maintenance, digest, {
      ...(options.signal ? {signal: options.signal} : {}),
      onProgress: (doneBytes) => options.onProgress?.({digest, doneBytes, totalBytes: sizeBytes}),
    })
    if (!result) continue
    report.checked++
    report.bytes += result.sizeBytes
    if (result.kind === 'sound') {
      await putBlob(database.db, digest, result.sizeBytes, clock.now())
      continue
    }
    await removeBlob(database.db, digest)
    const quarantinedAs = await blobs.quarantine(digest)
    report.damaged.push({
      digest,
      reason: result.reason,
      ...(quarantinedAs === undefined ? {} : {quarantinedAs}),
      images: named(digest),
    })
  }
  await findMissing(maintenance, images, report)
  await verifyTrees(maintenance, images, options, report)
  return report
}

type Looked =
  {kind: 'sound'; sizeBytes: number} | {kind: 'damaged'; sizeBytes: number; reason: string}

/** Undefined for a blob that was removed since it was listed. A bad sector is damage. Errors: interrupted, io_failed. */
async function verifyOne(
  maintenance: MaintenanceContext,
  digest: Digest,
  options: {signal?: AbortSignal; onProgress: (doneBytes: number) => void},
): Promise<Looked | undefined> {
  throwIfAborted(options.signal)
  try {
    const found = await maintenance.blobs.verify(digest, options)
    const {sizeBytes} = found
    if (found.ok) return {kind: 'sound', sizeBytes}
    const reason = `its content has digest sha256:${found.actual} (${sizeBytes} bytes)`
    return {kind: 'damaged', sizeBytes, reason}
  } catch (error) {
    throwIfAborted(options.signal)
    if ((await maintenance.blobs.stat(digest)) === undefined) return undefined
    const reason = unreadable(error)
    if (reason === undefined) throw error
    return {kind: 'damaged', sizeBytes: 0, reason}
  }
}

/** Bytes that the disk does not give back are as lost as wrong ones; other failures say nothing about the bytes. */
function unreadable(error: unknown): string | undefined {
  const {cause, details} = toImgstoreError(error)
  return systemCode(cause) === 'EIO' ? `it cannot be read: ${String(details['reason'])}` : undefined
}

async function imagesToVerify(
  maintenance: MaintenanceContext,
  name: string | undefined,
): Promise<PlacedImage[]> {
  const {database, node} = maintenance
  if (name === undefined) return await listPlaced(database.db, node)
  const image = await getPlaced(database.db, node, parseImageName(name))
  if (!image) throw fail('image_not_found', {name})
  return [image]
}

async function blobsToVerify(
  maintenance: MaintenanceContext,
  images: PlacedImage[] | undefined,
): Promise<{digest: Digest; sizeBytes: number}[]> {
  const found: {digest: Digest; sizeBytes: number}[] = []
  for await (const file of maintenance.blobs.list()) {
    if (file.kind !== 'blob' || file.digest === undefined) continue
    if (images && !images.some((image) => image.digest === file.digest)) continue
    found.push({digest: file.digest, sizeBytes: file.sizeBytes})
  }
  return found
}

async function findMissing(
  maintenance: MaintenanceContext,
  images: PlacedImage[],
  report: VerifyReport,
): Promise<void> {
  const hadBlob = images.filter((image) => !['NEW', 'DOWNLOADING', 'FAILED'].includes(image.state))
  for (const digest of new Set(hadBlob.map((image) => image.digest))) {
    if (report.damaged.some((blob) => blob.digest === digest)) continue
    if (await maintenance.blobs.stat(digest)) continue
    const names = hadBlob.filter((image) => image.digest === digest).map((image) => image.name)
    report.missing.push({digest, images: names})
  }
}

/** Reads every disk that was made from another form; the index of every indexed tree, and the plain tar that it was made with, if its blob is compressed. */
async function verifyTrees(
  maintenance: MaintenanceContext,
  images: PlacedImage[],
  options: VerifyOptions,
  report: VerifyReport,
): Promise<void> {
  const {blobs, layout} = maintenance
  const indexed = images.filter(
    (image) =>
      (image.treeBackend === 'erofs' || image.kind === 'disk') &&
      ['STORED', 'ACTIVATING', 'ACTIVE'].includes(image.state),
  )
  for (const image of indexed) {
    const damaged: {path: string; reason: string}[] = []
    let note: TreeFiles | undefined
    try {
      note = maintenance.readTreeNote(image.name)
    } catch (error) {
      const reason = unreadable(error)
      if (reason === undefined) throw error
      damaged.push({path: layout.treeNote(image.name), reason})
    }
    if (damaged.length === 0 && note?.treeId !== image.treeId) {
      damaged.push({path: layout.treeNote(image.name), reason: 'the file is gone or another one'})
    }
    const files = [
      {path: layout.index(image.name), expected: note?.index},
      {path: blobs.plainPathOf(image.digest), expected: note?.plain},
      // A disk that is its blob was read with the blobs.
      {
        path: layout.disk(image.name),
        expected: note?.disk?.digest === image.digest ? undefined : note?.disk,
      },
    ]
    for (const {path, expected} of files) {
      if (expected === undefined) continue
      const reason = await damageOf(maintenance, path, expected, options)
      if (reason !== undefined) damaged.push({path, reason})
      else report.bytes += expected.sizeBytes
    }
    if (damaged.length === 0) continue
    // Removed or converted meanwhile: what was looked for is rightly gone.
    const fresh = await getPlaced(maintenance.database.db, maintenance.node, image.name)
    if (fresh?.treeId !== image.treeId || fresh?.goal === 'REMOVED') continue
    report.damagedTrees.push(...damaged.map((one) => ({image: image.name, ...one})))
  }
}

async function damageOf(
  maintenance: MaintenanceContext,
  path: string,
  expected: {digest: string; sizeBytes: number},
  options: VerifyOptions,
): Promise<string | undefined> {
  throwIfAborted(options.signal)
  try {
    const found = await maintenance.blobs.hash(path, {
      ...(options.signal ? {signal: options.signal} : {}),
      onProgress: (doneBytes) =>
        options.onProgress?.({
          digest: expected.digest as Digest,
          doneBytes,
          totalBytes: expected.sizeBytes,
        }),
    })
    if (found.digest === expected.digest) return undefined
    return `its content has digest sha256:${found.digest} (${found.sizeBytes} bytes)`
  } catch (error) {
    throwIfAborted(options.signal)
    const known = toImgstoreError(error)
    if (systemCode(known.cause) === 'ENOENT') return 'the file is gone'
    const reason = unreadable(error)
    if (reason === undefined) throw error
    return reason
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw fail('interrupted', {what: 'verifying'})
}
