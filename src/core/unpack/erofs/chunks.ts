/**
 * Files with holes. Their data stands in the device without the holes, so a file becomes a table of chunks of one
 * size: a hole, a place in the device, or, where neither fits, a place in the image that holds a copy. A chunk fits
 * when it lies in one run of data whose place in the device begins a block.
 */
import type {Segment} from '../archive/entry.ts'
import {BLOCK_BITS, BLOCK_BYTES, CHUNK_BITS_MAX} from './format.ts'

export type SparseFile = {
  sizeBytes: number
  /** Where the first segment's bytes are in the device. */
  position: number
  /** In order, without overlap, none empty; neighbours joined. */
  segments: readonly Segment[]
}

/** Runs of chunks of one kind, which cover the file in order. */
export type ChunkRun =
  | {kind: 'hole'; count: number}
  /** The first chunk is at `position` of the device, the others follow. */
  | {kind: 'device'; count: number; position: number}
  /** One chunk that is copied: pieces of the device at places in the chunk, the rest zeros. */
  | {kind: 'copy'; sizeBytes: number; pieces: {at: number; length: number; position: number}[]}

/** Joins neighbours and drops what is empty, so that every gap between segments is a hole. */
export function joinSegments(segments: readonly Segment[]): Segment[] {
  const joined: Segment[] = []
  for (const {offset, length} of segments) {
    const last = joined.at(-1)
    if (length === 0) continue
    if (last !== undefined && last.offset + last.length === offset) last.length += length
    else joined.push({offset, length})
  }
  return joined
}

/** Whether the file is one run of data that a flat inode can point to. */
export function isFlat({sizeBytes, position, segments}: SparseFile): boolean {
  const [only] = segments
  return (
    position % BLOCK_BYTES === 0 &&
    (sizeBytes === 0 || (segments.length === 1 && only?.offset === 0 && only.length === sizeBytes))
  )
}

/** The chunk size, in powers of two of a block, that makes table and copies smallest. */
export function bestChunkBits(file: SparseFile, entryBytes: number): number {
  let best = 0
  let bestCost = Infinity
  for (let bits = 0; bits <= CHUNK_BITS_MAX; bits++) {
    const chunkBytes = 2 ** (bits + BLOCK_BITS)
    const cost = Math.ceil(file.sizeBytes / chunkBytes) * entryBytes + copiedBytes(file, chunkBytes)
    // The smaller of equals, because it keeps more holes.
    if (cost < bestCost) [best, bestCost] = [bits, cost]
    if (chunkBytes >= file.sizeBytes) break
  }
  return best
}

/** Bytes of the image that copies of chunks take, whole blocks each. */
export function copiedBytes(file: SparseFile, chunkBytes: number): number {
  let bytes = 0
  let position = file.position
  let lastCopied = -1
  for (const {offset, length} of file.segments) {
    const end = offset + length
    const first = Math.floor(offset / chunkBytes)
    const last = Math.floor((end - 1) / chunkBytes)
    const isWholeHead = first * chunkBytes === offset
    const isWholeTail = end === Math.min((last + 1) * chunkBytes, file.sizeBytes)
    // Chunks begin blocks of the file, so all of them begin blocks of the device or none does.
    const isAligned = (position - offset) % BLOCK_BYTES === 0
    position += length
    const head = isAligned && isWholeHead ? first + 1 : first
    const tail = isAligned && isWholeTail ? last - 1 : last
    if (isAligned) {
      if (head === first) bytes += copyOnce(first)
      if (tail === last) bytes += copyOnce(last)
    } else {
      for (let chunk = first; chunk <= last;) {
        if (chunk === lastCopied) {
          chunk++
          continue
        }
        // All that follow up to the one before the last are whole.
        const whole = Math.max(0, last - chunk)
        bytes += whole * chunkBytes
        chunk += whole
        bytes += copyOnce(chunk)
        chunk++
      }
    }
  }
  return bytes

  function copyOnce(chunk: number): number {
    if (chunk === lastCopied) return 0
    lastCopied = chunk
    const size = Math.min(chunkBytes, file.sizeBytes - chunk * chunkBytes)
    return Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES
  }
}

/** The table of a file in runs. */
export function* chunkRuns(file: SparseFile, chunkBytes: number): Generator<ChunkRun> {
  const {segments, sizeBytes} = file
  let position = file.position
  let at = 0
  let index = 0
  while (at < sizeBytes) {
    const segment = segments[index]
    const holeEnd = segment === undefined ? sizeBytes : segment.offset
    if (holeEnd > at) {
      // The last chunk may be short.
      const count =
        holeEnd >= sizeBytes
          ? Math.ceil((sizeBytes - at) / chunkBytes)
          : Math.floor((holeEnd - at) / chunkBytes)
      if (count > 0) {
        yield {kind: 'hole', count}
        at += count * chunkBytes
        continue
      }
    }
    if (segment === undefined) return
    const place = position + (at - segment.offset)
    const end = segment.offset + segment.length
    if (at >= segment.offset && place % BLOCK_BYTES === 0) {
      const count =
        end >= sizeBytes
          ? Math.ceil((sizeBytes - at) / chunkBytes)
          : Math.floor((end - at) / chunkBytes)
      if (count > 0) {
        yield {kind: 'device', count, position: place}
        at += count * chunkBytes
        while (index < segments.length && segmentEnd(segments[index]) <= at) {
          position += segments[index]?.length ?? 0
          index++
        }
        continue
      }
    }
    const chunkEnd = Math.min(at + chunkBytes, sizeBytes)
    const pieces = []
    for (;;) {
      const piece = segments[index]
      if (piece === undefined || piece.offset >= chunkEnd) break
      const from = Math.max(piece.offset, at)
      const to = Math.min(piece.offset + piece.length, chunkEnd)
      if (to > from) {
        pieces.push({at: from - at, length: to - from, position: position + from - piece.offset})
      }
      if (segmentEnd(piece) > chunkEnd) break
      position += piece.length
      index++
    }
    yield {kind: 'copy', sizeBytes: chunkEnd - at, pieces}
    at += chunkBytes
  }
}

function segmentEnd(segment: Segment | undefined): number {
  return segment === undefined ? 0 : segment.offset + segment.length
}
