/**
 * Publishing: a raw disk image becomes chunks and a manifest, in a directory that `imgstore serve` serves or in a bucket.
 *
 * Every chunk of the source is hashed, whatever is there already: what is kept is kept for its digest. So an
 * interrupted publication goes on, a finished one is checked, and a damaged one is mended, all by the same pass.
 */
import {createHash} from 'node:crypto'
import {availableParallelism} from 'node:os'
import {basename} from 'node:path'
import {
  buildChunkManifest,
  chunkBytes,
  parseChunkManifest,
  planChunks,
  type ChunkManifest,
  type ChunkMap,
} from '../chunk-map.ts'
import type {Clock} from '../clock.ts'
import type {Digest} from '../digest.ts'
import {digestOf, digestOfZeros} from '../disks/digests.ts'
import {feedZeros} from '../disks/extents.ts'
import {openRawDisk, type RawDisk, type ReadChunk} from '../disks/raw-disk.ts'
import {fail, ImgstoreError} from '../errors.ts'
import {MiB} from '../limits.ts'
import type {ChunkTarget} from './chunk-target.ts'
import {forEachChunk, InOrder} from './chunk-pass.ts'

/** The version is given, made from the digest of the whole image, or none: then the layout is flat. */
export type VersionWish = {kind: 'given'; version: string} | {kind: 'sha256'} | {kind: 'none'}

export type PublishRequest = {
  path: string
  id: string
  version: VersionWish
  chunkSize: number
  concurrency?: number
  /** Replaces another disk that is published there. */
  isForced: boolean
  hasMeta: boolean
  isLatest: boolean
  signal: AbortSignal
  onProgress?: (progress: {doneBytes: number; totalBytes: number}) => void
}

export type PublishReport = {
  id: string
  /** What the manifest says. */
  version: string
  /** The directory or address of the manifest and its chunks. */
  place: string
  /** `unchanged`: all was there and right; `mended`: some chunks of it were not. */
  outcome: 'published' | 'replaced' | 'mended' | 'unchanged'
  totalSize: number
  chunkSize: number
  chunkCount: number
  /** Chunks that hold nothing but zeros. */
  zeroChunks: number
  writtenChunks: number
  keptChunks: number
  /** Bytes of the source that were read; holes are not. */
  readBytes: number
  /** Of the whole image, when the version was made of it. */
  sha256?: Digest
}

export type PublishDeps = {
  clock: Clock
  /** The target of a version; undefined: its name is known only at the end (`commit` says it). */
  openTarget(version: string | undefined): Promise<ChunkTarget>
  /** Whether the digest of the whole must be known before anything is written. */
  needsVersionFirst(): Promise<boolean>
}

// Chunks in flight hold their bytes, and those they are compared with.
const bufferBytesMax = 128 * MiB

/**
 * Publishes one disk image.
 *
 * Guarantees: nothing is visible before all of it is there; when interrupted, the same call goes on.
 * Errors: disk_not_found, disk_unfit, file_changed, disk_taken, disk_busy, wrong_usage, interrupted, no_space,
 * permission_denied, io_failed; of a bucket those of the network.
 * Cost: one read of the image's data (two for a version by digest where there are others), one hash of all its bytes;
 * memory of a few chunks.
 */
export async function publishDisk(
  request: PublishRequest,
  deps: PublishDeps,
): Promise<PublishReport> {
  const disk = await openRawDisk(request.path)
  try {
    const map = planChunks(disk.sizeBytes, request.chunkSize)
    const concurrency = concurrencyFor(map, request.concurrency)
    const job: Job = {request, disk, map, concurrency}
    let sha256: Digest | undefined
    if (request.version.kind === 'sha256' && (await deps.needsVersionFirst()))
      sha256 = await digestWhole(job)
    const version =
      request.version.kind === 'given' ? request.version.version : sha256 && versionOfDigest(sha256)
    const target = await deps.openTarget(version)
    try {
      return await publishTo(target, job, {version, sha256, clock: deps.clock})
    } finally {
      await target.close()
    }
  } finally {
    await disk.close()
  }
}

