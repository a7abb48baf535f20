/**
 * Finds where zstd frames end, by their block headers alone (RFC 8878, sections 3.1.1 and 3.1.2). Node's decompressor
 * silently drops what follows a frame inside one write (seen with 24.21), and many writers (pzstd, parallel
 * uploads) make several frames; so each write must end where a frame ends.
 */
import {fail} from '../../errors.ts'

/** Bytes `start` … `end` of a chunk; `isSkippable` for those of a skippable frame, which hold no data. */
export type FramePart = {start: number; end: number; isSkippable: boolean}

type Expect = 'magic' | 'skippable-size' | 'descriptor' | 'header-rest' | 'block-header' | 'body'

export class ZstdFrames {
  private expect: Expect = 'magic'
  private need = 4
  private readonly field = Buffer.alloc(4)
  private fieldBytes = 0
  private isSkippable = false
  private hasChecksum = false
  private isLastBlock = false
  private position = 0

  /** Whether the bytes so far end between two frames. */
  get isBetweenFrames(): boolean {
    return this.expect === 'magic' && this.fieldBytes === 0
  }

  /**
   * Cuts a chunk at the ends of frames.
   *
   * Errors: bad_archive for what is no frame.
   */
  split(chunk: Buffer): FramePart[] {
    const parts: FramePart[] = []
    let partStart = 0
    let at = 0
    while (at < chunk.length) {
      const count = Math.min(this.need - this.fieldBytes, chunk.length - at)
      if (this.expect !== 'body' && this.expect !== 'header-rest') {
        chunk.copy(this.field, this.fieldBytes, at, at + count)
      }
      this.fieldBytes += count
      at += count
      if (this.fieldBytes < this.need) break
      const wasSkippable = this.isSkippable
      this.fieldBytes = 0
      const hasEnded = this.advance(this.position + at)
      // The four bytes of magic say what kind of frame this is, so a part is told apart only after them.
      if (hasEnded) {
        parts.push({start: partStart, end: at, isSkippable: wasSkippable})
        partStart = at
      }
    }
    if (partStart < chunk.length) {
      parts.push({start: partStart, end: chunk.length, isSkippable: this.isSkippable})
    }
    this.position += chunk.length
    return parts
  }

  /** Acts on a complete field; returns whether a frame ended with it. */
  private advance(offset: number): boolean {
    switch (this.expect) {
      case 'magic': {
        const magic = this.field.readUInt32LE(0)
        this.isSkippable = (magic & 0xffff_fff0) >>> 0 === 0x184d_2a50
        if (this.isSkippable) return this.next('skippable-size', 4)
        if (magic !== 0xfd2f_b528) {
          throw fail('bad_archive', {
            offset: offset - 4,
            reason: 'the zstd data is followed by something else',
          })
        }
        return this.next('descriptor', 1)
      }
      case 'skippable-size':
        this.isLastBlock = true
        this.hasChecksum = false
        return this.next('body', this.field.readUInt32LE(0))
      case 'descriptor': {
        const descriptor = this.field.readUInt8(0)
        this.hasChecksum = (descriptor & 4) !== 0
        const isSingle = (descriptor & 0x20) !== 0
        const sizeFlag = descriptor >> 6
        const sizeBytes = sizeFlag === 0 ? (isSingle ? 1 : 0) : 1 << sizeFlag
        const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0
        return this.next('header-rest', sizeBytes + dictionaryBytes + (isSingle ? 0 : 1))
      }
      case 'header-rest':
        return this.next('block-header', 3)
      case 'block-header': {
        const header = this.field.readUIntLE(0, 3)
        this.isLastBlock = (header & 1) !== 0
        const type = (header >> 1) & 3
        const size = header >> 3
        // A block of type 1 is one byte repeated `size` times.
        const bodyBytes = type === 1 ? 1 : size
        return this.next('body', bodyBytes + (this.isLastBlock && this.hasChecksum ? 4 : 0))
      }
      case 'body':
        if (!this.isLastBlock) return this.next('block-header', 3)
        this.next('magic', 4)
        this.isSkippable = false
        return true
    }
  }

  private next(expect: Expect, need: number): boolean {
    this.expect = expect
    this.need = need
    // A field of no bytes is complete at once.
    return need === 0 ? this.advance(this.position) : false
  }
}
