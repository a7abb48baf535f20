/** A clock that the test drives: time passes only when it says so, or when everybody sleeps. */
import type {Clock} from '../../src/core/clock.ts'

type Sleeper = {at: number; wake: () => void}

export class FixedClock implements Clock {
  /** How often somebody asked to sleep. */
  sleeps = 0
  #now: number
  #jumpedMs = 0
  readonly #sleepers = new Set<Sleeper>()

  constructor(now = Date.UTC(2026, 0, 1)) {
    this.#now = now
  }

  now(): number {
    return this.#now
  }

  steady(): number {
    return this.#now - this.#jumpedMs
  }

  /** Sets the time: those who sleep do not notice. */
  jump(ms: number): void {
    this.#now += ms
    this.#jumpedMs += ms
    for (const sleeper of this.#sleepers) sleeper.at += ms
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.sleeps++
    return new Promise((resolve) => {
      if (signal?.aborted) {
        resolve()
        return
      }
      const sleeper: Sleeper = {
        at: this.#now + ms,
        wake: () => {
          this.#sleepers.delete(sleeper)
          signal?.removeEventListener('abort', sleeper.wake)
          resolve()
        },
      }
      this.#sleepers.add(sleeper)
      signal?.addEventListener('abort', sleeper.wake, {once: true})
    })
  }

  get sleeperCount(): number {
    return this.#sleepers.size
  }

  /** Lets time pass and wakes whoever has slept enough, in the order of their alarms. */
  advance(ms: number): void {
    const until = this.#now + ms
    for (;;) {
      const next = [...this.#sleepers]
        .filter((sleeper) => sleeper.at <= until)
        .sort((a, b) => a.at - b.at)[0]
      if (!next) break
      this.#now = Math.max(this.#now, next.at)
      next.wake()
    }
    this.#now = until
  }

  /** Advances to the next alarm again and again until `promise` settles: for code that sleeps by itself. */
  async until<T>(promise: Promise<T>): Promise<T> {
    const state = {isSettled: false}
    const settle = (): void => {
      state.isSettled = true
    }
    promise.then(settle, settle)
    for (;;) {
      // Everything that can happen without time happens first.
      await new Promise((resolve) => setImmediate(resolve))
      if (state.isSettled) return await promise
      const next = Math.min(...[...this.#sleepers].map((sleeper) => sleeper.at))
      if (Number.isFinite(next)) this.advance(Math.max(0, next - this.#now))
    }
  }
}
