/** The listeners of the streaming surface: plain HTTP/1.1, or TLS with HTTP/1.1 and HTTP/2. */
import {
  createServer as createHttpServer,
  type IncomingMessage,
  Server as HttpServer,
  type Server,
  type ServerResponse,
} from 'node:http'
import {createSecureServer, type Http2SecureServer, type ServerHttp2Session} from 'node:http2'
import type {Socket} from 'node:net'
import {fail, fromSystemError, systemCode} from '../../../core/errors.ts'
import {formatListenAddress, type ListenAddress} from '../listen-address.ts'
import {answerClientError, endWith, type BareAnswer, type ClientError} from './client-error.ts'
import {Connections, type ConnectionLimits} from './connections.ts'
import type {Handle} from './door.ts'
import {openFastLane, type LaneHandle} from './fast-lane.ts'
import type {Rejection} from './metrics.ts'

export type ServerLimits = ConnectionLimits & {
  /** For a request's head, from the connection or the request before it on. */
  headersMs: number
}

export type TlsFiles = {cert: string; key: string}

export type StreamingServer = {
  /** Where it listens, with the true port. */
  readonly address: string
  readonly port: number
  readonly connections: number
  setLimits(limits: ServerLimits): void
  /** New connections get this certificate; those that are open stay. */
  setTls(files: TlsFiles): void
  /** Takes no new connection, lets answers end, and cuts off what is left after `withinMs`. True: none was cut off. */
  close(withinMs: number): Promise<boolean>
}

// A request line of 65,534 bytes and some headers, or a Range of 8193 bytes and the usual ones; Node counts both
// together. The original's bound was several hundred KiB, which nobody needs and every connection could make us keep.
const headBytesMax = 80 * 1024
// One more than are allowed is enough to see that there are too many.
const headersMax = 101
// Pipelined requests that wait for the answer before them; nobody's client has so many.
const waitingMax = 256
const streamsMax = 100
const plainOptions = {
  connectionsCheckingInterval: 1000,
  // A GET without a body needs no stream for it: that is a fifth of what Node spends on a small answer.
  optimizeEmptyRequests: true,
}

type Listener = Server | Http2SecureServer

/**
 * Starts to listen.
 *
 * Errors: serve_failed (address in use or not of this host, certificate and key that do not fit).
 */
export async function startStreamingServer(o: {
  address: ListenAddress
  tls: TlsFiles | undefined
  limits: ServerLimits
  handle: Handle
  /** Set: the fast lane is open. */
  handleFast: LaneHandle | undefined
  answerTo: (request: {method: string; path: string}) => BareAnswer
  onRefused: (reason: Rejection) => void
}): Promise<StreamingServer> {
  const connections = new Connections({limits: o.limits, onRefused: o.onRefused})
  const server = createListener(o.tls, o.limits)
  connectEvents(server, connections, o)
  setTimeouts(server, o.limits)
  if (o.handleFast && server instanceof HttpServer) {
    openFastLane(server, {
      connections,
      handle: o.handleFast,
      headersMs: () => server.headersTimeout,
      onClientError: (error, socket) => answerClientError(error, socket, o.answerTo),
    })
  } else {
    server.on('connection', (socket: Socket) => connections.add(socket))
  }
  const wanted = formatListenAddress(o.address)
  try {
    await listen(server, o.address)
  } catch (error) {
    connections.close()
    throw listenFailure(error, wanted)
  }
  const bound = server.address()
  const port = typeof bound === 'object' && bound ? bound.port : o.address.port
  let closing: Promise<boolean> | undefined
  return {
    address: formatListenAddress({host: o.address.host, port}),
    port,
    get connections() {
      return connections.size
    },
    setLimits: (limits) => {
      connections.limits = limits
      setTimeouts(server, limits)
    },
    setTls: (files) => {
      if (!('setSecureContext' in server)) return
      try {
        server.setSecureContext(files)
      } catch (error) {
        throw tlsFailure(error)
      }
    },
    close: (withinMs) => (closing ??= closeListener(server, connections, withinMs)),
  }
}

function createListener(tls: TlsFiles | undefined, limits: ServerLimits): Listener {
  const options = {maxHeaderSize: headBytesMax, requireHostHeader: false, noDelay: true}
  if (!tls) return createHttpServer({...options, ...plainOptions})
  try {
    return createSecureServer({
      ...options,
      ...tls,
      allowHTTP1: true,
      ALPNProtocols: ['h2', 'http/1.1'],
      minVersion: 'TLSv1.2',
      handshakeTimeout: limits.headersMs,
      maxHeaderListPairs: 128,
      settings: {maxConcurrentStreams: streamsMax, maxHeaderListSize: headBytesMax},
      unknownProtocolTimeout: limits.headersMs,
    })
  } catch (error) {
    throw tlsFailure(error)
  }
}

