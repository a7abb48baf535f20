/**
 * GET and HEAD of the bytes of an image, whole or in a range.
 *
 * Source: streaming specification, sections 1.10 to 1.15 and 2.
 */
import {toImgstoreError} from '../../../core/errors.ts'
import {formatHttpDate} from '../../../core/http-date.ts'
import {decideBytes} from '../../../core/http-conditions.ts'
import type {FoundImage, OpenedFile, Streams} from '../../../core/stream.ts'
import {answerBusy, answerError, answerPreflight, mayRead} from './answers.ts'
import type {Exchange} from './exchange.ts'
import {areSegmentsShort, readNames} from './names.ts'
import {answerStoreError} from './store-error.ts'

export function answerBytes(exchange: Exchange): void {
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
  // A file that is replaced between finding and opening it is found anew; one that never stands still is given up.
  for (let attempt = 1; ; attempt++) {
    const image = findImage(exchange, names.image, attempt > 1)
    if (!image || !mayRead(exchange, image.id, image.isPublic)) return
    if (answerWith(exchange, image, attempt === attemptsMax)) return
  }
}

const attemptsMax = 3

// What was found in this turn of the event loop. The requests of one turn were all on their way before it began, so that
// none of them can have been sent after a change that an earlier one did not see; and two system calls are spared.
const foundNow = new Map<string, {streams: Streams; image: FoundImage}>()
const forgetFound = (): void => foundNow.clear()

function findImage(exchange: Exchange, id: string, isAgain: boolean): FoundImage | undefined {
  const {streams} = exchange.door
  const known = isAgain ? undefined : foundNow.get(id)
  if (known?.streams === streams) return known.image
  try {
    const image = streams.find(id)
    if (!image) {
      answerError(exchange, 404)
      return undefined
    }
    if (foundNow.size === 0) setImmediate(forgetFound)
    foundNow.set(id, {streams, image})
    return image
  } catch (error) {
    answerStoreError(exchange, error, 'meta')
    return undefined
  }
}

/** Answers, or returns false when the image has changed meanwhile and this is not the last attempt. */
function answerWith(exchange: Exchange, image: FoundImage, isLast: boolean): boolean {
  const {door, headers, isHead} = exchange
  const decision = decideBytes(
    {
      isHead,
      range: headers.range,
      ifRange: headers.ifRange,
      ifMatch: headers.ifMatch,
      ifNoneMatch: headers.ifNoneMatch,
      ifModifiedSince: headers.ifModifiedSince,
      ifUnmodifiedSince: headers.ifUnmodifiedSince,
    },
    image,
    door.options.policy,
  )
  const body =
    decision.status === 206 || decision.status === 200 ? bodyOf(decision, image) : undefined
  if (body && !isHead && !openBody(exchange, image, body, isLast)) return false
  if (decision.rangeResult) door.metrics.countRange(decision.rangeResult)
  if (body && !isHead) return true
  if (body) {
    const all = [...headOf(exchange, image).fixed, ...ownHeaders(exchange, image, body)]
    exchange.answer(body.status, all)
  } else if (decision.status === 304) exchange.answer(304, headOf(exchange, image).notModified)
  else answerError(exchange, decision.status, refusalHeaders(decision.status, image))
  return true
}

/** The bytes of an answer that has a body: `end` is inclusive, `start - 1` for an image of no bytes. */
type Body = {status: 200 | 206; start: number; end: number}

function bodyOf(
  decision: {status: 206; start: number; end: number} | {status: number},
  image: FoundImage,
): Body {
  if ('start' in decision) return decision
  return {status: 200, start: 0, end: image.size - 1}
}

/** Opens the file and sends the body; false when the file has changed since it was found and this was not the last try. */
function openBody(exchange: Exchange, image: FoundImage, body: Body, isLast: boolean): boolean {
  let file: OpenedFile
  try {
    file = image.open()
  } catch (error) {
    const isChanged = toImgstoreError(error).code === 'disk_changed'
    if (isChanged && !isLast) return false
    if (isChanged) answerError(exchange, 503, ['Retry-After', '1'])
    else answerStoreError(exchange, error, 'open_range')
    return true
  }
  const {status, start, end} = body
  const headers = ownHeaders(exchange, image, body)
  const fixedHeaders = headOf(exchange, image).fixed
  exchange.deliver({status, fixedHeaders, headers, file, start, end, countAs: image.id})
  return true
}

/** Headers of this answer alone. */
function ownHeaders(exchange: Exchange, image: FoundImage, body: Body): string[] {
  const {start, end} = body
  const headers = ['Content-Length', String(end - start + 1)]
  if (body.status === 206) headers.push('Content-Range', `bytes ${start}-${end}/${image.size}`)
  if (image.sha256 !== undefined && wantsSha256(exchange.headers.wantReprDigest)) {
    const digest = Buffer.from(image.sha256, 'hex').toString('base64')
    headers.push('Repr-Digest', `sha-256=:${digest}:`)
  }
  return headers
}

function refusalHeaders(status: number, image: FoundImage): string[] {
  if (status === 416) return ['Content-Range', `bytes */${image.size}`, 'ETag', image.etag]
  return status === 412 ? ['ETag', image.etag] : []
}

/** Whether `Want-Repr-Digest` (RFC 9530 section 4) asks for SHA-256: with a weight that is not 0. */
export function wantsSha256(value: string | undefined): boolean {
  const weight =
    value === undefined ? null : /(?:^|[,\t ])sha-256=(\d{1,2})(?=$|[,;\t ])/.exec(value)
  return weight !== null && Number(weight[1]) > 0
}

/** Headers that are the same for every answer from one version of an image to pages of one origin. */
type Head = {
  etag: string
  modifiedNs: bigint | undefined
  cacheControl: string
  cors: readonly string[]
  fixed: readonly string[]
  notModified: readonly string[]
}

const heads = new Map<string, Head>()
const headsMax = 2048
const content = [
  'Content-Type',
  'application/octet-stream',
  'Content-Encoding',
  'identity',
  'X-Content-Type-Options',
  'nosniff',
]

function headOf(exchange: Exchange, image: FoundImage): Head {
  const {hasCookie, authorization} = exchange.headers
  const isShared = image.isPublic && !hasCookie && authorization === undefined
  const cacheControl = isShared ? exchange.door.options.publicCacheControl : privateCacheControl
  const key = isShared ? image.id : `${image.id} private`
  const {cors} = exchange
  const known = heads.get(key)
  if (known?.etag === image.etag && known.modifiedNs === image.modifiedNs)
    if (known.cacheControl === cacheControl && known.cors === cors) return known
  if (heads.size >= headsMax) heads.clear()
  const {etag, modifiedNs} = image
  const modified = formatHttpDate(modifiedNs)
  const common = ['Accept-Ranges', 'bytes', 'Cache-Control', cacheControl, 'ETag', etag]
  if (modified !== undefined) common.push('Last-Modified', modified)
  const fixed = [...content, ...common, ...cors]
  const notModified = [...common, ...cors]
  const head = {etag, modifiedNs, cacheControl, cors, fixed, notModified}
  heads.set(key, head)
  return head
}

/** Of what only this client may see. */
export const privateCacheControl = 'private, no-store, no-transform'
