/** One blob into one raw disk image, in this process: decompressed, and converted by qemu-img where it is no raw one. */
import {spawn} from 'node:child_process'
import {createHash} from 'node:crypto'
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
} from 'node:fs'
import {dirname} from 'node:path'
import {fail, fromSystemError, ImgstoreError} from '../../errors.ts'
import {archiveBounds, MiB} from '../../limits.ts'
import type {ArchiveFormat} from '../archive/format.ts'
import {sniff, SNIFF_BYTES} from '../archive/format.ts'
import {type Blob, findProgram, readBlob, readFully} from '../archive/source.ts'
import {PlainFile} from '../erofs/plain-file.ts'
import {openBlob} from '../feed.ts'
import {type DiskJob, type DiskResult, partPath, type UnpackProgress} from '../protocol.ts'
import {DISK_HEAD_BYTES, DISK_TAIL_BYTES, type Disk, recogniseDisk} from './recognise.ts'

export type MakeDiskOptions = {
  onProgress?: (progress: UnpackProgress) => void
  confine?: (needs: {rootFd: number; canExecute: boolean}) => boolean
}

type Compression = Exclude<ArchiveFormat, 'tar'>

/**
 * Makes `job.diskPath`, the raw bytes that a guest sees, with holes for its zeros. For a blob that is that already,
 * nothing is made: `isBlob` says so, and the caller links it.
 *
 * Guarantees: only `diskPath` and its part are written; it is whole and durable when this resolves; after an error no
 * part is left.
 * Errors: source_not_image, bad_disk, bad_archive (damaged compression), compression_unsupported, host_lacks (qemu-img),
 * unsafe_archive (too large, or the ratio), no_space, io_failed, permission_denied.
 */
export async function makeDisk(job: DiskJob, options: MakeDiskOptions = {}): Promise<DiskResult> {
  const blob = openBlob(job.blobPath)
  const part = partPath(job.diskPath)
  const dirFd = openSync(dirname(job.diskPath), constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    rmSync(part, {force: true})
    const compression = compressionOf(blob)
    // qemu-img may turn out to be needed only behind the compression.
    const isConfined = options.confine?.({rootFd: dirFd, canExecute: true}) ?? false
    if (compression === undefined) {
      const disk = look(blob)
      checkSize(job, disk.sizeBytes)
      if (disk.format === 'raw') return {...disk, isBlob: true, isConfined}
      return {...(await convert(job, job.blobPath, disk, dirFd)), isConfined}
    }
    const plain = await expand(job, blob, compression, options)
    if (plain.format === 'raw') {
      finish(part, job.diskPath, dirFd)
      return {...plain, compression, isConfined}
    }
    const inner = `${job.diskPath}.inner`
    renameSync(part, inner)
    try {
      return {...(await convert(job, inner, plain, dirFd)), compression, isConfined}
    } finally {
      rmSync(inner, {force: true})
    }
  } catch (error) {
    const isSystem = error instanceof Error && 'errno' in error
    throw isSystem || error instanceof ImgstoreError
      ? fromSystemError(error, job.diskPath, 'write')
      : error
  } finally {
    rmSync(part, {force: true})
    closeSync(dirFd)
    closeSync(blob.fd)
  }
}

function compressionOf(blob: Blob): Compression | undefined {
  const head = Buffer.alloc(SNIFF_BYTES)
  const found = sniff(head.subarray(0, readFully(blob, head, 0)))
  if (found.kind === 'unsupported') {
    const need = 'a program that imgstore does not use'
    throw fail('compression_unsupported', {format: found.format, need})
  }
  return found.kind === 'archive' && found.format !== 'tar' ? found.format : undefined
}

function look(blob: Blob): Disk {
  const head = Buffer.alloc(Math.min(DISK_HEAD_BYTES, blob.sizeBytes))
  const tail = Buffer.alloc(Math.min(DISK_TAIL_BYTES, blob.sizeBytes))
  readFully(blob, head, 0)
  readFully(blob, tail, blob.sizeBytes - tail.length)
  return recogniseDisk(head, tail, blob.sizeBytes)
}

function checkSize(job: DiskJob, sizeBytes: number): void {
  if (sizeBytes <= job.limits.totalBytesMax) return
  const rule = `makes a disk of ${sizeBytes} bytes, more than ${job.limits.totalBytesMax}`
  throw fail('unsafe_archive', {entry: 'disk', offset: 0, rule, flag: '--max-total-size'})
}

