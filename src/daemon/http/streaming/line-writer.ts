/**
 * Writes log lines to a file descriptor in batches, off the path of requests.
 *
 * Standard output is often a pipe, and a write to a full pipe waits: here it waits in the thread pool. A reader that has
 * stopped reading costs at most a few MiB of memory and then log lines, never the service.
 */
import {write, writeSync} from 'node:fs'
import {systemCode} from '../../../core/errors.ts'

export type LineWriter = {
  /** Takes one line, with its line end. */
  write(line: string): void
  /** Lines that were dropped because nobody read them. */
  readonly linesLost: number
  /** Writes what is left, waiting for the reader as long as `withinMs`. */
  close(withinMs: number): Promise<void>
}

const batchMs = 25
const batchChars = 64 * 1024
// About 30,000 requests: a second of full load.
const pendingCharsMax = 8 * 1024 * 1024
const retryMs = 20

export function makeLineWriter(fd: number): LineWriter {
  let pending = ''
  let isWriting = false
  let timer: NodeJS.Timeout | undefined
  let linesLost = 0
  let isBroken = false

  const flush = (): void => {
    clearTimeout(timer)
    timer = undefined
    if (isWriting || pending === '') return
    const batch = Buffer.from(pending)
    pending = ''
    isWriting = true
    push(batch, 0)
  }
  const push = (batch: Buffer, from: number): void => {
    write(fd, batch, from, batch.length - from, null, (error, count) => {
      if (systemCode(error) === 'EAGAIN') {
        setTimeout(() => push(batch, from), retryMs).unref()
        return
      }
      // EPIPE and the like: nobody will ever read this.
      if (error) isBroken = true
      else if (from + count < batch.length) {
        push(batch, from + count)
        return
      }
      isWriting = false
      if (pending.length >= batchChars) flush()
      else if (pending !== '') timer ??= setTimeout(flush, batchMs)
    })
  }
  return {
    write: (line) => {
      if (isBroken || pending.length + line.length > pendingCharsMax) {
        linesLost++
        return
      }
      pending += line
      if (pending.length >= batchChars && !isWriting) flush()
      else timer ??= setTimeout(flush, batchMs)
    },
    get linesLost() {
      return linesLost
    },
    close: async (withinMs) => {
      const end = performance.now() + withinMs
      flush()
      while ((isWriting || pending !== '') && !isBroken && performance.now() < end) {
        await new Promise((resolve) => setTimeout(resolve, 5))
        flush()
      }
      clearTimeout(timer)
    },
  }
}

/** Writes text at once; for what is said before or after the service runs. Lost when it cannot be written. */
export function writeNow(fd: number, text: string): void {
  try {
    writeSync(fd, text)
  } catch {
    // Nobody reads.
  }
}
