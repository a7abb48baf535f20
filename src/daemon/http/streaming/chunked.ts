/**
 * GET and HEAD of a chunk manifest or a chunk: always whole, as the file is.
 *
 * Source: streaming specification, sections 1.11 to 1.15 and 4.
 */
import {decideConditions} from '../../../core/http-conditions.ts'
import {formatHttpDate} from '../../../core/http-date.ts'
import type {FoundChunked, OpenedFile} from '../../../core/stream.ts'
import {isChunkName} from '../../../core/stream-ids.ts'
import {answerBusy, answerError, answerPreflight, mayRead} from './answers.ts'
import {privateCacheControl} from './bytes.ts'
import type {Exchange} from './exchange.ts'
import {areSegmentsShort, readNames, type Names} from './names.ts'
import {answerStoreError} from './store-error.ts'

// The promise that clients and caches of the original rely on, for the unversioned paths too.
const publicCacheControl = 'public, max-age=31536000, immutable, no-transform'

export function answerChunked(exchange: Exchange): void {
  if (!areSegmentsShort(exchange)) return
  if (exchange.method === 'OPTIONS') {
    answerPreflight(exchange)
    return
  }
  const names = readNames(exchange)
  if (!names) return
  if (!exchange.takePermit()) {
    answerBusy(exchange)
    return
  }
  if (names.chunk !== undefined && !isChunkName(names.chunk)) {
    answerError(exchange, 404)
    return
  }
  const found = openChunked(exchange, names)
  if (!found) return
  const {isPublic, file} = found
  // Asked first: who may not read an image does not learn which of its chunks are there.
  if (!mayRead(exchange, names.image, isPublic)) {
    file?.release()
  } else if (!file) {
    answerError(exchange, 404)
  } else {
    const isTaken = answerWith(exchange, names, {isPublic, file})
    if (!isTaken) file.release()
  }
}

const none: readonly string[] = []

function openChunked(exchange: Exchange, names: Names): FoundChunked | undefined {
  try {
    const found = exchange.door.streams.openChunked(names.image, names.version, names.chunk)
    if (!found) answerError(exchange, 404)
    return found
  } catch (error) {
    answerStoreError(exchange, error, names.chunk === undefined ? 'manifest' : 'open_range')
    return undefined
  }
}

/** Answers; true when the file was handed to a sender, which then releases it. */
function answerWith(
  exchange: Exchange,
  names: Names,
  {isPublic, file}: {isPublic: boolean; file: OpenedFile},
): boolean {
  const {headers, isHead} = exchange
  const isChunk = names.chunk !== undefined
  if (isChunk && file.size > exchange.door.options.maxChunkBytes) {
    answerError(exchange, 413)
    return false
  }
  const status = decideConditions(headers, file)
  if (status === 412) {
    answerError(exchange, 412, ['ETag', file.etag])
    return false
  }
  const isShared = isPublic && !headers.hasCookie && headers.authorization === undefined
  const common = ['Cache-Control', isShared ? publicCacheControl : privateCacheControl]
  common.push('ETag', file.etag)
  const modified = formatHttpDate(file.modifiedNs)
  if (modified !== undefined) common.push('Last-Modified', modified)
  if (status === 304) {
    exchange.answer(304, [...common, ...exchange.cors])
    return false
  }
  const complete = [
    'Content-Type',
    isChunk ? 'application/octet-stream' : 'application/json',
    'Content-Encoding',
    'identity',
    'X-Content-Type-Options',
    'nosniff',
    'Content-Length',
    String(file.size),
    ...common,
    ...exchange.cors,
  ]
  if (isHead) {
    exchange.answer(200, complete)
    return false
  }
  const countAs = isChunk ? names.image : undefined
  exchange.deliver({
    status: 200,
    fixedHeaders: none,
    headers: complete,
    file,
    start: 0,
    end: file.size - 1,
    countAs,
  })
  return true
}
