/**
 * Archives → root filesystems. The work is done by a process of its own (child.ts), because parsers of hostile
 * bytes get hurt: its death is one failed image, and nothing of the program is in reach from inside it.
 */
import {fork} from 'node:child_process'
import {existsSync, rmSync} from 'node:fs'
import {extname, join} from 'node:path'
import {fail} from '../errors.ts'
import {
  type ChildJob,
  type ChildMessage,
  type DiskJob,
  type DiskResult,
  errorFromChild,
  type IndexJob,
  type IndexResult,
  partPath,
  type UnpackJob,
  type UnpackProgress,
  type UnpackResult,
} from './protocol.ts'

export {trialErofs} from './erofs/trial.ts'
export type {DiskResult, IndexResult, UnpackProgress, UnpackResult} from './protocol.ts'
export type {UnpackWarning} from './warnings.ts'

type Watch = {
  signal?: AbortSignal
  /** Called a few times a second. */
  onProgress?: (progress: UnpackProgress) => void
}

export type UnpackRequest = UnpackJob & Watch
export type IndexRequest = IndexJob & Watch
export type DiskRequest = DiskJob & Watch

// From sources both run under Node's type stripping; built, the child is one file, which starts sooner.
const bundledChild = join(import.meta.dirname, 'child.cjs')
const childFile = existsSync(bundledChild)
  ? bundledChild
  : join(import.meta.dirname, `child${extname(import.meta.filename)}`)

// What the parser and writer keep is bounded by the profile's entries; this is the second fence. The young generation is
// kept small because nearly everything dies young here, and it counts twice in resident memory.
const childFlags = [
  '--max-old-space-size=384',
  '--max-semi-space-size=4',
  '--min-semi-space-size=4',
  // Threads that wait for each other at every collection of a few KiB cost more than they save.
  '--no-parallel-scavenge',
  '--no-warnings',
  '--disable-proto=delete',
]

const STDERR_BYTES_MAX = 4096

/**
 * Unpacks a verified blob into an existing empty directory that only this process can reach; the directory becomes the
 * root of the tree and gets its mode last (0755 where the archive does not say).
 *
 * Guarantees: nothing outside `targetDir` is touched; durable when it resolves; when it rejects no process is left and
 * what is in `targetDir` is worthless.
 * Errors: unsafe_archive, bad_archive, source_not_image, compression_unsupported, no_space, io_failed, permission_denied,
 * unpack_failed (the process died), interrupted (`signal`).
 */
export function unpack(request: UnpackRequest): Promise<UnpackResult> {
  const {signal, onProgress, ...job} = request
  return runChild<UnpackResult>({kind: 'unpack', job}, {signal, onProgress})
}

/**
 * Indexes a verified blob instead of unpacking it: writes an EROFS image of its tree, whose files' data stays in the
 * tar. That is the blob itself, or, where it is compressed, `plainPath`. The image's only device is that tar.
 *
 * Guarantees: only `imagePath` and `plainPath` are written; whole and durable when it resolves; when it rejects no
 * process and neither file is left.
 * Errors: as unpack.
 */
export async function indexTar(request: IndexRequest): Promise<IndexResult> {
  const {signal, onProgress, ...job} = request
  try {
    return await runChild<IndexResult>({kind: 'index', job}, {signal, onProgress})
  } catch (error) {
    // A child that was killed could not clean up.
    for (const path of [job.imagePath, job.plainPath]) {
      if (path !== undefined) rmSync(partPath(path), {force: true})
    }
    throw error
  }
}

/**
 * Makes the raw disk that a verified blob holds: decompressed, and converted from qcow2 or VHD. A blob that is a raw disk
 * itself is only looked at (`isBlob`).
 *
 * Guarantees: only `diskPath` is written, with holes for its zeros; whole and durable when it resolves; when it rejects
 * no process is left and no file.
 * Errors: bad_disk, host_lacks (qemu-img), and as unpack.
 */
export async function makeDisk(request: DiskRequest): Promise<DiskResult> {
  const {signal, onProgress, ...job} = request
  try {
    return await runChild<DiskResult>({kind: 'disk', job}, {signal, onProgress})
  } catch (error) {
    for (const path of [partPath(job.diskPath), `${job.diskPath}.inner`, job.diskPath])
      rmSync(path, {force: true})
    throw error
  }
}

function runChild<T extends UnpackResult | DiskResult>(
  job: ChildJob,
  {signal, onProgress}: {[K in keyof Watch]: Watch[K] | undefined},
): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(fail('interrupted', {what: 'unpacking'}))
      return
    }
    const child = fork(childFile, [], {
      execPath: process.execPath,
      execArgv: childFlags,
      // Nothing of our environment: no NODE_OPTIONS, no preloaded library, no secret.
      env: {},
      cwd: '/',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'json',
    })
    let last: Exclude<ChildMessage, {kind: 'progress'}> | undefined
    let complaint = ''
    const kill = (): void => {
      child.kill('SIGKILL')
    }
    signal?.addEventListener('abort', kill, {once: true})
    child.stderr?.on('data', (chunk: Buffer) => {
      complaint = (complaint + chunk.toString('utf8')).slice(-STDERR_BYTES_MAX)
    })
    child.on('message', (message: ChildMessage) => {
      if (message.kind === 'progress') onProgress?.(message.progress)
      else last = message
    })
    const ended = (reason: string): void => {
      signal?.removeEventListener('abort', kill)
      if (last?.kind === 'done') resolve(last.result as T)
      else if (last?.kind === 'failed') reject(errorFromChild(last))
      else if (signal?.aborted) reject(fail('interrupted', {what: 'unpacking'}))
      else reject(fail('unpack_failed', {reason}))
    }
    child.once('error', (error) => {
      kill()
      if (child.pid === undefined) ended(`the unpacker cannot be started: ${error.message}`)
    })
    child.once('close', (code, deathSignal) => ended(deathOf(code, deathSignal, complaint)))
    child.send(job, (error) => {
      if (error) kill()
    })
  })
}

/** Why a process that said nothing ended. */
function deathOf(code: number | null, signal: string | null, complaint: string): string {
  if (complaint.includes('heap out of memory')) return 'the unpacker ran out of memory'
  if (signal === 'SIGXCPU')
    return 'the unpacker took more processor time than such an archive needs'
  const how = signal === null ? `ended with code ${code ?? 'unknown'}` : `was killed by ${signal}`
  const said = complaint
    .split('\n')
    .map((line) => line.trim())
    .find((line) => /error/i.test(line))
  return `the unpacker ${how}${said === undefined ? '' : `: ${said.slice(0, 300)}`}`
}
