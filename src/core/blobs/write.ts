/**
 * Writing one blob: bytes are appended to a part and hashed on the way; the part becomes the blob only when its
 * digest is right and its bytes are on the disk.
 *
 * The danger: a worker that was stopped past its lease may wake up and write again. A new owner therefore takes
 * over with a copy of the part (`isTakeover`): the old writer's descriptor then leads to a file without a name. And
 * every act by name (commit, discard) first checks that the name still means the file that this writer has open.
 */
import {createHash, randomBytes, type Hash} from 'node:crypto'
import {constants} from 'node:fs'
import {copyFile, open, rename, rm, stat, writeFile} from 'node:fs/promises'
import type {FileHandle} from 'node:fs/promises'
import {assert} from '../assert.ts'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {readSmallFile} from '../small-file.ts'
import {makeDirectory, syncDirectory} from '../syscalls/durable.ts'
import type {PartHashes} from './part-hashes.ts'
import {hashFile} from './read.ts'

/** Where a part comes from. */
export type PartNote = {
  /** Without secrets. */
  url: string
  /** The source's own text: an ETag, a date. */
  validator?: string
  totalBytes?: number
  /** How often the whole was assembled from several answers and came out wrong. */
  mismatches?: number
  /** Whether the source has continued this part before. */
  hasContinued?: boolean
}

export type BeginPartOptions = {
  /** True when another owner may still have the part open: work goes on in a copy of it. */
  isTakeover: boolean
  signal: AbortSignal
  /** A part of its own, that no other writer goes on with or is met by: for one who works outside of runs. */
  isPrivate?: boolean
  /** Asked when the disk is full: true when something was removed, so that it is worth trying once more. */
  makeRoom?: () => Promise<boolean>
}

/** The one writer of a part. Exactly one of `commit`, `abandon`, `discard` ends it; `abandon` and `discard` may follow a failed `commit`. */
export type PartWriter = {
  /** Bytes in the part now. */
  readonly sizeBytes: number
  /** What is known of the bytes in the part; undefined when nobody noted it. */
  readonly note: PartNote | undefined
  /**
   * Writes `chunks` behind the rest and hashes them. They may be reused once it resolves.
   * Errors: no_space, io_failed; the writer can then only be ended.
   * Cost: one write for all of them; the caller gathers (1 MiB is good).
   */
  append(chunks: readonly Uint8Array[]): Promise<void>
  /** Keeps `note` beside the part for the next attempt. Errors: blob_busy, no_space, io_failed. */
  saveNote(note: PartNote): Promise<void>
  /** Reads bytes of the part; fewer come back at its end. */
  read(position: number, lengthBytes: number): Promise<Buffer>
  /** The part, open for reading only, whatever its name leads to by now; the caller closes it. */
  openReader(): Promise<FileHandle>
  /** Forgets all bytes and the note. */
  restart(): Promise<void>
  /** The digest of the bytes so far. */
  digest(): Digest
  /**
   * Makes the part the blob.
   * Guarantees: durable when it returns (file synced, renamed, directory synced).
   * Errors: digest_mismatch (part and note are removed), blob_busy when another owner took the part, no_space, io_failed.
   */
  commit(): Promise<{digest: Digest; sizeBytes: number}>
  /** Ends the writer and keeps what is there for the next attempt (not synced: a part is checked again anyway). */
  abandon(): Promise<void>
  /** Ends the writer and removes its part and note. */
  discard(): Promise<void>
}

type Place = {
  digest: Digest
  blobsDir: string
  blobPath: string
  partPath: string
  notePath: string
  hashes: PartHashes
}

/**
 * Opens the part of a blob for writing, with what an earlier attempt left in it hashed again.
 *
 * Errors: no_space, io_failed, permission_denied; the signal's reason.
 * Cost: one pass over the bytes already there, unless this process left them there; with `isTakeover` also a copy of
 * them (a reflink where the file system can).
 */
export async function beginPart(place: Place, options: BeginPartOptions): Promise<PartWriter> {
  await makeDirectory(place.blobsDir)
  let file: FileHandle | undefined
  try {
    if (options.isTakeover) await replaceByCopy(place.partPath)
    file = await open(
      place.partPath,
      constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
      0o644,
    )
    if (!(await file.stat()).isFile())
      throw fail('io_failed', {path: place.partPath, reason: 'it is not a regular file'})
    failpoint('blobs.part_opened')
    options.signal.throwIfAborted()
    const known = await place.hashes.take(place.partPath, file)
    const hash = known?.hash ?? createHash('sha256')
    const sizeBytes = known?.sizeBytes ?? (await hashFile(file, hash, {signal: options.signal}))
    const note = sizeBytes > 0 ? readNote(place.notePath) : undefined
    return new FilePartWriter(place, {file, hash, sizeBytes, note}, options.makeRoom)
  } catch (error) {
    await file?.close()
    options.signal.throwIfAborted()
    throw fromSystemError(error, place.partPath, 'write')
  }
}

