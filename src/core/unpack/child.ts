/**
 * The process that touches hostile bytes: it is given one job, does it, and ends. It ends at once when its parent
 * is gone, however that happened. It reads no environment and loads nothing of the program but this room.
 */
import {setFlagsFromString} from 'node:v8'
import {BugError} from '../assert.ts'
import {toImgstoreError} from '../errors.ts'
import {confine, limitResources} from '../syscalls/confine.ts'
import {extract} from './extract.ts'
import type {ChildMessage, UnpackJob} from './protocol.ts'

const PROGRESS_EVERY_MS = 250

// The writer holds 256 directories; Node has some twenty descriptors of its own.
const DESCRIPTORS_MAX = 512

function send(message: ChildMessage, then?: () => void): void {
  process.send?.(message, undefined, {}, () => then?.())
}

async function work(job: UnpackJob): Promise<void> {
  // Modes are given at creation, so nothing may take bits away from them.
  process.umask(0)
  let lastMs = -Infinity
  const onProgress = (progress: {readBytes: number; entries: number}): void => {
    const nowMs = performance.now()
    if (nowMs - lastMs < PROGRESS_EVERY_MS) return
    lastMs = nowMs
    send({kind: 'progress', progress})
  }
  const end = (): void => process.disconnect()
  try {
    limitResources({fileBytesMax: job.limits.fileBytesMax, descriptorsMax: DESCRIPTORS_MAX})
    send({kind: 'done', result: await extract(job, {onProgress, confine})}, end)
  } catch (error) {
    const coded = toImgstoreError(error)
    const details = error instanceof BugError ? {reason: error.message} : coded.details
    send({kind: 'failed', code: coded.code, details}, end)
  }
}

// The second compiler takes a third of the CPU time of an ordinary archive and makes hardly faster code than the first.
// On the command line, Node would not take its own modules as they are compiled beforehand (10 ms).
setFlagsFromString('--no-turbofan')

process.once('disconnect', () => process.exit(process.exitCode ?? 0))
process.once('message', (job) => {
  void work(job as UnpackJob)
})
