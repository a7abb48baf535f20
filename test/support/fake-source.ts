/** A small honest HTTP server on loopback that can be told, request by request, to misbehave. */
import {createHash, randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http'
import {createServer as createTlsServer} from 'node:https'
import type {AddressInfo, Server} from 'node:net'
import {gzipSync} from 'node:zlib'
import {parseDigest, type Digest} from '../../src/core/digest.ts'

/** What the server does with one request. Positions count from the first byte of the body it would send. */
export type Behaviour =
  | {kind: 'honest'}
  /** Sends so many bytes, then breaks the connection. */
  | {kind: 'cut'; afterBytes: number}
  /** Sends so many bytes, then nothing more, without closing. */
  | {kind: 'stall'; afterBytes: number}
  /** Takes the request and never answers. */
  | {kind: 'silent'}
  /** Breaks the connection before any answer. */
  | {kind: 'reset'}
  | {kind: 'slow'; chunkBytes: number; everyMs: number}
  /** Answers 200 with everything, whatever was asked. */
  | {kind: 'ignore_range'}
  /** Says in Content-Range that the part begins elsewhere. */
  | {kind: 'other_start'; shiftBytes: number}
  | {kind: 'no_content_range'}
  | {kind: 'other_total'; extraBytes: number}
  | {kind: 'multipart'}
  /** Answers a range with the right head and the bytes from the beginning, as Ceph's radosgw with dbstore does. */
  | {kind: 'first_bytes'}
  /** Answers with the right head and bytes that are wrong from a place on. */
  | {kind: 'wrong_bytes'; fromByte: number}
  /** Answers a range with fewer bytes than were asked for, and says so. */
  | {kind: 'short_range'; lengthBytes: number}
  /** Encodes the body with gzip although nobody asked. */
  | {kind: 'gzip'}
  | {kind: 'etag'; etag: string}
  | {kind: 'no_length'}
  | {kind: 'status'; status: number; headers?: Record<string, string>; body?: string}
  | {kind: 'redirect'; location: string; status?: number}

export type FakeSourceOptions = {
  /** Serves TLS with these. */
  tls?: {key: string; cert: string}
  host?: string
}

export class FakeSource {
  content: Buffer
  etag = '"v1"'
  readonly requests: {path: string; headers: IncomingMessage['headers']}[] = []
  /** One for each coming request; when it is empty the server is honest. */
  script: Behaviour[] = []
  readonly #server: Server
  readonly #scheme: string
  readonly #host: string

  private constructor(content: Buffer, options: FakeSourceOptions) {
    this.content = content
    this.#host = options.host ?? '127.0.0.1'
    this.#scheme = options.tls ? 'https' : 'http'
    const listener: RequestListener = (request, response) => this.#answer(request, response)
    this.#server = options.tls ? createTlsServer(options.tls, listener) : createServer(listener)
  }

  static async start(content: Buffer, options: FakeSourceOptions = {}): Promise<FakeSource> {
    const made = new FakeSource(content, options)
    made.#server.listen(0, made.#host)
    await once(made.#server, 'listening')
    return made
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get origin(): string {
    return `${this.#scheme}://${this.#host}:${this.port}`
  }

  get url(): string {
    return `${this.origin}/image.tar`
  }

  get digest(): Digest {
    return digestOf(this.content)
  }

  async close(): Promise<void> {
    this.#server.close()
    if ('closeAllConnections' in this.#server) (this.#server.closeAllConnections as () => void)()
    await once(this.#server, 'close')
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.requests.push({path: request.url ?? '', headers: request.headers})
    const behaviour = this.script.shift() ?? {kind: 'honest'}
    response.on('error', () => undefined)
    switch (behaviour.kind) {
      case 'silent':
        return
      case 'reset':
        request.socket.resetAndDestroy()
        return
      case 'status':
        response.writeHead(behaviour.status, behaviour.headers ?? {})
        response.end(behaviour.body ?? '')
        return
      case 'redirect':
        response.writeHead(behaviour.status ?? 302, {location: behaviour.location})
        response.end('moved')
        return
      default:
        this.#serve(request, response, behaviour)
    }
  }

  #serve(request: IncomingMessage, response: ServerResponse, behaviour: Behaviour): void {
    const total = this.content.length
    const etag = behaviour.kind === 'etag' ? behaviour.etag : this.etag
    const asked = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1]
    const ifRange = request.headers['if-range']
    const isRange =
      asked !== undefined &&
      behaviour.kind !== 'ignore_range' &&
      (ifRange === undefined || ifRange === etag)
    const start = isRange ? Number(asked) : 0
    if (isRange && start >= total) {
      response.writeHead(416, {'content-range': `bytes */${total}`})
      response.end()
      return
    }
    const end =
      behaviour.kind === 'short_range' ? Math.min(total, start + behaviour.lengthBytes) : total
    let body = this.content.subarray(start, end)
    const headers: Record<string, string | number> = {etag, 'accept-ranges': 'bytes'}
    if (isRange || behaviour.kind === 'short_range') {
      const shift = behaviour.kind === 'other_start' ? behaviour.shiftBytes : 0
      const extra = behaviour.kind === 'other_total' ? behaviour.extraBytes : 0
      headers['content-range'] = `bytes ${start + shift}-${end - 1}/${total + extra}`
      if (behaviour.kind === 'no_content_range') delete headers['content-range']
      if (behaviour.kind === 'multipart')
        headers['content-type'] = 'multipart/byteranges; boundary=x'
      if (behaviour.kind === 'first_bytes') body = this.content.subarray(0, end - start)
    }
    if (behaviour.kind === 'wrong_bytes') {
      body = Buffer.from(body)
      for (let i = behaviour.fromByte; i < body.length; i += 4096) body[i] = (body[i] ?? 0) ^ 0xff
    }
    if (behaviour.kind === 'gzip') {
      headers['content-encoding'] = 'gzip'
      body = gzipSync(body, {level: 1})
    }
    if (behaviour.kind !== 'no_length') headers['content-length'] = body.length
    response.writeHead(headers['content-range'] === undefined && !isRange ? 200 : 206, headers)
    sendBody(response, body, behaviour)
  }
}

function sendBody(response: ServerResponse, body: Buffer, behaviour: Behaviour): void {
  switch (behaviour.kind) {
    case 'cut':
      response.write(body.subarray(0, behaviour.afterBytes), () => response.destroy())
      return
    case 'stall':
      response.write(body.subarray(0, behaviour.afterBytes))
      return
    case 'slow': {
      let sent = 0
      const timer = setInterval(() => {
        response.write(body.subarray(sent, sent + behaviour.chunkBytes))
        sent += behaviour.chunkBytes
        if (sent >= body.length || response.destroyed) {
          clearInterval(timer)
          response.end()
        }
      }, behaviour.everyMs)
      return
    }
    default:
      response.end(body)
  }
}

export function digestOf(content: Buffer): Digest {
  return parseDigest(createHash('sha256').update(content).digest('hex'))
}

/** Bytes that do not repeat, so that a misplaced range shows. */
export function randomContent(sizeBytes: number): Buffer {
  return randomBytes(sizeBytes)
}

/** Runs `body` with a server that is gone afterwards. */
export async function withFakeSource<T>(
  content: Buffer,
  body: (source: FakeSource) => Promise<T>,
  options: FakeSourceOptions = {},
): Promise<T> {
  const source = await FakeSource.start(content, options)
  try {
    return await body(source)
  } finally {
    await source.close()
  }
}
