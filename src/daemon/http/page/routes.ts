/**
 * The page that a person opens in a browser, and the little data it lives on. It answers only what the original has no
 * route for, and `/` only to who asks for HTML by name; what is not for the page stays the router's 404.
 *
 * | path              | answer                                                       |
 * | ----------------- | ------------------------------------------------------------ |
 * | `/`               | the page, where `Accept` names `text/html`                   |
 * | `/ui/<asset>`     | its style, its modules, its icon                             |
 * | `/ui/status.json` | counters of the server; asked for every second               |
 * | `/ui/images.json` | the images, with where they were found and their versions;   |
 * |                   | the private ones only for whom they are shown                |
 */
import type {IncomingMessage, ServerResponse} from 'node:http'
import {setImmediate} from 'node:timers/promises'
import type {StreamImage, Streams} from '../../../core/stream.ts'
import {makeAsset, readAssets, type Asset} from './assets.ts'

/** What the server says of itself; totals count from its start. */
export type PageFigures = {
  inFlight: number
  /** 0: without limit. */
  inFlightMax: number
  requestsTotal: number
  /** Answered 429. */
  refusedTotal: number
  /** Body bytes that really went out. */
  sentBytesTotal: number
  /** Longest range that is answered. */
  maxRangeBytes: number
  /** Whether an answer with a whole image is refused. */
  requiresRange: boolean
  /** Whether private images are shown only to who has a token for leases, and read with a lease. */
  needsLease: boolean
}

export type PageOptions = {
  streams: Pick<Streams, 'list' | 'versions'>
  /** Whether who shows this `Authorization` may see the private images; the answer may change with a reload. */
  maySeePrivate: (authorization: string | undefined) => boolean
  /** Called for each `/ui/status.json`; must be cheap. */
  figures: () => PageFigures
  /** Of this program. */
  version: string
}

/** `path` is the raw path, without the query. */
export type PageRequest = {
  method: string
  path: string
  headers: Readonly<Record<string, string | string[] | undefined>>
}

/** `body` is undefined for HEAD and 304; `headers` have the length all the same, except at 304. */
export type PageAnswer = {
  status: 200 | 304 | 503
  headers: Record<string, string>
  body: Buffer | undefined
}

export type Page = {
  /** The answer, or undefined where the page has nothing to say to this request. Neither throws nor rejects. */
  answer(request: PageRequest): PageAnswer | Promise<PageAnswer> | undefined
  /** The same, written as the response, at once or soon; false where the page has nothing to say. */
  handle(o: {path: string; request: IncomingMessage; response: ServerResponse}): boolean
}

/** A page that is open for hours asks again and again, and many may be open: the list is made at most this often. */
const listEveryMs = 2000
/** What a person can read. */
const imagesMax = 1000
// Each image costs a look into its directory of chunks, some 0.1 ms; between so many, those who stream have their turn.
const imagesAtOnce = 16

/** Reads the assets, once; throws when the installation lacks one. */
export function openPage(o: PageOptions): Page {
  const assets = readAssets()
  const listed = new Map<boolean, {listing: Promise<Listing>; atMs: number}>()
  const list = (authorization: string | undefined): Promise<Listing> => {
    const nowMs = performance.now()
    const withPrivate = o.maySeePrivate(authorization)
    const before = listed.get(withPrivate)
    if (before && nowMs - before.atMs <= listEveryMs) return before.listing
    const listing = listImages(o.streams, withPrivate)
    listed.set(withPrivate, {listing, atMs: nowMs})
    return listing
  }
  const page: Page = {
    handle({path, request, response}) {
      const answer = page.answer({method: request.method ?? '', path, headers: request.headers})
      if (!answer) return false
      if (answer instanceof Promise) void answer.then((later) => write(response, later))
      else write(response, answer)
      return true
    },
    answer(request) {
      if (request.method !== 'GET' && request.method !== 'HEAD') return undefined
      switch (request.path) {
        case '/':
          if (!wantsHtml(request.headers['accept'])) return undefined
          return reply(request, assets.page, 200, {vary: 'Accept'})
        case '/ui/status.json':
          return reply(request, json(status(o)), 200)
        case '/ui/images.json':
          return list(textOf(request.headers['authorization'])).then(({asset, status}) =>
            reply(request, asset, status, {vary: 'Authorization'}),
          )
        default: {
          const asset = assets.files.get(request.path)
          return asset && reply(request, asset, 200)
        }
      }
    },
  }
  return page
}

