/** Sparse maps: old GNU header entries, and the checks that hold for every format. */
import {fail} from '../../errors.ts'
import type {Segment} from './entry.ts'
import {BLOCK_BYTES} from './header.ts'
import {readNumber} from './number.ts'

/** Entries in a header of type S, and in each extension block after it. */
export const HEADER_SEGMENTS = 4
export const EXTENSION_SEGMENTS = 21

/**
 * Checks that segments ascend without overlap, stay inside the file and hold exactly the stored bytes; and that GNU tar,
 * which looks for each piece in blocks of its own and ends the file where the map ends, reads them as all others do.
 *
 * Errors: bad_archive.
 */
export function checkSegments(
  segments: Segment[],
  sizeBytes: number,
  storedBytes: number,
  offset: number,
): void {
  let end = 0
  let total = 0
  for (const segment of segments) {
    if (segment.length > 0 && total % BLOCK_BYTES !== 0) {
      throw fail('bad_archive', {
        offset,
        reason: 'its sparse map goes on inside a block of its data, which parsers read differently',
      })
    }
    const next = segment.offset + segment.length
    if (segment.offset < end || !Number.isSafeInteger(next) || next > sizeBytes) {
      throw fail('bad_archive', {
        offset,
        reason: 'its sparse map overlaps, descends or leaves the file',
      })
    }
    end = next
    total += segment.length
  }
  if (end !== sizeBytes) {
    throw fail('bad_archive', {
      offset,
      reason: `its sparse map ends at ${end} of ${sizeBytes} bytes, where some parsers end the file`,
    })
  }
  if (total !== storedBytes) {
    throw fail('bad_archive', {
      offset,
      reason: `its sparse map covers ${total} bytes but ${storedBytes} are stored`,
    })
  }
}

/**
 * Reads up to `count` map entries of the old GNU format at `start` into `segments`; a blank entry ends the list.
 * Returns whether the list ended.
 *
 * Errors: bad_archive.
 */
export function readOldSegments(
  block: Buffer,
  start: number,
  count: number,
  segments: Segment[],
  offset: number,
): boolean {
  let hasEnded = false
  for (let i = 0; i < count; i++) {
    const at = start + i * 24
    const isBlank = block[at] === 0 && block[at + 12] === 0
    if (isBlank) {
      hasEnded = true
      continue
    }
    if (hasEnded)
      throw fail('bad_archive', {offset, reason: 'its sparse map goes on after its end'})
    const from = readNumber(block, at, 12, 'sparse offset', offset)
    const length = readNumber(block, at + 12, 12, 'sparse length', offset)
    if (from === undefined || length === undefined || from < 0 || length < 0) {
      throw fail('bad_archive', {offset, reason: 'its sparse map has a field that is no size'})
    }
    segments.push({offset: from, length})
  }
  return hasEnded
}

/** Whether an old GNU sparse header or extension says that another extension block follows. */
export function readExtended(block: Buffer, at: number, offset: number): boolean {
  const flag = block[at]
  if (flag === 0 || flag === 0x30) return false
  if (flag === 1 || flag === 0x31) return true
  throw fail('bad_archive', {offset, reason: 'its sparse header has an unknown flag'})
}

/**
 * The map of a PAX 1.0 sparse file, which stands before its data: decimal numbers, each ended by a newline, the
 * first one counting pairs, padded with NULs to a whole block. Fed block by block; `segments` is set when it is complete.
 */
export class SparseMapReader {
  private text = ''
  private numbers: number[] = []
  private count: number | undefined
  private readonly offset: number
  private readonly bytesMax: number
  private bytes = 0

  constructor(offset: number, bytesMax: number) {
    this.offset = offset
    this.bytesMax = bytesMax
  }

  /** Takes one block; returns the segments once the map is complete. */
  push(block: Buffer, start: number): Segment[] | undefined {
    this.bytes += BLOCK_BYTES
    if (this.bytes > this.bytesMax) throw this.bad('is too long')
    const end = start + BLOCK_BYTES
    for (let at = start; at < end; at++) {
      const byte = block[at] ?? 0
      if (byte === 0x0a) {
        if (this.text === '') throw this.bad('has an empty number')
        if (this.take(Number(this.text))) {
          for (let rest = at + 1; rest < end; rest++) {
            if (block[rest] !== 0) throw this.bad('has bytes after its end')
          }
          return this.segments()
        }
        this.text = ''
      } else if (byte >= 0x30 && byte <= 0x39 && this.text.length < 20) {
        this.text += String.fromCharCode(byte)
      } else {
        throw this.bad('has something that is not a number')
      }
    }
    return undefined
  }

  /** Whether that was the last number. */
  private take(value: number): boolean {
    if (!Number.isSafeInteger(value)) throw this.bad('has a number beyond every real size')
    if (this.count === undefined) this.count = value
    else this.numbers.push(value)
    return this.numbers.length === this.count * 2
  }

  private segments(): Segment[] {
    const segments: Segment[] = []
    for (let i = 0; i < this.numbers.length; i += 2) {
      segments.push({offset: this.numbers[i] ?? 0, length: this.numbers[i + 1] ?? 0})
    }
    return segments
  }

  private bad(what: string) {
    return fail('bad_archive', {offset: this.offset, reason: `its sparse map ${what}`})
  }

  /** Bytes of the map so far, which are part of the entry's stored size. */
  get bytesRead(): number {
    return this.bytes
  }
}
