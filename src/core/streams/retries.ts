import {setTimeout as sleep} from 'node:timers/promises'
import {ImgstoreError} from '../errors.ts'
import type {Settings} from '../settings.ts'

type RetrySettings = Pick<Settings, 'maxAttempts' | 'retryWaitMs' | 'retryWaitMaxMs'>

/** Does something again, after growing waits, while it fails in a way that may pass by itself. */
export async function withRetries<T>(
  settings: RetrySettings,
  signal: AbortSignal,
  body: () => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await body()
    } catch (error) {
      signal.throwIfAborted()
      const isPassing = error instanceof ImgstoreError && error.retry === 'backoff'
      if (!isPassing || attempt >= settings.maxAttempts) throw error
      const asked = error.details['retryAfterMs']
      const waitMs = Math.max(
        settings.retryWaitMs * 2 ** (attempt - 1),
        typeof asked === 'number' ? asked : 0,
      )
      await sleep(Math.min(waitMs, settings.retryWaitMaxMs), undefined, {signal})
    }
  }
}
