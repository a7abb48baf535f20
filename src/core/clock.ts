/** The time, handed in so that tests can own it. */
export type Clock = {
  /** Milliseconds since the epoch, UTC. */
  now(): number
  /** Milliseconds since some moment, on and on: for how long to wait. `now` jumps when somebody sets the time. */
  steady(): number
  /** Resolves after `ms`, or at once when `signal` aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  now: () => Date.now(),
  steady: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) {
        resolve()
        return
      }
      const done = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      // A longer one would overflow the timer and end at once.
      const timer = setTimeout(done, Math.min(ms, 2 ** 31 - 1))
      signal?.addEventListener('abort', done, {once: true})
    }),
}
