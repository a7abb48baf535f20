/**
 * Growing columns of numbers. A tree of two million entries as objects would need gigabytes of heap; as columns it
 * needs some seventy bytes an entry, outside the heap.
 */

type NumberArray =
  | Uint8Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>

export type Columns = Record<string, NumberArray>

/**
 * The same columns with room for more rows, which are zeros. The old ones are empty afterwards: their memory is given
 * back at once, column by column, where the collector would let it stand for long beside the new.
 */
export function grown<T extends Columns>(columns: T, rows: number): T {
  const entries = Object.entries(columns).map(([name, column]) => {
    const Kind = column.constructor as new (memory: ArrayBuffer) => NumberArray
    return [name, new Kind(column.buffer.transfer(rows * column.BYTES_PER_ELEMENT))]
  })
  return Object.fromEntries(entries) as T
}

/** The next size of something that grows: by half, so that little stands empty when it is large. */
export function nextCapacity(capacity: number): number {
  return Math.ceil((capacity * 3) / 2)
}

/** Byte strings, one behind the other. */
export class Texts {
  bytes = Buffer.from(new ArrayBuffer(1 << 16))
  length = 0

  /** Adds a byte string; returns where it begins. */
  add(text: string): number {
    const at = this.length
    this.length += text.length
    while (this.length > this.bytes.length) {
      this.bytes = Buffer.from(this.bytes.buffer.transfer(nextCapacity(this.bytes.length)))
    }
    this.bytes.write(text, at, 'latin1')
    return at
  }

  get(at: number, length: number): string {
    return this.bytes.toString('latin1', at, at + length)
  }

  equals(at: number, length: number, text: string): boolean {
    if (text.length !== length) return false
    for (let i = 0; i < length; i++) if (this.bytes[at + i] !== text.charCodeAt(i)) return false
    return true
  }

  /** Which of two byte strings comes first in the order of their bytes: below 0, 0 or above, as a sort wants it. */
  compare(at: number, length: number, otherAt: number, otherLength: number): number {
    const {bytes} = this
    const count = Math.min(length, otherLength)
    // Names differ mostly within their first bytes, before a call of Buffer's own would have begun.
    const near = Math.min(count, 32)
    for (let i = 0; i < near; i++) {
      const difference = (bytes[at + i] ?? 0) - (bytes[otherAt + i] ?? 0)
      if (difference !== 0) return difference
    }
    if (near === count) return length - otherLength
    return bytes.compare(bytes, otherAt, otherAt + otherLength, at, at + length)
  }
}
