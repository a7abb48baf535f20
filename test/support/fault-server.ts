/**
 * A server that serves one file and gives a different trouble at each request, as a deck of cards says; when the deck
 * is used up it is honest.
 *
 * Bytes are counted when the kernel has taken them, of every answer, whether the client read them or not. They
 * come as over a line of 100 Mbit/s: on loopback megabytes would otherwise lie in the kernel's buffers before a client
 * could say that it does not want them.
 */
import {once} from 'node:events'
import {createServer, type IncomingMessage, type ServerResponse} from 'node:http'
import {createServer as createTlsServer} from 'node:https'
import {createServer as createTcpServer, type AddressInfo, type Server, type Socket} from 'node:net'
import {setTimeout as sleep} from 'node:timers/promises'
import {gzipSync} from 'node:zlib'
import {KiB, MiB} from '../../src/core/limits.ts'

/** Kinds of trouble that let the download come forward by the card's bytes first. */
export const forwardFaults = [
  'drop',
  'reset',
  'stall',
  'one_byte_a_second',
  'short_range',
  'other_host',
  'other_host_tls',
] as const
/** Kinds that bring nothing. */
export const uselessFaults = [
  'reset_at_once',
  'range_ignored',
  'wrong_bytes',
  'changed_etag',
  'gzip',
  'redirect_loop',
  'bad_certificate',
  'no_tls',
  'too_many_requests',
] as const
export type FaultKind = (typeof forwardFaults)[number] | (typeof uselessFaults)[number]

/** One trouble; `bytes` is how many bytes of the answer come first, where any do. */
export type Card = {kind: FaultKind; bytes: number}

export type FaultRequest = {
  host: 'first' | 'other' | 'tls'
  path: string
  kind: FaultKind | 'none'
  range: string | undefined
  /** Whether it bore an Authorization header. */
  isAuthorized: boolean
  sentBytes: number
}

const path = '/image.tar'
const paceBytesPerMs = 12.5 * KiB
/** What is sent at a time: a timer is good for a millisecond. */
const pieceBytes = 32 * KiB

export type FaultServerOptions = {
  content: Buffer
  deck: readonly Card[]
  /** For the TLS listener: a certificate that the client trusts, and one that it does not. */
  tls?: {key: string; cert: string}
  strangeTls?: {key: string; cert: string}
  /** Plays the last card again and again. */
  isEndless?: boolean
}

export class FaultServer {
  readonly requests: FaultRequest[] = []
  readonly #options: FaultServerOptions
  readonly #servers: Server[] = []
  readonly #sockets = new Set<Socket>()
  #dealt = 0
  #ports = {first: 0, other: 0, tls: 0, strange: 0, plain: 0}

  private constructor(options: FaultServerOptions) {
    this.#options = options
  }

  static async start(options: FaultServerOptions): Promise<FaultServer> {
    const made = new FaultServer(options)
    const listener =
      (host: FaultRequest['host']) =>
      (request: IncomingMessage, response: ServerResponse): void => {
        made.#handle(host, request, response).catch(() => response.destroy())
      }
    const ports = made.#ports
    ports.first = await made.#listen(createServer(listener('first')), '127.0.0.1')
    ports.other = await made.#listen(createServer(listener('other')), '127.0.0.2')
    const {tls, strangeTls} = options
    if (tls) ports.tls = await made.#listen(createTlsServer(tls, listener('tls')), '127.0.0.1')
    if (strangeTls) {
      const strange = createTlsServer(strangeTls, listener('tls'))
      ports.strange = await made.#listen(strange, '127.0.0.1')
    }
    // What speaks no TLS answers a handshake with this.
    const plain = createTcpServer((socket) => {
      socket.on('error', () => undefined)
      socket.end('220 mail.example ready\r\n')
    })
    ports.plain = await made.#listen(plain, '127.0.0.1')
    return made
  }

  /** With user and password where they are given. */
  url(userinfo = ''): string {
    return `http://${userinfo === '' ? '' : `${userinfo}@`}127.0.0.1:${this.#ports.first}${path}`
  }

  /** How many cards were played. */
  get dealt(): number {
    return this.#dealt
  }

  get sentBytes(): number {
    return this.requests.reduce((sum, request) => sum + request.sentBytes, 0)
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    for (const server of this.#servers) server.close()
    await Promise.all(this.#servers.map((server) => once(server, 'close')))
  }

  async #listen(server: Server, host: string): Promise<number> {
    this.#servers.push(server)
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    server.listen(0, host)
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }

  #deal(): Card | undefined {
    const {deck, isEndless} = this.#options
    const card = deck[this.#dealt] ?? (isEndless ? deck.at(-1) : undefined)
    if (card) this.#dealt++
    return card
  }

  async #handle(
    host: FaultRequest['host'],
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    response.on('error', () => undefined)
    const [asked = '', query = ''] = (request.url ?? '').split('?')
    const card = host === 'first' && asked === path ? this.#deal() : undefined
    const served: FaultRequest = {
      host,
      path: asked,
      kind: card?.kind ?? 'none',
      range: request.headers.range,
      isAuthorized: request.headers.authorization !== undefined,
      sentBytes: 0,
    }
    this.requests.push(served)
    if (asked === '/circle') {
      response.writeHead(302, {location: path}).end()
      return
    }
    // The place that a redirect leads to is told in the address how far it shall go.
    if (host !== 'first') {
      await this.#serve(request, response, served, {kind: 'drop', bytes: Number(query)})
    } else await this.#play(request, response, served, card)
  }

