/**
 * The seam between an answer that was decided and its bytes on the wire. There are two senders: send.ts reads and
 * writes, splice.ts lets the kernel do it. Both keep to this contract, and one test suite runs with each.
 */
import type {Socket} from 'node:net'
import type {OpenedFile} from '../../../core/stream.ts'

/** `sent`: the operating system took every byte. `aborted`: the client got less than it was promised, and knows. */
export type SendOutcome = 'sent' | 'aborted'

/** What answers need of a request: node:http's has it, and the fast lane's. */
export type AnswerRequest = {
  readonly url?: string | undefined
  readonly method?: string | undefined
  /** Names and values in turn, one character a byte. */
  readonly rawHeaders: readonly string[]
  readonly httpVersion: string
  readonly httpVersionMajor: number
  readonly httpVersionMinor: number
  readonly socket: Socket
}

/** What answers need of a response, as node:http's does it. */
export type AnswerResponse = {
  /** Null while answers before this one are under way. */
  readonly socket: Socket | null
  readonly shouldKeepAlive: boolean
  readonly headersSent: boolean
  readonly destroyed: boolean
  readonly writableFinished: boolean
  statusCode: number
  once(event: 'close' | 'socket', listener: (socket: Socket) => void): unknown
  off(event: 'close' | 'socket', listener: (socket: Socket) => void): unknown
  writeHead(status: number, headers: string[]): unknown
  removeHeader(name: string): void
  write(body: Buffer, onWritten?: (error?: Error | null) => void): unknown
  end(body?: string | Buffer): unknown
  destroy(): unknown
}

/** One body that is to be sent, and how it fares. */
export type SendJob = {
  readonly request: AnswerRequest
  readonly response: AnswerResponse
  /** Stays open until `finish`; nobody but the sender uses it meanwhile. */
  readonly file: OpenedFile
  /** First byte of the file that is sent. */
  readonly start: number
  /** Last byte, inclusive; `start - 1` for an empty body. Within the file's size. */
  readonly end: number
  readonly status: number
  /** Names and values in turn, complete, with the true Content-Length; as `response.writeHead(status, headers)` takes them. */
  readonly headers: string[]
  /**
   * The same headers in two parts, where the connection just stays open, of which HTTP/1.1 needs no word. `fixed` is the
   * very same object for many answers: its text need be made only once.
   */
  readonly parts?: {readonly fixed: readonly string[]; readonly own: readonly string[]} | undefined
  /** Body bytes that the operating system took so far. Kept by the sender, read by others at any time; only grows. */
  sentBytes: number
  /** Body bytes handed to `response.write` that were not reported as written yet. Kept by the sender; 0 where it does not apply. */
  writingBytes: number
  /**
   * Says that the sender is done with the response, the file and its descriptor: no read or write is under way any more
   * (releases file and permit, writes the log line). Exactly one call.
   */
  finish(outcome: SendOutcome): void
}

/**
 * Sends head and body of one answer to GET.
 *
 * Guarantees:
 * - Returns at once. Between two slices of a body it goes back through the event loop, so that no connection starves
 *   another; it holds at most two slices in memory and waits for the client before it goes on.
 * - Calls `job.finish` exactly once, also when the client goes away or somebody destroys the response.
 * - Never completes a body of mixed versions: `job.file.isUnchanged()` is asked after each slice was read and before
 *   the last one goes out, and `false` (or a short read) destroys the response instead.
 * - Never throws.
 *
 * A response that was destroyed (`response.destroy()`, by the door's timeouts) is a client that went away.
 */
export type Sender = (job: SendJob) => void

/**
 * What splice.ts exports as `openFastSender`: a sender that takes what it can (plain TCP sockets, bodies worth it)
 * and hands everything else to `fallback`; undefined where the host lacks what it needs.
 */
export type OpenFastSender = (o: {fallback: Sender}) => Sender | undefined
