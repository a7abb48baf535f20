/** Images in files of this host, for those who allow `file://` addresses. */
import {constants} from 'node:fs'
import {open, type FileHandle} from 'node:fs/promises'
import {fileURLToPath} from 'node:url'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {MiB} from '../limits.ts'
import type {OpenRequest, OpenedSource, Source, SourceOptions} from './contract.ts'

const batchBytes = MiB

/** The source at a file address that `parseSourceUrl` has passed. Symbolic links are followed; what is opened must be a regular file. */
export function openFileSource(url: URL, options: SourceOptions): Source {
  const path = fileURLToPath(url)
  return {open: (request) => openFile(path, url.href, request, options)}
}

async function openFile(
  path: string,
  url: string,
  request: OpenRequest,
  options: SourceOptions,
): Promise<OpenedSource> {
  request.signal.throwIfAborted()
  let file: FileHandle
  try {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    const code = systemCode(error)
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw fail('source_not_found', {url}, {cause: error})
    throw fromSystemError(error, path, 'read')
  }
  try {
    const found = await file.stat({bigint: true})
    if (!found.isFile()) throw fail('source_refused', {url, reason: 'it is not a regular file'})
    const totalBytes = Number(found.size)
    if (totalBytes > options.maxBlobBytes) {
      throw fail('source_too_large', {url, sizeBytes: totalBytes, limitBytes: options.maxBlobBytes})
    }
    const validator = `${found.ino}-${found.mtimeNs}-${found.size}`
    const hasChanged = request.validator !== undefined && request.validator !== validator
    const startByte = hasChanged ? 0 : request.startByte
    const answer = startByte === 0 ? 'whole' : startByte < totalBytes ? 'range' : 'nothing_left'
    return {
      answer,
      startByte,
      totalBytes,
      validator,
      body: readFileBatches(file, {url, path, startByte, totalBytes, signal: request.signal}),
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw fromSystemError(error, path, 'read')
  }
}

async function* readFileBatches(
  file: FileHandle,
  range: {url: string; path: string; startByte: number; totalBytes: number; signal: AbortSignal},
): AsyncGenerator<readonly Buffer[], void, undefined> {
  const {url, path, totalBytes, signal} = range
  const buffer = Buffer.allocUnsafe(batchBytes)
  let position = range.startByte
  try {
    while (position < totalBytes) {
      signal.throwIfAborted()
      const wanted = Math.min(batchBytes, totalBytes - position)
      const {bytesRead} = await file.read(buffer, 0, wanted, position)
      if (bytesRead === 0) {
        throw fail('source_incomplete', {url, receivedBytes: position, expectedBytes: totalBytes})
      }
      position += bytesRead
      yield [buffer.subarray(0, bytesRead)]
    }
  } catch (error) {
    signal.throwIfAborted()
    throw fromSystemError(error, path, 'read')
  } finally {
    await file.close()
  }
}
