/**
 * Reading large bodies straight from plain TCP connections.
 *
 * Node gives a socket a fresh 64 KiB buffer for every read, and its HTTP parser copies each piece of a body out of it.
 * Here the socket reads into a few large buffers that are used again and again, and once the head of the answer is
 * parsed, a body of known length goes past the parser: 40 % less CPU for a whole download (bench/download.ts).
 * Only the head's first bytes of body still come through the parser; they are taken first.
 */
import {Agent, type ClientRequestArgs, type IncomingMessage} from 'node:http'
import type {Socket, TcpNetConnectOpts} from 'node:net'
import type {Duplex} from 'node:stream'
import {KiB} from '../limits.ts'
import {batchBytes, Inbox, type Batch} from './inbox.ts'

// With less room than this left, a read goes to the next buffer: small reads cost more than unused room.
const roomBytesMin = 128 * KiB
// For heads: each connection reads into its own until its body is taken over.
const headBytes = 64 * KiB

const readers = new WeakMap<Duplex, SocketReader>()

/** Decides where a socket's next bytes are written and who gets them. */
class SocketReader {
  direct: DirectInbox | undefined
  #buffer: Buffer = Buffer.allocUnsafeSlow(headBytes)

  nextBuffer(): Buffer {
    return (this.#buffer = this.direct?.room() ?? this.#buffer)
  }

  /** Returns whether to go on reading. */
  received(socket: Socket, lengthBytes: number): boolean {
    if (this.direct) return this.direct.received(this.#buffer, lengthBytes)
    // As the stream itself would say it: the HTTP parser listens, and copies what it keeps.
    socket.emit('data', this.#buffer.subarray(0, lengthBytes))
    return true
  }
}

/** An agent for HTTP without TLS and proxy, whose connections can be taken over by `openDirectInbox`. */
export class BulkAgent extends Agent {
  override createConnection(
    options: ClientRequestArgs,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): Duplex | null | undefined {
    const reader = new SocketReader()
    const bulk: ClientRequestArgs & Pick<TcpNetConnectOpts, 'onread'> = {
      ...options,
      onread: {
        buffer: () => reader.nextBuffer(),
        callback(this: Socket, lengthBytes: number) {
          return reader.received(this, lengthBytes)
        },
      },
    }
    const socket = super.createConnection(bulk, callback)
    if (socket) readers.set(socket, reader)
    return socket
  }
}

/**
 * Takes over the connection of an answer whose body has `lengthBytes` bytes and no transfer coding. Undefined when it
 * is not a bulk connection or not worth it; the answer must then be read as a stream. Nothing of its body may have been read.
 */
export function openDirectInbox(
  response: IncomingMessage,
  lengthBytes: number | undefined,
): Inbox | undefined {
  const reader = readers.get(response.socket)
  if (!reader || lengthBytes === undefined || lengthBytes < 2 * batchBytes) return undefined
  if (response.headers['transfer-encoding'] !== undefined) return undefined
  return new DirectInbox(response, reader, lengthBytes)
}

/** The body of one answer. Its memory: the buffer being filled, those the caller has, and at most one between. */
class DirectInbox extends Inbox {
  readonly #socket: Socket
  #leftBytes: number
  #ready: Buffer[] = []
  #filling: Buffer | undefined
  /** In the buffer being filled: where the bytes end that a caller took, and where those end that came. */
  #takenBytes = 0
  #filledBytes = 0
  /** Full buffers, before the caller has their last bytes, while he has them, and after. */
  #full: Buffer[] = []
  #withCaller: Buffer[] = []
  #free: Buffer[] = []

  constructor(response: IncomingMessage, reader: SocketReader, lengthBytes: number) {
    super()
    this.#socket = response.socket
    this.#leftBytes = lengthBytes
    this.watch(response)
    // The answer may be announced while the parser still works on the read that held its head.
    setImmediate(() => {
      while (this.failure === undefined) {
        const chunk = response.read() as Buffer | null
        if (chunk === null) break
        this.#ready.push(chunk)
        this.#leftBytes -= chunk.length
        this.arrived(chunk.length)
      }
      reader.direct = this
      this.#socket.resume()
    })
  }

  /** Where the next read goes. */
  room(): Buffer {
    if (this.#filling && this.#filling.length - this.#filledBytes < roomBytesMin) {
      this.#closePiece()
      this.#full.push(this.#filling)
      this.#filling = undefined
    }
    if (!this.#filling) {
      this.#filling = this.#free.pop() ?? Buffer.allocUnsafeSlow(batchBytes)
      this.#takenBytes = 0
      this.#filledBytes = 0
    }
    return this.#filling.subarray(this.#filledBytes)
  }

  /** Returns whether to go on reading. */
  received(buffer: Buffer, lengthBytes: number): boolean {
    const usedBytes = Math.min(lengthBytes, this.#leftBytes)
    if (buffer.buffer === this.#filling?.buffer) this.#filledBytes += usedBytes
    // The first read after the take-over still lands in the buffer for heads.
    else this.#ready.push(Buffer.from(buffer.subarray(0, usedBytes)))
    this.#leftBytes -= usedBytes
    this.arrived(usedBytes)
    if (this.#leftBytes > 0) return this.sizeBytes < batchBytes
    this.end()
    return false
  }

  take(): Batch {
    this.#closePiece()
    this.#free.push(...this.#withCaller)
    this.#withCaller = this.#full
    this.#full = []
    const taken = {chunks: this.#ready, sizeBytes: this.sizeBytes}
    this.#ready = []
    this.sizeBytes = 0
    if (!this.isEnded) this.#socket.resume()
    return taken
  }

  /** Makes what has come since the last time one piece for the caller. */
  #closePiece(): void {
    if (!this.#filling || this.#filledBytes === this.#takenBytes) return
    this.#ready.push(this.#filling.subarray(this.#takenBytes, this.#filledBytes))
    this.#takenBytes = this.#filledBytes
  }
}
