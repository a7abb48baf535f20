/**
 * The bytes of an answer in batches of about 1 MiB.
 *
 * With 64 KiB chunks each on their own a download costs 15-20 % more CPU (bench/download.ts). While the caller works on a batch,
 * the next one gathers.
 */
import type {IncomingMessage} from 'node:http'
import {fail} from '../errors.ts'
import {KiB} from '../limits.ts'
import {openDirectInbox} from './bulk.ts'
import {batchBytes, type Inbox, StreamInbox} from './inbox.ts'

// A slow source must not wait for a full batch: what has come is handed on after this time, so that progress is kept.
const lingerMs = 50
// A source that brings less than this in a whole stall timeout is as good as silent: at such a pace nothing gets done.
const paceBytesMin = KiB

export type BatchOptions = {
  /** Address for messages, already without secrets. */
  url: string
  signal: AbortSignal
  stallTimeoutMs: number
  /** Where in the whole the body begins. */
  startByte: number
  /** Where in the whole the body must end, when known. */
  endByte?: number
  maxBlobBytes: number
  /** Says what a broken connection means. */
  describe: (error: Error) => Error
}

/** Yields the body of an answer; ends the connection whatever happens. The errors are those of `OpenedSource.body`. */
export async function* readBatches(
  response: IncomingMessage,
  options: BatchOptions,
): AsyncGenerator<readonly Buffer[], void, undefined> {
  const {url, signal, startByte, endByte, maxBlobBytes} = options
  const lengthBytes = endByte === undefined ? undefined : endByte - startByte
  const inbox = openDirectInbox(response, lengthBytes) ?? new StreamInbox(response)
  const onAbort = (): void => {
    inbox.fail(signal.reason as Error)
    response.destroy()
  }
  const pace = new Pace(inbox, options)
  let position = startByte
  try {
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, {once: true})
    while (true) {
      await pace.waitForBytes()
      // The first bytes go at once to the caller, who may see from them that he does not want the rest.
      if (position > startByte) await pace.linger()
      const batch = inbox.take()
      pace.took(batch.sizeBytes)
      if (batch.sizeBytes > 0) {
        position += batch.sizeBytes
        if (position > maxBlobBytes) {
          throw fail('source_too_large', {url, sizeBytes: position, limitBytes: maxBlobBytes})
        }
        yield batch.chunks
        continue
      }
      if (inbox.failure !== undefined) {
        if (signal.aborted || endByte === undefined) throw inbox.failure
        throw fail(
          'source_incomplete',
          {url, receivedBytes: position, expectedBytes: endByte},
          {cause: inbox.failure},
        )
      }
      if (endByte !== undefined && position !== endByte) {
        throw fail('source_incomplete', {url, receivedBytes: position, expectedBytes: endByte})
      }
      return
    }
  } catch (error) {
    throw inbox.failure !== undefined && error === inbox.failure && !signal.aborted
      ? options.describe(inbox.failure)
      : error
  } finally {
    signal.removeEventListener('abort', onAbort)
    response.destroy()
  }
}

/** Sees to it that a source neither falls silent nor trickles. Time in which the caller works does not count. */
class Pace {
  readonly #inbox: Inbox
  readonly #options: BatchOptions
  /** Since so many bytes were last together: how long they were waited for, and how many there are now. */
  #waitedMs = 0
  #sizeBytes = 0

  constructor(inbox: Inbox, options: BatchOptions) {
    this.#inbox = inbox
    this.#options = options
  }

  /** Resolves when there are bytes or no more will come. Errors: source_stalled. */
  async waitForBytes(): Promise<void> {
    const {url, stallTimeoutMs} = this.#options
    const leftMs = stallTimeoutMs - this.#waitedMs
    if (await this.#wait(leftMs > 0 ? 1 : paceBytesMin, Math.max(1, leftMs))) return
    const received = this.#sizeBytes === 0 ? {} : {receivedBytes: this.#sizeBytes}
    throw fail('source_stalled', {url, idleMs: stallTimeoutMs, ...received})
  }

  /** Waits a moment for a batch to become full. */
  async linger(): Promise<void> {
    await this.#wait(batchBytes, lingerMs)
  }

  took(sizeBytes: number): void {
    this.#sizeBytes += sizeBytes
    if (this.#sizeBytes < paceBytesMin) return
    this.#sizeBytes = 0
    this.#waitedMs = 0
  }

  async #wait(sizeBytes: number, ms: number): Promise<boolean> {
    const startedAt = performance.now()
    const isHere = await this.#inbox.wait(sizeBytes, ms)
    this.#waitedMs += performance.now() - startedAt
    return isHere
  }
}
