/**
 * The system calls of a sender that leaves file content in the kernel: send(2), which can say that more follows, and
 * splice(2) from a file into a pipe and from there to a socket, both on the descriptor of a socket that is not blocking,
 * as Node's are; and the two that keep it from waiting for a disk.
 *
 * The danger: a descriptor's number is given anew as soon as its socket is closed, so a number that was kept over a turn
 * of the event loop can be another client's socket. Ask the socket's handle for it before every call.
 */
import {closeSync} from 'node:fs'
import {type Call, certain, lastErrno} from './errno.ts'
import {libc, systemError, tryLibc} from './libc.ts'

/** The answer of a call that would have had to wait: nothing was taken. */
export const WOULD_BLOCK = -1

const EINTR = 4
const EAGAIN = 11
const EFAULT = 14
const EOPNOTSUPP = 95
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_MORE = 0x8000
const POSIX_FADV_WILLNEED = 3
const RWF_NOWAIT = 8
const O_NONBLOCK = 0o4000
const O_CLOEXEC = 0o2000000
const F_SETPIPE_SZ = 1031
const F_GETPIPE_SZ = 1032
const SPLICE_F_NONBLOCK = 2
const SPLICE_F_MORE = 4

type Calls = {
  send: Call
  splice: Call
  pipe2: Call
  fcntl: Call
  fadvise: Call
  /** Not in every C library. */
  preadv2: Call | undefined
  address: (buffer: Buffer) => number
}

let bound: Calls | undefined

function calls(): Calls {
  if (bound !== undefined) return bound
  const {koffi, lib} = libc()
  // That it would have had to wait is taken as it is: who hears it wrongly asks again when the socket or the file is ready.
  const call = (name: string, result: string, args: string[]): Call =>
    certain(lib.func(name, result, args), () => koffi.errno(), EAGAIN)
  bound = {
    send: call('send', 'int64_t', ['int', 'uintptr_t', 'size_t', 'int']),
    splice: call('splice', 'int64_t', ['int', 'uintptr_t', 'int', 'uintptr_t', 'size_t', 'uint']),
    pipe2: call('pipe2', 'int', ['uintptr_t', 'int']),
    fcntl: call('fcntl', 'int', ['int', 'int', 'int']),
    fadvise: call('posix_fadvise', 'int', ['int', 'int64_t', 'int64_t', 'int']),
    preadv2: maybe(() => call('preadv2', 'int64_t', ['int', 'uintptr_t', 'int', 'int64_t', 'int'])),
    address: (buffer) => Number(koffi.address(buffer)),
  }
  return bound
}

function maybe<T>(find: () => T): T | undefined {
  try {
    return find()
  } catch {
    return undefined
  }
}

/** Whether this host can make these calls at all. */
export function hasSocketCalls(): boolean {
  return !(tryLibc() instanceof Error)
}

/** What a call took, WOULD_BLOCK, or undefined when it is to be made again. */
function outcome(result: number, syscall: string): number | undefined {
  if (result >= 0) return result
  const errno = lastErrno()
  if (errno === EAGAIN) return WOULD_BLOCK
  if (errno === EINTR) return undefined
  throw systemError(syscall, errno)
}

let sentBuffer: Buffer | undefined
let sentAddress = 0

/**
 * Hands a part of a buffer to a socket by send(2). Returns how many bytes were taken (it can be less than all), or
 * WOULD_BLOCK.
 *
 * Shape: the buffer's memory is its own for as long as it lives (not resized, not given to another thread).
 * `hasMore` holds the bytes back until more follow, so that a head and its body leave in one packet; what is never
 * followed leaves after 200 ms (tcp(7), TCP_CORK).
 * Errors: a system error (EPIPE, ECONNRESET, EBADF, …); host_lacks when koffi cannot load.
 */
export function send(
  socketFd: number,
  buffer: Buffer,
  start: number,
  length: number,
  hasMore: boolean,
): number {
  // Memory beyond the buffer is anything; what is no whole number is refused with it.
  const isInside = start >= 0 && length >= 0 && start + length <= buffer.length
  if (!isInside || !Number.isInteger(start) || !Number.isInteger(length)) {
    throw systemError('send', EFAULT)
  }
  // One buffer is used again and again; its address stays true while it is referred to from here.
  if (buffer !== sentBuffer) {
    sentAddress = calls().address(buffer)
    sentBuffer = buffer
  }
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL | (hasMore ? MSG_MORE : 0)
  for (;;) {
    const taken = outcome(calls().send(socketFd, sentAddress + start, length, flags), 'send')
    if (taken !== undefined) return taken
  }
}

// Where the kernel reads an offset or leaves two descriptors: the calls are synchronous and it keeps no pointer after one.
let place: {buffer: Buffer; address: number} | undefined