function textOf(header: string | string[] | undefined): string | undefined {
  return typeof header === 'string' ? header : undefined
}

function write(response: ServerResponse, {status, headers, body}: PageAnswer): void {
  response.writeHead(status, headers).end(body)
}

/** Whether `Accept` names HTML itself; a program's `*` `/*` does not ask for a page. */
export function wantsHtml(accept: string | string[] | undefined): boolean {
  return String(accept ?? '')
    .toLowerCase()
    .split(',')
    .some((range) => {
      const [type, ...parameters] = range.split(';').map((part) => part.trim())
      if (type !== 'text/html' && type !== 'application/xhtml+xml') return false
      return !parameters.some((parameter) => /^q\s*=\s*0(\.0{0,3})?$/.test(parameter))
    })
}

// Nothing from elsewhere, nothing inline, no frame around it, no form that leads away; and no text can become markup or
// a script's address (the modules only ever set text). Scripts are allowed by origin, not by path: a path needs the
// host, which a proxy in front may have changed; and no other answer of this origin passes for a script, because bytes
// and chunks are application/octet-stream with nosniff.
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ')

// On every answer: these say how a document may be embedded, and a browser may be led to open any of them as one.
// Isolated from other origins the page also gets the finer clock, which its latencies profit from.
const safety = {
  'content-security-policy': contentSecurityPolicy,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
}

function reply(
  {method, headers}: PageRequest,
  asset: Asset,
  status: 200 | 503,
  more: Record<string, string> = {},
): PageAnswer {
  // no-cache: kept, but asked about each time; after an upgrade no old module meets a new page.
  const common = {...safety, ...more, 'cache-control': 'no-cache', etag: asset.etag}
  const known = String(headers['if-none-match'] ?? '')
  if (status === 200 && known.split(',').some((tag) => tag.trim() === asset.etag))
    return {status: 304, headers: common, body: undefined}
  return {
    status,
    headers: {
      ...common,
      'content-type': asset.type,
      'content-length': String(asset.body.length),
    },
    body: method === 'HEAD' ? undefined : asset.body,
  }
}

function status({figures, version}: PageOptions): unknown {
  const now = figures()
  return {
    version,
    max_range_bytes: now.maxRangeBytes,
    requires_range: now.requiresRange,
    needs_lease: now.needsLease,
    in_flight: now.inFlight,
    in_flight_max: now.inFlightMax,
    requests_total: now.requestsTotal,
    refused_total: now.refusedTotal,
    sent_bytes_total: now.sentBytesTotal,
  }
}

type Listing = {asset: Asset; status: 200 | 503}

async function listImages(streams: PageOptions['streams'], withPrivate: boolean): Promise<Listing> {
  try {
    const list = streams.list()
    const images = withPrivate ? list.images : list.images.filter(({isPublic}) => isPublic)
    // What is left out may be private.
    const problems = withPrivate ? list.problems : []
    const described: unknown[] = []
    for (const image of images.slice(0, imagesMax)) {
      if (described.length % imagesAtOnce === imagesAtOnce - 1) await setImmediate()
      described.push(describe(image, streams))
    }
    const asset = json({
      images: described,
      images_total: images.length,
      // Why, with paths and all, is in the log: this is open to everybody.
      left_out: problems.slice(0, imagesMax).map(({id}) => id),
    })
    return {asset, status: 200}
  } catch {
    // The door logs the same failure at each request for bytes, and /readyz says it.
    return {asset: json({error: 'the images cannot be listed; the log says why'}), status: 503}
  }
}

function describe(image: StreamImage, streams: PageOptions['streams']): unknown {
  return {
    id: image.id,
    name: image.name,
    description: image.description,
    size_bytes: image.size,
    etag: image.etag,
    modified_ms: image.modifiedNs === undefined ? undefined : Number(image.modifiedNs / 1_000_000n),
    sha256: image.sha256,
    public: image.isPublic,
    origin: image.origin,
    /** Of the chunked form; '' is the one without a version in its path. */
    versions: streams.versions(image.id),
  }
}

function json(value: unknown): Asset {
  return makeAsset('application/json', Buffer.from(JSON.stringify(value)))
}
