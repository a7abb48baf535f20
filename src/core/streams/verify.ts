/** Checking what was published: the manifest against every rule of the format, the chunks against the manifest. */
import {availableParallelism} from 'node:os'
import {
  chunkBytes,
  chunkName,
  parseChunkManifest,
  type ChunkManifest,
  type ChunkMap,
} from '../chunk-map.ts'
import {MiB} from '../limits.ts'
import type {Settings} from '../settings.ts'
import {sourceOptionsOf} from '../sources/options.ts'
import type {ChunkReader, SeenChunk} from './chunk-reader.ts'
import {forEachChunk} from './chunk-pass.ts'

export type VerifyChunkedOptions = {
  /** A directory, an http(s) address or `s3://bucket/prefix`: of the manifest, or of what it is in. */
  place: string
  /** Reads every byte and compares it with its digest. */
  readsData: boolean
  concurrency?: number
  signal: AbortSignal
  onProgress?: (progress: {doneBytes: number; totalBytes: number}) => void
}

/** `where` is a file beside the manifest, such as `chunks/00000000.bin`. */
export type ChunkedProblem = {where: string; reason: string}

export type VerifyChunkedReport = {
  place: string
  imageId?: string
  version?: string
  totalSize?: number
  chunkSize?: number
  chunkCount?: number
  checkedChunks: number
  readBytes: number
  /** Chunks that were read and have no digest in the manifest to compare them with. */
  undigestedChunks: number
  /** The first of them. */
  problems: ChunkedProblem[]
  problemCount: number
}

const problemsMax = 100
const bufferBytesMax = 128 * MiB

/**
 * Verifies one chunked image, at rest or as it is served.
 *
 * Guarantees: what is wrong is reported, not thrown; all of it is counted, and the first hundred named.
 * Errors: disk_not_found without a manifest; interrupted; permission_denied, io_failed; source_refused,
 * source_unavailable, source_stalled, redirect_refused after several attempts.
 */
export async function verifyChunked(
  options: VerifyChunkedOptions,
  settings: Settings,
): Promise<VerifyChunkedReport> {
  const reader = await openReader(options, settings)
  try {
    const report: VerifyChunkedReport = {
      place: reader.place,
      checkedChunks: 0,
      readBytes: 0,
      undigestedChunks: 0,
      problems: [],
      problemCount: 0,
    }
    const {bytes, problems} = await reader.manifest()
    for (const reason of problems) addProblem(report, 'manifest.json', reason)
    const parsed = parseChunkManifest(bytes, {needsImageId: true})
    if ('reason' in parsed) {
      addProblem(report, 'manifest.json', parsed.reason)
      return report
    }
    const {manifest} = parsed
    const {imageId, version, totalSize, chunkSize, chunkCount} = manifest
    Object.assign(report, {imageId, version, totalSize, chunkSize, chunkCount})
    await checkChunks(reader, manifest, report, options)
    await findExtra(reader, manifest, report)
    return report
  } finally {
    reader.close()
  }
}

async function openReader(
  {place, signal}: VerifyChunkedOptions,
  settings: Settings,
): Promise<ChunkReader> {
  if (place.startsWith('s3://')) {
    const {openBucketReader} = await import('./bucket-reader.ts')
    return openBucketReader(place, settings, signal)
  }
  if (/^https?:\/\//i.test(place)) {
    const {openHttpReader} = await import('./http-reader.ts')
    return openHttpReader(place, {settings, options: sourceOptionsOf(settings), signal})
  }
  const {openLocalReader} = await import('./local-reader.ts')
  return await openLocalReader(place)
}

function addProblem(report: VerifyChunkedReport, where: string, reason: string): void {
  report.problemCount++
  if (report.problems.length < problemsMax) report.problems.push({where, reason})
}

async function checkChunks(
  reader: ChunkReader,
  manifest: ChunkManifest,
  report: VerifyChunkedReport,
  options: VerifyChunkedOptions,
): Promise<void> {
  const {signal, readsData} = options
  const byMemory = Math.max(1, Math.floor(bufferBytesMax / manifest.chunkSize))
  const concurrency = Math.min(
    options.concurrency ?? Math.max(4, 2 * availableParallelism()),
    byMemory,
  )
  let doneBytes = 0
  const what = 'the verification'
  await forEachChunk(manifest, {concurrency, signal, what}, async (index, buffer) => {
    const name = chunkName(manifest, index)
    const expectedBytes = chunkBytes(manifest, index)
    const seen = readsData
      ? await reader.read(name, expectedBytes, buffer)
      : await reader.look(name, expectedBytes)
    report.checkedChunks++
    report.readBytes += seen?.readBytes ?? 0
    for (const reason of chunkProblems(seen, manifest, index, readsData))
      addProblem(report, `chunks/${name}`, reason)
    if (readsData && manifest.chunks?.[index]?.sha256 === undefined) report.undigestedChunks++
    doneBytes += expectedBytes
    options.onProgress?.({doneBytes, totalBytes: manifest.totalSize})
  })
  // They came in the order in which they were found.
  report.problems.sort((a, b) => (a.where < b.where ? -1 : a.where > b.where ? 1 : 0))
}

function chunkProblems(
  seen: SeenChunk | undefined,
  manifest: ChunkManifest,
  index: number,
  wasRead: boolean,
): string[] {
  if (seen === undefined) return ['it is missing']
  const problems = [...seen.problems]
  const expectedBytes = chunkBytes(manifest, index)
  if (seen.sizeBytes !== undefined && seen.sizeBytes !== expectedBytes)
    problems.push(`it has ${seen.sizeBytes} bytes, expected ${expectedBytes}`)
  const sha256 = manifest.chunks?.[index]?.sha256
  if (wasRead && sha256 !== undefined && seen.digest !== undefined && seen.digest !== sha256)
    problems.push(`its content has digest sha256:${seen.digest}, expected sha256:${sha256}`)
  return problems
}

async function findExtra(
  reader: ChunkReader,
  map: ChunkMap,
  report: VerifyChunkedReport,
): Promise<void> {
  for (const name of (await reader.list?.()) ?? []) {
    const index = /^\d{1,32}\.bin$/.test(name) ? Number.parseInt(name, 10) : map.chunkCount
    if (index >= map.chunkCount || chunkName(map, index) !== name)
      addProblem(report, `chunks/${name}`, 'the manifest does not have it')
  }
}
