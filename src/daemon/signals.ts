export type SignalOptions = {
  /** The first SIGTERM or SIGINT. */
  onStop(signal: NodeJS.Signals): void
  /** Each SIGHUP until then. */
  onReload(): void
  /** `stopWithinMs` after the first signal the process still runs and is about to be ended. */
  onLate(): void
  stopWithinMs: number
}

/**
 * Gives a long-running process its manners towards signals: the first SIGTERM or SIGINT asks it to stop, a second
 * one ends it at once (exit 130), and so does running on past `stopWithinMs` (exit 1).
 */
export function catchSignals(o: SignalOptions): {release(): void} {
  let deadline: NodeJS.Timeout | undefined
  const stop = (signal: NodeJS.Signals): void => {
    if (deadline) process.exit(130)
    deadline = setTimeout(() => {
      o.onLate()
      process.exit(1)
    }, o.stopWithinMs)
    o.onStop(signal)
  }
  const reload = (): void => {
    if (!deadline) o.onReload()
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  process.on('SIGHUP', reload)
  return {
    release: () => {
      clearTimeout(deadline)
      process.off('SIGTERM', stop)
      process.off('SIGINT', stop)
      process.off('SIGHUP', reload)
    },
  }
}
