/** Where an image's bytes go, in large pieces. */

const CHUNK_BYTES = 1 << 18

/** Bytes that go out in large pieces; positions count from the image's beginning. */
export class ImageSink {
  private readonly buffer = Buffer.alloc(CHUNK_BYTES)
  private used = 0
  private written = 0
  private readonly out: (chunk: Buffer) => void

  constructor(out: (chunk: Buffer) => void) {
    this.out = out
  }

  get position(): number {
    return this.written + this.used
  }

  /** Zeros up to a position ahead. */
  padTo(position: number): void {
    while (this.position < position) this.take(Math.min(position - this.position, CHUNK_BYTES))
  }

  /** Room for `bytes` bytes, which are zeros until the caller writes them, at the returned place of `target`. */
  take(bytes: number): number {
    if (this.used + bytes > CHUNK_BYTES) this.flush()
    const at = this.used
    this.used += bytes
    return at
  }

  get target(): Buffer {
    return this.buffer
  }

  /** A few bytes, or many. */
  write(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(bytes.length - at, CHUNK_BYTES)
      const place = this.take(count)
      bytes.copy(this.buffer, place, at, at + count)
      at += count
    }
  }

  /** Hands on what there is. The receiver must be done with it when it returns. */
  flush(): void {
    if (this.used === 0) return
    this.out(this.buffer.subarray(0, this.used))
    this.written += this.used
    this.buffer.fill(0, 0, this.used)
    this.used = 0
  }
}
