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
import {Growth} from './growth.ts'
import {
  indexFileBytesMax,
  type ChildJob,
  type ChildMessage,
  type DecompressResult,
  type DiskResult,
  type IndexResult,
  type ParentMessage,
  type UnpackProgress,
  type UnpackResult,
} from './protocol.ts'

const PROGRESS_EVERY_MS = 250

// The writer holds 256 directories; Node has some twenty descriptors of its own.
const DESCRIPTORS_MAX = 512

/**
 * Ten minutes and more by the size of the blob: a mebibyte of the worst archive that the limits let through (a gibibyte
 * of zeros at 1,000:1, or a hundred zstd frames of nothing) takes about a second.
 */
function cpuSecondsFor({kind, job}: ChildJob): number {
  let blobBytes = 0
  try {
    blobBytes = kind === 'decompress' ? job.blobBytesMax : statSync(job.blobPath).size
  } catch {
    // Opening it will say why.
  }
  return 600 + Math.ceil((8 * blobBytes) / MiB)
}

function fileBytesMaxFor({kind, job}: ChildJob): number {
  if (kind === 'disk') return job.limits.totalBytesMax
  return kind === 'unpack' ? job.limits.fileBytesMax : indexFileBytesMax(job.limits)
}

function send(message: ChildMessage, then?: () => void): void {
  process.send?.(message, undefined, {}, () => then?.())
}

const growth = new Growth()

/** Each kind of job loads its own code only. */
async function run(
  {kind, job}: ChildJob,
  onProgress: (progress: UnpackProgress) => void,
): Promise<UnpackResult | IndexResult | DecompressResult | DiskResult> {
  switch (kind) {
    case 'unpack': {
      const {extract} = await import('./extract.ts')
      return await extract(job, {onProgress, confine})
    }
    case 'index': {
      const {indexArchive} = await import('./erofs/index-archive.ts')
      return await indexArchive(job, {onProgress, confine})
    }
    case 'decompress': {
      const {decompress} = await import('./decompress.ts')
      return await decompress(job, {growth, confine})
    }
    case 'disk': {
      const {makeDisk} = await import('./disk/make-disk.ts')
      return await makeDisk(job, {onProgress, confine})
    }
  }
}

async function work(job: ChildJob): Promise<void> {
  // Modes are given at creation, so nothing may take bits away from them.
  process.umask(0)
  // The first is always told, however soon.
  let lastMs = -Infinity
  const onProgress = (progress: UnpackProgress): void => {
    const nowMs = performance.now()
    if (nowMs - lastMs < PROGRESS_EVERY_MS) return
    lastMs = nowMs
    send({kind: 'progress', progress})
  }
  const end = (): void => process.disconnect()
  try {
    limitResources({
      fileBytesMax: fileBytesMaxFor(job),
      descriptorsMax: DESCRIPTORS_MAX,
      cpuSecondsMax: cpuSecondsFor(job),
    })
    send({kind: 'done', result: await run(job, onProgress)}, end)
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
process.on('message', (told: ParentMessage) => {
  if (told.kind === 'grown') growth.tell(told.sizeBytes, told.isWhole)
  else void work(told)
})
