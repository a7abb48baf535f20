/**
 * Who may read answers from another origin, and what they then see.
 *
 * Headers are flat lists, names and values in turn, as `writeHead` takes them; those that do not depend on the request
 * are made once.
 * Source: streaming specification, sections 1.4 and 1.5.
 */
import type {Family} from './router.ts'

const longList =
  'ETag, Last-Modified, Cache-Control, Content-Range, Accept-Ranges, Content-Length, Content-Encoding'
const exposed: Record<Family, string | undefined> = {
  bytes: longList,
  chunked: longList,
  metrics: longList,
  metadata: 'ETag, Last-Modified, Cache-Control',
  lease: 'Cache-Control',
  plain: undefined,
}
/** Whose answers carry `Cross-Origin-Resource-Policy`. */
export const hasPolicy: ReadonlySet<Family> = new Set<Family>([
  'bytes',
  'chunked',
  'metrics',
  'lease',
])

export type CorsOptions = {
  /** Allowed origins; `undefined` or one `*` among them: all. */
  origins: readonly string[] | undefined
  resourcePolicy: string
  preflightMaxAgeSecs: number
}

export type Cors = {
  /** CORS and CORP headers of an answer (CORP where the family has it). */
  headers(family: Family, origin: string | undefined): readonly string[]
  /** All headers of the answer to OPTIONS. */
  preflight(family: Family, origin: string | undefined): readonly string[]
  readonly resourcePolicy: string
}

// Known origins are few; what strangers send is not kept beyond this.
const cachedOriginsMax = 64

export function makeCors(o: CorsOptions): Cors {
  const allowed = new Set((o.origins ?? ['*']).map(normalize))
  const isWildcard = allowed.has('*')
  const isAllowed = (origin: string | undefined): boolean =>
    isWildcard || (origin !== undefined && allowed.has(normalize(origin)))
  const allowOrigin = (origin: string | undefined): string[] => {
    if (isWildcard) return ['Access-Control-Allow-Origin', '*']
    if (origin === undefined || !isAllowed(origin)) return []
    return [
      'Access-Control-Allow-Origin',
      // Byte for byte as it was sent: browsers compare.
      origin,
      'Access-Control-Allow-Credentials',
      'true',
    ]
  }
  const policy = (family: Family): string[] =>
    hasPolicy.has(family) ? ['Cross-Origin-Resource-Policy', o.resourcePolicy] : []

  const makeHeaders = (family: Family, origin: string | undefined): string[] => {
    const allow = allowOrigin(origin)
    const list = exposed[family]
    return [
      ...allow,
      ...(allow.length > 0 && list !== undefined ? ['Access-Control-Expose-Headers', list] : []),
      ...(isWildcard ? [] : ['Vary', 'Origin']),
      ...policy(family),
    ]
  }
  const makePreflight = (family: Family, origin: string | undefined): string[] => {
    const allow = allowOrigin(origin)
    const methods = family === 'lease' ? 'GET, POST, OPTIONS' : 'GET, HEAD, OPTIONS'
    const requested = 'Access-Control-Request-Method, Access-Control-Request-Headers'
    return [
      ...allow,
      ...(allow.length === 0
        ? []
        : [
            'Access-Control-Allow-Methods',
            methods,
            'Access-Control-Allow-Headers',
            'Range, If-Range, If-None-Match, If-Modified-Since, Authorization, Content-Type',
            'Access-Control-Max-Age',
            String(o.preflightMaxAgeSecs),
          ]),
      'Vary',
      isWildcard ? requested : `Origin, ${requested}`,
      ...policy(family),
    ]
  }
  return {
    resourcePolicy: o.resourcePolicy,
    headers: remember(makeHeaders, isWildcard),
    preflight: remember(makePreflight, isWildcard),
  }
}

type Make = (family: Family, origin: string | undefined) => readonly string[]

function remember(make: Make, isWildcard: boolean): Make {
  const known = new Map<Family, Map<string | undefined, readonly string[]>>()
  return (family, origin) => {
    const key = isWildcard ? undefined : origin
    const lists = known.get(family) ?? new Map<string | undefined, readonly string[]>()
    if (lists.size === 0) known.set(family, lists)
    const found = lists.get(key)
    if (found) return found
    const made = make(family, key)
    if (lists.size < cachedOriginsMax) lists.set(key, made)
    return made
  }
}

function normalize(origin: string): string {
  const trimmed = origin.trim()
  // A loop, as the pattern for this takes quadratic time over what strangers may send.
  let end = trimmed.length
  while (end > 0 && trimmed.charCodeAt(end - 1) === 0x2f) end--
  return trimmed.slice(0, end).replaceAll(/[A-Z]/g, (c) => c.toLowerCase())
}

/** A `Vary` value with further names: no name twice, whatever its case; a `*` stays alone. */
export function mergeVary(value: string | undefined, more: readonly string[]): string {
  const names = (value ?? '').split(',').map((name) => name.trim())
  const merged: string[] = []
  for (const name of [...names, ...more]) {
    if (name === '*') return '*'
    if (name !== '' && !merged.some((other) => other.toLowerCase() === name.toLowerCase()))
      merged.push(name)
  }
  return merged.join(', ')
}
