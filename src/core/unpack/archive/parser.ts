/**
 * The tar parser: bytes in, entries and their data out, synchronously and in order, with nothing kept but what the
 * current entry needs. It refuses what is malformed and knows nothing about what is allowed (policy.ts does).
 */
import {fail} from '../../errors.ts'
import {archiveBounds, KiB} from '../../limits.ts'
import type {Entry} from './entry.ts'
import {displayName} from './entry.ts'
import {makeEntry, type MetaHeaders} from './assemble.ts'
import {BLOCK_BYTES, isZeroBlock, readHeader, type RawHeader} from './header.ts'
import {checkGlobalPax, parsePax} from './pax.ts'
import {
  checkSegments,
  EXTENSION_SEGMENTS,
  readExtended,
  readOldSegments,
  SparseMapReader,
} from './sparse.ts'

/** Where entries go. `begin` returns whether the entry's data is wanted; then come `write` calls and one `finish`. */
export type ArchiveSink = {
  begin(entry: Entry): boolean
  write(chunk: Buffer, start: number, end: number): void
  finish(): void
  /** Something harmless but odd. */
  warn(code: string, entry: string, message: string): void
}

type Expect = 'header' | 'second-zero' | 'old-sparse' | 'sparse-map'
type State = 'block' | 'meta' | 'data' | 'padding' | 'trailer'

const noBytes = Buffer.alloc(0)

export class ArchiveParser {
  private readonly sink: ArchiveSink
  private state: State = 'block'
  private expect: Expect = 'header'
  /** Bytes still to come in the states meta, data and padding. */
  private remaining = 0
  /** Where the current chunk begins in the archive. */
  private position = 0
  /** Where the block at work ends in the archive. */
  private blockEnd = 0
  private readonly block = Buffer.alloc(BLOCK_BYTES)
  private blockBytes = 0

  private meta: Buffer = noBytes
  /** Reused for every small extended header: many archives have one for each entry. What is kept of one is copied. */
  private readonly metaScratch = Buffer.alloc(16 * KiB)
  private metaBytes = 0
  private metaTotalBytes = 0
  private metaType = ''
  private pending: MetaHeaders = {}

  private entry: Entry | undefined
  private isWanted = false
  private mapReader: SparseMapReader | undefined
  private lastName = ''
  private lastOffset = 0

  constructor(sink: ArchiveSink) {
    this.sink = sink
  }

  /** The entry that was begun last, for messages about the archive as a whole. */
  get current(): {entry: string; offset: number} {
    return {entry: displayName(this.lastName), offset: this.lastOffset}
  }

  /** While an entry is begun: where its data begins in the uncompressed archive. */
  get dataPosition(): number {
    return this.blockEnd
  }

  /** How many of the next bytes need not be pushed, because they are data that nobody wants. */
  get skippableBytes(): number {
    return this.state === 'data' && !this.isWanted ? this.remaining : 0
  }

  /** Takes `bytes` of `skippableBytes` as read. */
  skip(bytes: number): void {
    this.position += bytes
    this.remaining -= bytes
    if (this.state === 'data' && this.remaining === 0) this.endData()
  }

