/**
 * Reading a backup, from its beginning to its end and once, so that it may come through a pipe.
 *
 * The danger: it may be anybody's file. Only the few names that a backup has are taken, in their order, and nothing in
 * it is believed before the digests at its end agree.
 */
import {createHash} from 'node:crypto'
import {constants} from 'node:fs'
import {open, type FileHandle} from 'node:fs/promises'
import {fail, fromSystemError, ImgstoreError, systemCode} from '../errors.ts'
import {MiB} from '../limits.ts'
import {
  BLOCK_BYTES,
  contentsName,
  databaseName,
  decodeHeader,
  digestIn,
  headName,
  paddingOf,
  parseHead,
  parseObject,
  type BackupEntry,
  type BackupHead,
} from './format.ts'

/** Where the files of a backup go; each is whole and has the right digest when `end` resolves for it. */
export type BackupSink = {
  /** Writes one file; `pieces` may be reused once the next one is asked for. */
  take(entry: {name: string; sizeBytes: number}, pieces: AsyncIterable<Uint8Array>): Promise<void>
  onProgress?: (doneBytes: number, totalBytes: number) => void
  signal?: AbortSignal
}

/** Text files of a backup are small: some ten thousand blobs fit into the larger. */
const headBytesMax = 64 * 1024
const contentsBytesMax = 64 * MiB
const readBytes = MiB

/**
 * Reads a whole backup and hands its files on.
 *
 * Guarantees: returns only if every file had the digest that stands at the end of the backup, every blob its name's, and
 * nothing was missing or too many.
 * Errors: backup_invalid, interrupted, io_failed, permission_denied, and those of the sink.
 */
export async function readBackup(
  path: string,
  sink: BackupSink,
): Promise<{head: BackupHead; entries: BackupEntry[]}> {
  const file = await openBackup(path)
  try {
    const size = (await file.stat()).size
    return await new BackupReader(path, file, sink, size).run()
  } catch (error) {
    if (error instanceof ImgstoreError) throw error
    throw fromSystemError(error, path, 'read')
  } finally {
    await file.close()
  }
}

async function openBackup(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') throw fail('file_not_found', {path}, {cause: error})
    throw fromSystemError(error, path, 'read')
  }
}

class BackupReader {
  readonly #path: string
  readonly #file: FileHandle
  readonly #sink: BackupSink
  readonly #totalBytes: number
  readonly #buffer = Buffer.allocUnsafe(readBytes)
  readonly #entries: BackupEntry[] = []
  readonly #names = new Set<string>()
  #start = 0
  #end = 0
  #doneBytes = 0

  constructor(path: string, file: FileHandle, sink: BackupSink, totalBytes: number) {
    this.#path = path
    this.#file = file
    this.#sink = sink
    this.#totalBytes = totalBytes
  }

