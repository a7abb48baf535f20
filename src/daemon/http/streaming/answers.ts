/** The answers that several endpoints give alike: errors, preflights, refusals. */
import {hasPolicy} from './cors.ts'
import type {Exchange} from './exchange.ts'

const plainText = 'text/plain; charset=utf-8'
const bytesErrorHead = ['Content-Length', '0', 'Cache-Control', 'no-store, no-transform']
const acceptRanges = ['Accept-Ranges', 'bytes']

/**
 * An error of the bytes and chunked families: no body. `more` are further headers; `asBytes` adds what only the bytes
 * family has (and, of the chunked one, the refusals that come before the image is known).
 *
 * Source: streaming specification, section 1.11.
 */
export function answerError(
  exchange: Exchange,
  status: number,
  more: readonly string[] = [],
  o: {asBytes?: boolean} = {},
): void {
  const isBytes = o.asBytes ?? exchange.route.family === 'bytes'
  exchange.answer(status, [
    ...bytesErrorHead,
    ...(isBytes ? acceptRanges : []),
    ...more,
    ...exchange.cors,
  ])
}

/** An error in words, for a person. */
export function answerText(
  exchange: Exchange,
  status: number,
  text: string,
  more: readonly string[] = [],
): void {
  exchange.answer(
    status,
    [
      'Content-Type',
      plainText,
      'Content-Length',
      String(Buffer.byteLength(text)),
      'Cache-Control',
      'no-store',
      ...more,
      ...exchange.cors,
    ],
    text,
  )
}

/** OPTIONS: always 204, whether or not there is such an image. */
export function answerPreflight(exchange: Exchange): void {
  const {cors} = exchange.door.options
  exchange.answer(204, cors.preflight(exchange.route.family, exchange.headers.origin))
}

/** A method that the route does not take. */
export function answerMethodNotAllowed(exchange: Exchange): void {
  exchange.answer(405, [
    'Content-Length',
    '0',
    'Allow',
    exchange.route.allow,
    'Cache-Control',
    'no-store',
    ...exchange.cors,
  ])
}

/** No permit is free. */
export function answerBusy(exchange: Exchange): void {
  exchange.door.metrics.countRejection('in_flight')
  answerError(exchange, 429, ['Retry-After', '1'], {asBytes: true})
}

/**
 * Decides whether the request may read a private image; answers 401 or 403 and returns false where it may not.
 *
 * Source: RFC 6750 section 3; streaming specification, section 9.
 */
export function mayRead(exchange: Exchange, imageId: string, isPublic: boolean): boolean {
  const {leases} = exchange.door.options
  if (isPublic || !leases) return true
  const {query} = exchange
  const {authorization} = exchange.headers
  const verdict = leases.verdict(imageId, {query, authorization})
  if (verdict === 'valid') return true
  refuse(exchange, verdict === 'wrong' ? 403 : 401, verdict === 'expired')
  return false
}

/** 401 or 403, in the form of the route's family. */
export function refuse(exchange: Exchange, status: 401 | 403, isExpired = false): void {
  const challenge = isExpired ? 'Bearer error="invalid_token"' : 'Bearer'
  const {resourcePolicy} = exchange.door.options.cors
  answerError(exchange, status, [
    ...(status === 401 ? ['WWW-Authenticate', challenge] : []),
    // A page that embeds what it may not read is to learn the status all the same, whatever it asked for.
    ...(hasPolicy.has(exchange.route.family)
      ? []
      : ['Cross-Origin-Resource-Policy', resourcePolicy]),
  ])
}