/** Gives the name a new file with the same bytes, so that whoever has the old one open no longer reaches it. */
async function replaceByCopy(path: string): Promise<void> {
  const copyPath = `${path}.copy-${randomBytes(6).toString('hex')}`
  try {
    await copyFile(path, copyPath, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
    await rename(copyPath, path)
    failpoint('blobs.part_copied')
  } catch (error) {
    await rm(copyPath, {force: true})
    if (systemCode(error) !== 'ENOENT') throw error
  }
}

function readNote(path: string): PartNote | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(readSmallFile(path))
  } catch {
    // No note, or a torn one: the part can still be resumed, only without a validator.
    return undefined
  }
  if (typeof parsed !== 'object' || parsed === null) return undefined
  const {url, validator, totalBytes, mismatches, hasContinued} = parsed as Record<string, unknown>
  if (typeof url !== 'string') return undefined
  return {
    url,
    ...(typeof validator === 'string' ? {validator} : {}),
    ...(isCount(totalBytes) ? {totalBytes} : {}),
    ...(isCount(mismatches) ? {mismatches} : {}),
    ...(hasContinued === true ? {hasContinued} : {}),
  }
}

const isCount = (value: unknown): value is number =>
  Number.isSafeInteger(value) && Number(value) >= 0

type Opened = {file: FileHandle; hash: Hash; sizeBytes: number; note: PartNote | undefined}

class FilePartWriter implements PartWriter {
  sizeBytes: number
  note: PartNote | undefined
  readonly #place: Place
  #file: FileHandle | undefined
  #hash: Hash
  #isBroken = false
  readonly #makeRoom: () => Promise<boolean>

  constructor(place: Place, opened: Opened, makeRoom = () => Promise.resolve(false)) {
    this.#place = place
    this.#file = opened.file
    this.#hash = opened.hash
    this.sizeBytes = opened.sizeBytes
    this.note = opened.note
    this.#makeRoom = makeRoom
  }

  #openFile(): FileHandle {
    assert(this.#file !== undefined, 'an ended part writer is not used again')
    return this.#file
  }

