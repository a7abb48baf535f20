/** The chunked form as files. */
import {readdir, readFile, stat} from 'node:fs/promises'
import {basename, dirname, join} from 'node:path'
import {chunkBounds} from '../chunk-map.ts'
import {examineChunkFile} from '../disks/chunk-files.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import type {ChunkReader, SeenChunk} from './chunk-reader.ts'

/**
 * Opens the directory of a manifest, or the manifest itself.
 *
 * Errors: disk_not_found, permission_denied, io_failed.
 */
export async function openLocalReader(place: string): Promise<ChunkReader> {
  const found = await statIfThere(place)
  if (found === undefined) throw fail('disk_not_found', {place, what: 'nothing'})
  const dir = found.isDirectory() ? place : dirname(place)
  const manifestPath = found.isDirectory() ? join(place, 'manifest.json') : place
  const see = async (
    name: string,
    buffer?: Buffer<ArrayBuffer>,
  ): Promise<SeenChunk | undefined> => {
    const chunk = await examineChunkFile(join(dir, 'chunks', name), buffer)
    if (chunk.kind === 'absent') return undefined
    if (chunk.kind === 'file') return {...chunk, problems: []}
    return {readBytes: 0, problems: ['it is not a regular file']}
  }
  return {
    place: dir,
    manifest: async () => ({bytes: await readManifest(manifestPath), problems: []}),
    look: (name) => see(name),
    read: (name, sizeBytes, buffer) => see(name, buffer.subarray(0, sizeBytes)),
    list: () => listChunks(join(dir, 'chunks')),
    close: () => undefined,
  }
}

async function readManifest(path: string): Promise<Uint8Array> {
  const found = await statIfThere(path)
  if (found === undefined)
    throw fail('disk_not_found', {place: dirname(path), what: `no ${basename(path)}`})
  if (!found.isFile()) throw fail('io_failed', {path, reason: 'it is not a regular file'})
  // One byte more than is allowed says as much as all of them.
  if (found.size > chunkBounds.manifestBytesMax)
    return new Uint8Array(chunkBounds.manifestBytesMax + 1)
  try {
    return await readFile(path)
  } catch (error) {
    throw fromSystemError(error, path, 'read')
  }
}

async function listChunks(dir: string): Promise<readonly string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return []
    throw fromSystemError(error, dir, 'read')
  }
}

async function statIfThere(path: string) {
  try {
    return await stat(path)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return undefined
    throw fromSystemError(error, path, 'read')
  }
}
