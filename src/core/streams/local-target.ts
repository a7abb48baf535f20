/**
 * The chunked form as files under an images root (streaming specification, section 4.1).
 *
 * The danger: a server reads the same directories meanwhile. New chunks are therefore written aside, under a name that
 * no request can express, and appear by renames. With a version that is one rename of the whole; the flat layout
 * loses its old manifest first, then changes its chunks, and gets the new manifest last.
 */
import {closeSync, constants, fsyncSync, openSync, renameSync} from 'node:fs'
import {lstat, open, readdir, readFile, rename, rm, stat} from 'node:fs/promises'
import {randomBytes} from 'node:crypto'
import {dirname, join} from 'node:path'
import {makeDirectory, syncDirectory} from '../syscalls/durable.ts'
import {chunkBytes, chunkName, chunkBounds, type ChunkMap} from '../chunk-map.ts'
import type {Digest} from '../digest.ts'
import {
  examineChunkFile,
  replaceChunkFile,
  writeChunkFile,
  type ChunkFile,
} from '../disks/chunk-files.ts'
import {publishLockName, stagingMark} from '../disks/leftovers.ts'
import {acquireLock, type Lock} from '../syscalls/lock.ts'
import type {ReadChunk} from '../disks/raw-disk.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {exchangeNames} from '../syscalls/exclusive.ts'
import {hasFileCalls, syncfs} from '../syscalls/files.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'
import {latestText, type ChunkTarget, type PutOutcome, type TargetFiles} from './chunk-target.ts'

export type LocalPlace = {
  imagesRoot: string
  id: string
  /** Undefined when it is known only at the end, or when the layout is flat. */
  version: string | undefined
  /** Where the version comes from; `none` is the flat layout. */
  kind: 'given' | 'sha256' | 'none'
}

/** Where the chunked forms of an image are. */
export function chunkedDir(imagesRoot: string, id: string): string {
  return join(imagesRoot, 'chunked', id)
}

/**
 * Takes a place for writing.
 *
 * Errors: disk_busy when another process is at it; permission_denied, no_space, io_failed.
 */
export async function openLocalTarget(place: LocalPlace): Promise<ChunkTarget> {
  const image = chunkedDir(place.imagesRoot, place.id)
  await makeDirectory(image)
  // A version by digest is worked on under one name, so that its next attempt finds what was done.
  const name =
    place.kind === 'given' ? (place.version ?? '') : place.kind === 'none' ? '' : 'sha256'
  // Without the calls for a lock each process writes for itself; the last rename decides, and nothing is taken up again.
  const isLocked = hasFileCalls()
  const own = isLocked ? '' : `-${randomBytes(6).toString('hex')}`
  const staging = join(image, `${name}${stagingMark}${own}`)
  const final =
    place.kind === 'none' || place.version === undefined ? image : join(image, place.version)
  // One publisher for an image: what one of its versions is made of can be the name of another.
  const lock = isLocked ? acquireLock(join(image, publishLockName)) : undefined
  if (isLocked && lock === undefined) throw fail('disk_busy', {place: final})
  return new LocalTarget({...place, image, staging, final}, lock)
}

type Places = LocalPlace & {image: string; staging: string; final: string}

class LocalTarget implements ChunkTarget {
  readonly #places: Places
  readonly #lock: Lock | undefined
  readonly #buffers: Buffer<ArrayBuffer>[] = []
  #mode: 'new' | 'mend' = 'new'
  #map: ChunkMap | undefined
  #chunksDir = ''
  /** Whether something stood in the final place when we took it. */
  #isReplacing = false

  constructor(places: Places, lock: Lock | undefined) {
    this.#places = places
    this.#lock = lock
  }

  get place(): string {
    return this.#places.final
  }

