/**
 * The fast lane: requests for bytes in their plainest form are read and answered right on the socket, because node:http
 * alone costs as much as a whole answer of nginx. It goes with the fast sender, over plain TCP (docs/adr/0013).
 *
 * A connection begins here, and goes over to node:http for the rest of its life with the first thing that is not of that
 * form (request-head.ts) or not for here: other methods and paths, a body, a head in several packets, a second request
 * before the answer to the first, bad input of any kind. So there is one judge of what is bad, and this lane never has to
 * answer it. Answers are put together by the same code in both.
 */
import type {Server} from 'node:http'
import type {Socket} from 'node:net'
import type {ClientError} from './client-error.ts'
import type {Connection, Connections} from './connections.ts'
import {headText} from './head-text.ts'
import {plainHeadBytesMax, readRequestHead, type RequestHead} from './request-head.ts'
import type {AnswerRequest, AnswerResponse} from './sender.ts'

/** Answers a request, or returns false where it is not for the fast lane; then nothing was done. */
export type LaneHandle = (o: {
  request: AnswerRequest
  response: AnswerResponse
  onOver: () => void
}) => boolean

export type LaneOptions = {
  connections: Connections
  handle: LaneHandle
  /** For the head of the first request; node:http's clock does not run here. */
  headersMs: () => number
  onClientError: (error: ClientError, socket: Socket) => void
}

/** Puts the lane before node:http. Both know a connection by `connections`, which must have it before. */
export function openFastLane(server: Server, o: LaneOptions): void {
  const others = server.listeners('connection') as ((socket: Socket) => void)[]
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    o.connections.add(socket)
    const connection = o.connections.of(socket)
    if (socket.destroyed || !connection) return
    const give = (): void => {
      for (const listener of others) listener.call(server, socket)
    }
    new Lane(socket, connection, o, give)
  })
}

/** One connection, for as long as it is in the lane. */
class Lane {
  readonly #socket: Socket
  readonly #connection: Connection
  readonly #options: LaneOptions
  readonly #give: () => void
  #firstHead: NodeJS.Timeout | undefined
  /** The answer under way. */
  #response: LaneResponse | undefined
  /** What came before that was done. */
  #early: Buffer | undefined
  #hasEnded = false

