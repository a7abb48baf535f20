/**
 * Reading settings, secrets, certificates and notes: files that ought to be small and to be files.
 *
 * The danger: a path may lead to a pipe into which nobody writes, to a device that never ends, or to a disk image.
 * Reading must come to an end all the same, and not fill the memory.
 */
import {closeSync, constants, openSync, readSync} from 'node:fs'
import {KiB, MiB} from './limits.ts'

/** Ample for everything that is read so; a bundle of certificates has a quarter of it. */
const smallBytesMax = MiB
/** How long a pipe may keep us waiting for its next bytes; `<(command)` of a shell is one. */
const pipeWaitMs = 5000

/**
 * The text of a small file; a pipe will do.
 *
 * Errors: Node's system errors; EFBIG when it is larger than `bytesMax`, EAGAIN when a pipe stays silent.
 * Cost: synchronous.
 */
export function readSmallFile(path: string, bytesMax = smallBytesMax): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const chunks: Buffer[] = []
    let sizeBytes = 0
    let waitUntil = performance.now() + pipeWaitMs
    for (;;) {
      const buffer = Buffer.allocUnsafe(64 * KiB)
      const length = readOnce(fd, buffer, waitUntil)
      if (length === 0) return Buffer.concat(chunks).toString('utf8')
      if (length === undefined) continue
      sizeBytes += length
      if (sizeBytes > bytesMax) throw tooLarge(path, bytesMax)
      chunks.push(buffer.subarray(0, length))
      waitUntil = performance.now() + pipeWaitMs
    }
  } finally {
    closeSync(fd)
  }
}

/** Bytes read; undefined, after a moment, when there are none yet. */
function readOnce(fd: number, buffer: Buffer, waitUntil: number): number | undefined {
  try {
    return readSync(fd, buffer)
  } catch (error) {
    const isEarly = error instanceof Error && 'code' in error && error.code === 'EAGAIN'
    if (!isEarly || performance.now() > waitUntil) throw error
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
    return undefined
  }
}

function tooLarge(path: string, bytesMax: number): Error {
  return Object.assign(new Error(`EFBIG: more than ${bytesMax} bytes, read '${path}'`), {
    code: 'EFBIG',
  })
}
