/** Numbers that look random and are made by a seed, so that every case can be made again. */

export class Random {
  private state: number

  /** Seeds that are neighbours give unlike sequences. */
  constructor(seed: number) {
    // Splits seeds past 32 bits too; the multipliers are those of the hash murmur3.
    let mixed =
      Math.imul(seed >>> 0, 0x85ebca6b) ^ Math.imul(Math.floor(seed / 2 ** 32), 0xc2b2ae35)
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
    this.state = (mixed ^ (mixed >>> 16)) >>> 0
  }

  /** 0 … 2^32 - 1 (the generator mulberry32). */
  word(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }

  /** 0 … `count` - 1. */
  below(count: number): number {
    return Math.floor((this.word() / 2 ** 32) * count)
  }

  /** True once in `count` times. */
  oneIn(count: number): boolean {
    return this.below(count) === 0
  }

  pick<T>(list: readonly T[]): T {
    const chosen = list[this.below(list.length)]
    if (chosen === undefined) throw new Error('nothing to pick from')
    return chosen
  }

  bytes(count: number): Buffer {
    const buffer = Buffer.alloc(count)
    for (let at = 0; at < count; at++) buffer[at] = this.word() >>> 24
    return buffer
  }
}
