/**
 * Tells systemd how the worker is (sd_notify(3)).
 *
 * Node has no datagram sockets of the unix family, so systemd's own program sends the messages. It is a child of the
 * main process and with enough rights sends in that one's name; without them it waits (as it does by default) until
 * systemd has read the message, and the unit says NotifyAccess=all. MAINPID is never sent: the launcher execs, so the
 * process that systemd started is the worker itself.
 */
import type {Logger} from '../core/log.ts'

export type Notifier = {
  /** Puts one message in line; returns at once. Messages arrive in order. */
  send(...assignments: string[]): void
  /** Resolves when every message was handed over, or after `withinMs`. */
  flush(withinMs: number): Promise<void>
}

// systemd-notify gives up on a manager that does not read after five seconds by itself.
const sendTimeoutMs = 10_000

/** The notifier for the socket in NOTIFY_SOCKET; one that does nothing when there is none. */
export function makeNotifier(o: {socket: string | undefined; log: Logger}): Notifier {
  const {socket, log} = o
  if (socket === undefined) return {send: () => undefined, flush: () => Promise.resolve()}
  const pending: string[][] = []
  let sending: Promise<void> | undefined
  let isBroken = false

  const drain = async (): Promise<void> => {
    const {execa} = await import('execa')
    for (let next = pending.shift(); next !== undefined; next = pending.shift()) {
      if (isBroken) continue
      const result = await execa('systemd-notify', next, {
        env: {NOTIFY_SOCKET: socket},
        stdio: ['ignore', 'ignore', 'pipe'],
        timeout: sendTimeoutMs,
        killSignal: 'SIGKILL',
        reject: false,
        // A dying worker must not wait for, nor take down, a message under way.
        cleanup: false,
      })
      // At a stop systemd may send its signal to every process of the unit, this messenger too.
      if (!result.failed || (result.isTerminated && !result.timedOut)) continue
      if (result.code === 'ENOENT') {
        isBroken = true
        log.warn({program: 'systemd-notify'}, 'systemd is not told: the program is not installed')
      } else {
        log.warn(
          {reason: result.stderr || result.shortMessage},
          'a message to systemd was not taken',
        )
      }
    }
  }

  return {
    send: (...assignments) => {
      const message = assignments.map(oneLine)
      const key = keyOf(message)
      // While one message is under way only the newest status and one sign of life need to wait behind it.
      const same = pending.findIndex((other) => keyOf(other) === key)
      if (same >= 0 && (key === 'STATUS' || key === 'WATCHDOG')) pending[same] = message
      else pending.push(message)
      sending ??= drain().finally(() => {
        sending = undefined
      })
    },
    flush: async (withinMs) => {
      if (!sending) return
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, withinMs)
      })
      await Promise.race([sending, late])
      clearTimeout(timer)
    },
  }
}

function keyOf(message: string[]): string {
  return message.length === 1 ? (message[0]?.split('=', 1)[0] ?? '') : ''
}

function oneLine(assignment: string): string {
  return assignment.replaceAll(/\p{Cc}+/gu, ' ')
}

/** Microseconds of the monotonic clock, as RELOADING=1 wants it. */
export function monotonicUsec(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`
}

/** How often systemd wants to hear from this process; undefined when it does not, or means another (sd_watchdog_enabled(3)). */
export function watchdogUsecOf(o: {
  watchdogUsec: number | undefined
  watchdogPid: number | undefined
}): number | undefined {
  // A program that systemd started may have started us, with its own environment.
  const isMeant = o.watchdogPid === undefined || o.watchdogPid === process.pid
  return isMeant && o.watchdogUsec ? o.watchdogUsec : undefined
}

/**
 * Sends a sign of life at half the interval that systemd asks for, but only if `beat` was called since the last one:
 * a loop that hangs is restarted even while timers still run.
 */
export function startWatchdog(o: {watchdogUsec: number; notifier: Notifier}): {
  beat(): void
  stop(): void
} {
  let hasBeaten = false
  const timer = setInterval(
    () => {
      if (!hasBeaten) return
      hasBeaten = false
      o.notifier.send('WATCHDOG=1')
    },
    Math.max(1, Math.floor(o.watchdogUsec / 2000)),
  )
  timer.unref()
  return {
    beat: () => {
      hasBeaten = true
    },
    stop: () => clearInterval(timer),
  }
}