  constructor(socket: Socket, connection: Connection, o: LaneOptions, give: () => void) {
    this.#socket = socket
    this.#connection = connection
    this.#options = o
    this.#give = give
    this.#firstHead = setTimeout(this.#onFirstHeadLate, o.headersMs())
    socket.on('data', this.#onData)
    socket.on('end', this.#onEnd)
    socket.on('error', ignore)
    socket.on('close', this.#onClose)
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#response) {
      // Held until its turn; the stream fills its own buffer (64 KiB) behind it, and then reads no more.
      this.#early = this.#early ? Buffer.concat([this.#early, chunk]) : chunk
      this.#socket.pause()
      return
    }
    this.#stopClock()
    if (!this.#answer(chunk)) this.#leave(chunk)
  }

  #answer(chunk: Buffer): boolean {
    if (chunk.length > plainHeadBytesMax || this.#socket.writableLength > 0) return false
    const head = readRequestHead(chunk.toString('latin1'))
    if (!head) return false
    const response = new LaneResponse(this.#socket, this.#onAnswered)
    this.#response = response
    const onOver = this.#connection.begin()
    const request = requestOf(head, this.#socket)
    if (this.#options.handle({request, response, onOver})) return true
    this.#response = undefined
    onOver()
    return false
  }

  readonly #onAnswered = (endsConnection: boolean): void => {
    this.#response = undefined
    const early = this.#early
    if (endsConnection) {
      this.#socket.destroySoon()
    } else if (this.#hasEnded) {
      // Nothing follows what is held: node:http would cut its answer short, as the client has half closed.
      this.#early = undefined
      if (!early || !this.#answer(early)) this.#socket.destroySoon()
    } else if (early) {
      this.#leave(early)
    }
  }

  /** Hands the connection over to node:http, with what was read of it. */
  #leave(chunk: Buffer): void {
    const socket = this.#socket
    this.#stopClock()
    socket.off('data', this.#onData)
    socket.off('end', this.#onEnd)
    socket.off('error', ignore)
    socket.off('close', this.#onClose)
    // The stream is to believe that it is being read already, as it does where node:http had it from the start. Else it
    // starts the socket again behind this chunk, even where node:http has stopped it. A full buffer it would empty into it.
    if (!this.#early) socket.read(0)
    this.#give()
    socket.emit('data', chunk)
    if (this.#early) socket.resume()
  }

  readonly #onEnd = (): void => {
    this.#hasEnded = true
    if (!this.#response) this.#socket.end()
  }

  readonly #onClose = (): void => {
    this.#stopClock()
    this.#response?.onSocketClosed()
  }

  readonly #onFirstHeadLate = (): void => {
    const late: ClientError = new Error('no request came in time')
    late.code = 'ERR_HTTP_REQUEST_TIMEOUT'
    this.#options.onClientError(late, this.#socket)
  }

  #stopClock(): void {
    if (this.#firstHead === undefined) return
    clearTimeout(this.#firstHead)
    this.#firstHead = undefined
  }
}

function ignore(): void {
  // An error closes the socket, and that is seen.
}

function requestOf(head: RequestHead, socket: Socket): AnswerRequest {
  return {
    url: head.target,
    method: head.method,
    rawHeaders: head.rawHeaders,
    httpVersion: '1.1',
    httpVersionMajor: 1,
    httpVersionMinor: 1,
    socket,
  }
}

const noHeaders: readonly string[] = []

/** As much of node:http's response as answers to GET and HEAD need. */
class LaneResponse implements AnswerResponse {
  readonly socket: Socket
  readonly shouldKeepAlive = true
  statusCode = 200
  destroyed = false
  writableFinished = false
  // Under these names senders find the head in node:http's response too.
  _header: string | null = null
  _headerSent = false
  readonly #onDone: (endsConnection: boolean) => void
  #onClose: ((socket: Socket) => void)[] | undefined
  #writing = 0
  #isEnded = false
  #isOver = false
  #endsConnection = false

  constructor(socket: Socket, onDone: (endsConnection: boolean) => void) {
    this.socket = socket
    this.#onDone = onDone
  }

  get headersSent(): boolean {
    return this._header !== null
  }

  once(event: 'close' | 'socket', listener: (socket: Socket) => void): void {
    if (event === 'close') (this.#onClose ??= []).push(listener)
  }

  off(event: 'close' | 'socket', listener: (socket: Socket) => void): void {
    if (event === 'close') this.#onClose = this.#onClose?.filter((other) => other !== listener)
  }

  writeHead(status: number, headers: string[]): void {
    this.statusCode = status
    this._header = headText(status, {fixed: noHeaders, own: headers})
    for (let i = 0; i + 1 < headers.length; i += 2)
      if (headers[i] === 'Connection') this.#endsConnection = headers[i + 1] === 'close'
  }

  /** There is none that it would add by itself. */
  removeHeader(): void {}

  write(body: Buffer, onWritten?: (error?: Error | null) => void): void {
    let bytes = body
    if (!this._headerSent && this._header !== null) {
      this._headerSent = true
      bytes = Buffer.concat([Buffer.from(this._header, 'latin1'), body])
    }
    this.#writing++
    this.socket.write(bytes, (error) => {
      this.#writing--
      onWritten?.(error)
      if (!error) this.#settle()
    })
  }

  end(body?: string | Buffer): void {
    if (this.#isEnded) return
    if (body !== undefined || !this._headerSent)
      this.write(typeof body === 'string' ? Buffer.from(body) : (body ?? Buffer.alloc(0)))
    this.#isEnded = true
    this.#settle()
  }

  destroy(): void {
    if (this.#isOver) return
    this.destroyed = true
    this.socket.destroy()
  }

  /** Whatever was not done is lost. */
  onSocketClosed(): void {
    this.destroyed = true
    this.#close()
  }

  /** An answer that everything of was taken is done. */
  #settle(): void {
    if (!this.#isEnded || this.#writing > 0 || this.#isOver) return
    // A write that was given up with its socket may call back as if it had been done.
    if (this.destroyed || this.socket.destroyed) return
    this.writableFinished = true
    this.#close()
    this.#onDone(this.#endsConnection)
  }

  #close(): void {
    if (this.#isOver) return
    this.#isOver = true
    for (const listener of this.#onClose ?? []) listener(this.socket)
  }
}
