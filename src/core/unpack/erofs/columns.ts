/**
 * Growing columns of numbers. A tree of two million entries as objects would need gigabytes of heap; as columns it
 * needs some seventy bytes an entry, outside the heap.
 */

type NumberArray = Uint8Array | Uint16Array | Uint32Array | Float64Array

export type Columns = Record<string, NumberArray>

/** The same columns with room for more rows. */
export function grown<T extends Columns>(columns: T, rows: number): T {
  const entries = Object.entries(columns).map(([name, column]) => {
    const Kind = column.constructor as new (length: number) => NumberArray
    const next = new Kind(rows)
    next.set(column)
    return [name, next]
  })
  return Object.fromEntries(entries) as T
}

/** The next size of something that grows: by half, so that little stands empty when it is large. */
export function nextCapacity(capacity: number): number {
  return Math.ceil((capacity * 3) / 2)
}

/** Byte strings, one behind the other. */
export class Texts {
  bytes = Buffer.allocUnsafeSlow(1 << 16)
  length = 0

  /** Adds a byte string; returns where it begins. */
  add(text: string): number {
    const at = this.length
    this.length += text.length
    while (this.length > this.bytes.length) {
      const next = Buffer.allocUnsafeSlow(nextCapacity(this.bytes.length))
      this.bytes.copy(next, 0, 0, at)
      this.bytes = next
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
}
