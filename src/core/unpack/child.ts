/**
 * The process that touches hostile bytes: it is given one job, does it, and ends. It ends at once when its parent
 * is gone, however that happened. It reads no environment and loads nothing of the program but this room.
 */
import {statSync} from 'node:fs'
import {setFlagsFromString} from 'node:v8'
import {BugError} from '../assert.ts'
import {toImgstoreError} from '../errors.ts'
import {MiB} from '../limits.ts'
import {confine, limitResources} from '../syscalls/confine.ts'
import type {ChildJob, ChildMessage} from './protocol.ts'

const PROGRESS_EVERY_MS = 250

// The writer holds 256 directories; Node has some twenty descriptors of its own.
const DESCRIPTORS_MAX = 512

/**
 * Ten minutes and more by the size of the blob: a mebibyte of the worst archive that the limits let through (a gibibyte
 * of zeros at 1,000:1, or a hundred zstd frames of nothing) takes about a second.
 */
function cpuSecondsFor(job: {blobPath: string}): number {
  let blobBytes = 0
  try {
    blobBytes = statSync(job.blobPath).size
  } catch {
    // Opening it will say why.
  }
  return 600 + Math.ceil((8 * blobBytes) / MiB)
}

function send(message: ChildMessage, then?: () => void): void {
  process.send?.(message, undefined, {}, () => then?.())
}

async function work({kind, job}: ChildJob): Promise<void> {
  // Modes are given at creation, so nothing may take bits away from them.
  process.umask(0)
  // The first is always told, however soon.
  let lastMs = -Infinity
  const onProgress = (progress: {readBytes: number; entries: number}): void => {
    const nowMs = performance.now()
    if (nowMs - lastMs < PROGRESS_EVERY_MS) return
    lastMs = nowMs
    send({kind: 'progress', progress})
  }
  const end = (): void => process.disconnect()
  try {
    const limit = (fileBytesMax: number): void => {
      const cpuSecondsMax = cpuSecondsFor(job)
      limitResources({fileBytesMax, descriptorsMax: DESCRIPTORS_MAX, cpuSecondsMax})
    }
    // Each backend is loaded for its own jobs only.
    if (kind === 'index') {
      const {indexArchive, indexFileBytesMax} = await import('./erofs/index-archive.ts')
      limit(indexFileBytesMax(job.limits))
      send({kind: 'done', result: await indexArchive(job, {onProgress, confine})}, end)
    } else {
      const {extract} = await import('./extract.ts')
      limit(job.limits.fileBytesMax)
      send({kind: 'done', result: await extract(job, {onProgress, confine})}, end)
    }
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
  void work(job as ChildJob)
})
