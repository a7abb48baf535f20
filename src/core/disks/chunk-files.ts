/** Chunks as files: written sparse, read back by digest. What calls these decides what is durable and when. */
import {constants} from 'node:fs'
import {open, rename, rm, type FileHandle} from 'node:fs/promises'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {digestOf, digestOfZeros} from './digests.ts'
import {dataExtents} from './extents.ts'
import type {ReadChunk} from './raw-disk.ts'

/**
 * Writes one chunk as a file of `length` bytes; what was there before is gone. Zeros become holes.
 *
 * Guarantees: with `isSynced` durable up to its name, else not even its bytes.
 * Errors: no_space, permission_denied, io_failed.
 */
export async function writeChunkFile(
  path: string,
  length: number,
  chunk: ReadChunk,
  options: {isSynced?: boolean} = {},
): Promise<void> {
  let file: FileHandle | undefined
  try {
    const {O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW} = constants
    file = await open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o644)
    await file.truncate(length)
    for (const {start, end} of chunk.isZero ? [] : chunk.extents) {
      const bytes = chunk.isZero ? undefined : chunk.bytes
      for (let at = start; bytes !== undefined && at < end;)
        at += (await file.write(bytes, at, end - at, at)).bytesWritten
    }
    if (options.isSynced === true) await file.sync()
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  } finally {
    await file?.close()
  }
}

/** Puts a chunk in the place of a file that others may have open: they keep the old bytes, whole. */
export async function replaceChunkFile(
  path: string,
  length: number,
  chunk: ReadChunk,
): Promise<void> {
  // No chunk has a name like this, so that nobody can ask for it.
  const aside = `${path}~`
  try {
    await writeChunkFile(aside, length, chunk, {isSynced: true})
    await rename(aside, path)
  } catch (error) {
    await rm(aside, {force: true})
    throw fromSystemError(error, path, 'write')
  }
}

/** What is under a chunk's name. */
export type ChunkFile =
  | {kind: 'file'; sizeBytes: number; digest?: Digest; readBytes: number}
  | {kind: 'absent'}
  | {kind: 'other'}

/**
 * Looks at a chunk file; with a buffer, reads it when it has just the buffer's size.
 *
 * Guarantees: the size and digest are of one and the same opened file. Holes are not read.
 * Errors: permission_denied, io_failed.
 */
export async function examineChunkFile(
  path: string,
  buffer?: Buffer<ArrayBuffer>,
): Promise<ChunkFile> {
  let file: FileHandle | undefined
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const found = await file.stat()
    if (!found.isFile()) return {kind: 'other'}
    const sizeBytes = found.size
    if (buffer === undefined || buffer.length !== sizeBytes)
      return {kind: 'file', sizeBytes, readBytes: 0}
    const digest = await readDigest(file, path, buffer)
    return {kind: 'file', sizeBytes, ...digest}
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(systemCode(error) ?? '')) return {kind: 'absent'}
    throw fromSystemError(error, path, 'read')
  } finally {
    await file?.close()
  }
}

async function readDigest(
  file: FileHandle,
  path: string,
  buffer: Buffer<ArrayBuffer>,
): Promise<{digest: Digest; readBytes: number}> {
  let readBytes = 0
  let end = 0
  for (const extent of dataExtents(file.fd, 0, buffer.length)) {
    buffer.fill(0, end, extent.start)
    for (let at = extent.start; at < extent.end;) {
      const {bytesRead} = await file.read(buffer, at, extent.end - at, at)
      if (bytesRead === 0) throw fail('file_changed', {path, reason: 'it became shorter'})
      at += bytesRead
      readBytes += bytesRead
    }
    end = extent.end
  }
  if (end === 0) return {digest: digestOfZeros(buffer.length), readBytes}
  buffer.fill(0, end)
  return {digest: await digestOf(buffer), readBytes}
}
