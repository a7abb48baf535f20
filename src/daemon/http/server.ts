/**
 * The HTTP door: one builder for every listener of imgstore. A resource is one file in routes/ that adds itself to the
 * server; what all of them share (errors, limits on slow clients, unknown paths and methods, the access log, an orderly
 * end) is here.
 */
import type {Socket} from 'node:net'
import {fastify, type FastifyInstance, type FastifyReply, type FastifyRequest} from 'fastify'
import {fail, fromSystemError, systemCode} from '../../core/errors.ts'
import type {Logger} from '../../core/log.ts'
import {errorReply} from './errors.ts'
import {formatListenAddress, invalidListen, type ListenAddress} from './listen-address.ts'

/** Adds the routes of one resource. Called once, before the server listens. */
export type Routes = (app: FastifyInstance) => void

// A client that needs longer for its header, or that leaves a connection idle, is cut off. Chosen well above what a
// healthy client on a slow line needs, and below the 60 s after which proxies commonly give up on us.
const headersTimeoutMs = 10_000
const requestTimeoutMs = 30_000
const idleTimeoutMs = 30_000
const keepAliveTimeoutMs = 15_000
const bodyBytesMax = 64 * 1024

/** Builds a server that does not listen yet (tests talk to it by `inject`). */
export function buildServer(o: {log: Logger; routes: readonly Routes[]}): FastifyInstance {
  const app = fastify({
    logger: false,
    forceCloseConnections: 'idle',
    return503OnClosing: true,
    bodyLimit: bodyBytesMax,
    requestTimeout: requestTimeoutMs,
    connectionTimeout: idleTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    http: {headersTimeout: headersTimeoutMs, connectionsCheckingInterval: 1000},
    clientErrorHandler: answerGarbage,
    frameworkErrors: (error, _request, reply) => void sendError(reply, error),
  })
  app.setErrorHandler((error, request, reply) => {
    const {status} = errorReply(error)
    // Errors are logged here, at the door, and nowhere below it.
    if (status >= 500) o.log.error({...requestFields(request), error}, 'request failed')
    return sendError(reply, error)
  })
  app.setNotFoundHandler((request, reply) =>
    sendError(reply, fail('route_not_found', {path: pathOf(request)})),
  )
  app.addHook('onResponse', (request, reply, done) => {
    const fields = {status: reply.statusCode, duration_ms: Math.round(reply.elapsedTime)}
    o.log.debug({...requestFields(request), ...fields}, 'request ended')
    done()
  })
  const methods = collectMethods(app)
  for (const add of o.routes) add(app)
  refuseOtherMethods(app, methods)
  return app
}

/**
 * Starts to listen.
 *
 * Errors: invalid_setting (no such address here), address_in_use, permission_denied.
 */
export async function startServer(
  app: FastifyInstance,
  address: ListenAddress,
  from: string,
): Promise<{address: string; close(withinMs: number): Promise<void>}> {
  const wanted = formatListenAddress(address)
  try {
    await app.listen({host: address.host, port: address.port})
  } catch (error) {
    await app.close()
    switch (systemCode(error)) {
      case 'EADDRINUSE':
        throw fail('address_in_use', {address: wanted}, {cause: error})
      case 'EADDRNOTAVAIL':
      case 'ENOTFOUND':
      case 'EAI_AGAIN':
      case 'EINVAL':
        throw invalidListen(wanted, from, systemCode(error))
      default:
        throw fromSystemError(error, wanted, 'listen on')
    }
  }
  const bound = app.server.address()
  const port = typeof bound === 'object' && bound ? bound.port : address.port
  return {
    address: formatListenAddress({host: address.host, port}),
    close: (withinMs) => closeServer(app, withinMs),
  }
}

/** Takes no new requests, lets those under way end, and cuts off what is left after `withinMs`. */
async function closeServer(app: FastifyInstance, withinMs: number): Promise<void> {
  const timer = setTimeout(() => app.server.closeAllConnections(), withinMs)
  try {
    await app.close()
  } finally {
    clearTimeout(timer)
  }
}

function sendError(reply: FastifyReply, error: unknown): FastifyReply {
  const {status, body} = errorReply(error)
  return reply.code(status).header('cache-control', 'no-store').send(body)
}

/** What is not HTTP at all never becomes a request; it is answered on the bare socket. */
function answerGarbage(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  const isLate = error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
  const {body} = errorReply(
    fail('bad_request', {reason: isLate ? 'the request took too long' : 'this is not HTTP'}),
  )
  const text = JSON.stringify(body)
  socket.end(
    `HTTP/1.1 ${isLate ? '408 Request Timeout' : '400 Bad Request'}\r\nConnection: close\r\n` +
      `Content-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  )
}

type Methods = Map<string, Set<string>>

function collectMethods(app: FastifyInstance): Methods {
  const methods: Methods = new Map()
  app.addHook('onRoute', (route) => {
    const known = methods.get(route.url) ?? new Set()
    for (const method of [route.method].flat()) known.add(method)
    methods.set(route.url, known)
  })
  return methods
}

/** A known path asked with another method is 405 and says which it takes; fastify alone would say 404. */
function refuseOtherMethods(app: FastifyInstance, methods: Methods): void {
  for (const [url, known] of [...methods]) {
    const allowed = [...known].toSorted()
    app.route({
      url,
      method: app.supportedMethods.filter((method) => !known.has(method)),
      handler: (request, reply) => {
        void reply.header('allow', allowed.join(', '))
        const {method} = request
        return sendError(
          reply,
          fail('method_not_allowed', {method, path: pathOf(request), allowed}),
        )
      },
    })
  }
}

// The query may hold secrets and the path alone says which route was meant.
function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? ''
}

function requestFields(request: FastifyRequest): Record<string, unknown> {
  return {method: request.method, path: pathOf(request), remote: request.ip}
}
