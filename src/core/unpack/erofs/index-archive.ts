/** One archive into one EROFS image, in this process: blob → decompression → parser → policy → tree → image. */
import {createHash} from 'node:crypto'
import {closeSync, constants, fsyncSync, openSync, renameSync, rmSync, writeSync} from 'node:fs'
import {dirname} from 'node:path'
import {assert} from '../../assert.ts'
import {fail, fromSystemError, ImgstoreError} from '../../errors.ts'
import type {ArchiveFormat} from '../archive/format.ts'
import {ArchiveParser} from '../archive/parser.ts'
import {linkRules, Policy} from '../archive/policy.ts'
import type {Blob} from '../archive/source.ts'
import {feedBlob, openBlob, tellFormat} from '../feed.ts'
import {type IndexJob, type IndexResult, partPath, type UnpackProgress} from '../protocol.ts'
import {Warnings} from '../warnings.ts'
import {BLOCK_BYTES} from './format.ts'
import {writeErofs} from './image.ts'
import {PlainFile, readExactly} from './plain-file.ts'
import {TreeBuilder} from './tree-builder.ts'

export type IndexOptions = {
  onProgress?: (progress: UnpackProgress) => void
  /** As for extraction, with the directories of the two files. */
  confine?: (needs: {rootFd: number; otherFds: readonly number[]; canExecute: boolean}) => boolean
}

/** A file that gets its name when it is whole. */
type NewFile = {path: string; fd: number; dirFd: number}

/**
 * Writes `job.imagePath`, and for a compressed blob `job.plainPath`; both are replaced if they are there.
 *
 * Guarantees: nothing else is written; both are whole and durable when this resolves; after an error neither was
 * touched and no part of them is left.
 * Errors: unsafe_archive, bad_archive, source_not_image, compression_unsupported, no_space, io_failed, permission_denied.
 */
export async function indexArchive(
  job: IndexJob,
  options: IndexOptions = {},
): Promise<IndexResult> {
  const blob = openBlob(job.blobPath)
  const files: NewFile[] = []
  try {
    // A plain tar may begin with a name that looks like something compressed.
    const format = job.isPlain === true ? 'tar' : tellFormat(blob)
    const image = create(job.imagePath, files)
    const plain = format === 'tar' ? undefined : create(plainPathOf(job), files)
    const result = await indexInto(job, options, {blob, format, image, plain})
    // The tar first: an image without its tar is worth nothing.
    for (const file of plain === undefined ? [image] : [plain, image]) finish(file, files)
    return result
  } finally {
    for (const file of files) abandon(file)
    closeSync(blob.fd)
  }
}

function plainPathOf(job: IndexJob): string {
  assert(job.plainPath !== undefined, 'a compressed blob needs a place for its tar')
  return job.plainPath
}

type Parts = {blob: Blob; format: ArchiveFormat; image: NewFile; plain: NewFile | undefined}

async function indexInto(
  job: IndexJob,
  options: IndexOptions,
  {blob, format, image, plain}: Parts,
): Promise<IndexResult> {
  const isConfined =
    options.confine?.({
      rootFd: image.dirFd,
      otherFds: plain === undefined ? [] : [plain.dirFd],
      canExecute: format === 'xz' || format === 'bzip2',
    }) ?? false
  const warnings = new Warnings()
  const warn = warnings.add.bind(warnings)
  const policy = new Policy(job.profile, job.limits, {warn})
  const builder = new TreeBuilder({
    linkRule: linkRules[job.profile],
    depthMax: job.limits.depthMax,
    whiteouts: job.whiteouts ?? 'keep',
    warn,
  })
  const parser: ArchiveParser = new ArchiveParser({
    begin: (entry) => {
      builder.add(policy.admit(entry), parser.dataPosition)
      return false
    },
    write: () => undefined,
    finish: () => undefined,
    warn,
  })
  const plainFile = plain === undefined ? undefined : new PlainFile(plain.fd)
  await feedBlob(blob, format, parser, {
    ratioMax: job.limits.ratioMax,
    canSkip: true,
    onBytes: (chunk) => {
      if (plain !== undefined) writing(plain.path, () => plainFile?.add(chunk))
    },
    onChunk: (readBytes) => options.onProgress?.({readBytes, entries: policy.totals.entries}),
  })
  builder.seal()
  if (plain !== undefined) writing(plain.path, () => plainFile?.end())
  const {sizeBytes: imageBytes} = writing(image.path, () =>
    writeErofs(
      builder.tree,
      {
        uuid: uuidOf(job.digest),
        devices: [
          {blocks: Math.ceil((plainFile ?? blob).sizeBytes / BLOCK_BYTES), tag: tagOf(job.digest)},
        ],
        readDevice: (_, position, buffer) => {
          if (readExactly(plain?.fd ?? blob.fd, position, buffer)) return
          throw fail('io_failed', {path: blob.path, reason: 'it became shorter while it was read'})
        },
      },
      (chunk) => writeAll(image.fd, chunk),
    ),
  )
  const {entries, files, totalBytes} = policy.totals
  const {list, total} = warnings
  const counts = {format, entries, files, totalBytes, isConfined, imageBytes}
  const result = {...counts, warnings: list, warningsTotal: total}
  return plainFile === undefined ? result : {...result, plainBytes: plainFile.sizeBytes}
}

/** Without the algorithm, because a SHA-256 in hex fills the tag. */
function tagOf(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1)
}

/** A UUID (version 8: made by a rule of ours) that says which blob an image belongs to. */
export function uuidOf(digest: string): Buffer {
  const uuid = createHash('sha256').update(`imgstore erofs ${digest}`).digest().subarray(0, 16)
  uuid.writeUInt8((uuid.readUInt8(6) & 0x0f) | 0x80, 6)
  uuid.writeUInt8((uuid.readUInt8(8) & 0x3f) | 0x80, 8)
  return uuid
}

function create(path: string, files: NewFile[]): NewFile {
  return writing(path, () => {
    const part = partPath(path)
    // What a killed run left.
    rmSync(part, {force: true})
    const dirFd = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
    const {O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW} = constants
    try {
      const fd = openSync(part, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      const file = {path, fd, dirFd}
      files.push(file)
      return file
    } catch (error) {
      closeSync(dirFd)
      throw error
    }
  })
}

function finish(file: NewFile, files: NewFile[]): void {
  writing(file.path, () => {
    fsyncSync(file.fd)
    renameSync(partPath(file.path), file.path)
    fsyncSync(file.dirFd)
    closeSync(file.fd)
    closeSync(file.dirFd)
    files.splice(files.indexOf(file), 1)
  })
}

function abandon(file: NewFile): void {
  closeSync(file.fd)
  closeSync(file.dirFd)
  rmSync(partPath(file.path), {force: true})
}

function writeAll(fd: number, chunk: Buffer): void {
  for (let at = 0; at < chunk.length;) at += writeSync(fd, chunk, at)
}

/** Runs something that writes a file; system errors become coded ones. */
function writing<T>(path: string, body: () => T): T {
  try {
    return body()
  } catch (error) {
    const isSystem = error instanceof Error && 'errno' in error
    throw isSystem || error instanceof ImgstoreError ? fromSystemError(error, path, 'write') : error
  }
}
