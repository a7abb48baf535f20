/** A consistent copy of a store, made while others work in it. */
import {constants} from 'node:fs'
import {link, mkdir, open, rm, stat} from 'node:fs/promises'
import {hostname} from 'node:os'
import {join} from 'node:path'
import {databaseName, BACKUP_FORMAT} from '../backups/format.ts'
import {BackupWriter} from '../backups/write.ts'
import {copyDatabase} from '../db/copy.ts'
import {blobsOfCopy, type CopiedBlob} from '../db/copied-rows.ts'
import {digestsInUse} from '../db/images.ts'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {newUlid, type ImageName} from '../ids.ts'
import {MiB} from '../limits.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'
import type {MaintenanceContext} from './context.ts'

export type BackupOptions = {
  /** Where the backup goes. */
  path: string
  /** Whether it may replace a file. */
  isForced: boolean
  withBlobs: boolean
  signal?: AbortSignal
  onProgress?: (progress: {doneBytes: number; totalBytes: number}) => void
}

export type BackupReport = {
  path: string
  sizeBytes: number
  images: number
  database: {sizeBytes: number; digest: string}
  blobs: {count: number; sizeBytes: number}
  /**
   * Blobs that the copied database names and that are not in the backup: `removed` meanwhile with their images,
   * `gone` though images need them, `damaged`. A restore has them fetched again.
   */
  leftOut: {digest: Digest; reason: 'removed' | 'gone' | 'damaged'; images: ImageName[]}[]
}

/**
 * Copies the database as it is at one moment and, on request, the blobs that it names.
 *
 * Guarantees: workers go on meanwhile; the backup appears whole, synced and for its owner alone, or not at all; every
 * blob in it has the right digest. Blobs that `cleanup` takes away while others are copied are kept for the backup.
 * Errors: file_exists, file_busy, store_invalid, no_space, io_failed, permission_denied, interrupted.
 */
export async function backup(
  maintenance: MaintenanceContext,
  options: BackupOptions,
): Promise<BackupReport> {
  const {database, clock, node} = maintenance
  const from = database.path
  if (from === ':memory:')
    throw fail('store_invalid', {
      path: maintenance.settings().db,
      reason: 'there is no database yet',
    })
  const writer = await BackupWriter.create(options.path, {...options, now: clock.now()})
  const pins = new Pins(maintenance)
  try {
    throwIfAborted(options.signal)
    await copyDatabase(from, writer.databasePath)
    failpoint('backups.copied')
    const {images, blobs} = blobsOfCopy(writer.databasePath, node)
    const wanted = options.withBlobs ? await pins.take(blobs) : []
    await writer.addHead({
      format: BACKUP_FORMAT,
      createdAt: new Date(clock.now()).toISOString(),
      node,
      hostname: hostname(),
      hasBlobs: options.withBlobs,
    })
    const copier = new Copier(writer, options, await totalOf(writer, wanted))
    const database_ = await copier.file(databaseName, writer.databasePath)
    if (!database_) throw fail('io_failed', {path: writer.databasePath, reason: 'it changed'})
    const report: BackupReport = {
      path: options.path,
      sizeBytes: 0,
      images,
      database: {sizeBytes: database_.sizeBytes, digest: database_.sha256},
      blobs: {count: 0, sizeBytes: 0},
      leftOut: [],
    }
    for (const blob of wanted) await addBlob(maintenance, copier, blob, report)
    report.sizeBytes = (await writer.finish()).sizeBytes
    return report
  } finally {
    await pins.release()
    await writer.close()
  }
}

type PinnedBlob = CopiedBlob & {path?: string}

async function totalOf(writer: BackupWriter, wanted: readonly PinnedBlob[]): Promise<number> {
  const paths = [writer.databasePath, ...wanted.flatMap(({path}) => path ?? [])]
  let total = 0
  for (const path of paths) total += (await stat(path).catch(() => undefined))?.size ?? 0
  return total
}

