/**
 * The catalog of an images directory: what its `manifest.json` says, checked field by field.
 *
 * Two kinds of trouble. Where the text as a whole cannot be trusted (not JSON, no images, one id twice, one key twice
 * around them), the catalog is invalid and nothing of it is served. Where one entry has a bad field, that entry alone is
 * left out and named. Either way somebody must mend the file, so that readiness is refused for both.
 *
 * Source: streaming specification, section 3.1.
 */
import {printable, quote} from './errors.ts'
import {etagProblem} from './etag.ts'
import {parseRfc3339} from './http-date.ts'
import {scanMembers, type MemberFaults} from './json-members.ts'
import {isStreamId, streamIdRule} from './stream-ids.ts'

const fileBytesMax = 512

export type CatalogEntry = {
  id: string
  /** Relative to the images directory, without `..`. */
  file: string
  name: string
  description?: string
  isPublic: boolean
  recommendedChunkSize?: number
  chunkedVersion?: string
  /** Fit to be sent as it is. */
  etag?: string
  modifiedNs?: bigint
}

/** An entry that was left out: its id, or `entry 3` (counted from 1) where it has none. */
export type EntryProblem = {id: string; reason: string}

export type Catalog =
  | {isValid: true; entries: readonly CatalogEntry[]; problems: readonly EntryProblem[]}
  | {isValid: false; reason: string}

/**
 * Reads a catalog.
 *
 * Shape: UTF-8 without a byte order mark; an object with `images`, or the bare array. Unknown keys are ignored.
 * Guarantees: never throws; reasons name the entry and the field, and are fit for a terminal.
 */
export function parseCatalog(bytes: Uint8Array): Catalog {
  const read = readJson(bytes)
  if ('reason' in read) return {isValid: false, reason: read.reason}
  const {images, isWrapped} = read
  if (images.length === 0) return {isValid: false, reason: 'it has no images'}
  const faults = scanMembers(read.text, isWrapped ? 'images' : undefined, entryKeys)
  if (isWrapped && faults.root.includes('images'))
    return {isValid: false, reason: 'it has the key "images" twice'}
  const entries: CatalogEntry[] = []
  const problems: EntryProblem[] = []
  const indexById = new Map<string, number>()
  for (const [index, value] of images.entries()) {
    const id = idOf(value)
    const other = id === undefined ? undefined : indexById.get(id)
    if (id !== undefined && other !== undefined) {
      const reason = `the id ${quote(id)} is in it twice (entries ${other + 1} and ${index + 1})`
      return {isValid: false, reason}
    }
    if (id !== undefined) indexById.set(id, index)
    const entry = readEntry(value, index, faults)
    if (typeof entry === 'string') problems.push({id: id ?? `entry ${index + 1}`, reason: entry})
    else entries.push(entry)
  }
  return {isValid: true, entries, problems}
}

const utf8 = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true})

function readJson(
  bytes: Uint8Array,
): {text: string; images: readonly unknown[]; isWrapped: boolean} | {reason: string} {
  let text: string
  try {
    text = utf8.decode(bytes)
  } catch {
    return {reason: 'it is not UTF-8'}
  }
  if (text.startsWith('\ufeff')) return {reason: 'it begins with a byte order mark'}
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    return {reason: `it is not JSON: ${printable(String(error))}`}
  }
  if (Array.isArray(value)) return {text, images: value, isWrapped: false}
  if (typeof value !== 'object' || value === null)
    return {reason: 'it is neither an object with "images" nor an array'}
  if (!Object.hasOwn(value, 'images')) return {reason: 'it has no "images"'}
  const {images} = value as {images: unknown}
  if (!Array.isArray(images)) return {reason: '"images" is not an array'}
  return {text, images, isWrapped: true}
}

const entryKeys = [
  'id',
  'file',
  'name',
  'description',
  'public',
  'content_type',
  'recommended_chunk_size_bytes',
  'chunked_version',
  'etag',
  'last_modified',
]

type Fields = Readonly<Record<string, unknown>>

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function idOf(value: unknown): string | undefined {
  if (!isFields(value) || !Object.hasOwn(value, 'id')) return undefined
  return typeof value['id'] === 'string' && isStreamId(value['id']) ? value['id'] : undefined
}

