/** The streaming surface as one thing: opened with settings, reloaded with others, closed. */
import type {Settings} from '../../../core/settings.ts'
import type {Streams} from '../../../core/stream.ts'
import {openPage, type PageFigures} from '../page/routes.ts'
import type {ServeLog} from './access-log.ts'
import {chooseSender} from './choose-sender.ts'
import type {BareAnswer} from './client-error.ts'
import {makeDoor, type Door} from './door.ts'
import {makeMetrics} from './metrics.ts'
import {doorOptions, logFilterOf, readTls, serverLimits} from './options.ts'
import {Permits} from './permits.ts'
import {requestIdOf} from './request-id.ts'
import {startStreamingServer, type StreamingServer} from './server.ts'

export type Streaming = {
  readonly address: string
  readonly port: number
  /** Which sender was chosen. */
  readonly sender: string
  readonly door: Door
  /** Open ones. */
  readonly connections: number
  /**
   * Takes other settings, without dropping a connection; where it listens and whether by TLS cannot change.
   *
   * Errors: serve_failed; nothing has changed then.
   */
  reload(settings: Settings): void
  /** Ends answers in order; cuts off what is left after `withinMs`. True: nothing was cut off. */
  close(withinMs: number): Promise<boolean>
}

export type StreamingOptions = {
  settings: Settings
  streams: Streams
  log: ServeLog
  /** Of imgstore, for the metrics. */
  version: string
  /** Log lines that were lost, for the metrics. */
  linesLost?: () => number
}

/**
 * Starts to serve. The streams stay the caller's.
 *
 * Errors: serve_failed.
 */
export async function openStreaming(o: StreamingOptions): Promise<Streaming> {
  const {settings, log} = o
  const options = doorOptions(settings)
  const tls = readTls(settings)
  const {name, sender} = chooseSender(settings.sender)
  const permits = new Permits(permitLimits(settings))
  let server: StreamingServer | undefined
  const metrics = makeMetrics({
    imageIdsMax: settings.metricsMaxIds,
    version: o.version,
    state: () => ({
      inFlight: permits.inFlight,
      connections: server?.connections ?? 0,
      openFiles: door.openFiles,
      catalogProblems: door.catalogProblems,
      logLinesLost: o.linesLost?.() ?? 0,
    }),
  })
  const page = settings.page
    ? openPage({
        streams: {
          list: () => o.streams.list(),
          versions: (id) => o.streams.versions(id),
        },
        maySeePrivate: (authorization) => {
          const {leases} = door.options
          return !leases || leases.isIssuer(authorization) === 'yes'
        },
        version: o.version,
        figures: () => figuresOf(door),
      })
    : undefined
  const door: Door = makeDoor({options, streams: o.streams, permits, metrics, log, sender, page})
  try {
    server = await startStreamingServer({
      address: splitAddress(settings.listenAddr),
      tls,
      limits: serverLimits(settings),
      handle: door.handle,
      handleFast: tls || name === 'plain' ? undefined : door.handleFast,
      answerTo: (request) => answerUnknownMethod(door, request),
      onRefused: (reason) => metrics.countRejection(reason),
    })
  } catch (error) {
    metrics.close()
    throw error
  }
  const opened = server
  const {address, port} = opened
  return {
    get connections() {
      return opened.connections
    },
    address,
    port,
    sender: name,
    door,
    reload: (next) => {
      const nextOptions = doorOptions(next)
      const filter = logFilterOf(next)
      const nextTls = tls && readTls(next)
      // The one step that can still fail comes first.
      if (nextTls) opened.setTls(nextTls)
      door.options = nextOptions
      log.setFilter(filter)
      Object.assign(permits, permitLimits(next))
      opened.setLimits(serverLimits(next))
    },
    close: async (withinMs) => {
      door.drain()
      const isClean = await opened.close(withinMs)
      permits.close()
      metrics.close()
      return isClean
    },
  }
}

/** What the page shows. */
function figuresOf({options, permits, metrics}: Door): PageFigures {
  const {requests, refused, sentBytes} = metrics.totals()
  return {
    inFlight: permits.inFlight,
    inFlightMax: permits.max,
    requestsTotal: requests,
    refusedTotal: refused,
    sentBytesTotal: sentBytes,
    maxRangeBytes: options.policy.maxRangeBytes,
    requiresRange: options.policy.requireRange,
    needsLease: options.leases?.canIssue === true,
  }
}

function permitLimits(settings: Settings): {max: number; graceMs: number; stallMs: number} {
  return {
    max: settings.maxConcurrentBytesRequests,
    graceMs: settings.slowReaderGraceMs,
    stallMs: settings.slowReaderTimeoutMs,
  }
}

/** The settings table has checked that it is an address with a port. */
function splitAddress(text: string): {host: string; port: number} {
  const colon = text.lastIndexOf(':')
  return {host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1))}
}

/** What a method gets that never became a request: as any other wrong method. */
function answerUnknownMethod(door: Door, o: {method: string; path: string}): BareAnswer {
  const match = door.match(o.path)
  if (!match) return {status: 404, headers: []}
  const {route} = match
  const requestId = requestIdOf(undefined)
  door.metrics.countRequest(route, 'OTHER', 405, 0)
  door.log.request({
    requestId,
    method: o.method.slice(0, 32),
    path: o.path,
    route: route.label,
    status: 405,
    sentBytes: 0,
    latencySeconds: 0,
    isAborted: false,
  })
  const cors = door.options.cors.headers(route.family, undefined)
  const own = ['Allow', route.allow, 'Cache-Control', 'no-store', 'X-Request-Id', requestId]
  return {status: 405, headers: [...own, ...cors]}
}