async function addBlob(
  maintenance: MaintenanceContext,
  copier: Copier,
  {digest, images, path}: PinnedBlob,
  report: BackupReport,
): Promise<void> {
  const added =
    path === undefined ? undefined : await copier.file(`blobs/${digest}.tar`, path, digest)
  if (added) {
    report.blobs.count++
    report.blobs.sizeBytes += added.sizeBytes
    return
  }
  if (path !== undefined && (await stat(path).catch(() => undefined))) {
    report.leftOut.push({digest, reason: 'damaged', images})
    return
  }
  const isNeeded = (await digestsInUse(maintenance.database.db)).has(digest)
  report.leftOut.push({digest, reason: isNeeded ? 'gone' : 'removed', images})
}

class Copier {
  readonly #writer: BackupWriter
  readonly #options: BackupOptions
  readonly #totalBytes: number
  readonly #buffer = Buffer.allocUnsafe(MiB)
  #doneBytes = 0

  constructor(writer: BackupWriter, options: BackupOptions, totalBytes: number) {
    this.#writer = writer
    this.#options = options
    this.#totalBytes = totalBytes
  }

  /** Undefined for a file that is gone, or whose bytes are not those of its digest. */
  async file(
    name: string,
    path: string,
    sha256?: string,
  ): Promise<{sizeBytes: number; sha256: string} | undefined> {
    let file
    try {
      file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined
      throw fromSystemError(error, path, 'read')
    }
    try {
      const {size: sizeBytes} = await file.stat()
      const entry = {name, sizeBytes, ...(sha256 === undefined ? {} : {sha256})}
      return await this.#writer.add(entry, this.#pieces(file, path))
    } finally {
      await file.close()
    }
  }

  async *#pieces(file: Awaited<ReturnType<typeof open>>, path: string): AsyncIterable<Uint8Array> {
    const {signal, onProgress} = this.#options
    for (let position = 0; ;) {
      throwIfAborted(signal)
      let bytesRead: number
      try {
        ;({bytesRead} = await file.read(this.#buffer, 0, this.#buffer.length, position))
      } catch (error) {
        throw fromSystemError(error, path, 'read')
      }
      if (bytesRead === 0) return
      position += bytesRead
      this.#doneBytes += bytesRead
      yield this.#buffer.subarray(0, bytesRead)
      onProgress?.({doneBytes: this.#doneBytes, totalBytes: this.#totalBytes})
    }
  }
}

/**
 * Second names of the blobs that are to be copied, so that they stay until they are, whatever becomes of their images.
 * Where the file system has no links, blobs are taken as long as they are there.
 */
class Pins {
  readonly #maintenance: MaintenanceContext
  readonly #dir: string

  constructor(maintenance: MaintenanceContext) {
    this.#maintenance = maintenance
    const {layout, clock} = maintenance
    this.#dir = join(layout.staging, `backup-${newUlid(clock.now())}`)
  }

  async take(blobs: readonly CopiedBlob[]): Promise<PinnedBlob[]> {
    const {layout} = this.#maintenance
    try {
      makeDirectories(layout.staging, 0o700)
      await mkdir(this.#dir, {mode: 0o700})
    } catch (error) {
      throw fromSystemError(error, this.#dir, 'make')
    }
    const pinned: PinnedBlob[] = []
    for (const blob of blobs) pinned.push(await this.#pin(blob))
    return pinned
  }

  async #pin(blob: CopiedBlob): Promise<PinnedBlob> {
    const source = this.#maintenance.blobs.pathOf(blob.digest)
    const path = join(this.#dir, blob.digest)
    try {
      await link(source, path)
      return {...blob, path}
    } catch (error) {
      return systemCode(error) === 'ENOENT' ? blob : {...blob, path: source}
    }
  }

  async release(): Promise<void> {
    await rm(this.#dir, {recursive: true, force: true}).catch(() => undefined)
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw fail('interrupted', {what: 'the backup'})
}