  get #hasVersion(): boolean {
    return this.#places.kind !== 'none'
  }

  async existing(): Promise<Uint8Array | undefined> {
    const found = await this.#findExisting()
    this.#isReplacing = found !== undefined
    return found
  }

  async #findExisting(): Promise<Uint8Array | undefined> {
    const {final, staging, version} = this.#places
    if (this.#hasVersion && version === undefined) return undefined
    const manifest = await readManifestFile(join(final, 'manifest.json'))
    if (manifest !== undefined) return manifest
    // Of the flat layout the chunks may be there already: an earlier attempt ended between two of its renames.
    const isOurs = !this.#hasVersion && (await exists(staging))
    if (!isOurs && (await exists(this.#hasVersion ? final : join(final, 'chunks'))))
      return new Uint8Array()
    return undefined
  }

  async begin(mode: 'new' | 'mend', map: ChunkMap): Promise<void> {
    const {final, staging} = this.#places
    this.#mode = mode
    this.#map = map
    this.#chunksDir = join(mode === 'new' ? staging : final, 'chunks')
    if (mode === 'mend') return
    if (!this.#hasVersion && (await exists(staging)) && !(await exists(this.#chunksDir))) {
      const isShown = await exists(join(final, 'manifest.json'))
      if (!isShown) await renameIfThere(join(final, 'chunks'), this.#chunksDir)
    }
    await asWriting(this.#chunksDir, () => makeDirectories(this.#chunksDir))
  }

  async put(index: number, chunk: ReadChunk, digest: Digest): Promise<PutOutcome> {
    const map = this.#map
    if (map === undefined) throw new TypeError('begin was not called')
    const length = chunkBytes(map, index)
    const path = join(this.#chunksDir, chunkName(map, index))
    const found = await this.#examine(path, length)
    if (found.kind === 'file' && found.digest === digest) return 'kept'
    if (found.kind === 'other') await rm(path, {recursive: true, force: true})
    if (this.#mode === 'mend') await replaceChunkFile(path, length, chunk)
    else await writeChunkFile(path, length, chunk, {isSynced: !hasFileCalls()})
    failpoint('streams.chunk_written')
    return 'written'
  }

  async #examine(path: string, length: number): Promise<ChunkFile> {
    const seen = await lstatIfThere(path)
    if (seen === undefined) return {kind: 'absent'}
    if (!seen.isFile()) return {kind: 'other'}
    const buffer = this.#buffers.pop() ?? Buffer.allocUnsafeSlow(this.#map?.chunkSize ?? length)
    try {
      return await examineChunkFile(path, buffer.subarray(0, length))
    } finally {
      this.#buffers.push(buffer)
    }
  }

  async commit(files: TargetFiles): Promise<void> {
    const {final, staging} = this.#places
    if (this.#mode === 'mend') {
      await syncDirectory(this.#chunksDir)
      // What an attempt left that was cut off behind its last rename.
      await rm(staging, {recursive: true, force: true})
      return
    }
    await this.#stage(files)
    if (this.#hasVersion) await this.#showVersion(files.version)
    else await asWriting(final, () => this.#showFlat())
  }

  /** Everything of the new version in its place aside, durable. */
  async #stage(files: TargetFiles): Promise<void> {
    const {staging} = this.#places
    const map = this.#map
    const wanted = new Set(['chunks', 'manifest.json', ...(files.meta ? ['meta.json'] : [])])
    for (const name of await readdir(staging))
      if (!wanted.has(name)) await rm(join(staging, name), {recursive: true, force: true})
    for (const name of await readdir(this.#chunksDir)) {
      const index = Number.parseInt(name, 10)
      const isWanted = map && index < map.chunkCount && chunkName(map, index) === name
      if (!isWanted) await rm(join(this.#chunksDir, name), {recursive: true, force: true})
    }
    await syncAll(staging)
    failpoint('streams.chunks_synced')
    if (files.meta !== undefined) await writeDurably(join(staging, 'meta.json'), files.meta)
    await writeDurably(join(staging, 'manifest.json'), files.manifest)
    await syncDirectory(this.#chunksDir)
    await syncDirectory(staging)
    failpoint('streams.staged')
  }

  async #showVersion(version: string): Promise<void> {
    const {image, staging} = this.#places
    const final = join(image, version)
    this.#places.final = final
    try {
      if (this.#isReplacing) exchange(staging, final)
      else await rename(staging, final)
    } catch (error) {
      // Somebody without our lock was quicker.
      if (['EEXIST', 'ENOTEMPTY'].includes(systemCode(error) ?? ''))
        throw fail('disk_busy', {place: final}, {cause: error})
      throw fromSystemError(error, final, 'write')
    }
    failpoint('streams.shown')
    await syncDirectory(image)
    await rm(staging, {recursive: true, force: true})
  }

  async #showFlat(): Promise<void> {
    const {image, staging} = this.#places
    const [from, to] = [(name: string) => join(staging, name), (name: string) => join(image, name)]
    if (!this.#isReplacing && (await exists(to('manifest.json'))))
      throw fail('disk_busy', {place: image})
    if (await renameIfThere(to('manifest.json'), from('manifest.old'))) {
      await syncDirectory(image)
      failpoint('streams.manifest_retired')
    }
    if (await exists(to('chunks'))) exchange(from('chunks'), to('chunks'))
    else await rename(from('chunks'), to('chunks'))
    await rm(to('meta.json'), {force: true})
    await renameIfThere(from('meta.json'), to('meta.json'))
    await syncDirectory(image)
    failpoint('streams.chunks_shown')
    await rename(from('manifest.json'), to('manifest.json'))
    await syncDirectory(image)
    failpoint('streams.flat_shown')
    await rm(staging, {recursive: true, force: true})
  }

  async putLatest(version: string): Promise<void> {
    const {image, id} = this.#places
    const path = join(image, 'latest.json')
    const key = this.#hasVersion
      ? `chunked/${id}/${version}/manifest.json`
      : `chunked/${id}/manifest.json`
    await asWriting(path, async () => {
      await writeDurably(`${path}~`, latestText(id, version, key))
      await rename(`${path}~`, path)
      await syncDirectory(image)
    })
  }

  close(): Promise<void> {
    this.#lock?.release()
    this.#buffers.length = 0
    return Promise.resolve()
  }
}

/** Two directories change places; where the file system cannot, the old one is out of the way for a moment. */
function exchange(newer: string, older: string): void {
  try {
    exchangeNames(newer, older)
  } catch (error) {
    const code = systemCode(error)
    if (code !== undefined && !['EINVAL', 'ENOSYS', 'EOPNOTSUPP'].includes(code)) throw error
    const aside = join(dirname(newer), `${randomBytes(6).toString('hex')}${stagingMark}`)
    renameSync(older, aside)
    renameSync(newer, older)
    renameSync(aside, newer)
  }
}

async function syncAll(dir: string): Promise<void> {
  if (!hasFileCalls()) return
  await asWriting(dir, () => {
    const fd = openSync(dir, constants.O_RDONLY)
    try {
      // One flush for thousands of chunks: each of its own would wait for a journal's commit.
      syncfs(fd)
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
  })
}

async function writeDurably(path: string, text: string): Promise<void> {
  await asWriting(path, async () => {
    const {O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW} = constants
    const file = await open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o644)
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
  })
}

/** Undefined when there is none. What is too large to be a manifest is read as one that is none. */
async function readManifestFile(path: string): Promise<Uint8Array | undefined> {
  try {
    const {size} = await stat(path)
    return size > chunkBounds.manifestBytesMax ? new Uint8Array() : await readFile(path)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return undefined
    throw fromSystemError(error, path, 'read')
  }
}

async function lstatIfThere(path: string) {
  try {
    return await lstat(path)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw fromSystemError(error, path, 'read')
  }
}

async function exists(path: string): Promise<boolean> {
  return (await lstatIfThere(path)) !== undefined
}

async function renameIfThere(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to)
    return true
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw fromSystemError(error, to, 'write')
  }
}

async function asWriting<T>(path: string, body: () => T | Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  }
}
