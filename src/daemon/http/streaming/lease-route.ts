/**
 * GET or POST /v1/images/{id}/lease: hands out a lease for one image, to who has a token for that.
 *
 * Shape: `{url, expiresAt, chunked?: {delivery, manifestUrl}}`, as the browser client of the original reads it.
 * Source: streaming specification, section 9.
 */
import type {TLSSocket} from 'node:tls'
import {isStreamId, decodeSegment, segmentBounds} from '../../../core/stream-ids.ts'
import {answerError, answerPreflight, answerText, refuse} from './answers.ts'
import type {Exchange} from './exchange.ts'
import {answerStoreError} from './store-error.ts'

export function answerLease(exchange: Exchange): void {
  const raw = exchange.match.image ?? ''
  if (exchange.method === 'OPTIONS') {
    answerPreflight(exchange)
    return
  }
  const {leases, publicUrl} = exchange.door.options
  const issuer = leases?.isIssuer(exchange.headers.authorization) ?? 'absent'
  // Asked first: who may not have leases does not learn which images there are.
  if (issuer !== 'yes') {
    refuse(exchange, issuer === 'absent' ? 401 : 403)
    return
  }
  const id = raw.length > segmentBounds.idBytesMax ? undefined : decodeSegment(raw)
  if (id === undefined || !isStreamId(id) || !leases) {
    answerError(exchange, 404)
    return
  }
  exchange.imageId = id
  try {
    const image = exchange.door.streams.find(id)
    if (!image) {
      answerError(exchange, 404)
      return
    }
    const base = publicUrl ?? originOf(exchange)
    if (base === undefined) {
      answerText(exchange, 400, 'the request has no usable Host header, and no --public-url is set')
      return
    }
    const {lease, expiresAtMs} = leases.issue(id)
    // A public image needs no lease; one in its address would only keep it out of caches.
    const query = image.isPublic ? '' : `?cap=${lease}`
    const chunked =
      exchange.door.streams.versions(id).length === 0
        ? {}
        : {
            chunked: {
              delivery: 'chunked',
              manifestUrl: `${base}/v1/images/${id}/chunked/manifest.json${query}`,
            },
          }
    const answer = {
      url: `${base}/v1/images/${id}${query}`,
      expiresAt: new Date(expiresAtMs).toISOString(),
      ...chunked,
    }
    const body = JSON.stringify(answer)
    const length = String(Buffer.byteLength(body))
    const headers = ['Content-Type', 'application/json', 'Content-Length', length]
    headers.push('Cache-Control', 'no-store', 'X-Content-Type-Options', 'nosniff')
    exchange.answer(200, [...headers, ...exchange.cors], body)
  } catch (error) {
    answerStoreError(exchange, error, 'meta')
  }
}

/** Where the request came to. A proxy that ends TLS in front says so; only the asking client sees the answer. */
function originOf(exchange: Exchange): string | undefined {
  const {host, forwardedProto} = exchange.headers
  if (host === undefined || !/^[A-Za-z0-9._~:[\]-]{1,255}$/.test(host)) return undefined
  const {encrypted} = exchange.request.socket as Partial<TLSSocket>
  const isSecure = encrypted === true || forwardedProto?.trim().toLowerCase() === 'https'
  return `${isSecure ? 'https' : 'http'}://${host}`
}
