/** When a failed step is tried again. Pure. */
import type {ImgstoreError} from '../errors.ts'

export type RetrySettings = {
  /** Attempts at one step without progress. */
  maxAttempts: number
  waitMs: number
  waitMaxMs: number
  jitterPercent: number
}

/** How often it is looked whether what a run waits for is there, as a multiple of the first wait between attempts. */
const looksEvery = 5

/** The longest wait that a source may ask for with Retry-After. */
export const retryAfterMaxMs = 3_600_000

export type RetryDecision =
  {isRetried: false} | {isRetried: true; waitMs: number; nextAttempt: number}

/**
 * Decides about a failed attempt.
 *
 * `attempt` counts from 1; one that made progress does not count, and the next is the first again. Waits double from
 * `waitMs`, vary upwards by the jitter (`random` in 0 … 1), and are at least what the source asked for. What only waits
 * for the host (`retry: 'wait'`) is no attempt: it is looked at again, for as long as it takes.
 */
export function decideRetry(
  error: ImgstoreError,
  attempt: number,
  hadProgress: boolean,
  settings: RetrySettings,
  random: number,
): RetryDecision {
  if (error.retry === 'wait') {
    const lookMs = Math.min(settings.waitMs * looksEvery, settings.waitMaxMs)
    const waitMs = Math.round(lookMs * (1 + (settings.jitterPercent / 100) * random))
    return {isRetried: true, waitMs, nextAttempt: attempt}
  }
  if (error.retry !== 'backoff') return {isRetried: false}
  const counted = hadProgress ? 1 : attempt
  if (counted >= settings.maxAttempts && !hadProgress) return {isRetried: false}
  const doubled = Math.min(settings.waitMs * 2 ** Math.min(counted - 1, 30), settings.waitMaxMs)
  const varied = doubled * (1 + (settings.jitterPercent / 100) * random)
  const asked = error.details['retryAfterMs']
  const atLeast = typeof asked === 'number' ? Math.min(Math.max(asked, 0), retryAfterMaxMs) : 0
  const nextAttempt = hadProgress ? 1 : attempt + 1
  return {isRetried: true, waitMs: Math.round(Math.max(varied, atLeast)), nextAttempt}
}
