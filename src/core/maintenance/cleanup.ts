/** Finds what nothing needs any more, and removes it. What a run needs is never touched. */
import {readdir, rm, rmdir, stat} from 'node:fs/promises'
import {join} from 'node:path'
import {listBlobs, removeBlob} from '../db/blobs.ts'
import {digestsInUse, listPlaced, type PlacedImage} from '../db/images.ts'
import {listRuns} from '../db/runs.ts'
import type {Digest} from '../digest.ts'
import {
  errorToJson,
  fail,
  fromSystemError,
  systemCode,
  toImgstoreError,
  type ErrorJson,
} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {RunSummary} from '../image.ts'
import {parseTreeId} from '../layout.ts'
import {findMounts, mountsBelow} from '../mounts/mount-table.ts'
import {unmountSync} from '../mounts/mount.ts'
import type {MaintenanceContext} from './context.ts'
import {diskUsage} from './disk-usage.ts'
import {dropBlobIfUnused} from './unused-blobs.ts'

export type CleanupKind = 'blob' | 'part' | 'staging' | 'tree' | 'overlay' | 'mount' | 'quarantine'
export type CleanupItem = {
  kind: CleanupKind
  path: string
  /** Bytes on disk that its removal frees. */
  sizeBytes: number
  reason: string
  /** Why it could not be removed. */
  error?: ErrorJson
}
export type CleanupReport = {isDryRun: boolean; freedBytes: number; items: CleanupItem[]}

/** Something that can go; `remove` returns false when it turned out to be needed after all. */
type Candidate = Omit<CleanupItem, 'error'> & {remove: () => Promise<boolean>}

/** What the database says is needed, read once before the files are looked at. */
type Needs = {images: PlacedImage[]; openRuns: RunSummary[]; digests: Set<Digest>}

/**
 * Removes unused blobs, stale parts, staging and quarantine, and the trees, overlays and mounts of vanished images.
 *
 * Guarantees: needs are read before the files, and blobs are looked up again behind the write lock; a failure at one
 * item is in its `error` and does not stop the others. A dry run changes nothing.
 */
export async function cleanup(
  maintenance: MaintenanceContext,
  options: {isDryRun: boolean},
): Promise<CleanupReport> {
  const {database, node} = maintenance
  const needs: Needs = {
    images: await listPlaced(database.db, node),
    openRuns: await listRuns(database.db, {node, isOpen: true, limit: 100_000}),
    digests: await digestsInUse(database.db),
  }
  const report: CleanupReport = {isDryRun: options.isDryRun, freedBytes: 0, items: []}
  for await (const candidate of candidates(maintenance, needs)) {
    const {remove, ...item} = candidate
    if (!options.isDryRun) {
      try {
        if (!(await remove())) continue
        failpoint('maintenance.item_removed')
      } catch (error) {
        const known =
          toImgstoreError(error).code === 'internal'
            ? fromSystemError(error, item.path, 'remove')
            : toImgstoreError(error)
        report.items.push({...item, error: errorToJson(known)})
        continue
      }
    }
    report.freedBytes += item.sizeBytes
    report.items.push(item)
  }
  if (!options.isDryRun) await forgetLostBlobs(maintenance, needs)
  return report
}

async function* candidates(
  maintenance: MaintenanceContext,
  needs: Needs,
): AsyncIterable<Candidate> {
  yield* unusedBlobs(maintenance, needs)
  yield* staleStaging(maintenance, needs)
  yield* vanishedImages(maintenance, needs)
}

async function* unusedBlobs(
  maintenance: MaintenanceContext,
  needs: Needs,
): AsyncIterable<Candidate> {
  const {blobs, clock} = maintenance
  const {staleAfterMs} = maintenance.settings()
  const fetched = new Set(
    needs.openRuns.filter((run) => run.goal !== 'REMOVED').map((run) => run.digest),
  )
  for await (const file of blobs.list()) {
    const {digest, path, sizeBytes} = file
    const isStale = clock.now() - file.mtimeMs >= staleAfterMs
    if (file.kind === 'blob' && digest !== undefined && !needs.digests.has(digest)) {
      const reason = 'no image that is not FAILED needs it'
      yield {
        kind: 'blob',
        path,
        sizeBytes,
        reason,
        remove: () => dropBlobIfUnused(maintenance, digest),
      }
    } else if ((file.kind === 'part' || file.kind === 'sidecar') && digest !== undefined) {
      if (fetched.has(digest) || !isStale) continue
      yield {
        kind: 'part',
        path,
        sizeBytes,
        reason: 'no run fetches it',
        remove: () => removeFile(path),
      }
    } else if (file.kind === 'quarantine' && isStale) {
      yield {
        kind: 'quarantine',
        path,
        sizeBytes,
        reason: 'damaged, and kept long enough',
        remove: () => removeFile(path),
      }
    }
  }
}