function connectEvents(
  server: Listener,
  connections: Connections,
  o: Parameters<typeof startStreamingServer>[0],
): void {
  const emitter: NodeJS.EventEmitter = server
  emitter.on('secureConnection', (socket: Socket) => {
    socket.setNoDelay(true)
    connections.addSurface(socket)
  })
  emitter.on('session', (session: ServerHttp2Session) => {
    connections.addSession(session, session.socket)
    session.setTimeout(o.limits.idleMs, () => {
      // Streams have timeouts of their own; this one is about a session that nobody uses.
      if (connections.of(session)?.inFlight === 0) session.close()
    })
  })
  emitter.on('request', (request: IncomingMessage, response: ServerResponse) => {
    takeRequest(request, response, connections, o.handle)
  })
  emitter.on('clientError', (error: ClientError, socket: Socket) => {
    answerClientError(error, socket, o.answerTo)
  })
  emitter.on('connect', (request: IncomingMessage, socket: Socket) => {
    const {status, headers} = o.answerTo({method: 'CONNECT', path: request.url ?? ''})
    endWith(socket, status, headers)
  })
  // A handshake that failed is the client's affair; its socket is closed by Node.
  emitter.on('tlsClientError', () => undefined)
  emitter.on('sessionError', () => undefined)
}

/**
 * Hands a request over once its answer can be written: answers of one HTTP/1.1 connection leave in order, and one that
 * waits for its turn holds no permit and no file.
 */
function takeRequest(
  request: IncomingMessage,
  response: ServerResponse,
  connections: Connections,
  handle: Handle,
): void {
  const connection = connections.of(keyOf(request))
  const begin = (): void => {
    handle({request, response, onOver: connection ? connection.begin() : () => undefined})
  }
  if (request.httpVersionMajor > 1 || response.socket) {
    begin()
    return
  }
  if (connection && ++connection.waiting > waitingMax) {
    request.socket.destroy()
    return
  }
  response.once('socket', () => {
    if (connection) connection.waiting--
    begin()
  })
}

/** HTTP/2 requests show their socket through a stand-in; their session is what they have in common. */
function keyOf(request: IncomingMessage): object {
  if (request.httpVersionMajor === 1) return request.socket
  const {stream} = request as unknown as {stream?: {session?: object}}
  return stream?.session ?? request
}

function setTimeouts(server: Listener, limits: ServerLimits): void {
  // Http2SecureServer has these for its HTTP/1.1 side, though its types do not say so.
  const http = server as Server
  http.headersTimeout = limits.headersMs
  // Bodies of requests are ignored, but they are read.
  http.requestTimeout = Math.max(limits.headersMs, limits.idleMs)
  // Idle connections are found by connections.ts.
  http.keepAliveTimeout = 0
  // Slow readers are found by what they take (permits.ts, connections.ts), not by silence of the socket.
  http.timeout = 0
  http.maxHeadersCount = headersMax
}

function listen(server: Listener, address: ListenAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    // Many clients may knock at once after a restart.
    server.listen({host: address.host, port: address.port, backlog: 1024}, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

async function closeListener(
  server: Listener,
  connections: Connections,
  withinMs: number,
): Promise<boolean> {
  const end = performance.now() + withinMs
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve())
  })
  let isClean = true
  // Connections become idle one by one; Node looks for them only once.
  const timer = setInterval(() => {
    if (performance.now() < end) {
      connections.end({which: 'idle'})
      return
    }
    isClean = isClean && connections.size === 0
    connections.end({which: 'all'})
  }, 20)
  connections.end({which: withinMs > 0 ? 'idle' : 'all'})
  await closed
  clearInterval(timer)
  connections.close()
  return isClean
}

function listenFailure(error: unknown, address: string): Error {
  switch (systemCode(error)) {
    case 'EADDRINUSE':
      return fail('serve_failed', {reason: `another program listens on ${address}`}, {cause: error})
    case 'EADDRNOTAVAIL':
      return fail('serve_failed', {reason: `${address} is no address of this host`}, {cause: error})
    default: {
      const {message} = fromSystemError(error, address, 'listen on')
      return fail('serve_failed', {reason: message}, {cause: error})
    }
  }
}

function tlsFailure(error: unknown): Error {
  const reason = error instanceof Error ? error.message : String(error)
  return fail(
    'serve_failed',
    {reason: `the certificate or its key cannot be used: ${reason}`},
    {cause: error},
  )
}
