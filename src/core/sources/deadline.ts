import {fail} from '../errors.ts'

/** One signal for "the caller gave up" and "it took too long in all". `clear` must be called at the end. */
export class Deadline {
  readonly signal: AbortSignal
  readonly #timer: NodeJS.Timeout
  readonly #caller: AbortSignal
  readonly #onAbort: () => void

  constructor(url: string, caller: AbortSignal, totalTimeoutMs: number) {
    const controller = new AbortController()
    this.signal = controller.signal
    this.#caller = caller
    this.#onAbort = () => controller.abort(caller.reason)
    caller.addEventListener('abort', this.#onAbort, {once: true})
    this.#timer = setTimeout(() => {
      const reason = `it took longer than ${totalTimeoutMs} ms in all`
      controller.abort(fail('source_unavailable', {url, reason}))
    }, totalTimeoutMs)
  }

  clear(): void {
    clearTimeout(this.#timer)
    this.#caller.removeEventListener('abort', this.#onAbort)
  }
}