function newPlace(): {buffer: Buffer; address: number} {
  const buffer = Buffer.alloc(8)
  return {buffer, address: calls().address(buffer)}
}

/** Holds references to pages of a file on their way to a socket. Neither end ever waits. */
export type Pipe = {
  readonly readFd: number
  readonly writeFd: number
  /** How much it holds: a part of a page takes the place of a whole one. */
  readonly capacity: number
}

/**
 * Opens a pipe that holds `capacity` bytes, or what the host allows (pipe(7): a user who has many gets small ones).
 *
 * Errors: a system error (EMFILE, ENFILE); host_lacks when koffi cannot load.
 */
export function openPipe(capacity: number): Pipe {
  const {buffer, address} = (place ??= newPlace())
  const {pipe2, fcntl} = calls()
  if (pipe2(address, O_NONBLOCK | O_CLOEXEC) < 0) throw systemError('pipe2', lastErrno())
  const [readFd, writeFd] = [buffer.readInt32LE(0), buffer.readInt32LE(4)]
  fcntl(writeFd, F_SETPIPE_SZ, capacity)
  return {readFd, writeFd, capacity: fcntl(writeFd, F_GETPIPE_SZ, 0)}
}

/** Closes both ends; what was in the pipe is gone. */
export function closePipe(pipe: Pipe): void {
  closeSync(pipe.readFd)
  closeSync(pipe.writeFd)
}

/**
 * Puts references to the pages of a file, `length` bytes from `offset`, into an empty pipe by splice(2): no byte is copied.
 * Returns how many bytes that was (it can be less than all), 0 at or behind the end of the file.
 *
 * Shape: `offset` and `length` are whole numbers from 0 to 2^53-1.
 * The file's own position is neither used nor moved. Pages that were not read before are waited for.
 * Errors: a system error (EIO, EINVAL, EBADF, …); host_lacks when koffi cannot load.
 */
export function spliceFromFile(fileFd: number, offset: number, pipe: Pipe, length: number): number {
  const {buffer, address} = (place ??= newPlace())
  for (;;) {
    // 64 bits as two halves, little-endian as x86-64 and arm64 are, because a BigInt for each call would be garbage.
    buffer.writeUInt32LE(offset % 2 ** 32, 0)
    buffer.writeUInt32LE(Math.floor(offset / 2 ** 32), 4)
    const result = calls().splice(fileFd, address, pipe.writeFd, 0, length, SPLICE_F_NONBLOCK)
    const count = outcome(result, 'splice')
    if (count !== undefined) return count
  }
}

/**
 * Hands the first `length` bytes of a pipe to a socket by splice(2). Returns how many were taken (it can be less than all;
 * the rest stays in the pipe), or WOULD_BLOCK. `hasMore` as for `send`.
 *
 * Errors: a system error (EPIPE, ECONNRESET, EBADF, …); host_lacks when koffi cannot load.
 */
export function spliceToSocket(
  pipe: Pipe,
  socketFd: number,
  length: number,
  hasMore: boolean,
): number {
  const flags = SPLICE_F_NONBLOCK | (hasMore ? SPLICE_F_MORE : 0)
  for (;;) {
    const taken = outcome(calls().splice(pipe.readFd, 0, socketFd, 0, length, flags), 'splice')
    if (taken !== undefined) return taken
  }
}

// struct iovec[1] of one byte, and the byte: what is read there is of no interest.
let probe: {iovec: Buffer; address: number} | undefined

function newProbe(): {iovec: Buffer; address: number} {
  const iovec = Buffer.alloc(24)
  const address = calls().address(iovec)
  iovec.writeBigUInt64LE(BigInt(address + 16), 0)
  iovec.writeBigUInt64LE(1n, 8)
  return {iovec, address}
}

/**
 * Whether a byte of a file is in memory, so that reading around it waits for no disk (preadv2(2), RWF_NOWAIT): `in`,
 * `out`, or `unknown` where the file system (tmpfs is one) or the C library cannot tell, and never will for this file.
 *
 * Errors: host_lacks when koffi cannot load.
 */
export function memoryOf(fileFd: number, offset: number): 'in' | 'out' | 'unknown' {
  const {preadv2} = calls()
  if (!preadv2) return 'unknown'
  probe ??= newProbe()
  if (preadv2(fileFd, probe.address, 1, offset, RWF_NOWAIT) >= 0) return 'in'
  const failure = lastErrno()
  if (failure === EAGAIN) return 'out'
  return failure === EOPNOTSUPP ? 'unknown' : 'in'
}

/** Asks the kernel to bring a part of a file into memory meanwhile (posix_fadvise(2)); a hint, so it cannot fail. */
export function readAhead(fileFd: number, offset: number, length: number): void {
  calls().fadvise(fileFd, offset, length, POSIX_FADV_WILLNEED)
}
