/** Going over the chunks of an image, some at a time. */
import {chunkBytes, type ChunkMap} from '../chunk-map.ts'
import {fail} from '../errors.ts'

/**
 * Calls `body` for every chunk, in order of their indexes, `concurrency` of them at a time. Each call has a buffer of
 * its own, as long as the largest chunk, until it resolves.
 *
 * Guarantees: when it settles, no call is under way. The first failure ends it.
 * Errors: those of `body`; interrupted when the signal aborts.
 */
export async function forEachChunk(
  map: ChunkMap,
  options: {concurrency: number; signal: AbortSignal; what?: string},
  body: (index: number, buffer: Buffer<ArrayBuffer>) => Promise<void>,
): Promise<void> {
  let nextIndex = 0
  let failure: {error: unknown} | undefined
  const work = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafeSlow(chunkBytes(map, 0))
    while (failure === undefined && nextIndex < map.chunkCount) {
      const index = nextIndex++
      try {
        if (options.signal.aborted)
          throw fail('interrupted', {what: options.what ?? 'the publication'})
        await body(index, buffer)
      } catch (error) {
        failure ??= {error}
      }
    }
  }
  await Promise.all(Array.from({length: Math.min(options.concurrency, map.chunkCount)}, work))
  if (failure === undefined) return
  if (options.signal.aborted) throw fail('interrupted', {what: options.what ?? 'the publication'})
  throw failure.error
}

/** Lets calls that run at once do one thing in the order of their indexes. Every index must be done, also one that failed. */
export class InOrder {
  #next = 0
  readonly #done = new Set<number>()
  readonly #waiting = new Map<number, () => void>()

  async turnOf(index: number): Promise<void> {
    if (index === this.#next) return
    await new Promise<void>((resolve) => this.#waiting.set(index, resolve))
  }

  done(index: number): void {
    this.#done.add(index)
    while (this.#done.delete(this.#next)) this.#next++
    const wake = this.#waiting.get(this.#next)
    this.#waiting.delete(this.#next)
    wake?.()
  }
}
