/**
 * The cap on requests in flight, and what keeps slow clients from holding it for ever: a request that finds no permit
 * may take that of an answer whose client takes next to nothing.
 */

/** What holds a permit: an answer on its way. */
export type Holder = {
  /** Body bytes that the client's side of the connection took so far; only grows. */
  takenBytes(): number
  /** Ends the answer and its connection. */
  abort(reason: 'slow_reader' | 'stalled'): void
}

/** A client that takes less than this a second, over the grace time, is slow. */
export const slowBytesPerSecond = 4096
const sampleEveryMs = 500

/** When the client had last taken enough to count as quick, and when it had last taken anything. */
type Mark = {takenBytes: number; at: number; seenBytes: number; seenAt: number}

export class Permits {
  /** 0: without limit. */
  max: number
  graceMs: number
  /** An answer whose client takes nothing for so long is ended. */
  stallMs: number
  readonly #held = new Map<Holder, Mark>()
  #timer: NodeJS.Timeout | undefined
  readonly #now: () => number

  constructor(o: {max: number; graceMs: number; stallMs: number; now?: () => number}) {
    this.max = o.max
    this.graceMs = o.graceMs
    this.stallMs = o.stallMs
    this.#now = o.now ?? (() => performance.now())
  }

  get inFlight(): number {
    return this.#held.size
  }

  /** Takes a permit for `holder`, or says that there is none. Never waits. */
  take(holder: Holder): boolean {
    if (this.max > 0 && this.#held.size >= this.max) {
      // What was taken since the last look counts too.
      this.sample()
    }
    if (this.max > 0 && this.#held.size >= this.max) {
      const slow = this.#slowest()
      if (!slow) return false
      this.#held.delete(slow)
      slow.abort('slow_reader')
    }
    const now = this.#now()
    this.#held.set(holder, {takenBytes: 0, at: now, seenBytes: 0, seenAt: now})
    this.#timer ??= setInterval(() => this.sample(), sampleEveryMs).unref()
    return true
  }

  /** Gives the permit back; harmless when it was taken over. */
  release(holder: Holder): void {
    this.#held.delete(holder)
  }

  /** Looks how far every answer has come, and ends those that stand still. A timer calls it; tests do so themselves. */
  sample(): void {
    const now = this.#now()
    const enough = (slowBytesPerSecond * this.graceMs) / 1000
    for (const [holder, mark] of this.#held) {
      const taken = holder.takenBytes()
      if (taken - mark.takenBytes >= enough) {
        mark.takenBytes = taken
        mark.at = now
      }
      if (taken !== mark.seenBytes) {
        mark.seenBytes = taken
        mark.seenAt = now
      } else if (now - mark.seenAt >= this.stallMs) {
        this.#held.delete(holder)
        holder.abort('stalled')
      }
    }
    if (this.#held.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  close(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** The answer that has been slow for longest. */
  #slowest(): Holder | undefined {
    const since = this.#now() - this.graceMs
    let slowest: Holder | undefined
    let oldest = since
    for (const [holder, mark] of this.#held) {
      if (mark.at > oldest) continue
      oldest = mark.at
      slowest = holder
    }
    return slowest
  }
}
