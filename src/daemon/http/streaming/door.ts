/**
 * The door of the streaming surface: takes a request, finds its route by the raw path, and hands it to the endpoint.
 * Plain node:http underneath, as the answers are promised to the byte (docs/adr/0012).
 */
import type {IncomingMessage, ServerResponse} from 'node:http'
import type {Logger} from '../../../core/log.ts'
import type {Streams} from '../../../core/stream.ts'
import type {ServeLog} from './access-log.ts'
import {answerMethodNotAllowed} from './answers.ts'
import {answerBytes} from './bytes.ts'
import {answerChunked} from './chunked.ts'
import type {DoorContext, DoorOptions, Page} from './context.ts'
import {Exchange} from './exchange.ts'
import type {LaneHandle} from './fast-lane.ts'
import {answerLease} from './lease-route.ts'
import {answerList, answerMeta} from './metadata.ts'
import type {Metrics} from './metrics.ts'
import type {Permits} from './permits.ts'
import {answerHealth, answerHealthz, answerMetrics, answerReady, answerVersion} from './plain.ts'
import {matchPath, splitTarget, type Endpoint, type Match} from './router.ts'
import type {Sender} from './sender.ts'

export type Handle = (o: {
  request: IncomingMessage
  response: ServerResponse
  /** Called when the answer is over: sent, or given up. */
  onOver: () => void
}) => void

export type Door = DoorContext & {
  handle: Handle
  /** Answers a request for bytes in the fast lane. */
  handleFast: LaneHandle
  /** What a raw path of a request asks for, where that is served. */
  match(path: string): Match | undefined
  /** From now on every answer ends its connection. */
  drain(): void
  readonly openFiles: number
  /** Images that are left out at the moment; -1 when the catalog cannot be read. */
  readonly catalogProblems: number
}

const endpoints: Record<Endpoint, (exchange: Exchange) => void | Promise<void>> = {
  health: answerHealth,
  healthz: answerHealthz,
  ready: answerReady,
  version: answerVersion,
  metrics: answerMetrics,
  list: answerList,
  meta: answerMeta,
  bytes: answerBytes,
  manifest: answerChunked,
  chunk: answerChunked,
  lease: answerLease,
}

const headersMax = 100
const targetBytesMax = 65_534

export function makeDoor(o: {
  options: DoorOptions
  streams: Streams
  permits: Permits
  metrics: Metrics
  log: ServeLog
  sender: Sender
  page?: Page | undefined
}): Door {
  const listImages = watchCatalog(o.streams, o.log)
  let openFiles = 0
  let isDraining = false
  const door: Door = {
    options: o.options,
    streams: o.streams,
    permits: o.permits,
    metrics: o.metrics,
    log: o.log,
    sender: o.sender,
    listImages,
    countOpenFile: (change) => void (openFiles += change),
    get openFiles() {
      return openFiles
    },
    get catalogProblems() {
      try {
        return listImages().problems.length
      } catch {
        return -1
      }
    },
    drain: () => {
      isDraining = true
    },
    keepsConnection: (request, response) =>
      !isDraining && request.httpVersion === '1.1' && response.shouldKeepAlive,
    tidyConnection: (request, response, headers) => {
      if (request.httpVersionMajor > 1) return
      if (isDraining) headers.push('Connection', 'close')
      // Says nothing that HTTP/1.1 does not say by itself; HTTP/1.0 needs the words.
      else if (response.shouldKeepAlive && request.httpVersionMinor === 1)
        response.removeHeader('connection')
    },
    match: (path) => {
      const match = matchPath(path)
      if (match?.route.endpoint === 'metrics' && !door.options.isMetricsOn) return undefined
      if (match?.route.endpoint === 'lease' && door.options.leases?.canIssue !== true)
        return undefined
      return match
    },
    handleFast: ({request, response, onOver}) => {
      if (isDraining || request.rawHeaders.length > 2 * headersMax) return false
      const {path, query} = splitTarget(request.url ?? '/')
      const match = matchPath(path)
      if (!match || !fastEndpoints.has(match.route.endpoint)) return false
      dispatch(new Exchange({door, request, response, match, path, query, onOver}))
      return true
    },
    handle: ({request, response, onOver}) => {
      const target = request.url ?? '/'
      if (target.length > targetBytesMax) {
        answerBare(door, request, response, 414, onOver)
        return
      }
      const {path, query} = splitTarget(target)
      const match = door.match(path)
      if (request.rawHeaders.length > 2 * headersMax) {
        o.metrics.countRejection('headers')
        answerBare(door, request, response, 431, onOver)
      } else if (!match) {
        if (o.page && (request.method === 'GET' || request.method === 'HEAD')) {
          const {accept} = request.headers
          response.once('close', onOver)
          if (o.page.handle({path, accept, request, response})) return
          response.off('close', onOver)
        }
        answerBare(door, request, response, 404, onOver)
      } else {
        dispatch(new Exchange({door, request, response, match, path, query, onOver}))
      }
    },
  }
  return door
}

/** What is answered in the fast lane: what it is worth for. */
const fastEndpoints = new Set<Endpoint>(['bytes', 'manifest', 'chunk'])

function dispatch(exchange: Exchange): void {
  const {method} = exchange
  if (!exchange.route.allow.split(',').includes(method)) {
    answerMethodNotAllowed(exchange)
    return
  }
  try {
    const answered = endpoints[exchange.route.endpoint](exchange)
    if (answered) answered.catch((error: unknown) => exchange.fail(error))
  } catch (error) {
    exchange.fail(error)
  }
}

/** What belongs to no route: no CORS, no id, not logged, not counted. */
function answerBare(
  door: DoorContext,
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  onOver: () => void,
): void {
  const headers = ['Content-Length', '0']
  door.tidyConnection(request, response, headers)
  response.writeHead(status, headers)
  response.end()
  onOver()
}

/** Reads the list; says once that the catalog cannot be read (what is wrong with an entry, the service says). */
function watchCatalog(streams: Streams, log: Logger): DoorContext['listImages'] {
  let known = ''
  return () => {
    try {
      const list = streams.list()
      known = ''
      return list
    } catch (error) {
      if (String(error) !== known) log.error({error}, 'the catalog cannot be read')
      known = String(error)
      throw error
    }
  }
}