type Job = {request: PublishRequest; disk: RawDisk; map: ChunkMap; concurrency: number}
type Known = {version: string | undefined; sha256: Digest | undefined; clock: Clock}

export function versionOfDigest(sha256: Digest): string {
  return `sha256-${sha256}`
}

function concurrencyFor(map: ChunkMap, wanted: number | undefined): number {
  const byMemory = Math.max(1, Math.floor(bufferBytesMax / map.chunkSize))
  return Math.min(wanted ?? Math.max(2, 2 * availableParallelism()), byMemory, map.chunkCount)
}

async function publishTo(target: ChunkTarget, job: Job, known: Known): Promise<PublishReport> {
  const {request, map} = job
  const bytes = await target.existing()
  if (bytes !== undefined) {
    try {
      return await checkAgainst(target, bytes, job, known)
    } catch (error) {
      const isOther = error instanceof ImgstoreError && error.code === 'disk_taken'
      if (!isOther || !request.isForced) throw error
    }
  }
  await target.begin('new', map)
  const wantsWhole = request.version.kind === 'sha256' && known.sha256 === undefined
  const pass = await passOver(target, job, {wantsWhole})
  await job.disk.checkUnchanged()
  const sha256 = known.sha256 ?? pass.sha256
  const version =
    known.version ?? (sha256 ? versionOfDigest(sha256) : versionOfChunks(pass.digests))
  const manifest = buildChunkManifest({
    imageId: request.id,
    version,
    totalSize: map.totalSize,
    chunkSize: map.chunkSize,
    digests: pass.digests,
  })
  await target.commit({
    version,
    manifest: JSON.stringify(manifest),
    ...(request.hasMeta ? {meta: metaText(job, known.clock)} : {}),
  })
  if (request.isLatest) await target.putLatest(version)
  const outcome = bytes === undefined ? 'published' : 'replaced'
  return reportOf(target, job, pass, {version, outcome, sha256})
}

/** Compares the source with what is published; its chunks that are missing or damaged are written again. */
async function checkAgainst(
  target: ChunkTarget,
  bytes: Uint8Array,
  job: Job,
  known: Known,
): Promise<PublishReport> {
  const {request, map} = job
  const manifest = readExisting(target, bytes)
  const difference = shapeDifference(manifest, job, known.version)
  if (difference !== undefined) throw fail('disk_taken', {place: target.place, difference})
  await target.begin('mend', map)
  const pass = await passOver(target, job, {
    wantsWhole: false,
    expected: manifest.chunks?.map((chunk) => chunk.sha256 ?? '') ?? [],
  })
  await job.disk.checkUnchanged()
  const {version} = manifest
  await target.commit({version, manifest: ''})
  if (request.isLatest) await target.putLatest(version)
  const outcome = pass.writtenChunks === 0 ? 'unchanged' : 'mended'
  return reportOf(target, job, pass, {version, outcome, sha256: known.sha256})
}

function readExisting(target: ChunkTarget, bytes: Uint8Array): ChunkManifest {
  if (bytes.length === 0)
    throw fail('disk_taken', {place: target.place, difference: 'it has chunks and no manifest'})
  const parsed = parseChunkManifest(bytes, {needsImageId: true})
  if ('manifest' in parsed) return parsed.manifest
  const difference = `its manifest is invalid (${parsed.reason})`
  throw fail('disk_taken', {place: target.place, difference})
}

/** What differs before any byte is read; `version` undefined is any. */
function shapeDifference(
  manifest: ChunkManifest,
  {request, map}: Job,
  version: string | undefined,
): string | undefined {
  for (const [field, there, here] of [
    ['imageId', manifest.imageId, request.id],
    ['version', manifest.version, version ?? manifest.version],
    ['totalSize', manifest.totalSize, map.totalSize],
    ['chunkSize', manifest.chunkSize, map.chunkSize],
    ['chunkIndexWidth', manifest.chunkIndexWidth, map.chunkIndexWidth],
  ] as const) {
    if (there !== here) return `its ${field} is ${there}, not ${here}`
  }
  const hasDigests = manifest.chunks?.every((chunk) => chunk.sha256 !== undefined) ?? false
  return hasDigests ? undefined : 'its manifest does not have a digest for each chunk'
}

