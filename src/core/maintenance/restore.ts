/**
 * Puts a backup in the place of a store's database.
 *
 * Order is what makes it safe to be cut off anywhere: everything is read and verified aside; the database is made this
 * host's own and agreed with the files that are here while it is still aside; blobs come into place, where nothing names
 * them yet; and the last act is one rename. Before it the old database is whole and in use, behind it the new one.
 */
import {
  chmodSync,
  chownSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import {open, readdir, rm} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {databaseName, digestIn, type BackupHead} from '../backups/format.ts'
import {readBackup} from '../backups/read.ts'
import {makeDirectory, syncDirectory} from '../syscalls/durable.ts'
import type {BlobStore} from '../blobs/blob-store.ts'
import type {Clock} from '../clock.ts'
import {admitCopy, restDatabase} from '../db/copy.ts'
import {findOpeners} from '../db/openers.ts'
import {restoreLockOf, stagedPathOf} from '../db/open.ts'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError, ImgstoreError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {newUlid, type ImageName} from '../ids.ts'
import type {ImageState} from '../image.ts'
import type {Layout} from '../layout.ts'
import type {Logger} from '../log.ts'
import {acquireLock} from '../syscalls/lock.ts'

export type RestoreOptions = {
  /** The backup. */
  path: string
  /** Whether it may take the place of a database with images. */
  isForced: boolean
  signal?: AbortSignal
  onProgress?: (progress: {doneBytes: number; totalBytes: number}) => void
}

export type SetBack = {image: ImageName; from: ImageState; to: ImageState; reason: string}

export type RestoreReport = {
  database: string
  /** Where the database is kept that was there before. */
  kept?: string
  images: number
  blobs: {count: number; sizeBytes: number}
  /** Images that are not as the backup says, and what they are now: the next worker brings them back. */
  setBack: SetBack[]
}

/** What the doors of other rooms give. */
export type RestoreContext = {
  databasePath: string
  layout: Layout
  blobs: BlobStore
  clock: Clock
  log: Logger
  /** Who is at work in the database that is there, and how many images it has; undefined when it cannot be read. */
  lookAtPresent: (path: string) => Promise<{images: number; by?: string} | undefined>
  /** Makes a staged database this host's own, and its states true; it is closed when this resolves. */
  settle: (path: string, head: BackupHead) => Promise<{images: number; setBack: SetBack[]}>
}

/**
 * Restores a backup into a store, which is made where there is none.
 *
 * Guarantees: killed at any moment, the store has its old database or the new one, whole; nothing of the backup is
 * visible before all of it was verified; the old database is kept.
 * Errors: file_not_found, backup_invalid, store_newer, store_exists, store_in_use, store_busy, interrupted, no_space,
 * io_failed, permission_denied.
 */
export async function restore(
  context: RestoreContext,
  options: RestoreOptions,
): Promise<RestoreReport> {
  const path = existsSync(context.databasePath)
    ? realpathSync(context.databasePath)
    : context.databasePath
  await makeDirectory(dirname(path))
  // From here on nobody opens the database who did not before.
  const lock = acquireLock(restoreLockOf(path))
  if (lock === undefined) throw fail('store_in_use', {path, by: 'another restore'})
  const stage = new Stage(context, path)
  try {
    await stage.clear()
    await refuseUsed(context, path, options)
    const head = await stage.extract(options)
    await admitCopy(stage.databasePath, options.path)
    failpoint('restore.admitted')
    const blobs = await stage.placeBlobs()
    const {images, setBack} = await context.settle(stage.databasePath, head)
    restDatabase(stage.databasePath)
    giveTo(stage.databasePath, existsSync(path) ? path : context.layout.store)
    failpoint('restore.settled')
    // Again, just before: reading may have taken long.
    await refuseUsed(context, path, options)
    const kept = await swap(context, stage.databasePath, path)
    return {database: path, ...(kept === undefined ? {} : {kept}), images, blobs, setBack}
  } finally {
    await stage.clear()
    lock.release()
  }
}

/** Errors: store_in_use, store_exists. */
async function refuseUsed(
  context: RestoreContext,
  path: string,
  options: RestoreOptions,
): Promise<void> {
  if (!existsSync(path)) return
  const [opener] = findOpeners(path)
  if (opener !== undefined) throw fail('store_in_use', {path, by: opener})
  const present = await context.lookAtPresent(path)
  if (present?.by !== undefined) throw fail('store_in_use', {path, by: present.by})
  // One that cannot be read may be the very reason for the restore; but it is for a person to say so.
  const images = present?.images ?? 1
  if (!options.isForced && images > 0) throw fail('store_exists', {path, images})
}

/** Where a backup is taken apart: the database beside its place, blobs in the store's staging directory. */
class Stage {
  readonly databasePath: string
  readonly #context: RestoreContext
  readonly #dir: string
  readonly #blobs: {digest: Digest; path: string; sizeBytes: number}[] = []

  constructor(context: RestoreContext, path: string) {
    this.#context = context
    this.databasePath = stagedPathOf(path)
    this.#dir = join(context.layout.staging, `restore-${newUlid(context.clock.now())}`)
  }

  /** Takes away what is staged, also by a restore that was cut off. */
  async clear(): Promise<void> {
    for (const end of ['', '-wal', '-shm', '-journal'])
      rmSync(`${this.databasePath}${end}`, {force: true})
    const {staging} = this.#context.layout
    const names = await readdir(staging).catch(() => [])
    // The lock that we hold is the database's; other databases may share the store.
    const own = names.filter((name) => join(staging, name) === this.#dir)
    for (const name of own) await rm(join(staging, name), {recursive: true, force: true})
  }

  async extract(options: RestoreOptions): Promise<BackupHead> {
    const {onProgress} = options
    const {head} = await readBackup(options.path, {
      take: (entry, pieces) => this.#take(entry, pieces),
      ...(options.signal ? {signal: options.signal} : {}),
      onProgress: (doneBytes, totalBytes) => onProgress?.({doneBytes, totalBytes}),
    })
    failpoint('restore.extracted')
    return head
  }

  async #take(
    {name, sizeBytes}: {name: string; sizeBytes: number},
    pieces: AsyncIterable<Uint8Array>,
  ): Promise<void> {
    if (name === databaseName) {
      await writeFile(this.databasePath, pieces)
      return
    }
    const digest = digestIn(name) as Digest
    const path = join(this.#dir, digest)
    await makeDirectory(this.#dir, 0o700)
    await writeFile(path, pieces)
    this.#blobs.push({digest, path, sizeBytes})
  }

  /** Blobs that are here already stay: mounts may stand on them. */
  async placeBlobs(): Promise<{count: number; sizeBytes: number}> {
    const {blobs, layout} = this.#context
    const placed = {count: 0, sizeBytes: 0}
    for (const {digest, path, sizeBytes} of this.#blobs) {
      if ((await blobs.stat(digest))?.sizeBytes === sizeBytes) continue
      giveTo(path, layout.store)
      await blobs.adopt(digest, path)
      failpoint('restore.blob_placed')
      placed.count++
      placed.sizeBytes += sizeBytes
    }
    return placed
  }
}

/** Root restores for whoever the store belongs to; a file that stands in for another also has its rights. */
function giveTo(path: string, like: string): void {
  try {
    const found = statSync(like)
    if (process.geteuid?.() === 0) chownSync(path, found.uid, found.gid)
    if (found.isFile()) chmodSync(path, found.mode & 0o666)
  } catch (error) {
    throw fromSystemError(error, path, 'give away')
  }
}

async function writeFile(path: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  try {
    const file = await open(path, 'wx', 0o600)
    try {
      for await (const piece of pieces) {
        for (let done = 0; done < piece.length;)
          done += (await file.write(piece, done)).bytesWritten
      }
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  }
}

/** Keeps the old database under another name and puts the new one in its place. Returns that name. */
async function swap(
  {clock, log}: RestoreContext,
  staged: string,
  path: string,
): Promise<string | undefined> {
  const dir = dirname(path)
  try {
    let kept: string | undefined
    if (existsSync(path)) {
      kept = keptPathOf(path, clock.now())
      putToRest(path, kept, log)
      keep(path, kept)
      await syncDirectory(dir)
      failpoint('restore.kept')
    }
    renameSync(staged, path)
    failpoint('restore.swapped')
    await syncDirectory(dir)
    return kept
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  }
}

/** Under two names at once, so that there is a database at any moment. */
function keep(path: string, kept: string): void {
  try {
    linkSync(path, kept)
  } catch (error) {
    // File systems without links.
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK'].includes(systemCode(error) ?? '')) throw error
    copyFileSync(path, kept, constants.COPYFILE_EXCL)
  }
}

/**
 * A log beside the new database that belongs to the old one would be played into it: SQLite does not know the
 * difference. So the old one's is put into it, or where it is too damaged for that, goes with it.
 */
function putToRest(path: string, kept: string, log: Logger): void {
  try {
    restDatabase(path)
  } catch (error) {
    if (!(error instanceof ImgstoreError) || error.code !== 'store_invalid') throw error
    log.warn({path, error: error.message}, 'the old database is damaged; it is kept as it is')
  }
  for (const end of ['-wal', '-shm', '-journal'])
    if (existsSync(`${path}${end}`)) renameSync(`${path}${end}`, `${kept}${end}`)
}

function keptPathOf(path: string, now: number): string {
  const time = new Date(now).toISOString().replaceAll(/[-:]|\.\d+/g, '')
  const name = `${path}.before-restore-${time}`
  for (let nth = 1; ; nth++) {
    const candidate = nth === 1 ? name : `${name}-${nth}`
    if (!existsSync(candidate)) return candidate
  }
}