/** Decompresses into the part, hashing what a reader of the disk will see. */
async function expand(
  job: DiskJob,
  blob: Blob,
  compression: Compression,
  options: MakeDiskOptions,
): Promise<Disk & {digest: string}> {
  const part = partPath(job.diskPath)
  const {O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW} = constants
  const fd = openSync(part, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  try {
    const file = new PlainFile(fd)
    const hash = createHash('sha256')
    await readBlob(blob, compression, (chunk, readBytes) => {
      const outBytes = file.sizeBytes + chunk.length
      checkSize(job, outBytes)
      const isBomb = outBytes > readBytes * job.limits.ratioMax
      if (outBytes > archiveBounds.ratioCheckedFromBytes && isBomb) {
        const rule = `makes more than ${job.limits.ratioMax} bytes of each compressed byte`
        throw fail('unsafe_archive', {entry: 'disk', offset: 0, rule, flag: '--max-ratio'})
      }
      hash.update(chunk)
      file.add(chunk)
      options.onProgress?.({readBytes, entries: 0})
    })
    file.end()
    fsyncSync(fd)
    const made = {fd, path: part, sizeBytes: file.sizeBytes}
    return {...look(made), digest: hash.digest('hex')}
  } finally {
    closeSync(fd)
  }
}

/**
 * Has qemu-img write the part. It runs under the confinement of this process, is told the format instead of guessing
 * it, and dies with us.
 */
async function convert(
  job: DiskJob,
  from: string,
  disk: Disk,
  dirFd: number,
): Promise<Disk & {digest: string}> {
  checkSize(job, disk.sizeBytes)
  const program = findProgram('qemu-img')
  if (program === undefined)
    throw fail('host_lacks', {what: 'qemu-img', need: `convert a ${disk.format} image`})
  const part = partPath(job.diskPath)
  // Without this, a name with a colon would be a protocol, and one with a comma an option.
  const file = `file.driver=file,file.filename=${from.replaceAll(',', ',,')}`
  const input =
    disk.format === 'vhd'
      ? `driver=vpc,force_size_calc=current_size,${file}`
      : `driver=qcow2,${file}`
  const args = ['convert', '-q', '-W', '--image-opts', input, '-O', 'raw', part]
  const setpriv = findProgram('setpriv')
  const command = setpriv === undefined ? [program] : [setpriv, '--pdeathsig', 'KILL', program]
  await runProgram([...command, ...args], disk)
  const fd = openSync(part, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const {size} = fstatSync(fd)
    if (size !== disk.sizeBytes) {
      const reason = `qemu-img made ${size} bytes of it, its header says ${disk.sizeBytes}`
      throw fail('bad_disk', {format: disk.format, reason})
    }
    const digest = hashFile(fd)
    fsyncSync(fd)
    finish(part, job.diskPath, dirFd)
    return {...disk, digest}
  } finally {
    closeSync(fd)
  }
}

const COMPLAINT_CHARS_MAX = 2000

async function runProgram([program = '', ...args]: string[], disk: Disk): Promise<void> {
  const child = spawn(program, args, {
    env: {},
    cwd: '/',
    // Not 'ignore': this process may not open /dev/null for writing any more.
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdin.end()
  child.stdout.resume()
  let complaint = ''
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString('utf8')).slice(-COMPLAINT_CHARS_MAX)
  })
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (status === 0) return
  if (complaint.includes('No space left on device'))
    throw Object.assign(new Error('qemu-img'), {code: 'ENOSPC', errno: -28})
  const said = complaint.trim().split('\n').at(-1) ?? ''
  throw fail('bad_disk', {
    format: disk.format,
    reason: `qemu-img refused it: ${said.slice(0, 300)}`,
  })
}

function hashFile(fd: number): string {
  const hash = createHash('sha256')
  const buffer = Buffer.allocUnsafeSlow(MiB)
  for (let at = 0; ;) {
    const count = readSync(fd, buffer, 0, buffer.length, at)
    if (count === 0) return hash.digest('hex')
    hash.update(buffer.subarray(0, count))
    at += count
  }
}

function finish(part: string, path: string, dirFd: number): void {
  renameSync(part, path)
  fsyncSync(dirFd)
}