/** What is wrong with one entry; thrown inside this file only. */
class BadEntry extends Error {}

/** The entry, or why it cannot be one. */
function readEntry(value: unknown, index: number, faults: MemberFaults): CatalogEntry | string {
  if (!isFields(value)) return 'is not an object'
  const twice = faults.elements.get(index)
  if (twice !== undefined) return `has the field ${quote(twice)} twice`
  // Without a prototype, so that a missing field is never one that every object has.
  const fields = Object.assign(Object.create(null) as Record<string, unknown>, value)
  try {
    return entryOf(fields)
  } catch (error) {
    if (error instanceof BadEntry) return error.message
    throw error
  }
}

function entryOf(fields: Fields): CatalogEntry {
  const id = required(fields, 'id')
  if (!isStreamId(id)) throw bad('id', id, `must be ${streamIdRule}`)
  const entry: CatalogEntry = {
    id,
    file: fileOf(required(fields, 'file')),
    name: required(fields, 'name'),
    isPublic: isPublic(fields['public']),
  }
  const description = optional(fields, 'description')
  if (description !== undefined) entry.description = description
  // Taken, checked and never used, as clients of the catalog's format expect.
  optional(fields, 'content_type')
  const chunkSize = chunkSizeOf(fields['recommended_chunk_size_bytes'])
  if (chunkSize !== undefined) entry.recommendedChunkSize = chunkSize
  const version = optional(fields, 'chunked_version')?.trim()
  if (version !== undefined) {
    if (!isStreamId(version)) throw bad('chunked_version', version, `must be ${streamIdRule}`)
    entry.chunkedVersion = version
  }
  const etag = optional(fields, 'etag')?.trim()
  if (etag !== undefined) {
    const problem = etagProblem(etag)
    if (problem !== undefined) throw bad('etag', etag, problem)
    entry.etag = etag
  }
  const modified = optional(fields, 'last_modified')?.trim()
  if (modified !== undefined) entry.modifiedNs = modifiedOf(modified)
  return entry
}

function bad(field: string, value: unknown, rule: string): BadEntry {
  const shown = typeof value === 'string' ? quote(value) : printable(JSON.stringify(value))
  return new BadEntry(`field "${field}" ${rule}; it is ${shown}`)
}

function required(fields: Fields, field: string): string {
  if (fields[field] === undefined) throw new BadEntry(`field "${field}" is missing`)
  return text(fields, field, 'must be a string')
}

function optional(fields: Fields, field: string): string | undefined {
  if (fields[field] === undefined || fields[field] === null) return undefined
  return text(fields, field, 'must be a string or null')
}

function text(fields: Fields, field: string, rule: string): string {
  const value = fields[field]
  if (typeof value !== 'string') throw bad(field, value, rule)
  if (!value.isWellFormed()) throw bad(field, value, 'must be Unicode without half characters')
  return value
}

function fileOf(file: string): string {
  const bytes = Buffer.byteLength(file)
  if (bytes === 0 || bytes > fileBytesMax)
    throw bad('file', file, `must have 1 to ${fileBytesMax} bytes`)
  if (file.includes('\0')) throw bad('file', file, 'must have no NUL character')
  if (file.startsWith('/')) throw bad('file', file, 'must be relative to the images directory')
  if (file.split('/').includes('..')) throw bad('file', file, 'must have no ".." in it')
  return file
}

function isPublic(value: unknown): boolean {
  if (value === undefined) return true
  if (typeof value !== 'boolean') throw bad('public', value, 'must be true or false')
  return value
}

function chunkSizeOf(value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw bad('recommended_chunk_size_bytes', value, 'must be an integer from 0 to 2^53-1')
  return value
}

function modifiedOf(value: string): bigint {
  const ns = parseRfc3339(value)
  if (ns === undefined)
    throw bad('last_modified', value, 'must be an RFC 3339 time with seconds and an offset')
  if (ns < 0n) throw bad('last_modified', value, 'must not be before 1970')
  return ns
}
