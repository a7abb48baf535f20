/** Where bytes wait between the connection that brings them and the caller who takes them in batches. */
import type {Readable} from 'node:stream'
import {MiB} from '../limits.ts'

/** A batch is about this large: one pull, one run of hash updates and one write each. */
export const batchBytes = MiB

export type Batch = {chunks: readonly Buffer[]; sizeBytes: number}

/** Bytes that have come and were not taken yet. It stops the connection when a batch is full. */
export abstract class Inbox {
  /** Why no more bytes will come, when that is not simply the end. */
  failure: Error | undefined
  protected sizeBytes = 0
  protected isEnded = false
  #wakeAtBytes = 0
  #wake: (() => void) | undefined

  /** Hands over what is there; its buffers stay as they are until the next call. */
  abstract take(): Batch

  end(): void {
    if (this.failure !== undefined) return
    this.isEnded = true
    this.#wake?.()
  }

  fail(reason: Error): void {
    if (this.isEnded) return
    this.failure ??= reason
    this.#wake?.()
  }

  /** Resolves true when so many bytes are here or no more will come, false when `ms` pass first. */
  wait(sizeBytes: number, ms: number): Promise<boolean> {
    if (this.sizeBytes >= sizeBytes || this.isEnded || this.failure !== undefined) {
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

  protected arrived(sizeBytes: number): void {
    this.sizeBytes += sizeBytes
    if (this.sizeBytes >= this.#wakeAtBytes) this.#wake?.()
  }

  /** Ends with the stream, however that happens; it may have happened already. */
  protected watch(stream: Readable): void {
    if (stream.readableEnded) this.end()
    else if (stream.destroyed) this.fail(stream.errored ?? closedTooEarly())
    stream.once('end', () => this.end())
    stream.on('error', (error) => this.fail(error))
    stream.once('close', () => this.fail(closedTooEarly()))
  }
}

const closedTooEarly = (): Error => new Error('the connection was closed too early')

/** Takes the chunks that a stream emits. */
export class StreamInbox extends Inbox {
  readonly #stream: Readable
  #chunks: Buffer[] = []

  constructor(stream: Readable) {
    super()
    this.#stream = stream
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk)
      if (this.sizeBytes + chunk.length >= batchBytes) stream.pause()
      this.arrived(chunk.length)
    })
    this.watch(stream)
  }

  take(): Batch {
    const taken = {chunks: this.#chunks, sizeBytes: this.sizeBytes}
    this.#chunks = []
    this.sizeBytes = 0
    this.#stream.resume()
    return taken
  }
}
