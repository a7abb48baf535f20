/**
 * The fast sender: the kernel hands the file's pages to the socket (splice(2)) and not a byte of a large body passes
 * through this process; a small one leaves with its head in one system call. For plain TCP connections; everything else
 * goes to the plain sender beside it.
 *
 * The pages go by way of a pipe of 512 KiB. sendfile(2) does the same inside with one of 64 KiB, looking for pages and
 * sending by turns: where connections are paced it takes up to twice the processor time (docs/adr/0014).
 *
 * The dangers:
 * - It writes to the socket's descriptor behind the back of node:http. So it does that only while Node has nothing
 *   queued for the socket, never keeps the descriptor's number over a turn of the event loop (the number of a closed
 *   socket becomes another client's), and ends every response by `response.end()`, which does all the bookkeeping of
 *   keep-alive and pipelining.
 * - What splice(2) has taken are pages of the file, not copies. A file that is replaced (a new file takes its name) or
 *   truncated and written anew keeps its old pages; one that is overwritten in place can change under bytes that a slow
 *   client has not fetched yet. That is so for every server that uses sendfile(2) or splice(2). Bytes that are still to
 *   be sent are guarded as the contract asks: they are in the pipe, then the file is looked at, then they go out.
 * - splice(2) waits for the disk, and every other client with it. So pages that are not in memory are asked for, and
 *   looked for again a little later; a disk that takes long is waited for in small pieces.
 */
import {readSync} from 'node:fs'
import type {Socket} from 'node:net'
import {systemCode} from '../../../core/errors.ts'
import {
  closePipe,
  hasSocketCalls,
  memoryOf,
  readAhead,
  send,
  spliceFromFile,
  spliceToSocket,
  type Pipe,
} from '../../../core/store.ts'
import {giveBuffer, smallBytes, takeBuffer} from './buffers.ts'
import {headText} from './head-text.ts'
import {givePipe, takePipe} from './pipes.ts'
import type {AnswerResponse, OpenFastSender, SendJob} from './sender.ts'

/** Bodies up to this size are copied: up to here it costs no more than splice(2) (bench/streaming). */
const copiedBytesMax = 32 * 1024
/** Of a long body one turn of the event loop sends several slices, as each turn has its cost. */
const longBodyBytes = 2 * 1024 * 1024
/** What is left of a body after a slice, and is no longer than this, goes in the same turn. */
const shortRestBytes = 64 * 1024
/** How much of a slice is looked for in memory at once. */
const probedBytes = 256 * 1024
/** What is waited for when the disk is slow, and how long it is given before. */
const coldSliceBytes = 128 * 1024
const coldWaitMs = 2
const coldWaitsMax = 50
/** What is held for each client that waits for room, where very many do. */
const leastBytes = 4 * 1024
/** What says that a file, or this process, cannot splice: the last is the answer of many filters of system calls. */
const refusals = new Set(['EINVAL', 'ENOSYS', 'EOPNOTSUPP', 'EPERM'])
/** node:http takes no head of more than this from us either: the longest that the door makes is about 2 KiB. */
const headBytesMax = 16 * 1024

// The head ends where the body begins, so that both leave in one call. Used within one turn only.
const outbox = Buffer.allocUnsafeSlow(headBytesMax + copiedBytesMax)

/** What this sender must know of node:http's and node:net's insides (Node 24; the wire tests run with both senders). */
type ResponseInside = {_header: string | null; _headerSent: boolean}
type SocketInside = {_handle?: {fd?: number} | null; encrypted?: boolean}

/** The fast sender, or undefined where koffi cannot load. */
export const openFastSender: OpenFastSender = ({fallback}) => {
  if (!hasSocketCalls()) return undefined
  return (job) => {
    const {request, response} = job
    if (request.httpVersionMajor !== 1 || job.end < job.start || response.destroyed) {
      fallback(job)
    } else if (response.socket !== null) {
      if (isFree(response.socket)) deliver(job)
      else fallback(job)
    } else {
      awaitSocket(job, fallback)
    }
  }
}