  async append(chunks: readonly Uint8Array[]): Promise<void> {
    assert(!this.#isBroken, 'a part writer is not used after a failed write')
    const file = this.#openFile()
    let lengthBytes = 0
    for (const chunk of chunks) lengthBytes += chunk.byteLength
    // The thread pool writes while this thread hashes; the loop comes back once both are done.
    this.#isBroken = true
    const written = writeAll(file, chunks, this.sizeBytes, lengthBytes)
    for (const chunk of chunks) this.#hash.update(chunk)
    try {
      await written.catch(async (error: unknown) => {
        if (!(await this.#hasMadeRoom(error))) throw error
        await writeAll(file, chunks, this.sizeBytes, lengthBytes)
      })
    } catch (error) {
      throw fromSystemError(error, this.#place.partPath, 'write')
    }
    this.#isBroken = false
    this.sizeBytes += lengthBytes
  }

  async saveNote(note: PartNote): Promise<void> {
    const path = this.#place.notePath
    try {
      await this.#writeNote(path, note).catch(async (error: unknown) => {
        if (!(await this.#hasMadeRoom(error))) throw error
        await this.#writeNote(path, note)
      })
    } catch (error) {
      throw fromSystemError(error, path, 'write')
    }
    this.note = note
  }

  async #writeNote(path: string, note: PartNote): Promise<void> {
    const temporary = `${path}.${randomBytes(6).toString('hex')}`
    try {
      if (!(await this.#isNameMine())) throw fail('blob_busy', {digest: this.#place.digest})
      await writeFile(temporary, `${JSON.stringify(note)}\n`, {flag: 'wx', mode: 0o600})
      await rename(temporary, path)
      failpoint('blobs.note_saved')
    } catch (error) {
      await rm(temporary, {force: true})
      throw error
    }
  }

  async #hasMadeRoom(error: unknown): Promise<boolean> {
    const isFull = fromSystemError(error, this.#place.partPath, 'write').code === 'no_space'
    return isFull && (await this.#makeRoom())
  }

  async read(position: number, lengthBytes: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(lengthBytes)
    try {
      const {bytesRead} = await this.#openFile().read(buffer, 0, lengthBytes, position)
      return buffer.subarray(0, bytesRead)
    } catch (error) {
      throw fromSystemError(error, this.#place.partPath, 'read')
    }
  }

  async openReader(): Promise<FileHandle> {
    try {
      return await open(`/proc/self/fd/${this.#openFile().fd}`, 'r')
    } catch (error) {
      throw fromSystemError(error, this.#place.partPath, 'read')
    }
  }

  async restart(): Promise<void> {
    try {
      await this.#openFile().truncate(0)
      if (await this.#isNameMine()) await rm(this.#place.notePath, {force: true})
    } catch (error) {
      throw fromSystemError(error, this.#place.partPath, 'write')
    }
    this.#hash = createHash('sha256')
    this.#isBroken = false
    this.sizeBytes = 0
    this.note = undefined
  }

  digest(): Digest {
    return this.#hash.copy().digest('hex') as Digest
  }

  async commit(): Promise<{digest: Digest; sizeBytes: number}> {
    assert(!this.#isBroken, 'a part whose write failed is not committed')
    const {digest, blobPath, partPath, notePath, blobsDir} = this.#place
    const {sizeBytes} = this
    const actual = this.digest()
    if (actual !== digest) {
      await this.discard()
      throw fail('digest_mismatch', {expected: digest, actual, sizeBytes})
    }
    const file = this.#openFile()
    let isNamed = false
    try {
      assert((await file.stat()).size === sizeBytes, 'a part has as many bytes as were hashed')
      // A failed sync is never taken as done: the kernel may have dropped the pages and forgotten the error.
      await file.sync()
      failpoint('blobs.synced')
      if (!(await this.#isNameMine())) throw fail('blob_busy', {digest})
      failpoint('blobs.owned')
      await this.#giveName(partPath, blobPath)
      isNamed = true
      failpoint('blobs.renamed')
      await syncDirectory(blobsDir)
      failpoint('blobs.durable')
      await rm(notePath, {force: true})
    } catch (error) {
      // Nobody knows what of it is on the disk, and a second sync that goes well would not say: it is fetched again.
      if (isNamed) await rm(blobPath, {force: true}).catch(() => undefined)
      throw fromSystemError(error, blobPath, 'write')
    }
    await this.#close()
    return {digest, sizeBytes}
  }

  async abandon(): Promise<void> {
    if (this.#file !== undefined && !this.#isBroken && this.sizeBytes > 0) {
      const {partPath, hashes} = this.#place
      await hashes.keep(partPath, this.#file, this.#hash, this.sizeBytes)
    }
    await this.#close()
  }

  async #close(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    await file?.close()
  }

  async discard(): Promise<void> {
    try {
      if (this.#file !== undefined && (await this.#isNameMine())) {
        await rm(this.#place.partPath, {force: true})
        await rm(this.#place.notePath, {force: true})
        failpoint('blobs.part_discarded')
      }
    } finally {
      await this.#close()
    }
  }

  /** Renames the part. Whoever slept since it was looked at may have got hold of another's unfinished one. */
  async #giveName(partPath: string, blobPath: string): Promise<void> {
    try {
      await rename(partPath, blobPath)
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error
      throw fail('blob_busy', {digest: this.#place.digest}, {cause: error})
    }
    if (await this.#isNameMine(blobPath)) return
    await rename(blobPath, partPath)
    throw fail('blob_busy', {digest: this.#place.digest})
  }

  /** Whether a name, that of the part, leads to the file that this writer has open. */
  async #isNameMine(path = this.#place.partPath): Promise<boolean> {
    const mine = await this.#openFile().stat({bigint: true})
    try {
      const named = await stat(path, {bigint: true})
      return named.ino === mine.ino && named.dev === mine.dev
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false
      throw error
    }
  }
}

async function writeAll(
  file: FileHandle,
  chunks: readonly Uint8Array[],
  position: number,
  lengthBytes: number,
): Promise<void> {
  const {bytesWritten} = await file.writev(chunks, position)
  if (bytesWritten === lengthBytes) return
  // A short write: mostly a disk about to be full. Writing the rest gives the reason, or goes on.
  const rest = Buffer.concat(chunks).subarray(bytesWritten)
  for (let done = 0; done < rest.length;) {
    const result = await file.write(rest, done, rest.length - done, position + bytesWritten + done)
    done += result.bytesWritten
  }
}
