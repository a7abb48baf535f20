/**
 * Archives → root filesystems. The work is done by a process of its own (child.ts), because parsers of hostile
 * bytes get hurt: its death is one failed image, and nothing of the program is in reach from inside it.
 */
import {type ChildProcess, fork} from 'node:child_process'
import {existsSync, rmSync} from 'node:fs'
import {extname, join} from 'node:path'
import {fail} from '../errors.ts'
import {
  type ChildJob,
  type ChildMessage,
  type DecompressJob,
  type DecompressResult,
  type DiskJob,
  type DiskResult,
  errorFromChild,
  type IndexJob,
  type IndexResult,
  type ParentMessage,
  partPath,
  type UnpackJob,
  type UnpackProgress,
  type UnpackResult,
} from './protocol.ts'

export {trialErofs} from './erofs/trial.ts'
export type {
  DecompressResult,
  DiskResult,
  IndexResult,
  UnpackProgress,
  UnpackResult,
} from './protocol.ts'
export type {UnpackWarning} from './warnings.ts'

type Watch = {
  signal?: AbortSignal
  /** Called a few times a second. */
  onProgress?: (progress: UnpackProgress) => void
}

export type UnpackRequest = UnpackJob & Watch
export type IndexRequest = IndexJob & Watch
export type DiskRequest = DiskJob & Watch

export type DecompressRequest = DecompressJob & {
  /** The blob that is coming, open for reading, and an empty file, open for writing; ours again when this was called. */
  blobFd: number
  plainFd: number
  signal: AbortSignal
}

/** A blob being decompressed while it comes. */
export type Decompression = {
  /** So many bytes of the blob are there to be read. */
  grown(sizeBytes: number): void
  /** These are all. */
  end(sizeBytes: number): void
  /** Rejects as soon as it goes wrong; nobody has to wait for that. */
  result: Promise<DecompressResult>
}

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
  return startChild<UnpackResult>({kind: 'unpack', job}, {signal, onProgress}).result
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
    return await startChild<IndexResult>({kind: 'index', job}, {signal, onProgress}).result
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
    return await startChild<DiskResult>({kind: 'disk', job}, {signal, onProgress}).result
  } catch (error) {
    for (const path of [partPath(job.diskPath), `${job.diskPath}.inner`, job.diskPath])
      rmSync(path, {force: true})
    throw error
  }
}

/**
 * Decompresses a gzip or zstd blob into a plain tar while it comes. The process is confined to the two files, of which
 * it has the descriptors alone. It is read like a whole blob, with the same limits on ratio and size.
 *
 * Guarantees: when `result` has settled no process is left.
 * Errors, of `result`: bad_archive, source_not_image, unsafe_archive, compression_unsupported, no_space, io_failed,
 * unpack_failed, interrupted (`signal`).
 */
export function decompressGrowing(request: DecompressRequest): Decompression {
  const {signal, blobFd, plainFd, ...job} = request
  const {result, tell} = startChild<DecompressResult>(
    {kind: 'decompress', job},
    {signal, onProgress: undefined},
    [blobFd, plainFd],
  )
  result.catch(() => undefined)
  return {
    grown: (sizeBytes) => tell({kind: 'grown', sizeBytes, isWhole: false}),
    end: (sizeBytes) => tell({kind: 'grown', sizeBytes, isWhole: true}),
    result,
  }
}

type Started<T> = {result: Promise<T>; tell: (message: ParentMessage) => void}

function startChild<T extends UnpackResult | DecompressResult | DiskResult>(
  job: ChildJob,
  {signal, onProgress}: {[K in keyof Watch]: Watch[K] | undefined},
  fds: number[] = [],
): Started<T> {
  if (signal?.aborted) {
    const result = Promise.reject<T>(fail('interrupted', {what: 'unpacking'}))
    return {result, tell: () => undefined}
  }
  const child = fork(childFile, [], {
    execPath: process.execPath,
    execArgv: childFlags,
    // Nothing of our environment: no NODE_OPTIONS, no preloaded library, no secret.
    env: {},
    cwd: '/',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc', ...fds],
    serialization: 'json',
  })
  const tell = (message: ParentMessage): void => {
    if (!child.connected) return
    child.send(message, (error) => {
      if (error) child.kill('SIGKILL')
    })
  }
  const result = resultOf<T>(child, {signal, onProgress})
  tell(job)
  return {result, tell}
}

function resultOf<T>(
  child: ChildProcess,
  {signal, onProgress}: {[K in keyof Watch]: Watch[K] | undefined},
): Promise<T> {
  return new Promise((resolve, reject) => {
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