type Pass = {
  digests: Digest[]
  writtenChunks: number
  zeroChunks: number
  sha256: Digest | undefined
}

/** Reads every chunk and puts it to the target. Errors: disk_taken when one is not as `expected`. */
async function passOver(
  target: ChunkTarget,
  job: Job,
  options: {wantsWhole: boolean; expected?: readonly string[]},
): Promise<Pass> {
  const {disk, map, concurrency, request} = job
  const whole = options.wantsWhole ? createHash('sha256') : undefined
  const order = new InOrder()
  const pass: Pass = {digests: [], writtenChunks: 0, zeroChunks: 0, sha256: undefined}
  let doneBytes = 0
  await forEachChunk(map, {concurrency, signal: request.signal}, async (index, buffer) => {
    const length = chunkBytes(map, index)
    let chunk: ReadChunk
    try {
      chunk = await disk.read(index * map.chunkSize, length, buffer)
      if (whole !== undefined) {
        await order.turnOf(index)
        feedChunk(chunk, length, (bytes) => whole.update(bytes))
      }
    } finally {
      order.done(index)
    }
    const digest = chunk.isZero ? digestOfZeros(length) : await digestOf(chunk.bytes)
    const expected = options.expected?.[index]
    if (expected !== undefined && expected !== digest)
      throw fail('disk_taken', {place: target.place, difference: `chunk ${index} differs`})
    pass.digests[index] = digest
    if (chunk.isZero) pass.zeroChunks++
    if ((await target.put(index, chunk, digest)) === 'written') pass.writtenChunks++
    doneBytes += length
    request.onProgress?.({doneBytes, totalBytes: map.totalSize})
  })
  if (whole !== undefined) pass.sha256 = whole.digest('hex') as Digest
  return pass
}

function feedChunk(chunk: ReadChunk, length: number, feed: (bytes: Buffer) => void): void {
  if (chunk.isZero) feedZeros(length, feed)
  else feed(chunk.bytes)
}

async function digestWhole({disk, map, concurrency, request}: Job): Promise<Digest> {
  const hash = createHash('sha256')
  const order = new InOrder()
  await forEachChunk(map, {concurrency, signal: request.signal}, async (index, buffer) => {
    try {
      const length = chunkBytes(map, index)
      const chunk = await disk.read(index * map.chunkSize, length, buffer)
      await order.turnOf(index)
      feedChunk(chunk, length, (bytes) => hash.update(bytes))
    } finally {
      order.done(index)
    }
  })
  return hash.digest('hex') as Digest
}

/** The version of a flat layout: readers need one, and it must change with the content. */
function versionOfChunks(digests: readonly Digest[]): string {
  const hash = createHash('sha256')
  for (const digest of digests) hash.update(digest, 'hex')
  return `chunks-sha256-${hash.digest('hex')}`
}

/** Source: streaming specification, section 4.5. */
function metaText({request, map}: Job, clock: Clock): string {
  return JSON.stringify({
    createdAt: new Date(clock.now()).toISOString(),
    originalFilename: basename(request.path),
    totalSize: map.totalSize,
    chunkSize: map.chunkSize,
    chunkCount: map.chunkCount,
    checksumAlgorithm: 'sha256',
  })
}

function reportOf(
  target: ChunkTarget,
  {request, disk, map}: Job,
  pass: Pass,
  end: {version: string; outcome: PublishReport['outcome']; sha256: Digest | undefined},
): PublishReport {
  const {totalSize, chunkSize, chunkCount} = map
  const {writtenChunks, zeroChunks} = pass
  return {
    id: request.id,
    version: end.version,
    place: target.place,
    outcome: end.outcome,
    totalSize,
    chunkSize,
    chunkCount,
    zeroChunks,
    writtenChunks,
    keptChunks: chunkCount - writtenChunks,
    readBytes: disk.readBytes,
    ...(end.sha256 === undefined ? {} : {sha256: end.sha256}),
  }
}
