/**
 * The map of a disk image that was cut into chunks: its manifest, and which chunk holds which byte.
 *
 * Source: `aero.chunked-disk-image.v1`, streaming specification, section 4.
 */
import {fail, quote} from './errors.ts'
import {MiB} from './limits.ts'

export const chunkManifestSchema = 'aero.chunked-disk-image.v1'

/** Bounds that readers of the format enforce (section 4.3). */
export const chunkBounds = {
  /** Sizes are in whole sectors. */
  sectorBytes: 512,
  chunkBytesMax: 64 * MiB,
  chunksMax: 500_000,
  indexWidthMax: 32,
  manifestBytesMax: 64 * MiB,
} as const

export const chunkDefaults = {
  chunkSize: 4 * MiB,
  indexWidth: 8,
  mimeType: 'application/octet-stream',
} as const

export type ChunkEntry = {size?: number; sha256?: string}

export type ChunkManifest = {
  schema: typeof chunkManifestSchema
  imageId?: string
  version: string
  mimeType: string
  /** Bytes that a guest sees. */
  totalSize: number
  chunkSize: number
  chunkCount: number
  chunkIndexWidth: number
  chunks?: readonly ChunkEntry[]
}

/** How an image is cut; enough for names, sizes and offsets. */
export type ChunkMap = Pick<
  ChunkManifest,
  'totalSize' | 'chunkSize' | 'chunkCount' | 'chunkIndexWidth'
>

/**
 * Cuts an image of `totalSize` bytes into chunks.
 *
 * Errors: wrong_usage (a size that readers of the format would refuse).
 */
export function planChunks(totalSize: number, chunkSize: number): ChunkMap {
  const problem = sizesProblem(totalSize, chunkSize)
  if (problem !== undefined) throw fail('wrong_usage', {reason: problem})
  const chunkCount = Math.ceil(totalSize / chunkSize)
  return {totalSize, chunkSize, chunkCount, chunkIndexWidth: chunkDefaults.indexWidth}
}

/**
 * The manifest of an image whose chunks were all written; digests in lower-case hex, in order.
 *
 * Errors: wrong_usage.
 */
export function buildChunkManifest(options: {
  imageId: string
  version: string
  totalSize: number
  chunkSize: number
  /** Without them the manifest gives sizes alone. */
  digests?: readonly string[]
}): ChunkManifest {
  const map = planChunks(options.totalSize, options.chunkSize)
  const {digests} = options
  const chunks = Array.from({length: map.chunkCount}, (_, index): ChunkEntry => {
    const sha256 = digests?.[index]
    return sha256 === undefined
      ? {size: chunkBytes(map, index)}
      : {size: chunkBytes(map, index), sha256}
  })
  const manifest: ChunkManifest = {
    schema: chunkManifestSchema,
    imageId: options.imageId,
    version: options.version,
    mimeType: chunkDefaults.mimeType,
    ...map,
    chunks,
  }
  const problem = manifestProblem(manifest, {needsImageId: true})
  if (digests && digests.length !== map.chunkCount)
    throw fail('wrong_usage', {reason: `${digests.length} digests for ${map.chunkCount} chunks`})
  if (problem !== undefined) throw fail('wrong_usage', {reason: problem})
  return manifest
}

/** The name of a chunk under `chunks/`: its index in decimal, padded. */
export function chunkName(map: Pick<ChunkMap, 'chunkIndexWidth'>, index: number): string {
  return `${index.toString().padStart(map.chunkIndexWidth, '0')}.bin`
}

/** Bytes of one chunk: all are `chunkSize` long but the last, which has what is left and is never empty. */
export function chunkBytes(map: Omit<ChunkMap, 'chunkIndexWidth'>, index: number): number {
  return index < map.chunkCount - 1
    ? map.chunkSize
    : map.totalSize - map.chunkSize * (map.chunkCount - 1)
}

/** Where the byte at `position` of the image is. */
export function chunkOf(
  map: Pick<ChunkMap, 'chunkSize'>,
  position: number,
): {index: number; offset: number} {
  const offset = position % map.chunkSize
  return {index: (position - offset) / map.chunkSize, offset}
}

export type ManifestRules = {
  /** Readers do without `imageId`; publishers and verifiers do not. */
  needsImageId: boolean
}

const utf8 = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true})
/** Stands for a number that was not written as an integer (`4096.0`, `4e3`), which `JSON.parse` would hide. */
const notAnInteger = Symbol('not an integer')

/**
 * Reads a manifest and holds it against every rule of the format; the reason says which field breaks which.
 *
 * Guarantees: never throws. Unknown keys are ignored and left out; digests come back trimmed and in lower case.
 */
export function parseChunkManifest(
  bytes: Uint8Array,
  rules: ManifestRules,
): {manifest: ChunkManifest} | {reason: string} {
  if (bytes.length > chunkBounds.manifestBytesMax)
    return {reason: `the manifest is longer than ${chunkBounds.manifestBytesMax} bytes`}
  let value: unknown
  try {
    value = JSON.parse(utf8.decode(bytes), keepIntegers as (key: string, value: unknown) => unknown)
  } catch (error) {
    return {reason: `the manifest is not JSON in UTF-8: ${quote(String(error))}`}
  }
  const reason = manifestProblem(value, rules)
  return reason === undefined ? {manifest: known(value as ChunkManifest)} : {reason}
}