  async run(): Promise<{head: BackupHead; entries: BackupEntry[]}> {
    const head = parseHead(this.#path, await this.#text(await this.#expect(headName), headBytesMax))
    await this.#take(await this.#expect(databaseName))
    for (;;) {
      const header = await this.#header()
      if (header === undefined) throw this.#refuse('it is cut off')
      if (header.name === contentsName) {
        this.#compare(await this.#text(header, contentsBytesMax))
        await this.#expectEnd()
        return {head, entries: this.#entries}
      }
      const digest = digestIn(header.name)
      if (digest === undefined || !head.hasBlobs)
        throw this.#refuse(`it holds ${JSON.stringify(header.name)}, which no backup has`)
      if (this.#names.has(header.name)) throw this.#refuse(`it holds ${header.name} twice`)
      this.#names.add(header.name)
      const {sha256} = await this.#take(header)
      if (sha256 !== digest) throw this.#refuse(`${header.name} has the digest sha256:${sha256}`)
    }
  }

  async #expect(name: string): Promise<{name: string; sizeBytes: number}> {
    const header = await this.#header()
    if (header?.name !== name) throw this.#refuse(`it does not have ${name} where it belongs`)
    return header
  }

  async #header(): Promise<{name: string; sizeBytes: number} | undefined> {
    const block = Buffer.alloc(BLOCK_BYTES)
    let filled = 0
    while (filled < BLOCK_BYTES) {
      const piece = await this.#next(BLOCK_BYTES - filled)
      if (piece === undefined) throw this.#refuse('it is cut off')
      block.set(piece, filled)
      filled += piece.length
    }
    return decodeHeader(this.#path, block)
  }

  /** Hands a file on and hashes it. */
  async #take(entry: {name: string; sizeBytes: number}): Promise<BackupEntry> {
    const hash = createHash('sha256')
    const pieces = this.#pieces(entry.sizeBytes, (piece) => hash.update(piece))
    await this.#sink.take(entry, pieces)
    const taken = {...entry, sha256: hash.digest('hex')}
    this.#entries.push(taken)
    return taken
  }

  async #text(entry: {name: string; sizeBytes: number}, bytesMax: number): Promise<string> {
    if (entry.sizeBytes > bytesMax) throw this.#refuse(`${entry.name} is too large`)
    const hash = createHash('sha256')
    const chunks: Buffer[] = []
    for await (const piece of this.#pieces(entry.sizeBytes, (bytes) => hash.update(bytes)))
      chunks.push(Buffer.from(piece))
    if (entry.name !== contentsName) this.#entries.push({...entry, sha256: hash.digest('hex')})
    return Buffer.concat(chunks).toString('utf8')
  }

  async *#pieces(
    sizeBytes: number,
    onPiece: (piece: Uint8Array) => unknown,
  ): AsyncIterable<Uint8Array> {
    for (let left = sizeBytes; left > 0;) {
      if (this.#sink.signal?.aborted) throw fail('interrupted', {what: 'restoring'})
      const piece = await this.#next(left)
      if (piece === undefined) throw this.#refuse('it is cut off')
      left -= piece.length
      onPiece(piece)
      yield piece
      this.#sink.onProgress?.(this.#doneBytes, this.#totalBytes)
    }
    for (let left = paddingOf(sizeBytes); left > 0;) {
      const piece = await this.#next(left)
      if (piece === undefined) throw this.#refuse('it is cut off')
      if (piece.some((byte) => byte !== 0))
        throw this.#refuse('there is something between its files')
      left -= piece.length
    }
  }

  /** Some bytes, at most so many; undefined at the end. */
  async #next(bytesMax: number): Promise<Uint8Array | undefined> {
    if (this.#start === this.#end) {
      const {bytesRead} = await this.#file.read(this.#buffer, 0, readBytes, null)
      if (bytesRead === 0) return undefined
      this.#start = 0
      this.#end = bytesRead
    }
    const piece = this.#buffer.subarray(this.#start, Math.min(this.#end, this.#start + bytesMax))
    this.#start += piece.length
    this.#doneBytes += piece.length
    return piece
  }

  /** The list at the end names what came, and nothing else. */
  #compare(text: string): void {
    const {files} = parseObject(this.#path, contentsName, text)
    const listed = Array.isArray(files) ? (files as unknown[]) : []
    const isSame =
      listed.length === this.#entries.length &&
      listed.every((value, i) => isEntry(value, this.#entries[i]))
    if (!isSame) throw this.#refuse('its files are not those that it was made with')
  }

  async #expectEnd(): Promise<void> {
    let zeros = 0
    for (;;) {
      const piece = await this.#next(readBytes)
      if (piece === undefined) break
      if (piece.some((byte) => byte !== 0)) throw this.#refuse('there is something behind its end')
      zeros += piece.length
    }
    if (zeros < 2 * BLOCK_BYTES) throw this.#refuse('it is cut off')
  }

  #refuse(reason: string): ImgstoreError {
    return fail('backup_invalid', {path: this.#path, reason})
  }
}

function isEntry(value: unknown, entry: BackupEntry | undefined): boolean {
  if (typeof value !== 'object' || value === null || entry === undefined) return false
  const {name, size, sha256} = value as Record<string, unknown>
  return name === entry.name && size === entry.sizeBytes && sha256 === entry.sha256
}
