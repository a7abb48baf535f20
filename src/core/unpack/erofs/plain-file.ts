/** The tar of a compressed blob, written as it is decompressed; runs of zeros become holes. */
import {ftruncateSync, readSync, writeSync} from 'node:fs'

/** What file systems can leave out; tars are padded with less. */
const HOLE_BYTES = 4096
const zeros = Buffer.alloc(HOLE_BYTES)

export class PlainFile {
  readonly fd: number
  /** Bytes taken so far. */
  sizeBytes = 0

  constructor(fd: number) {
    this.fd = fd
  }

  /** Adds a chunk; what it holds of whole, aligned pieces of zeros is not written. */
  add(chunk: Buffer): void {
    const start = this.sizeBytes
    const end = start + chunk.length
    let from = start
    let at = Math.ceil(start / HOLE_BYTES) * HOLE_BYTES
    for (; at + HOLE_BYTES <= end; at += HOLE_BYTES) {
      const place = at - start
      if (chunk.compare(zeros, 0, HOLE_BYTES, place, place + HOLE_BYTES) !== 0) continue
      this.put(chunk, from - start, at - start)
      from = at + HOLE_BYTES
    }
    this.put(chunk, from - start, chunk.length)
    this.sizeBytes = end
  }

  private put(chunk: Buffer, start: number, end: number): void {
    for (let at = start; at < end;) {
      at += writeSync(this.fd, chunk, at, end - at, this.sizeBytes + at)
    }
  }

  /** Gives the file its size: zeros at its end were not written. */
  end(): void {
    ftruncateSync(this.fd, this.sizeBytes)
  }
}

/** Reads exactly what fits `buffer`; false where the file ends before. */
export function readExactly(fd: number, position: number, buffer: Buffer): boolean {
  for (let at = 0; at < buffer.length;) {
    const count = readSync(fd, buffer, at, buffer.length - at, position + at)
    if (count === 0) return false
    at += count
  }
  return true
}
