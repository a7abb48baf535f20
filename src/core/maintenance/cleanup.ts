/** Finds what nothing needs any more, and removes it. What a run needs is never touched. */
import {lstat, readdir, rename, rm, rmdir, stat} from 'node:fs/promises'
import {join} from 'node:path'
import type {BlobFile, BlobFileKind} from '../blobs/blob-store.ts'
import {listBlobs, removeBlob} from '../db/blobs.ts'
import {digestsInUse, hasKnownImages, listPlaced, type PlacedImage} from '../db/images.ts'
import {countPrunable, pruneSome, type Pruned} from '../db/prune.ts'
import type {Query} from '../db/query.ts'
import {listRuns} from '../db/runs.ts'
import type {Digest} from '../digest.ts'
import {errorToJson, fail, fromSystemError, systemCode, toImgstoreError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {newUlid} from '../ids.ts'
import type {RunSummary} from '../image.ts'
import {parseTreeId} from '../layout.ts'
import {parsePublicationName, readPublication} from '../disks/publications.ts'
import {findMounts, mountsBelow} from '../mounts/mount-table.ts'
import {unmountSync} from '../mounts/mount.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'
import {removeFile, type Candidate, type CleanupItem} from './candidate.ts'
import type {MaintenanceContext} from './context.ts'
import {diskUsage} from './disk-usage.ts'
import {drafts, halfPublished} from './leftovers.ts'
import {dropBlobIfUnused} from './unused-blobs.ts'

export type {CleanupItem, CleanupKind} from './candidate.ts'
export type CleanupReport = {
  isDryRun: boolean
  freedBytes: number
  items: CleanupItem[]
  /** Runs that were over long ago, and the events of such runs: forgotten, or to be so. */
  forgotten: Pruned
}

/** What the database says is needed. Read after names were listed: what appears later is not looked at. */
type Needs = {images: PlacedImage[]; openRuns: RunSummary[]; digests: Set<Digest>}

async function readNeeds(maintenance: MaintenanceContext, q: Query): Promise<Needs> {
  const {node} = maintenance
  return {
    images: await listPlaced(q, node),
    openRuns: await listRuns(q, {node, isOpen: true, limit: 100_000}),
    digests: await digestsInUse(q),
  }
}

/**
 * Removes unused blobs, stale parts, staging and quarantine, and the trees, overlays and mounts of vanished images.
 *
 * Guarantees: what is taken away was looked up again behind the database's write lock, so that no image can begin to
 * need it in between; a failure at one item is in its `error` and does not stop the others. A dry run changes nothing.
 */
export async function cleanup(
  maintenance: MaintenanceContext,
  options: {isDryRun: boolean},
): Promise<CleanupReport> {
  const {isDryRun} = options
  const report: CleanupReport = {
    isDryRun,
    freedBytes: 0,
    items: [],
    forgotten: await forget(maintenance, isDryRun),
  }
  for await (const candidate of candidates(maintenance)) {
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
  if (!options.isDryRun) await forgetLostBlobs(maintenance)
  return report
}

async function* candidates(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  yield* unusedBlobs(maintenance)
  yield* staleStaging(maintenance)
  // A database that has never known an image is not the one of these trees: it was lost, or another was meant.
  if (await hasKnownImages(maintenance.database.db)) yield* vanishedImages(maintenance)
  yield* vanishedDisks(maintenance)
  yield* halfPublished(maintenance)
  yield* drafts(maintenance)
}

/** Whether an index needs the plain tar of this blob, or a run may be about to make one. */
const isIndexed = (needs: Needs, digest: Digest): boolean =>
  isFetched(needs, digest) ||
  needs.images.some(
    (image) =>
      image.digest === digest &&
      image.treeBackend === 'erofs' &&
      image.state !== 'FAILED' &&
      image.goal !== 'REMOVED',
  )

const isFetched = (needs: Needs, digest: Digest): boolean =>
  needs.openRuns.some((run) => run.goal !== 'REMOVED' && run.digest === digest)

const partKinds: ReadonlySet<BlobFileKind> = new Set(['part', 'plain-part', 'sidecar'])

async function* unusedBlobs(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  const {blobs, clock} = maintenance
  const {staleAfterMs} = maintenance.settings()
  const files: BlobFile[] = []
  for await (const file of blobs.list()) files.push(file)
  // A plain tar goes with its blob: it has to come first to be counted.
  files.sort((x, y) => Number(y.kind === 'plain') - Number(x.kind === 'plain'))
  const needs = await readNeeds(maintenance, maintenance.database.db)
  for (const file of files) {
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
    } else if (file.kind === 'plain' && digest !== undefined && !isIndexed(needs, digest)) {
      yield {
        kind: 'plain',
        path,
        sizeBytes: await diskUsage(path),
        reason: 'no image is indexed from it',
        remove: () =>
          behindLock(maintenance, async (fresh) =>
            isIndexed(fresh, digest) ? false : await blobs.removePlain(digest),
          ),
      }
    } else if (file.kind === 'plain-note' && digest !== undefined && !isIndexed(needs, digest)) {
      // With its tar, unless that is gone already.
      if (files.some((other) => other.kind === 'plain' && other.digest === digest)) continue
      yield {
        kind: 'plain',
        path,
        sizeBytes,
        reason: 'its tar is gone',
        remove: () =>
          behindLock(maintenance, async (fresh) =>
            isIndexed(fresh, digest) ? false : await removeFile(path),
          ),
      }
    } else if (partKinds.has(file.kind) && digest !== undefined) {
      if (isFetched(needs, digest) || !isStale) continue
      yield {
        kind: 'part',
        path,
        sizeBytes: file.kind === 'plain-part' ? await diskUsage(path) : sizeBytes,
        reason: 'no run fetches it',
        remove: () =>
          behindLock(maintenance, async (fresh) =>
            isFetched(fresh, digest) ? false : await removeFile(path),
          ),
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

async function* staleStaging(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  const {layout, clock} = maintenance
  const names = await namesIn(layout.staging)
  // A tree that was listed had its run then: a run that the database does not have now is over for good.
  const needs = await readNeeds(maintenance, maintenance.database.db)
  for (const name of names) {
    const path = join(layout.staging, name)
    const ageMs = await ageOf(path, clock.now())
    const why = (known: Needs): string | undefined =>
      stagingReason(name, known, ageMs, maintenance.settings().staleAfterMs)
    const reason = why(needs)
    if (reason === undefined) continue
    const remove = async (): Promise<boolean> => {
      // A tree may have got its image between two of the looks; what nothing needs now nothing will need again.
      const canGo = (fresh: Needs): Promise<boolean> => Promise.resolve(why(fresh) !== undefined)
      if (parseTreeId(name) && !(await behindLock(maintenance, canGo))) return false
      for (const mount of mountsBelow(path).reverse()) unmountSync(mount.mountPoint, {lazy: true})
      await maintenance.removeTree(path)
      return true
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

async function* vanishedImages(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  const {layout, database} = maintenance
  const reason = 'there is no such image'
  // Mounts first: what is mounted must not be deleted under the mount.
  const places = [
    ['mount', layout.active],
    ['tree', layout.images],
    ['overlay', layout.overlays],
  ] as const
  for (const [kind, dir] of places) {
    const names = await namesIn(dir)
    const {images} = await readNeeds(maintenance, database.db)
    for (const name of names) {
      if (isImage(images, name)) continue
      const path = join(dir, name)
      const sizeBytes = kind === 'mount' ? 0 : await diskUsage(path)
      yield {kind, path, sizeBytes, reason, remove: () => removeVanished(maintenance, dir, name)}
    }
  }
}

/** Disks that are shown and belong to no image, and bytes that no note names. */
async function* vanishedDisks(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  const {layout, database} = maintenance
  const names = await namesIn(layout.disks)
  const needs = await readNeeds(maintenance, database.db)
  for (const file of names) {
    const path = join(layout.disks, file)
    if (isShownFor(maintenance, needs, file)) continue
    const sizeBytes = await ownDiskUsage(path)
    const remove = (): Promise<boolean> =>
      behindLock(maintenance, async (fresh) =>
        isShownFor(maintenance, fresh, file) ? false : await removeFile(path),
      )
    yield {kind: 'disk', path, sizeBytes, reason: 'no disk image needs it', remove}
  }
}

/** Whether a file of the folder of shown disks is of an image that is there, or may be in the making. */
function isShownFor({layout}: MaintenanceContext, needs: Needs, file: string): boolean {
  const parsed = parsePublicationName(file)
  // Not ours.
  if (parsed === undefined) return true
  const disks = needs.images.filter((image) => image.kind === 'disk')
  const isNamed = disks.some((image) => image.name === parsed.name || image.treeId === parsed.name)
  if (parsed.kind === 'note') return isNamed
  const moving = disks.filter((image) =>
    needs.openRuns.some((run) => run.image === image.name && run.goal !== 'REMOVED'),
  )
  if (parsed.kind === 'temporary') return moving.length > 0
  const path = join(layout.disks, file)
  return disks.some(
    (image) =>
      (image.treeId === parsed.name && (image.state === 'ACTIVE' || moving.includes(image))) ||
      // Shown until the disk that is on its way takes its place.
      (moving.includes(image) && readPublication(layout.disks, image.name)?.path === path),
  )
}

const isImage = (images: PlacedImage[], name: string): boolean =>
  images.some((image) => image.name === name)

/**
 * Takes a place of a vanished image out of sight behind the write lock, as an image of that name may come at any
 * moment, and deletes it afterwards.
 */
async function removeVanished(
  maintenance: MaintenanceContext,
  dir: string,
  name: string,
): Promise<boolean> {
  const {layout, clock} = maintenance
  const path = join(dir, name)
  const target = join(layout.staging, `old-${newUlid(clock.now())}`)
  const wasTaken = await behindLock(maintenance, async ({images}) => {
    if (isImage(images, name)) return false
    if (dir === layout.active) return await unmountAndRemove(path)
    const mountPoint = join(layout.active, name)
    if (findMounts(mountPoint).length > 0) throw fail('mount_busy', {path: mountPoint})
    // An indexed tree may still be mounted on its own rootfs.
    const rootfs = join(path, 'rootfs')
    for (let left = findMounts(rootfs).length; left > 0; left--) unmountSync(rootfs)
    const [below] = mountsBelow(path)
    if (below) throw fail('mount_busy', {path, below: below.mountPoint})
    makeDirectories(layout.staging, 0o700)
    await rename(path, target)
    return true
  })
  if (wasTaken) await maintenance.removeTree(target)
  return wasTaken
}

/** Runs `body` while nobody else can write to the database, with what is needed now. Short: no deep deletes in it. */
async function behindLock(
  maintenance: MaintenanceContext,
  body: (needs: Needs) => Promise<boolean>,
): Promise<boolean> {
  return await maintenance.database.db
    .transaction()
    .execute(async (trx) => await body(await readNeeds(maintenance, trx)))
}

/** Held so shortly at a time that nobody waits for the lock. */
const forgottenAtOnce = 500

async function forget(maintenance: MaintenanceContext, isDryRun: boolean): Promise<Pruned> {
  const {database, node, clock, settings} = maintenance
  const before = clock.now() - settings().keepEventsMs
  if (isDryRun) return await countPrunable(database.db, node, before)
  const total = {runs: 0, events: 0}
  for (;;) {
    const {runs, events} = await pruneSome(database.db, node, before, forgottenAtOnce)
    total.runs += runs
    total.events += events
    if (runs + events === 0) return total
  }
}

/** Rows of blobs whose file is gone are no use to anyone. */
async function forgetLostBlobs(maintenance: MaintenanceContext): Promise<void> {
  const {database, blobs} = maintenance
  const digests = await digestsInUse(database.db)
  for (const row of await listBlobs(database.db)) {
    if (digests.has(row.digest) || (await blobs.stat(row.digest))) continue
    // An image may have come meanwhile, and its blob with it.
    await database.db.transaction().execute(async (trx) => {
      if (!(await digestsInUse(trx)).has(row.digest)) await removeBlob(trx, row.digest)
    })
  }
}

async function unmountAndRemove(path: string): Promise<boolean> {
  for (let left = findMounts(path).length; left > 0; left--) unmountSync(path)
  try {
    if ((await lstat(path)).isDirectory()) await rmdir(path)
    else await rm(path)
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw fromSystemError(error, path, 'remove')
  }
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

/** What removing a name frees: nothing while the bytes have another one. */
async function ownDiskUsage(path: string): Promise<number> {
  try {
    const found = await lstat(path)
    return found.nlink > 1 ? 0 : found.blocks * 512
  } catch {
    return 0
  }
}
