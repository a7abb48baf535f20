/**
 * The system calls of a sender that leaves file content in the kernel: send(2), which can say that more follows, and
 * sendfile(2), both on the descriptor of a socket that is not blocking, as Node's are; and the two that keep it from
 * waiting for a disk.
 *
 * The danger: a descriptor's number is given anew as soon as its socket is closed, so a number that was kept over a turn
 * of the event loop can be another client's socket. Ask the socket's handle for it before every call.
 */
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

type Call = (...args: readonly number[]) => number

type Calls = {
  send: Call
  sendfile: Call
  fadvise: Call
  /** Not in every C library. */
  preadv2: Call | undefined
  address: (buffer: Buffer) => number
  errno: () => number
}

let bound: Calls | undefined

function calls(): Calls {
  if (bound !== undefined) return bound
  const {koffi, lib} = libc()
  const call = (name: string, result: string, args: string[]): Call => lib.func(name, result, args)
  bound = {
    send: call('send', 'int64_t', ['int', 'uintptr_t', 'size_t', 'int']),
    // off_t has 64 bits on every machine that Node 24 runs on under Linux.
    sendfile: call('sendfile', 'int64_t', ['int', 'int', 'uintptr_t', 'size_t']),
    fadvise: call('posix_fadvise', 'int', ['int', 'int64_t', 'int64_t', 'int']),
    preadv2: maybe(() => call('preadv2', 'int64_t', ['int', 'uintptr_t', 'int', 'int64_t', 'int'])),
    address: (buffer) => Number(koffi.address(buffer)),
    errno: () => koffi.errno(),
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
  const errno = calls().errno()
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

// Where the kernel reads the offset: the calls are synchronous and it keeps no pointer after one.
let place: {buffer: Buffer; address: number} | undefined

function newPlace(): {buffer: Buffer; address: number} {
  const buffer = Buffer.alloc(8)
  return {buffer, address: calls().address(buffer)}
}

/**
 * Hands `length` bytes of a file, from `offset`, to a socket by sendfile(2): no byte passes through this process.
 * Returns how many were taken (it can be less than all), 0 at or behind the end of the file, or WOULD_BLOCK.
 *
 * Shape: `offset` and `length` are whole numbers from 0 to 2^53-1; the kernel takes at most 2 GiB in one call.
 * The file's own position is neither used nor moved. Pages that were not read before are waited for.
 * Errors: a system error (EPIPE, ECONNRESET, EIO, EINVAL, EBADF, …); host_lacks when koffi cannot load.
 */
export function sendfile(socketFd: number, fileFd: number, offset: number, length: number): number {
  const {buffer, address} = (place ??= newPlace())
  for (;;) {
    // 64 bits as two halves, little-endian as x86-64 and arm64 are, because a BigInt for each call would be garbage.
    buffer.writeUInt32LE(offset % 2 ** 32, 0)
    buffer.writeUInt32LE(Math.floor(offset / 2 ** 32), 4)
    const taken = outcome(calls().sendfile(socketFd, fileFd, address, length), 'sendfile')
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
  const {preadv2, errno} = calls()
  if (!preadv2) return 'unknown'
  probe ??= newProbe()
  if (preadv2(fileFd, probe.address, 1, offset, RWF_NOWAIT) >= 0) return 'in'
  const failure = errno()
  if (failure === EAGAIN) return 'out'
  return failure === EOPNOTSUPP ? 'unknown' : 'in'
}

/** Asks the kernel to bring a part of a file into memory meanwhile (posix_fadvise(2)); a hint, so it cannot fail. */
export function readAhead(fileFd: number, offset: number, length: number): void {
  calls().fadvise(fileFd, offset, length, POSIX_FADV_WILLNEED)
}