function keepIntegers(_key: string, value: unknown, context: {source?: string}): unknown {
  if (typeof value !== 'number') return value
  return /^-?\d+$/.test(context.source ?? '') ? value : notAnInteger
}

function known(value: ChunkManifest): ChunkManifest {
  const {imageId, version, mimeType, totalSize, chunkSize, chunkCount, chunkIndexWidth} = value
  const sizes = {totalSize, chunkSize, chunkCount, chunkIndexWidth}
  const chunks = value.chunks?.map(({size, sha256}): ChunkEntry => ({
    ...(size === undefined ? {} : {size}),
    ...(sha256 === undefined ? {} : {sha256: sha256.trim().toLowerCase()}),
  }))
  return {
    schema: chunkManifestSchema,
    ...(imageId === undefined ? {} : {imageId}),
    version,
    mimeType,
    ...sizes,
    ...(chunks === undefined ? {} : {chunks}),
  }
}

type Fields = Readonly<Record<string, unknown>>

/** What is wrong with a parsed manifest, or undefined. */
export function manifestProblem(value: unknown, rules: ManifestRules): string | undefined {
  if (!isFields(value)) return 'the manifest is not an object'
  if (value['schema'] !== chunkManifestSchema)
    return `schema is ${show(value['schema'])}; it must be "${chunkManifestSchema}"`
  return (
    (rules.needsImageId || value['imageId'] !== undefined
      ? textProblem(value, 'imageId', rules.needsImageId)
      : undefined) ??
    textProblem(value, 'version', true) ??
    textProblem(value, 'mimeType', true) ??
    numbersProblem(value) ??
    chunksProblem(value)
  )
}

function textProblem(fields: Fields, field: string, isNeeded: boolean): string | undefined {
  const value = fields[field]
  if (typeof value !== 'string') return `${field} is ${show(value)}; it must be a string`
  return isNeeded && value.trim() === '' ? `${field} is blank` : undefined
}

/** What readers of the format would refuse about an image's size and that of its chunks. */
function sizesProblem(totalSize: unknown, chunkSize: unknown): string | undefined {
  for (const [field, size] of [
    ['totalSize', totalSize],
    ['chunkSize', chunkSize],
  ] as const) {
    if (!isInteger(size) || size <= 0 || size % chunkBounds.sectorBytes !== 0)
      return `${field} is ${show(size)}; it must be a positive multiple of ${chunkBounds.sectorBytes}`
  }
  if ((chunkSize as number) > chunkBounds.chunkBytesMax)
    return `chunkSize is ${show(chunkSize)}; it must be at most ${chunkBounds.chunkBytesMax}`
  const count = Math.ceil((totalSize as number) / (chunkSize as number))
  if (count > chunkBounds.chunksMax)
    return `there would be ${count} chunks; ${chunkBounds.chunksMax} are allowed, so take larger ones`
  return undefined
}

function numbersProblem(fields: Fields): string | undefined {
  const {totalSize, chunkSize, chunkCount, chunkIndexWidth} = fields
  const problem = sizesProblem(totalSize, chunkSize)
  if (problem !== undefined) return problem
  const count = Math.ceil((totalSize as number) / (chunkSize as number))
  if (chunkCount !== count)
    return `chunkCount is ${show(chunkCount)}; totalSize and chunkSize make it ${count}`
  const digits = (count - 1).toString().length
  if (
    !isInteger(chunkIndexWidth) ||
    chunkIndexWidth < digits ||
    chunkIndexWidth > chunkBounds.indexWidthMax
  )
    return `chunkIndexWidth is ${show(chunkIndexWidth)}; it must be from ${digits} to ${chunkBounds.indexWidthMax}`
  return undefined
}

function chunksProblem(fields: Fields): string | undefined {
  const {chunks} = fields
  if (chunks === undefined) return undefined
  const map = fields as unknown as ChunkMap
  if (!Array.isArray(chunks)) return `chunks is ${show(chunks)}; it must be an array`
  if (chunks.length !== map.chunkCount)
    return `chunks has ${chunks.length} elements; chunkCount is ${map.chunkCount}`
  for (const [index, chunk] of (chunks as unknown[]).entries()) {
    if (!isFields(chunk)) return `chunks[${index}] is ${show(chunk)}; it must be an object`
    const {size, sha256} = chunk
    const expected = chunkBytes(map, index)
    if (size !== undefined && size !== expected)
      return `chunks[${index}].size is ${show(size)}; it must be ${expected}`
    if (sha256 === undefined) continue
    if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/i.test(sha256.trim()))
      return `chunks[${index}].sha256 is ${show(sha256)}; it must be 64 hexadecimal digits`
  }
  return undefined
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isInteger(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value)
}

function show(value: unknown): string {
  if (value === undefined) return 'missing'
  if (typeof value === 'symbol') return 'not an integer'
  if (Array.isArray(value)) return 'an array'
  if (isFields(value)) return 'an object'
  return typeof value === 'string' ? quote(value) : JSON.stringify(value)
}
