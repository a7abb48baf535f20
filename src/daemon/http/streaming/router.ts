/**
 * Finds what a request asks for by its raw path: exact, case-sensitive, no `.` or `..`, no decoding before matching.
 * A URL parser would resolve and decode, and so reach files that were never named.
 *
 * Source: streaming specification, sections 1.1 and 1.2.
 */

/** Which rules of CORS, caching and errors a route follows. */
export type Family = 'plain' | 'metrics' | 'metadata' | 'bytes' | 'chunked' | 'lease'

export type Endpoint =
  | 'health'
  | 'healthz'
  | 'ready'
  | 'version'
  | 'metrics'
  | 'list'
  | 'meta'
  | 'bytes'
  | 'manifest'
  | 'chunk'
  | 'lease'

export type Route = {
  readonly endpoint: Endpoint
  readonly family: Family
  /** The pattern, as metrics and logs name it. */
  readonly label: string
  /** The value of `Allow`. */
  readonly allow: string
  /** Counts up from 0: an index into tables of counters. */
  readonly index: number
}

/** A route and the path segments it captured, not yet decoded. */
export type Match = {
  readonly route: Route
  readonly image?: string
  readonly version?: string
  readonly chunk?: string
}

const allowed: Record<Family, string> = {
  plain: 'GET,HEAD',
  metrics: 'GET,HEAD',
  metadata: 'GET,HEAD,OPTIONS',
  bytes: 'GET,HEAD,OPTIONS',
  chunked: 'GET,HEAD,OPTIONS',
  lease: 'GET,POST,OPTIONS',
}

const images = '/v1/images/'

export const routes: readonly Route[] = [
  ['health', 'plain', '/health'],
  ['healthz', 'plain', '/healthz'],
  ['ready', 'plain', '/ready'],
  ['ready', 'plain', '/readyz'],
  ['version', 'plain', '/version'],
  ['metrics', 'metrics', '/metrics'],
  ['list', 'metadata', '/v1/images'],
  ['meta', 'metadata', '/v1/images/:id/meta'],
  ['bytes', 'bytes', '/v1/images/:image_id'],
  ['bytes', 'bytes', '/v1/images/:image_id/data'],
  ['manifest', 'chunked', '/v1/images/:image_id/chunked/manifest.json'],
  ['manifest', 'chunked', '/v1/images/:image_id/chunked/manifest'],
  ['chunk', 'chunked', '/v1/images/:image_id/chunked/chunks/:chunk_name'],
  ['manifest', 'chunked', '/v1/images/:image_id/chunked/:version/manifest.json'],
  ['manifest', 'chunked', '/v1/images/:image_id/chunked/:version/manifest'],
  ['chunk', 'chunked', '/v1/images/:image_id/chunked/:version/chunks/:chunk_name'],
  ['lease', 'lease', '/v1/images/:image_id/lease'],
].map(([endpoint, family, label], index) => ({
  endpoint: endpoint as Endpoint,
  family: family as Family,
  label: label as string,
  allow: allowed[family as Family],
  index,
}))

const byLabel = new Map(routes.map((route) => [route.label, route]))

export function routeOf(label: string): Route {
  const route = byLabel.get(label)
  if (!route) throw new TypeError(`no route ${label}`)
  return route
}

const fixed = new Map<string, Match>(
  routes.filter(({label}) => !label.includes(':')).map((route) => [route.label, {route}]),
)
const whole = routeOf('/v1/images/:image_id')
const data = routeOf('/v1/images/:image_id/data')
const meta = routeOf('/v1/images/:id/meta')
const lease = routeOf('/v1/images/:image_id/lease')
const chunk = routeOf('/v1/images/:image_id/chunked/chunks/:chunk_name')
const versionedChunk = routeOf('/v1/images/:image_id/chunked/:version/chunks/:chunk_name')
const manifests = new Map(
  ['manifest.json', 'manifest'].map((name) => [
    name,
    {
      flat: routeOf(`/v1/images/:image_id/chunked/${name}`),
      versioned: routeOf(`/v1/images/:image_id/chunked/:version/${name}`),
    },
  ]),
)

/** What a raw path (without its query) asks for; undefined when nothing is there. */
export function matchPath(path: string): Match | undefined {
  if (!path.startsWith(images)) return fixed.get(path)
  const slash = path.indexOf('/', images.length)
  if (slash < 0)
    return path.length > images.length
      ? {route: whole, image: path.slice(images.length)}
      : undefined
  if (slash === images.length) return undefined
  return matchBelow(path.slice(images.length, slash), path.slice(slash + 1))
}

function matchBelow(image: string, rest: string): Match | undefined {
  if (rest === 'data') return {route: data, image}
  if (rest === 'meta') return {route: meta, image}
  if (rest === 'lease') return {route: lease, image}
  const segments = rest.split('/', 5)
  if (segments[0] !== 'chunked' || segments.includes('')) return undefined
  const [, first = '', second = '', third = ''] = segments
  switch (segments.length) {
    case 2: {
      const route = manifests.get(first)?.flat
      return route && {route, image}
    }
    case 3: {
      // A literal segment wins over a captured one.
      if (first === 'chunks') return {route: chunk, image, chunk: second}
      const route = manifests.get(second)?.versioned
      return route && {route, image, version: first}
    }
    case 4:
      return second === 'chunks'
        ? {route: versionedChunk, image, version: first, chunk: third}
        : undefined
    default:
      return undefined
  }
}

/** The raw path and query of a request target, which may be an absolute URL (RFC 9112 section 3.2.2). */
export function splitTarget(target: string): {path: string; query: string} {
  let path = target
  if (!path.startsWith('/')) {
    const absolute = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i.exec(path)
    if (absolute) path = path.slice(absolute[0].length) || '/'
    if (!path.startsWith('/')) path = `/${path}`
  }
  const question = path.indexOf('?')
  return question < 0
    ? {path, query: ''}
    : {path: path.slice(0, question), query: path.slice(question + 1)}
}
