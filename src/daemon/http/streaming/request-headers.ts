/**
 * The few request headers that this door reads, taken from the raw list in one pass. Of repeated lines the first
 * counts, as the original had it; only the lists of entity tags are joined.
 */

export type RequestHeaders = {
  origin?: string | undefined
  range?: string | undefined
  ifRange?: string | undefined
  ifMatch?: string | undefined
  ifNoneMatch?: string | undefined
  ifModifiedSince?: string | undefined
  ifUnmodifiedSince?: string | undefined
  authorization?: string | undefined
  /** Whether there is any `Cookie` header, whatever its value. */
  hasCookie: boolean
  requestId?: string | undefined
  userId?: string | undefined
  accept?: string | undefined
  wantReprDigest?: string | undefined
  host?: string | undefined
  forwardedProto?: string | undefined
  /** Header lines in all. */
  count: number
}

type Field = Exclude<keyof RequestHeaders, 'hasCookie' | 'count'>

const fields = new Map<string, Field>([
  ['origin', 'origin'],
  ['range', 'range'],
  ['if-range', 'ifRange'],
  ['if-match', 'ifMatch'],
  ['if-none-match', 'ifNoneMatch'],
  ['if-modified-since', 'ifModifiedSince'],
  ['if-unmodified-since', 'ifUnmodifiedSince'],
  ['authorization', 'authorization'],
  ['x-request-id', 'requestId'],
  ['x-aero-user-id', 'userId'],
  ['accept', 'accept'],
  ['want-repr-digest', 'wantReprDigest'],
  ['host', 'host'],
  [':authority', 'host'],
  ['x-forwarded-proto', 'forwardedProto'],
])

/**
 * Reads names and values in turn, as `IncomingMessage.rawHeaders` has them.
 *
 * Shape: values are one character a byte. HTTP/2 may split cookies over lines; that there are any is all that matters.
 */
export function readRequestHeaders(raw: readonly string[]): RequestHeaders {
  const found: RequestHeaders = {hasCookie: false, count: raw.length >> 1}
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = (raw[i] ?? '').toLowerCase()
    const field = fields.get(name)
    if (field === undefined) {
      if (name === 'cookie') found.hasCookie = true
      continue
    }
    const value = raw[i + 1] ?? ''
    const before = found[field]
    if (before === undefined) found[field] = value
    else if (field === 'ifNoneMatch' || field === 'ifMatch') found[field] = `${before}, ${value}`
  }
  return found
}