/** A pipelined request is answered when the answers before it are done: until then its response has no socket. */
function awaitSocket(job: SendJob, fallback: (job: SendJob) => void): void {
  const {response} = job
  const onClose = (): void => job.finish('aborted')
  response.once('close', onClose)
  response.once('socket', (socket: Socket) => {
    // Node is in the middle of giving it the socket.
    process.nextTick(() => {
      if (response.destroyed) return
      response.off('close', onClose)
      if (isFree(socket)) deliver(job)
      else fallback(job)
    })
  })
}

/** Whether the socket's descriptor can be written to directly. */
function isFree(socket: Socket): boolean {
  const {_handle, encrypted} = socket as SocketInside
  if (encrypted === true || socket.destroyed || socket.writableLength > 0) return false
  return typeof _handle?.fd === 'number' && _handle.fd >= 0
}

/** The number of the socket's descriptor, now. */
function descriptorOf(socket: Socket | null): number | undefined {
  const fd = (socket as SocketInside | null)?._handle?.fd
  return fd !== undefined && fd >= 0 ? fd : undefined
}

/** Whether `length` bytes of the file are in the buffer now; what is shorter, or cannot be read, is not what was promised. */
function readInto(
  buffer: Buffer,
  at: number,
  job: SendJob,
  position: number,
  length: number,
): boolean {
  for (let done = 0; done < length;) {
    const count = readSync(job.file.fd, buffer, at + done, length - done, position + done)
    if (count === 0) return false
    done += count
  }
  return true
}

/**
 * The head: our own where the connection just stays open, else as node:http makes it, taken out of its hands. Undefined
 * when it stays there because it is too long for us.
 */
function takeHead(job: SendJob): string | undefined {
  const inside = job.response as unknown as ResponseInside
  const own = job.parts && headText(job.status, job.parts)
  if (own !== undefined && own.length <= headBytesMax) {
    job.response.statusCode = job.status
    inside._header = own
    inside._headerSent = true
    return own
  }
  job.response.writeHead(job.status, job.headers)
  const head = inside._header
  if (head === null || head.length > headBytesMax) return undefined
  inside._headerSent = true
  return head
}

function deliver(job: SendJob): void {
  const {response} = job
  response.once('close', () => {
    job.writingBytes = 0
    job.finish(response.writableFinished ? 'sent' : 'aborted')
  })
  guarded(response, () => {
    const length = job.end - job.start + 1
    if (length <= copiedBytesMax) deliverSmall(job, length)
    else new Delivery(job).begin()
  })
}

/** Whatever fails (the client is gone, the disk cannot be read), the client must not take what it got for the whole. */
function guarded(response: AnswerResponse, act: () => void): void {
  try {
    act()
  } catch {
    response.destroy()
  }
}

function deliverSmall(job: SendJob, length: number): void {
  const {response, file} = job
  // Read and looked at before anything is promised.
  if (!readInto(outbox, headBytesMax, job, job.start, length) || !file.isUnchanged()) {
    response.destroy()
    return
  }
  const head = takeHead(job)
  const bodyEnd = headBytesMax + length
  const from = headBytesMax - (head?.length ?? 0)
  let taken = 0
  if (head !== undefined) {
    outbox.write(head, from, 'latin1')
    taken = sendNow(response, from, bodyEnd - from)
  }
  job.sentBytes = Math.max(0, taken - (headBytesMax - from))
  if (from + taken < bodyEnd) {
    job.writingBytes = length - job.sentBytes
    response.write(Buffer.from(outbox.subarray(from + taken, bodyEnd)), (error) => {
      if (!error) job.sentBytes = length
      job.writingBytes = 0
    })
  }
  response.end()
}

/** Hands a part of the outbox to the socket; returns how much was taken. */
function sendNow(response: AnswerResponse, start: number, length: number, hasMore = false): number {
  const {socket} = response
  const fd = descriptorOf(socket)
  if (fd === undefined || socket === null || socket.writableLength > 0) return 0
  return Math.max(0, send(fd, outbox, start, length, hasMore))
}