  async #play(
    request: IncomingMessage,
    response: ServerResponse,
    served: FaultRequest,
    card: Card | undefined,
  ): Promise<void> {
    const {other, tls, strange, plain} = this.#ports
    const redirect = (location: string): void => void response.writeHead(302, {location}).end()
    switch (card?.kind) {
      case 'reset_at_once':
        request.socket.resetAndDestroy()
        return
      case 'too_many_requests':
        response.writeHead(429, {'retry-after': '1', 'content-length': 0}).end()
        return
      case 'redirect_loop':
        redirect('/circle')
        return
      case 'other_host':
        redirect(`http://127.0.0.2:${other}${path}?${card.bytes}`)
        return
      case 'other_host_tls':
        redirect(`https://127.0.0.1:${tls}${path}?${card.bytes}`)
        return
      case 'bad_certificate':
        redirect(`https://127.0.0.1:${strange}${path}`)
        return
      case 'no_tls':
        redirect(`https://127.0.0.1:${plain}${path}`)
        return
      default:
        await this.#serve(request, response, served, card)
    }
  }

  async #serve(
    request: IncomingMessage,
    response: ServerResponse,
    served: FaultRequest,
    card: Card | undefined,
  ): Promise<void> {
    const {content} = this.#options
    const kind = card?.kind
    const asked = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
    const etag = kind === 'changed_etag' ? '"v2"' : '"v1"'
    // As RFC 9110 wants it: with another ETag than the one that If-Range names, all is sent.
    const isRange =
      asked > 0 &&
      kind !== 'range_ignored' &&
      kind !== 'gzip' &&
      (request.headers['if-range'] ?? etag) === etag
    const startByte = isRange ? asked : 0
    const isShort = isRange && kind === 'short_range'
    const endByte = isShort
      ? Math.min(content.length, startByte + (card?.bytes ?? 0))
      : content.length
    const isEncoded = kind === 'gzip'
    response.writeHead(isRange ? 206 : 200, {
      'content-type': 'application/x-tar',
      'accept-ranges': 'bytes',
      etag,
      ...(isEncoded ? {'content-encoding': 'gzip'} : {'content-length': endByte - startByte}),
      ...(isRange ? {'content-range': `bytes ${startByte}-${endByte - 1}/${content.length}`} : {}),
    })
    response.flushHeaders()
    if (isEncoded) {
      await this.#sendGzip(response, served)
      return
    }
    // Wrong bytes are right ones of another place: as Ceph's dbstore does it, those of the beginning.
    const from = kind === 'wrong_bytes' ? 0 : startByte
    const length = endByte - startByte
    // Whoever asks without If-Range does not see that the ETag is another; he too is not given all at once.
    const cutting = ['drop', 'reset', 'stall', 'one_byte_a_second']
    const isCut =
      card !== undefined && (cutting.includes(card.kind) || (kind === 'changed_etag' && isRange))
    const sentEnd = isCut ? Math.min(length, card.bytes) : length
    await send(response, content.subarray(from, from + sentEnd), served)
    if (sentEnd === length) response.end()
    else await this.#breakOff(response, served, card?.kind, content.subarray(from + sentEnd))
  }

  async #breakOff(
    response: ServerResponse,
    served: FaultRequest,
    kind: FaultKind | undefined,
    rest: Buffer,
  ): Promise<void> {
    if (kind === 'stall') return
    if (kind === 'one_byte_a_second') {
      for (let at = 0; at < rest.length; at++) {
        await sleep(1000)
        if (response.destroyed) return
        response.write(rest.subarray(at, at + 1))
        served.sentBytes++
      }
      return
    }
    // What was written must have left before the line is cut.
    await sleep(30)
    if (kind === 'reset') response.socket?.resetAndDestroy()
    else response.destroy()
  }

  async #sendGzip(response: ServerResponse, served: FaultRequest): Promise<void> {
    const {content} = this.#options
    for (let at = 0; at < content.length && !response.destroyed; at += MiB) {
      await send(response, gzipSync(content.subarray(at, at + MiB), {level: 1}), served)
    }
    response.end()
  }
}

/** Sends at the pace of a line, and counts what the kernel took. */
async function send(response: ServerResponse, bytes: Buffer, served: FaultRequest): Promise<void> {
  const startedAt = performance.now()
  for (let at = 0; at < bytes.length && !response.destroyed;) {
    const chunk = bytes.subarray(at, at + pieceBytes)
    await new Promise<void>((resolve) => {
      response.once('close', resolve)
      response.write(chunk, (error) => {
        if (!error) served.sentBytes += chunk.length
        response.off('close', resolve)
        resolve()
      })
    })
    at += chunk.length
    const leftMs = startedAt + at / paceBytesPerMs - performance.now()
    if (leftMs > 0) await sleep(leftMs)
  }
}
