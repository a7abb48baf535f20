/** One request and its answer: what every family of endpoints does alike is done here once. */
import type {OpenedFile} from '../../../core/stream.ts'
import type {RequestSpan} from './access-log.ts'
import type {DoorContext} from './context.ts'
import type {Rejection} from './metrics.ts'
import type {Holder} from './permits.ts'
import {readRequestHeaders, type RequestHeaders} from './request-headers.ts'
import {requestIdOf, userIdOf} from './request-id.ts'
import type {Match, Route} from './router.ts'
import type {AnswerRequest, AnswerResponse, SendJob, SendOutcome} from './sender.ts'

export class Exchange implements Holder {
  readonly door: DoorContext
  readonly request: AnswerRequest
  readonly response: AnswerResponse
  readonly headers: RequestHeaders
  readonly match: Match
  readonly method: string
  readonly path: string
  readonly query: string
  readonly requestId: string
  /** For the log; `<invalid>` when it was refused. */
  imageId: string | undefined
  readonly #startedAt = performance.now()
  readonly #onOver: () => void
  #latencySeconds = 0
  #status = 0
  #hasPermit = false
  #isOver = false
  #delivery: Delivery | undefined

  constructor(o: {
    door: DoorContext
    request: AnswerRequest
    response: AnswerResponse
    match: Match
    path: string
    query: string
    onOver: () => void
  }) {
    this.door = o.door
    this.request = o.request
    this.response = o.response
    this.match = o.match
    this.path = o.path
    this.query = o.query
    this.#onOver = o.onOver
    this.method = o.request.method ?? 'GET'
    this.headers = readRequestHeaders(o.request.rawHeaders)
    this.requestId = requestIdOf(this.headers.requestId)
  }

  get route(): Route {
    return this.match.route
  }

  get isHead(): boolean {
    return this.method === 'HEAD'
  }

  /** CORS and CORP headers of the route's family, for this request's origin. */
  get cors(): readonly string[] {
    return this.door.options.cors.headers(this.route.family, this.headers.origin)
  }

  /** Takes a permit, which is given back when the answer is over. */
  takePermit(): boolean {
    this.#hasPermit = this.door.permits.take(this)
    return this.#hasPermit
  }