  /**
   * Takes the next bytes of the uncompressed archive. `chunk` may be reused by the caller afterwards.
   *
   * Errors: bad_archive, unsafe_archive, and what the sink throws.
   */
  push(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length) {
      const left = chunk.length - at
      switch (this.state) {
        case 'block':
          if (this.blockBytes === 0 && left >= BLOCK_BYTES) {
            this.takeBlock(chunk, at, this.position + at)
            at += BLOCK_BYTES
          } else {
            const count = Math.min(BLOCK_BYTES - this.blockBytes, left)
            chunk.copy(this.block, this.blockBytes, at, at + count)
            this.blockBytes += count
            at += count
            if (this.blockBytes === BLOCK_BYTES) {
              this.blockBytes = 0
              this.takeBlock(this.block, 0, this.position + at - BLOCK_BYTES)
            }
          }
          break
        case 'data': {
          const count = Math.min(this.remaining, left)
          if (this.isWanted) this.sink.write(chunk, at, at + count)
          at += count
          this.remaining -= count
          if (this.remaining === 0) this.endData()
          break
        }
        case 'meta': {
          const count = Math.min(this.meta.length - this.metaBytes, left)
          chunk.copy(this.meta, this.metaBytes, at, at + count)
          this.metaBytes += count
          at += count
          if (this.metaBytes === this.meta.length) this.endMeta()
          break
        }
        case 'padding': {
          const count = Math.min(this.remaining, left)
          at += count
          this.remaining -= count
          if (this.remaining === 0) this.state = 'block'
          break
        }
        case 'trailer':
          for (; at < chunk.length; at++) {
            if (chunk[at] !== 0) {
              throw this.bad(this.position + at, 'it has data after its end')
            }
          }
          break
      }
    }
    this.position += chunk.length
  }

  /**
   * Says that there are no more bytes.
   *
   * Errors: bad_archive when the archive is cut short.
   */
  end(): void {
    if (this.state === 'trailer') return
    if (this.state === 'block' && this.expect === 'second-zero' && this.blockBytes === 0) {
      this.sink.warn('lone_zero_block', '', 'the archive ends with one zero block instead of two')
      return
    }
    throw this.bad(this.position, 'it ends before its end-of-archive mark')
  }

  private takeBlock(block: Buffer, start: number, offset: number): void {
    this.blockEnd = offset + BLOCK_BYTES
    switch (this.expect) {
      case 'header':
        if (isZeroBlock(block, start)) {
          if (this.hasPending()) throw this.bad(offset, 'it ends after an extended header')
          this.expect = 'second-zero'
        } else {
          this.takeHeader(readHeader(block, start, offset), block, start, offset)
        }
        return
      case 'second-zero':
        if (!isZeroBlock(block, start)) {
          throw this.bad(offset, 'it goes on after a zero block, where some parsers stop')
        }
        this.state = 'trailer'
        return
      case 'old-sparse':
        this.takeOldSparse(block, start)
        return
      case 'sparse-map':
        this.takeSparseMap(block, start)
        return
    }
  }

  private takeHeader(header: RawHeader, block: Buffer, start: number, offset: number): void {
    switch (header.type) {
      case 'x':
        if (this.pending.pax !== undefined) {
          throw this.bad(offset, 'it has two extended headers for one entry')
        }
        this.beginMeta(header, offset)
        return
      case 'g':
        // A global header between an entry's own extended header and the entry: parsers differ about the order.
        if (this.hasPending()) throw this.bad(offset, 'it has a global header inside an entry')
        this.beginMeta(header, offset)
        return
      case 'L':
      case 'K':
        if (header.type === 'L' ? this.pending.longName : this.pending.longLink) {
          throw this.bad(offset, 'it has two long names for one entry')
        }
        this.beginMeta(header, offset)
        return
      default:
    }
    if (this.pending.pax && (this.pending.longName ?? this.pending.longLink) !== undefined) {
      throw this.bad(offset, 'it has both an extended header and a GNU long name for one entry')
    }
    const entry = makeEntry(header, this.pending, block, start, offset, this.sink)
    const sparse = this.pending.pax?.sparse
    this.pending = {}
    this.entry = entry
    if (header.type === 'S') {
      if (readExtended(block, start + 482, offset)) {
        this.expect = 'old-sparse'
        return
      }
    } else if (sparse?.major === 1) {
      this.mapReader = new SparseMapReader(offset, archiveBounds.metaEntryBytesMax)
      this.expect = 'sparse-map'
      return
    }
    this.beginEntry(entry)
  }

  private takeOldSparse(block: Buffer, start: number): void {
    const entry = this.needEntry()
    const segments = entry.segments ?? []
    this.addMetaBytes(BLOCK_BYTES, entry.offset)
    const hasEnded = readOldSegments(block, start, EXTENSION_SEGMENTS, segments, entry.offset)
    const goesOn = readExtended(block, start + EXTENSION_SEGMENTS * 24, entry.offset)
    if (hasEnded && goesOn) throw this.bad(entry.offset, 'its sparse map goes on after its end')
    if (segments.length * 24 > archiveBounds.metaEntryBytesMax) {
      throw this.bad(entry.offset, 'its sparse map is too long')
    }
    if (!goesOn) this.beginEntry(entry)
  }

  private takeSparseMap(block: Buffer, start: number): void {
    const entry = this.needEntry()
    const reader = this.mapReader
    if (reader === undefined) throw this.bad(entry.offset, 'its sparse map has no reader')
    this.addMetaBytes(BLOCK_BYTES, entry.offset)
    if (entry.storedBytes < reader.bytesRead + BLOCK_BYTES) {
      throw this.bad(entry.offset, 'its sparse map is longer than its data')
    }
    const segments = reader.push(block, start)
    if (segments === undefined) return
    entry.segments = segments
    entry.storedBytes -= reader.bytesRead
    this.mapReader = undefined
    this.beginEntry(entry)
  }

  private beginEntry(entry: Entry): void {
    if (entry.segments !== undefined) {
      checkSegments(entry.segments, entry.sizeBytes, entry.storedBytes, entry.offset)
    }
    this.lastName = entry.name
    this.lastOffset = entry.offset
    this.expect = 'header'
    this.isWanted = this.sink.begin(entry)
    this.remaining = entry.storedBytes
    if (this.remaining === 0) this.endData()
    else this.state = 'data'
  }

  private endData(): void {
    const entry = this.needEntry()
    if (this.isWanted) this.sink.finish()
    this.entry = undefined
    this.pad(entry.storedBytes)
  }

  private pad(bodyBytes: number): void {
    this.remaining = (BLOCK_BYTES - (bodyBytes % BLOCK_BYTES)) % BLOCK_BYTES
    this.state = this.remaining === 0 ? 'block' : 'padding'
  }

  private beginMeta(header: RawHeader, offset: number): void {
    if (header.sizeBytes > archiveBounds.metaEntryBytesMax) {
      throw this.unsafe(
        offset,
        `has more than ${archiveBounds.metaEntryBytesMax} bytes of extended header`,
      )
    }
    if (header.sizeBytes === 0) throw this.bad(offset, 'it has an empty extended header')
    this.addMetaBytes(header.sizeBytes, offset)
    this.metaType = header.type
    const isSmall = header.sizeBytes <= this.metaScratch.length
    this.meta = isSmall
      ? this.metaScratch.subarray(0, header.sizeBytes)
      : Buffer.alloc(header.sizeBytes)
    this.metaBytes = 0
    this.lastOffset = offset
    this.state = 'meta'
  }

  private endMeta(): void {
    const body = this.meta
    const offset = this.lastOffset
    switch (this.metaType) {
      case 'x':
        this.pending.pax = parsePax(body, offset)
        break
      case 'g':
        checkGlobalPax(body, offset)
        break
      case 'L':
        this.pending.longName = this.readLongName(body, offset)
        break
      default:
        this.pending.longLink = this.readLongName(body, offset)
    }
    this.meta = noBytes
    this.pad(body.length)
  }

  /** The body of a GNU long name: the name and the NUL that ends it. */
  private readLongName(body: Buffer, offset: number): string {
    const end = body.indexOf(0)
    // Python's tarfile reads on into the padding, and finds a longer name there.
    if (end === -1) throw this.bad(offset, 'its long name does not end with a NUL')
    if (end === 0) throw this.bad(offset, 'its long name is empty')
    for (let at = end; at < body.length; at++) {
      if (body[at] !== 0) throw this.bad(offset, 'its long name has bytes after its end')
    }
    return body.toString('latin1', 0, end)
  }

  private addMetaBytes(bytes: number, offset: number): void {
    this.metaTotalBytes += bytes
    if (this.metaTotalBytes > archiveBounds.metaTotalBytesMax) {
      throw this.unsafe(
        offset,
        `brings the extended headers to more than ${archiveBounds.metaTotalBytesMax} bytes`,
      )
    }
  }

  private hasPending(): boolean {
    const {pax, longName, longLink} = this.pending
    return pax !== undefined || longName !== undefined || longLink !== undefined
  }

  private needEntry(): Entry {
    if (this.entry === undefined) throw this.bad(this.position, 'it has data without an entry')
    return this.entry
  }

  private bad(offset: number, reason: string) {
    return fail('bad_archive', {offset, reason})
  }

  private unsafe(offset: number, rule: string) {
    return fail('unsafe_archive', {entry: displayName(this.lastName), offset, rule})
  }
}
