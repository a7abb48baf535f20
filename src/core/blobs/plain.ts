/**
 * The plain tar of a compressed blob, made while the blob comes.
 *
 * The danger: until the blob's digest was found right, these are an attacker's bytes. They grow under a name that
 * nothing reads, which is its maker's alone, and get the name of the plain tar only by `adopt`, which is for him who has
 * committed the blob. A maker that was overtaken finds its file gone; what it would adopt is whole and right anyway.
 */
import {randomBytes} from 'node:crypto'
import {constants} from 'node:fs'
import {open, readdir, rename, rm} from 'node:fs/promises'
import type {FileHandle} from 'node:fs/promises'
import {join} from 'node:path'
import {assert} from '../assert.ts'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {readSmallFile} from '../small-file.ts'
import {makeDirectory, syncDirectory} from '../syscalls/durable.ts'
import {parseBlobFileName, plainName, plainNoteName, plainPartName} from './layout.ts'

/** What is known of a plain tar beside its bytes. */
export type PlainNote = {
  sizeBytes: number
  /** SHA-256 of the tar. */
  digest: Digest
  /** What the blob is compressed with. */
  format: string
  /** The most bytes that were out for each compressed byte at any time while that is looked at; 0 if it never was. */
  ratio: number
}

/** The one writer of a plain tar; `adopt` or `discard` ends it. */
export type PlainWriter = {
  /** Where the bytes go. Whoever gets it cannot reach the name with it. */
  readonly fd: number
  /**
   * Makes the file the plain tar of its blob, which must have been committed.
   * Guarantees: durable when it returns, with its note.
   * Errors: no_space, io_failed (also when another maker removed the file); `discard` is then still due.
   */
  adopt(note: PlainNote): Promise<void>
  /** Ends the writer and removes what it wrote. */
  discard(): Promise<void>
}

export async function beginPlain(blobsDir: string, digest: Digest): Promise<PlainWriter> {
  await makeDirectory(blobsDir)
  await removePlainParts(blobsDir, digest)
  const path = join(blobsDir, plainPartName(digest, randomBytes(6).toString('hex')))
  const {O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW} = constants
  try {
    const file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    failpoint('blobs.plain_opened')
    return new FilePlainWriter({blobsDir, digest, path}, file)
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  }
}

export async function removePlainParts(blobsDir: string, digest: Digest): Promise<void> {
  let names: string[]
  try {
    names = await readdir(blobsDir)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return
    throw fromSystemError(error, blobsDir, 'list')
  }
  for (const name of names) {
    if (!name.startsWith(digest)) continue
    if (parseBlobFileName(name).kind === 'plain-part') await rm(join(blobsDir, name), {force: true})
  }
}

class FilePlainWriter implements PlainWriter {
  readonly #place: {blobsDir: string; digest: Digest; path: string}
  #file: FileHandle | undefined

  constructor(place: {blobsDir: string; digest: Digest; path: string}, file: FileHandle) {
    this.#place = place
    this.#file = file
  }

  get fd(): number {
    assert(this.#file !== undefined, 'an ended plain writer is not used again')
    return this.#file.fd
  }

  async adopt(note: PlainNote): Promise<void> {
    const {blobsDir, digest, path} = this.#place
    const file = this.#file
    assert(file !== undefined, 'an ended plain writer is not used again')
    const plainPath = join(blobsDir, plainName(digest))
    try {
      // What was made is told by the process that had the bytes in its hands.
      const {size} = await file.stat()
      if (size !== note.sizeBytes) {
        const reason = `it has ${size} bytes, not ${note.sizeBytes}`
        throw fail('io_failed', {path, reason})
      }
      await file.sync()
      await writeNote(`${path}.json`, note)
      failpoint('blobs.plain_synced')
      await rename(path, plainPath)
      failpoint('blobs.plain_renamed')
      // Last, because it is what the tar is known by: whoever sees it sees all the bytes.
      await rename(`${path}.json`, join(blobsDir, plainNoteName(digest)))
      await syncDirectory(blobsDir)
      failpoint('blobs.plain_durable')
    } catch (error) {
      throw fromSystemError(error, plainPath, 'write')
    }
    await this.#end()
  }

  async discard(): Promise<void> {
    const {path} = this.#place
    await this.#end()
    await rm(path, {force: true})
    await rm(`${path}.json`, {force: true})
  }

  async #end(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    await file?.close()
  }
}

async function writeNote(path: string, note: PlainNote): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    await file.writeFile(`${JSON.stringify(note)}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
}

export function readPlainNote(blobsDir: string, digest: Digest): PlainNote | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(readSmallFile(join(blobsDir, plainNoteName(digest))))
  } catch {
    // None, or a torn one: the tar is then made again.
    return undefined
  }
  if (typeof parsed !== 'object' || parsed === null) return undefined
  const {sizeBytes, digest: plainDigest, format, ratio} = parsed as Record<string, unknown>
  const isNote =
    Number.isSafeInteger(sizeBytes) &&
    typeof plainDigest === 'string' &&
    /^[0-9a-f]{64}$/.test(plainDigest) &&
    typeof format === 'string' &&
    typeof ratio === 'number'
  return isNote ? (parsed as PlainNote) : undefined
}