  /** Answers at once. `headers` are complete but for the request's id; a body is left out of the answer to HEAD. */
  answer(status: number, headers: readonly string[], body?: string | Buffer): void {
    this.#begin(status)
    const sentBytes = body === undefined || this.isHead ? 0 : Buffer.byteLength(body)
    try {
      this.response.writeHead(status, this.#complete(headers))
      if (sentBytes === 0) this.response.end()
      else this.response.end(body)
    } catch (error) {
      this.#giveUp(error)
    }
    this.#end('sent', sentBytes)
  }

  /** Sends bytes of a file; who counts them does so by the image's id. */
  deliver(o: {
    status: number
    /** Shared: the very same object for many answers. */
    fixedHeaders: readonly string[]
    headers: readonly string[]
    file: OpenedFile
    start: number
    end: number
    countAs: string | undefined
  }): void {
    this.#begin(o.status)
    const own = [...o.headers, 'X-Request-Id', this.requestId]
    const delivery = new Delivery(this, o, {fixed: o.fixedHeaders, own})
    this.#delivery = delivery
    this.door.countOpenFile(1)
    this.door.sender(delivery)
  }

  /** Called by the delivery when its sender is done. */
  delivered(outcome: SendOutcome, sentBytes: number): void {
    this.door.countOpenFile(-1)
    if (outcome === 'aborted') this.door.metrics.countAbort()
    this.#end(outcome, sentBytes)
  }

  takenBytes(): number {
    const delivery = this.#delivery
    if (!delivery) return 0
    delivery.count()
    // Streams of one HTTP/2 connection share its queue: it says nothing about this one.
    if (delivery.writingBytes === 0 || this.request.httpVersionMajor > 1) return delivery.sentBytes
    const queued = Math.min(delivery.writingBytes, queuedBytes(this.response.socket))
    return delivery.sentBytes + delivery.writingBytes - queued
  }

  abort(reason: Rejection): void {
    this.#hasPermit = false
    this.door.metrics.countRejection(reason)
    this.response.destroy()
  }

  /** Answers a failure of ours that nobody expected. */
  fail(error: unknown): void {
    this.logFailure('a request failed', error)
    if (!this.#isOver && !this.response.headersSent) {
      this.answer(500, ['Content-Length', '0', 'Cache-Control', 'no-store', ...this.cors])
      return
    }
    this.response.destroy()
    // A delivery ends by itself once its response is gone.
    if (!this.#delivery) this.#end('aborted', 0)
  }

  /** Logs a failure that was met while answering. */
  logFailure(message: string, error: unknown): void {
    this.door.log.failure(message, error, this.#span())
  }

  #begin(status: number): void {
    this.#status = status
    this.#latencySeconds = (performance.now() - this.#startedAt) / 1000
    this.door.metrics.countRequest(this.route, this.method, status, this.#latencySeconds)
  }

  #complete(headers: readonly string[]): string[] {
    const complete = [...headers, 'X-Request-Id', this.requestId]
    this.door.tidyConnection(this.request, this.response, complete)
    return complete
  }

  #giveUp(error: unknown): void {
    this.logFailure('the answer could not be written', error)
    this.response.destroy()
  }

  #end(outcome: SendOutcome, sentBytes: number): void {
    if (this.#isOver) return
    this.#isOver = true
    if (this.#hasPermit) this.door.permits.release(this)
    this.#onOver()
    const {log} = this.door
    if (!log.isInfo) return
    log.request({
      ...this.#span(),
      status: this.#status,
      sentBytes,
      latencySeconds: this.#latencySeconds,
      isAborted: outcome === 'aborted',
    })
  }

  #span(): RequestSpan {
    return {
      requestId: this.requestId,
      method: this.method,
      path: this.path,
      route: this.route.label,
      imageId: this.imageId,
      userId: userIdOf(this.headers.userId),
    }
  }
}

/** A body on its way. */
class Delivery implements SendJob {
  readonly request: AnswerRequest
  readonly response: AnswerResponse
  readonly file: OpenedFile
  readonly start: number
  readonly end: number
  readonly status: number
  readonly parts: SendJob['parts']
  sentBytes = 0
  writingBytes = 0
  readonly #exchange: Exchange
  readonly #headers: NonNullable<SendJob['parts']>
  readonly #countAs: string | undefined
  #countedBytes = 0

  constructor(
    exchange: Exchange,
    o: {status: number; file: OpenedFile; start: number; end: number; countAs: string | undefined},
    headers: NonNullable<SendJob['parts']>,
  ) {
    this.#exchange = exchange
    this.#headers = headers
    this.parts = exchange.door.keepsConnection(exchange.request, exchange.response)
      ? headers
      : undefined
    this.request = exchange.request
    this.response = exchange.response
    this.file = o.file
    this.start = o.start
    this.end = o.end
    this.status = o.status
    this.#countAs = o.countAs
  }

  get headers(): string[] {
    const {door} = this.#exchange
    const complete = [...this.#headers.fixed, ...this.#headers.own]
    door.tidyConnection(this.request, this.response, complete)
    return complete
  }

  finish(outcome: SendOutcome): void {
    this.file.release()
    this.count()
    this.#exchange.delivered(outcome, this.sentBytes)
  }

  /** Counts what was sent since the last call: a long answer is not to appear all at once. */
  count(): void {
    if (this.#countAs === undefined) return
    this.#exchange.door.metrics.countBytes(this.#countAs, this.sentBytes - this.#countedBytes)
    this.#countedBytes = this.sentBytes
  }
}

type WithHandle = {_handle?: {writeQueueSize?: number} | null}

/** What libuv holds for a socket: bytes that the kernel has not taken yet. Node shows it to its own timeouts only. */
function queuedBytes(socket: unknown): number {
  return (socket as WithHandle | null)?._handle?.writeQueueSize ?? Number.MAX_SAFE_INTEGER
}
