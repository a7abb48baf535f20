/**
 * Writing a backup: into a part beside it, which becomes the backup when it is whole and on the disk. A part that was
 * cut off is overwritten by the next attempt; two at once would be one in the other's way, so the part is locked.
 */
import {createHash} from 'node:crypto'
import {constants, existsSync, fstatSync, linkSync, renameSync, rmSync, statSync} from 'node:fs'
import {open, type FileHandle} from 'node:fs/promises'
import {dirname} from 'node:path'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {syncDirectory} from '../syscalls/durable.ts'
import {failpoint} from '../failpoint.ts'
import {tryLock} from '../syscalls/exclusive.ts'
import {
  contentsName,
  encodeHeader,
  formatContents,
  formatHead,
  headName,
  paddingOf,
  type BackupEntry,
  type BackupHead,
} from './format.ts'

/** Two blocks of zeros end a tar. */
const endBytes = 1024

/** What is written: pieces that may be reused once the next one is asked for. */
export type Pieces = AsyncIterable<Uint8Array>

export class BackupWriter {
  readonly path: string
  readonly #file: FileHandle
  readonly #isForced: boolean
  readonly #mtimeS: number
  readonly #entries: BackupEntry[] = []
  #position = 0

  private constructor(path: string, file: FileHandle, options: {isForced: boolean; now: number}) {
    this.path = path
    this.#file = file
    this.#isForced = options.isForced
    this.#mtimeS = Math.floor(options.now / 1000)
  }

  /**
   * Takes the place of a backup.
   *
   * Errors: file_exists (unless forced), store_busy when another process is writing it, no_space, io_failed,
   * permission_denied.
   */
  static async create(
    path: string,
    options: {isForced: boolean; now: number},
  ): Promise<BackupWriter> {
    if (!options.isForced && existsSync(path)) throw fail('file_exists', {path})
    if (existsSync(path) && !statSync(path).isFile())
      throw fail('io_failed', {path, reason: 'it is no plain file'})
    const part = partOf(path)
    let file: FileHandle | undefined
    try {
      const {O_RDWR, O_CREAT, O_NOFOLLOW} = constants
      file = await open(part, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
      if (!tryLock(file.fd) || !isSame(file, part)) throw fail('file_busy', {path})
      await file.chmod(0o600)
      await file.truncate(0)
      return new BackupWriter(path, file, options)
    } catch (error) {
      await file?.close()
      throw fromSystemError(error, part, 'write')
    }
  }

  /** Beside the backup: the copy of the database while it is written. Ours alone while we hold the part. */
  get databasePath(): string {
    return `${partOf(this.path)}.db`
  }

  async addHead(head: BackupHead): Promise<void> {
    await this.#addText(headName, formatHead(head))
  }

  /**
   * Adds a file of `sizeBytes`. False, and nothing was added, when it had another size or, where that is given, another
   * digest.
   *
   * Errors: no_space, io_failed, and those of `pieces`.
   */
  async add(
    entry: {name: string; sizeBytes: number; sha256?: string},
    pieces: Pieces,
  ): Promise<BackupEntry | undefined> {
    const start = this.#position
    const hash = createHash('sha256')
    let sizeBytes = 0
    try {
      await this.#write(encodeHeader({...entry, mtimeS: this.#mtimeS}))
      for await (const piece of pieces) {
        sizeBytes += piece.length
        if (sizeBytes > entry.sizeBytes) break
        hash.update(piece)
        await this.#write(piece)
      }
      await this.#write(Buffer.alloc(paddingOf(entry.sizeBytes)))
    } catch (error) {
      throw fromSystemError(error, partOf(this.path), 'write')
    }
    const sha256 = hash.digest('hex')
    const isRight =
      sizeBytes === entry.sizeBytes && (entry.sha256 === undefined || entry.sha256 === sha256)
    if (!isRight) {
      await this.#file.truncate(start)
      this.#position = start
      return undefined
    }
    const added = {name: entry.name, sizeBytes, sha256}
    this.#entries.push(added)
    return added
  }

  /**
   * Ends the backup and shows it under its name.
   *
   * Guarantees: durable when it returns; until then the name has what it had before.
   * Errors: file_exists, no_space, io_failed, permission_denied.
   */
  async finish(): Promise<{sizeBytes: number}> {
    const part = partOf(this.path)
    try {
      await this.#addText(contentsName, formatContents(this.#entries))
      await this.#write(Buffer.alloc(endBytes))
      await this.#file.sync()
      failpoint('backups.synced')
      show(part, this.path, this.#isForced)
      await syncDirectory(dirname(this.path))
      failpoint('backups.shown')
    } catch (error) {
      throw fromSystemError(error, this.path, 'write')
    }
    return {sizeBytes: this.#position}
  }

  /** Ends the writer, whatever became of it; a part that was not shown goes. */
  async close(): Promise<void> {
    rmSync(this.databasePath, {force: true})
    const part = partOf(this.path)
    // Only ours: after `finish` the name may be another writer's already.
    if (isSame(this.#file, part)) rmSync(part, {force: true})
    await this.#file.close()
  }

  async #addText(name: string, text: string): Promise<void> {
    const bytes = Buffer.from(text)
    await this.add({name, sizeBytes: bytes.length}, onePiece(bytes))
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const {bytesWritten} = await this.#file.write(bytes, done, undefined, this.#position)
      done += bytesWritten
      this.#position += bytesWritten
    }
  }
}

const partOf = (path: string): string => `${path}.part`

// eslint-disable-next-line @typescript-eslint/require-await -- one piece that is there
async function* onePiece(bytes: Uint8Array): Pieces {
  yield bytes
}

/** Whether the name still leads to the file that is open. */
function isSame(file: FileHandle, path: string): boolean {
  const named = statSync(path, {bigint: true, throwIfNoEntry: false})
  const opened = fstatSync(file.fd, {bigint: true})
  return named?.ino === opened.ino && named.dev === opened.dev
}

/** A link does not take the place of what came there meanwhile, as a rename does. */
function show(part: string, path: string, isForced: boolean): void {
  if (!isForced) {
    try {
      linkSync(part, path)
      rmSync(part)
      return
    } catch (error) {
      const code = systemCode(error)
      if (code === 'EEXIST') throw fail('file_exists', {path}, {cause: error})
      // File systems without links.
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK', 'ENOSYS'].includes(code ?? '')) throw error
      if (existsSync(path)) throw fail('file_exists', {path})
    }
  }
  renameSync(part, path)
}
