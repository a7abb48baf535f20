/** Which bytes of a sparse file are worth reading, and which buffers hold nothing but zeros. */
import {seekData, seekHole} from '../syscalls/sparse.ts'
import {MiB} from '../limits.ts'

/** Bytes `start` up to, not including, `end`. */
export type Extent = {start: number; end: number}

/**
 * The parts of `start … end` of an open file that may hold data, in order; the rest reads as zeros.
 *
 * Guarantees: where the host cannot tell holes from data, one extent with everything.
 * Cost: two system calls for each extent; no byte is read.
 */
export function* dataExtents(fd: number, start: number, end: number): Generator<Extent> {
  let at = start
  while (at < end) {
    const from = seekData(fd, at, end)
    if (from >= end) return
    const to = seekHole(fd, from, end)
    // A hole that begins where data was just found: the file is changing. The reader notices that elsewhere.
    yield {start: from, end: to > from ? to : end}
    at = to > from ? to : end
  }
}

// As large as reads usually are: comparing memory runs at its speed only when it is not cut into small pieces.
const zeros = Buffer.alloc(MiB)

/** Whether every byte is zero. */
export function isAllZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const piece = Buffer.from(
      bytes.buffer,
      bytes.byteOffset + at,
      Math.min(zeros.length, bytes.length - at),
    )
    // The first bytes say no in almost every case of data.
    if (piece[0] !== 0 || !piece.equals(zeros.subarray(0, piece.length))) return false
  }
  return true
}

/** Calls `feed` with `length` zeros, a piece at a time. */
export function feedZeros(length: number, feed: (bytes: Buffer) => void): void {
  for (let left = length; left > 0; left -= zeros.length)
    feed(zeros.subarray(0, Math.min(left, zeros.length)))
}
