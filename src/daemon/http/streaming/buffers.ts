/** Buffers that are used again: allocating one costs more than reading into it. */

/** Bodies up to this size are read at once and sent with their head. */
export const smallBytes = 64 * 1024
/** Larger bodies go out in slices of this size: both copies of it stay in the processor's cache. */
export const sliceBytes = 256 * 1024

// No more than 12 MiB in all.
const sliceKeptMax = 32
const smallKeptMax = 64
const kept: {small: Buffer[]; slice: Buffer[]} = {small: [], slice: []}

/** One of `smallBytes` or `sliceBytes`. */
export function takeBuffer(size: number): Buffer {
  const pool = size === smallBytes ? kept.small : kept.slice
  return pool.pop() ?? Buffer.allocUnsafeSlow(size)
}

/** Takes back a buffer that nobody reads or writes any more. */
export function giveBuffer(buffer: Buffer): void {
  if (buffer.length === smallBytes) {
    if (kept.small.length < smallKeptMax) kept.small.push(buffer)
  } else if (kept.slice.length < sliceKeptMax) {
    kept.slice.push(buffer)
  }
}
