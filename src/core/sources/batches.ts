/**
 * Turns a stream of small chunks into batches of about 1 MiB.
 *
 * One batch is one pull, one run of hash updates and one write; with 64 KiB chunks each on their own a download costs 15-20 %
 * more CPU (measured, section 3.2). While the caller works on a batch, the next one gathers, so at most two are in memory.
 */
import type {Readable} from 'node:stream'
import {fail} from '../errors.ts'
import {MiB} from '../limits.ts'

const batchBytes = MiB
// A slow source must not wait for a full batch: what has come is handed on after this time, so that progress is kept.
const lingerMs = 50

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

/** Yields the stream's chunks in batches; ends the stream whatever happens. The errors are those of `OpenedSource.body`. */
export async function* readBatches(
  stream: Readable,
  options: BatchOptions,
): AsyncGenerator<readonly Buffer[], void, undefined> {
  const {url, signal, startByte, endByte, maxBlobBytes} = options
  const inbox = new Inbox(stream)
  const onAbort = (): void => {
    inbox.fail(signal.reason as Error)
    stream.destroy()
  }
  let position = startByte
  try {
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, {once: true})
    while (true) {
      if (!(await inbox.wait(1, options.stallTimeoutMs))) {
        throw fail('source_stalled', {url, idleMs: options.stallTimeoutMs})
      }
      await inbox.wait(batchBytes, lingerMs)
      const batch = inbox.take()
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
    stream.destroy()
  }
}

/** Chunks that have come and were not taken yet. Pauses the stream when a batch is full. */
class Inbox {
  failure: Error | undefined
  readonly #stream: Readable
  #chunks: Buffer[] = []
  #sizeBytes = 0
  #isEnded = false
  #wakeAtBytes = 0
  #wake: (() => void) | undefined

  constructor(stream: Readable) {
    this.#stream = stream
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk)
      this.#sizeBytes += chunk.length
      if (this.#sizeBytes >= batchBytes) stream.pause()
      if (this.#sizeBytes >= this.#wakeAtBytes) this.#wake?.()
    })
    stream.once('end', () => {
      this.#isEnded = true
      this.#wake?.()
    })
    stream.on('error', (error) => this.fail(error))
    stream.once('close', () => {
      if (!this.#isEnded) this.fail(new Error('the connection was closed too early'))
    })
  }

  fail(reason: Error): void {
    if (this.#isEnded) return
    this.failure ??= reason
    this.#wake?.()
  }

  /** Resolves true when so many bytes are here or no more will come, false when `ms` pass first. */
  wait(sizeBytes: number, ms: number): Promise<boolean> {
    if (this.#sizeBytes >= sizeBytes || this.#isEnded || this.failure !== undefined) {
      return Promise.resolve(true)
    }
    return new Promise((resolve) => {
      const done = (isHere: boolean): void => {
        clearTimeout(timer)
        this.#wake = undefined
        resolve(isHere)
      }
      const timer = setTimeout(() => done(false), ms)
      this.#wakeAtBytes = sizeBytes
      this.#wake = () => done(true)
    })
  }

  take(): {chunks: Buffer[]; sizeBytes: number} {
    const taken = {chunks: this.#chunks, sizeBytes: this.#sizeBytes}
    this.#chunks = []
    this.#sizeBytes = 0
    this.#stream.resume()
    return taken
  }
}
