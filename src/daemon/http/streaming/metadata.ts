/**
 * The list of images and the metadata of one, as JSON.
 *
 * Source: streaming specification, sections 1.7 to 1.9.
 */
import {listEtag} from '../../../core/etag.ts'
import {decideConditions} from '../../../core/http-conditions.ts'
import {formatHttpDate, formatRfc3339} from '../../../core/http-date.ts'
import type {StreamImage} from '../../../core/stream.ts'
import {decodeSegment, isStreamId, segmentBounds} from '../../../core/stream-ids.ts'
import {answerPreflight, answerText, mayRead} from './answers.ts'
import {mergeVary} from './cors.ts'
import type {Exchange} from './exchange.ts'
import {answerStoreError} from './store-error.ts'

export function answerList(exchange: Exchange): void {
  if (exchange.method === 'OPTIONS') {
    answerPreflight(exchange)
    return
  }
  let images: readonly StreamImage[]
  try {
    images = visibleImages(exchange, exchange.door.listImages().images)
  } catch (error) {
    answerStoreError(exchange, error, 'meta')
    return
  }
  const etag = listEtag(images)
  const body = Buffer.from(JSON.stringify(images.map(toJson)))
  const {ifMatch, ifNoneMatch} = exchange.headers
  const target = {etag, modifiedNs: undefined}
  const headers = ['Cache-Control', 'no-cache', 'ETag', etag, ...corsOf(exchange)]
  answerJson(exchange, decideConditions({ifMatch, ifNoneMatch}, target), headers, body)
}

/** With leases, private images are shown to those alone who may hand leases out. */
function visibleImages(exchange: Exchange, images: readonly StreamImage[]): readonly StreamImage[] {
  const {leases} = exchange.door.options
  if (!leases || leases.isIssuer(exchange.headers.authorization) === 'yes') return images
  return images.some(({isPublic}) => !isPublic) ? images.filter(({isPublic}) => isPublic) : images
}

/** The CORS headers; where the list depends on who asks, `Vary` says so. */
function corsOf(exchange: Exchange): readonly string[] {
  if (!exchange.door.options.leases) return exchange.cors
  const headers = [...exchange.cors]
  const at = headers.indexOf('Vary')
  if (at < 0) headers.push('Vary', 'Authorization')
  else headers[at + 1] = mergeVary(headers[at + 1], ['Authorization'])
  return headers
}

export function answerMeta(exchange: Exchange): void {
  const raw = exchange.match.image ?? ''
  if (raw.length > segmentBounds.idBytesMax) {
    exchange.answer(400, ['Content-Length', '0', 'Cache-Control', 'no-cache', ...exchange.cors])
    return
  }
  if (exchange.method === 'OPTIONS') {
    answerPreflight(exchange)
    return
  }
  const id = decodeSegment(raw)
  if (id === undefined) {
    answerText(exchange, 400, 'Invalid URL: Invalid UTF-8 in `id`')
    return
  }
  if (!isStreamId(id)) {
    answerText(exchange, 400, `bad request: invalid image id: ${quotedId(id)}`)
    return
  }
  exchange.imageId = id
  let image: StreamImage | undefined
  try {
    image = exchange.door.streams.find(id)
  } catch (error) {
    answerStoreError(exchange, error, 'meta')
    return
  }
  if (!image) {
    answerText(exchange, 404, 'image not found')
    return
  }
  if (!mayRead(exchange, id, image.isPublic)) return
  const headers = ['Cache-Control', 'no-cache', 'ETag', image.etag]
  const modified = formatHttpDate(image.modifiedNs)
  if (modified !== undefined) headers.push('Last-Modified', modified)
  headers.push(...corsOf(exchange))
  const body = Buffer.from(JSON.stringify(toJson(image)))
  answerJson(exchange, decideConditions(exchange.headers, image), headers, body)
}

function answerJson(
  exchange: Exchange,
  status: 200 | 304 | 412,
  headers: readonly string[],
  body: Buffer,
): void {
  if (status === 304) {
    exchange.answer(304, headers)
  } else if (status === 412) {
    const kept = headers.filter((_, i) => headers[i - (i % 2)] !== 'Cache-Control')
    exchange.answer(412, ['Content-Length', '0', 'Cache-Control', 'no-store', ...kept])
  } else {
    const length = String(body.length)
    const content = ['Content-Type', 'application/json', 'Content-Length', length]
    exchange.answer(200, [...content, ...headers], body)
  }
}

/** One image in JSON, its fields in the order that readers know; what is not set is left out. */
export function toJson(image: StreamImage): Record<string, unknown> {
  return {
    id: image.id,
    name: image.name,
    ...(image.description === undefined ? {} : {description: image.description}),
    size_bytes: image.size,
    etag: image.etag,
    last_modified: formatRfc3339(image.modifiedNs),
    content_type: 'application/octet-stream',
    ...(image.recommendedChunkSize === undefined
      ? {}
      : {recommended_chunk_size_bytes: image.recommendedChunkSize}),
    public: image.isPublic,
  }
}

const shownBytesMax = 128

/** An id that was refused, fit to be read: escaped, and cut to 128 bytes. */
function quotedId(id: string): string {
  const escaped = id.replaceAll(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}"\\]/gu,
    (c) => `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`,
  )
  const bytes = Buffer.from(escaped)
  if (bytes.length <= shownBytesMax) return `"${escaped}"`
  // A character that is cut in two goes altogether.
  const cut = new TextDecoder().decode(bytes.subarray(0, shownBytesMax - 3)).replace(/\ufffd$/, '')
  return `"${cut}..."`
}