// Deliveries that hold a buffer and a pipe while they wait for their clients.
let waitingCount = 0
const waitingCountMax = 64

/** One large body on its way. */
class Delivery {
  readonly #job: SendJob
  /** What is neither in the pipe nor sent begins here. */
  #position: number
  #pipe: Pipe | undefined
  /** How many bytes are in the pipe. */
  #piped = 0
  /** Whether the file system cannot do splice(2), or no pipe is to be had. */
  #mustCopy = false
  /** Whether the file system says what is in memory; assumed until it does not. */
  #canProbe = true
  /** How often it has looked for the same pages in vain. */
  #coldWaits = 0
  /** Whether it holds a buffer until its client has room. */
  #isWaiting = false

  constructor(job: SendJob) {
    this.#job = job
    this.#position = job.start
  }

  begin(): void {
    const {response} = this.#job
    // A write to a connection that is going down may never call back.
    response.once('close', () => {
      this.#setWaiting(false)
      this.#emptyPipe()
    })
    const head = takeHead(this.#job)
    if (head === undefined) {
      // The first write takes the head with it.
      this.#copy()
      return
    }
    const length = outbox.write(head, 0, 'latin1')
    const taken = sendNow(response, 0, length, true)
    if (taken === length) this.#step()
    else response.write(Buffer.from(outbox.subarray(taken, length)), this.#goOn)
  }

  /** Bytes that are not in the pipe yet. */
  get #left(): number {
    return this.#job.end + 1 - this.#position
  }

  /** Fills the pipe and sends what is in it, for one turn of the event loop. */
  #step(): void {
    const job = this.#job
    const fd = descriptorOf(job.response.socket)
    if (job.response.destroyed || fd === undefined) return
    const turnBytes = job.end - job.start < longBodyBytes ? 0 : longBodyBytes
    const before = job.sentBytes
    do {
      const pipe = this.#filledPipe()
      if (!pipe) return
      if (!job.file.isUnchanged()) {
        job.response.destroy()
        return
      }
      const taken = Math.max(0, spliceToSocket(pipe, fd, this.#piped, this.#left > 0))
      this.#piped -= taken
      job.sentBytes += taken
      // A socket that took less than it was given is full: an ordinary write waits until it has room again.
      if (this.#piped > 0) {
        this.#copy()
        return
      }
    } while (this.#left > 0 && (this.#left <= shortRestBytes || job.sentBytes - before < turnBytes))
    this.#givePipe()
    if (this.#left > 0) this.#yield()
    else job.response.end()
  }

  /** A pipe with bytes in it; undefined when they come later, or by other ways, or not at all. */
  #filledPipe(): Pipe | undefined {
    if (this.#pipe && this.#piped > 0) return this.#pipe
    const pipe = this.#mustCopy ? undefined : (this.#pipe ??= takePipe())
    const asked = this.#bytesInMemory(Math.min(pipe?.capacity ?? smallBytes, this.#left))
    if (asked === 0) {
      this.#givePipe()
      setTimeout(this.#nextStep, coldWaitMs)
      return undefined
    }
    const count = pipe && this.#splice(pipe, asked)
    // A file that would not wait for its pages is read, which waits.
    if (count === undefined || count < 0) {
      this.#mustCopy = true
      this.#emptyPipe()
      this.#copy()
      return undefined
    }
    if (count === 0) this.#job.response.destroy()
    this.#piped = count
    this.#position += count
    return count > 0 ? pipe : undefined
  }

  /** How much of the next `length` bytes to send now: nothing while they are on their way from the disk. */
  #bytesInMemory(length: number): number {
    const {fd} = this.#job.file
    const warm = this.#warmBytes(length)
    if (warm > 0) {
      this.#coldWaits = 0
      return warm
    }
    if (this.#coldWaits === 0) readAhead(fd, this.#position, Math.min(length, probedBytes))
    if (++this.#coldWaits <= coldWaitsMax) return 0
    this.#coldWaits = 0
    return Math.min(length, coldSliceBytes)
  }

  /** How many of the next `length` bytes are in memory, looked at from both ends of each part. */
  #warmBytes(length: number): number {
    for (let done = 0; this.#canProbe && done < length; done += probedBytes) {
      const end = Math.min(length, done + probedBytes)
      const isWarm =
        this.#isInMemory(this.#position + end - 1) &&
        (end - done <= coldSliceBytes || this.#isInMemory(this.#position + done))
      if (!isWarm) return done
    }
    return length
  }

  #isInMemory(offset: number): boolean {
    const memory = memoryOf(this.#job.file.fd, offset)
    if (memory === 'unknown') this.#canProbe = false
    return memory !== 'out'
  }

  /** Fills the pipe; undefined where this file cannot be spliced. */
  #splice(pipe: Pipe, length: number): number | undefined {
    try {
      return spliceFromFile(this.#job.file.fd, this.#position, pipe, length)
    } catch (error) {
      const code = systemCode(error)
      if (refusals.has(code ?? '')) return undefined
      throw error
    }
  }

  /** One piece by read(2) and an ordinary write, whose callback says that the socket has room again. */
  #copy(): void {
    const job = this.#job
    // However many clients are slow, what waits for them stays a few MiB.
    const isCrowded = waitingCount >= waitingCountMax
    if (isCrowded) this.#emptyPipe()
    const length = Math.min(this.#piped || this.#left, isCrowded ? leastBytes : smallBytes)
    const buffer = length > leastBytes ? takeBuffer(smallBytes) : Buffer.allocUnsafe(length)
    if (!this.#readNext(buffer, length) || !job.file.isUnchanged()) {
      if (buffer.length === smallBytes) giveBuffer(buffer)
      job.response.destroy()
      return
    }
    this.#write(buffer, length)
    if (this.#left === 0 && this.#piped === 0) job.response.end()
  }

  /** The next bytes: out of the pipe if it has some, else of the file. */
  #readNext(buffer: Buffer, length: number): boolean {
    if (!this.#pipe || this.#piped === 0) {
      if (!readInto(buffer, 0, this.#job, this.#position, length)) return false
      this.#position += length
      return true
    }
    for (let done = 0; done < length;) {
      done += readSync(this.#pipe.readFd, buffer, done, length - done, null)
    }
    this.#piped -= length
    if (this.#piped === 0) this.#givePipe()
    return true
  }

  #write(buffer: Buffer, length: number): void {
    const job = this.#job
    this.#setWaiting(true)
    job.writingBytes = length
    const bytes = length === buffer.length ? buffer : buffer.subarray(0, length)
    // The callback of end() comes at 'finish' alone; that of write() comes in any case.
    job.response.write(bytes, (error) => {
      this.#setWaiting(false)
      job.writingBytes = 0
      if (buffer.length === smallBytes) giveBuffer(buffer)
      if (error) return
      job.sentBytes += length
      this.#goOn()
    })
  }

  #setWaiting(isWaiting: boolean): void {
    if (isWaiting !== this.#isWaiting) waitingCount += isWaiting ? 1 : -1
    this.#isWaiting = isWaiting
  }

  /** For others to use; it is empty. */
  #givePipe(): void {
    if (this.#pipe) givePipe(this.#pipe)
    this.#pipe = undefined
  }

  /** Lets go of what is in the pipe: it is still to be sent, if anybody waits for it. */
  #emptyPipe(): void {
    if (this.#piped === 0) {
      this.#givePipe()
      return
    }
    if (this.#pipe) closePipe(this.#pipe)
    this.#pipe = undefined
    this.#position -= this.#piped
    this.#piped = 0
  }

  readonly #goOn = (): void => {
    if (this.#left > 0 || this.#piped > 0) this.#yield()
  }

  /**
   * Lets the others have their turn. Also after a write's callback: one that was done at once calls back in the same
   * turn, and a quick client would then keep every other one waiting for as long as it reads.
   */
  #yield(): void {
    setImmediate(this.#nextStep)
  }

  readonly #nextStep = (): void => guarded(this.#job.response, () => this.#step())
}