async function* staleStaging(
  maintenance: MaintenanceContext,
  needs: Needs,
): AsyncIterable<Candidate> {
  const {layout, clock} = maintenance
  for (const name of await namesIn(layout.staging)) {
    const path = join(layout.staging, name)
    const reason = stagingReason(
      name,
      needs,
      await ageOf(path, clock.now()),
      maintenance.settings().staleAfterMs,
    )
    if (reason === undefined) continue
    const remove = async (): Promise<boolean> => {
      for (const mount of mountsBelow(path).reverse()) unmountSync(mount.mountPoint, {lazy: true})
      return await removeTree(path)
    }
    yield {kind: 'staging', path, sizeBytes: await diskUsage(path), reason, remove}
  }
}

/** Why an entry of the staging directory can go, or undefined while something may need it. */
function stagingReason(
  name: string,
  needs: Needs,
  ageMs: number,
  staleAfterMs: number,
): string | undefined {
  if (/^old-[0-9A-Z]{26}$/.test(name)) return 'replaced or removed'
  const tree = parseTreeId(name)
  if (!tree) return ageMs >= staleAfterMs ? 'left behind' : undefined
  if (needs.images.some((image) => image.treeId === name && image.state === 'UNPACKED'))
    return undefined
  const run = needs.openRuns.find((open) => open.id === tree.run)
  if (!run) return 'its run is over'
  return tree.epoch < run.epoch ? 'an earlier attempt of its run made it' : undefined
}

async function* vanishedImages(
  maintenance: MaintenanceContext,
  needs: Needs,
): AsyncIterable<Candidate> {
  const {layout} = maintenance
  const known = new Set<string>(needs.images.map((image) => image.name))
  const reason = 'there is no such image'
  // Mounts first: what is mounted must not be deleted under the mount.
  for (const name of await namesIn(layout.active)) {
    if (known.has(name)) continue
    const path = join(layout.active, name)
    yield {kind: 'mount', path, sizeBytes: 0, reason, remove: () => unmountAndRemove(path)}
  }
  const places = [
    ['tree', layout.images],
    ['overlay', layout.overlays],
  ] as const
  for (const [kind, dir] of places) {
    for (const name of await namesIn(dir)) {
      if (known.has(name)) continue
      const path = join(dir, name)
      const remove = async (): Promise<boolean> => {
        if (findMounts(join(layout.active, name)).length > 0)
          throw fail('mount_busy', {path: join(layout.active, name)})
        return await removeTree(path)
      }
      yield {kind, path, sizeBytes: await diskUsage(path), reason, remove}
    }
  }
}

/** Rows of blobs whose file is gone are no use to anyone. */
async function forgetLostBlobs(maintenance: MaintenanceContext, needs: Needs): Promise<void> {
  for (const row of await listBlobs(maintenance.database.db)) {
    if (needs.digests.has(row.digest) || (await maintenance.blobs.stat(row.digest))) continue
    await removeBlob(maintenance.database.db, row.digest)
  }
}

async function unmountAndRemove(path: string): Promise<boolean> {
  for (let left = findMounts(path).length; left > 0; left--) unmountSync(path)
  try {
    await rmdir(path)
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw fromSystemError(error, path, 'remove')
  }
  return true
}

async function removeFile(path: string): Promise<boolean> {
  await rm(path, {force: true})
  return true
}

async function removeTree(path: string): Promise<boolean> {
  await rm(path, {recursive: true, force: true, maxRetries: 2})
  return true
}

async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return []
    throw fromSystemError(error, dir, 'read')
  }
}

async function ageOf(path: string, now: number): Promise<number> {
  try {
    return now - (await stat(path)).mtimeMs
  } catch {
    return 0
  }
}
