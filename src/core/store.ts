/**
 * The one door into the core. `openStore(settings)` opens the database, builds the drivers (heavy ones when first
 * used) and gives the services that every surface calls.
 */
import {existsSync, rmdirSync} from 'node:fs'
import {hostname} from 'node:os'
import {dirname} from 'node:path'
import type {BackupHead} from './backups/format.ts'
import {openBlobs} from './blobs/blob-store.ts'
import {systemClock, type Clock} from './clock.ts'
import {countByState} from './db/images.ts'
import {openJournal} from './db/journal.ts'
import {openDatabase, type Database} from './db/open.ts'
import {addNode, hasNode} from './db/owners.ts'
import {countWaiting} from './db/runs.ts'
import {fromSystemError, toImgstoreError} from './errors.ts'
import {armFailpointsFrom} from './failpoint.ts'
import {newUlid, type NodeId} from './ids.ts'
import {imageStates, type ImageState} from './image.ts'
import type {ImagesContext} from './images/context.ts'
import {openRuns, type Runs} from './images/history.ts'
import {openImages, type Images} from './images/images.ts'
import {
  ensureNodeId,
  examineNodeId,
  nodeOfTrees,
  replaceNodeId,
  type NodeTrouble,
} from './images/node-id.ts'
import {findAtWork, findGoneOwners, freeGoneOwner, hasLiveWorker} from './images/owners.ts'
import type {Repair} from './images/refetch.ts'
import type {StoreDisk} from './stream.ts'
import {readTreeNote, removeTree} from './images/trees.ts'
import {SpaceGate, spaceOf} from './images/space.ts'
import {work, type WorkOptions} from './images/work.ts'
import {layoutOf, type Layout} from './layout.ts'
import {silentLogger, type Logger} from './log.ts'
import type {BackupOptions, BackupReport} from './maintenance/backup.ts'
import type {CleanupReport} from './maintenance/cleanup.ts'
import type {MaintenanceContext} from './maintenance/context.ts'
import type {DoctorReport} from './maintenance/doctor.ts'
import type {RepairReport} from './maintenance/repair/repair.ts'
import type {RestoreOptions, RestoreReport, SetBack} from './maintenance/restore.ts'
import {dropBlobIfUnused} from './maintenance/unused-blobs.ts'
import type {VerifyOptions, VerifyReport} from './maintenance/verify.ts'
import {openPublications} from './disks/publications.ts'
import type {ErofsSupport} from './mounts/erofs.ts'
import type {SettingOrigins, Settings} from './settings.ts'
import type {Disks} from './streams/disks.ts'
import {sourceOptionsOf} from './sources/options.ts'

export type {
  ChunkedProblem,
  DiskList,
  Disks,
  PublishReport,
  VerifyChunkedReport,
} from './streams/disks.ts'
export type {BackupReport} from './maintenance/backup.ts'
export type {RestoreReport} from './maintenance/restore.ts'
export type {CleanupItem, CleanupReport} from './maintenance/cleanup.ts'
export type {DoctorCheck, DoctorReport, DoctorSetting} from './maintenance/doctor.ts'
export type {RepairItem, RepairReport} from './maintenance/repair/repair.ts'
export type {VerifyReport} from './maintenance/verify.ts'
export type {Repair} from './images/refetch.ts'
export type {
  FetchOptions,
  FetchOutcome,
  Images,
  RunInImage,
  Settled,
  SettleOptions,
} from './images/images.ts'
export type {Runs} from './images/history.ts'
export {
  closePipe,
  hasSocketCalls,
  memoryOf,
  openPipe,
  readAhead,
  send,
  spliceFromFile,
  spliceToSocket,
  WOULD_BLOCK,
  type Pipe,
} from './syscalls/splice.ts'
import {makeDirectories} from './syscalls/make-directories.ts'
export type {WorkOptions} from './images/work.ts'
export {makeDirectories}
// Serving a plain directory needs no store, so this one service opens by itself.
export {openStreams, type StreamsOptions} from './streams/streams.ts'

export type OpenStoreOptions = {
  settings: Settings
  origins: SettingOrigins
  log?: Logger
  clock?: Clock
  role: 'command' | 'worker'
  /** `read`: for commands that only look. A store that does not exist is then empty, and nothing is made. */
  access?: 'read' | 'write'
  /**
   * Opens a store whose id of this host is damaged or another's, to repair it: with the right id, which is written
   * only by `maintenance.repair`.
   */
  isForRepair?: boolean
}

export type Health = {
  database: {isOk: boolean; detail: string}
  /** Below the reserve new work waits: `waitingImages` of them do. */
  space: {
    isOk: boolean
    freeBytes: number
    totalBytes: number
    reserveBytes: number
    waitingImages: number
  }
}

/** What images wait for that have a run which waits: room on the disk, or their next attempt. */
export const waitReasons = ['space', 'retry'] as const
export type WaitReason = (typeof waitReasons)[number]

export type Store = {
  readonly settings: Settings
  readonly origins: SettingOrigins
  readonly node: NodeId
  readonly images: Images
  readonly runs: Runs
  readonly maintenance: {
    cleanup(options: {isDryRun: boolean}): Promise<CleanupReport>
    /** With `isRepairing` what is damaged or missing is also fetched again or made anew: `repairs` says how that went. */
    verify(options: VerifyOptions & {isRepairing?: boolean}): Promise<RepairedReport>
    doctor(): Promise<DoctorReport>
    /** Errors: file_exists, file_busy, store_invalid, no_space, io_failed, permission_denied, interrupted. */
    backup(options: BackupOptions): Promise<BackupReport>
    /** Only of a store that was opened for it. Errors: store_invalid. */
    repair(options: {isDryRun: boolean}): Promise<RepairReport>
  }
  /** The loop: claims runs and works on them until `signal` aborts or, with `once`, until nothing is left to do. */
  work(options: WorkOptions): Promise<{worked: number; failed: number}>
  /** Whether a worker of this host is alive. */
  hasWorker(): Promise<boolean>
  health(): Promise<Health>
  countByState(): Promise<Record<ImageState, number>>
  /** Images whose run waits, by what for. */
  countWaiting(): Promise<Record<WaitReason, number>>
  /** Other settings for steps that begin later; where the store is cannot change. */
  reload(settings: Settings): void
  close(): Promise<void>
}

/**
 * Opens a store, made when it does not exist (unless `access` is `read`).
 *
 * Errors: store_newer, store_invalid, store_busy, permission_denied, no_space, io_failed.
 */
export async function openStore(options: OpenStoreOptions): Promise<Store> {
  const state = {settings: options.settings}
  const {db: path, store: directory, failpoints} = options.settings
  if (failpoints !== undefined) armFailpointsFrom(failpoints)
  const clock = options.clock ?? systemClock
  const layout = layoutOf(directory)
  const isAbsent = options.access === 'read' && !existsSync(path)
  if (!isAbsent) makeStore(layout)
  const database = await openDatabase(isAbsent ? ':memory:' : path)
  try {
    const settled = await settleNode(options, {database, layout, clock, isAbsent})
    const contexts = buildContexts(options, state, {database, layout, clock, ...settled})
    return buildStore(options, state, contexts)
  } catch (error) {
    await database.close()
    throw error
  }
}

type Base = {
  database: Database
  layout: Layout
  node: NodeId
  clock: Clock
  nodeTrouble?: NodeTrouble
}
type Contexts = {images: ImagesContext; maintenance: MaintenanceContext}

function makeStore(layout: Layout): void {
  try {
    makeDirectories(layout.store)
  } catch (error) {
    throw fromSystemError(error, layout.store, 'make')
  }
}

/** Which host this is. A store that lost its id gets it back from what is known of it, or a new one if it is new. */
async function settleNode(
  options: OpenStoreOptions,
  base: {database: Database; layout: Layout; clock: Clock; isAbsent: boolean},
): Promise<{node: NodeId; nodeTrouble?: NodeTrouble}> {
  const {database, layout, clock, isAbsent} = base
  const {settings, isForRepair = false} = options
  if (isAbsent) return {node: (settings.node ?? 'none') as NodeId}
  const now = clock.now()
  if (settings.node !== undefined)
    return {node: await enterNode(database, settings.node as NodeId, now)}
  const trouble = await examineNodeId(database.db, layout, hostname(), {isThorough: isForRepair})
  if (isForRepair && trouble !== undefined) {
    const node = trouble.node ?? (newUlid(now) as NodeId)
    return {node, nodeTrouble: {...trouble, node}}
  }
  const node = ensureNodeId(layout.nodeFile, now, trouble?.node)
  return {node: isForRepair ? node : await enterNode(database, node, now)}
}

async function enterNode(database: Database, node: NodeId, now: number): Promise<NodeId> {
  // Looked up first: a command that only reads must not wait for the write lock.
  if (!(await hasNode(database.db, node))) await addNode(database.db, node, hostname(), now)
  return node
}

function buildContexts(
  options: OpenStoreOptions,
  state: {settings: Settings},
  base: Base,
): Contexts {
  const {database, layout, node, clock} = base
  const log = options.log ?? silentLogger
  const settings = (): Settings => state.settings
  const blobs = openBlobs(layout.store)
  const hostCheck = async (refresh: boolean) => {
    const {checkMountHost} = await import('./mounts/host-check.ts')
    return await checkMountHost(layout.store, {driver: settings().mountDriver, refresh})
  }
  const images: ImagesContext = {
    database,
    journal: openJournal(database, node, clock),
    blobs,
    layout,
    node,
    clock,
    log,
    settings,
    openSource: async (url) => {
      const {openSource} = await import('./sources/source.ts')
      return await openSource(url, sourceOptionsOf(settings()))
    },
    unpack: async (request) => {
      const {unpack} = await import('./unpack/unpack.ts')
      return await unpack(request)
    },
    indexTar: async (request) => {
      const {indexTar} = await import('./unpack/unpack.ts')
      return await indexTar(request)
    },
    makeDisk: async (request) => {
      const {makeDisk} = await import('./unpack/unpack.ts')
      return await makeDisk(request)
    },
    decompress: async (request) => {
      const {decompressGrowing} = await import('./unpack/unpack.ts')
      return decompressGrowing(request)
    },
    freshPlains: new Map(),
    freshBlobs: new Map(),
    pulse: {},
    space: new SpaceGate(layout.store, settings),
    canMountErofs: async () => {
      const support = await erofsSupport(layout.store, false)
      if (!support.ok && support.trouble) throw support.trouble
      return support.ok ? {isAble: true} : {isAble: false, reason: support.reason}
    },
    canMount: async () => {
      const {canMount} = await hostCheck(false)
      if (!canMount.ok && canMount.trouble) throw canMount.trouble
      return canMount.ok ? {isAble: true} : {isAble: false, reason: canMount.reason}
    },
    dropBlobIfUnused: async (digest) => {
      await dropBlobIfUnused({database, blobs}, digest)
    },
  }
  const maintenance: MaintenanceContext = {
    database,
    blobs,
    layout,
    node,
    clock,
    log,
    settings,
    origins: options.origins,
    hasLiveWorker: () => hasLiveWorker(images),
    findGoneOwners: () => findGoneOwners(images),
    freeGoneOwner: (gone) => freeGoneOwner(images, gone),
    ...(base.nodeTrouble === undefined ? {} : {nodeTrouble: base.nodeTrouble}),
    readTreeNote: (name) => readTreeNote(layout, name),
    removeTree,
  }
  return {images, maintenance}
}

/** Asked once in a process and store, as it is for overlays (`checkMountHost`). */
const erofsChecked = new Map<string, Promise<ErofsSupport>>()

async function erofsSupport(storeDir: string, refresh: boolean): Promise<ErofsSupport> {
  const known = refresh ? undefined : erofsChecked.get(storeDir)
  if (known) return await known
  const checking = (async () => {
    const {trialErofs} = await import('./unpack/unpack.ts')
    const {canMountErofs} = await import('./mounts/erofs.ts')
    const found = await canMountErofs(storeDir, trialErofs())
    // A disk that failed says nothing about the host.
    if (!found.ok && found.trouble) erofsChecked.delete(storeDir)
    return found
  })()
  erofsChecked.set(storeDir, checking)
  return await checking
}

function buildStore(
  options: OpenStoreOptions,
  state: {settings: Settings},
  contexts: Contexts,
): Store {
  const {images, maintenance} = contexts
  const {database, layout, node} = images
  return {
    get settings() {
      return state.settings
    },
    origins: options.origins,
    node,
    images: openImages(images),
    runs: openRuns(images),
    maintenance: {
      cleanup: async (o) => {
        const {cleanup} = await import('./maintenance/cleanup.ts')
        return await cleanup(maintenance, o)
      },
      verify: async ({isRepairing = false, ...o}) => {
        const {verify} = await import('./maintenance/verify.ts')
        const report = await verify(maintenance, o)
        return {...report, repairs: isRepairing ? await repairFound(images, report, o) : []}
      },
      backup: async (o) => {
        const {backup} = await import('./maintenance/backup.ts')
        return await backup(maintenance, o)
      },
      repair: async ({isDryRun}) => {
        const {repair} = await import('./maintenance/repair/repair.ts')
        const settleNode = async (): Promise<void> => {
          replaceNodeId(layout.nodeFile, images.clock.now(), node)
          await enterNode(database, node, images.clock.now())
        }
        return await repair(maintenance, {isDryRun, settleNode})
      },
      doctor: async () => {
        const {doctor} = await import('./maintenance/doctor.ts')
        const {checkMountHost} = await import('./mounts/host-check.ts')
        const driver = state.settings.mountDriver
        return await doctor(maintenance, () =>
          leavingNoStore(layout, async () => ({
            host: await checkMountHost(layout.store, {driver, refresh: true}),
            erofs: await erofsSupport(layout.store, true),
          })),
        )
      },
    },
    work: (o) => work(images, o),
    hasWorker: () => hasLiveWorker(images),
    health: () => health(images),
    countByState: async () => {
      const counts = Object.fromEntries(imageStates.map((name) => [name, 0])) as Record<
        ImageState,
        number
      >
      for (const {state: name, count} of await countByState(database.db, node)) counts[name] = count
      return counts
    },
    countWaiting: () => waiting(images),
    reload: (settings) => {
      state.settings = Object.freeze({
        ...settings,
        store: state.settings.store,
        db: state.settings.db,
      })
    },
    close: () => database.close(),
  }
}

export type RepairedReport = VerifyReport & {repairs: Repair[]}

async function repairFound(
  images: ImagesContext,
  {damaged, missing, damagedTrees}: VerifyReport,
  {signal}: VerifyOptions,
): Promise<Repair[]> {
  const {refetchDamaged} = await import('./images/refetch.ts')
  const used = [...damaged, ...missing].filter((blob) => blob.images.length > 0)
  return await refetchDamaged(images, {
    digests: used.map(({digest}) => digest),
    images: [...new Set(damagedTrees.map(({image}) => image))],
    signal: signal ?? new AbortController().signal,
  })
}

/** The host is tried with a mount in the store; where there is no store yet, none is left behind. */
async function leavingNoStore<T>(layout: Layout, body: () => Promise<T>): Promise<T> {
  let made: string | undefined
  try {
    made = makeDirectories(layout.store)
  } catch {
    // What cannot be made is for `body` to find and to report.
  }
  try {
    return await body()
  } finally {
    if (made !== undefined) removeEmpty(layout.staging, made)
  }
}

/** Removes directories from `path` up to `top`, as long as nothing is in them. */
function removeEmpty(path: string, top: string): void {
  try {
    rmdirSync(path)
  } catch {
    return
  }
  if (path !== top) removeEmpty(dirname(path), top)
}

async function health(images: ImagesContext): Promise<Health> {
  const database = {isOk: true, detail: 'ok'}
  try {
    await countByState(images.database.db, images.node)
    if (images.pulse.trouble !== undefined) throw images.pulse.trouble
  } catch (error) {
    database.isOk = false
    database.detail = error instanceof Error ? error.message : String(error)
  }
  const settings = images.settings()
  const space = await spaceOf(images.layout.store, settings)
  const reserveBytes = Math.max(space.reserveBytes, settings.healthSpaceBytes)
  const isOk = space.freeBytes >= reserveBytes
  const waitingImages = database.isOk ? (await waiting(images)).space : 0
  return {database, space: {...space, isOk, reserveBytes, waitingImages}}
}

async function waiting(images: ImagesContext): Promise<Record<WaitReason, number>> {
  const counts = {space: 0, retry: 0}
  for (const {code, count} of await countWaiting(images.database.db, images.node))
    counts[code === 'space_low' ? 'space' : 'retry'] += count
  return counts
}

/** Disks of the store that are ACTIVE, now and whenever it is asked; the store need not exist. */
export function openShownDisks(settings: Settings): () => readonly StoreDisk[] {
  return openPublications(layoutOf(settings.store).disks)
}

/** What is done with disk images as files. It needs no database, and makes no store. */
export async function openDisks(settings: Settings): Promise<Disks> {
  if (settings.failpoints !== undefined) armFailpointsFrom(settings.failpoints)
  const disks = await import('./streams/disks.ts')
  const shown = openShownDisks(settings)
  return disks.openDisks(settings, {shown})
}

/**
 * Restores a backup into the store of these settings, which is made where there is none. Nobody may have it open.
 *
 * Errors: file_not_found, backup_invalid, store_exists, store_in_use, store_newer, store_busy, store_invalid,
 * interrupted, no_space, io_failed, permission_denied.
 */
export async function restoreStore(
  options: Omit<OpenStoreOptions, 'role' | 'access' | 'isForRepair'>,
  request: RestoreOptions,
): Promise<RestoreReport> {
  const {settings} = options
  if (settings.failpoints !== undefined) armFailpointsFrom(settings.failpoints)
  const clock = options.clock ?? systemClock
  const layout = layoutOf(settings.store)
  const {restore} = await import('./maintenance/restore.ts')
  const {readPresent} = await import('./db/copied-rows.ts')
  makeStore(layout)
  const context = {
    databasePath: settings.db,
    layout,
    blobs: openBlobs(layout.store),
    clock,
    log: options.log ?? silentLogger,
    lookAtPresent: (path: string) => {
      const present = readPresent(path)
      if (!present) return Promise.resolve(undefined)
      const by = findAtWork(present.owners, clock.now(), settings.leaseMs)
      return Promise.resolve({images: present.images, ...(by === undefined ? {} : {by})})
    },
    settle: (path: string, head: BackupHead) =>
      settleRestored(options, {layout, clock}, path, head),
  }
  return await restore(context, request)
}

/** Gives a restored database to this host, and agrees it with the files that are here. */
async function settleRestored(
  options: Omit<OpenStoreOptions, 'role'>,
  {layout, clock}: {layout: Layout; clock: Clock},
  path: string,
  head: BackupHead,
): Promise<{images: number; setBack: SetBack[]}> {
  const {rehome} = await import('./db/rehome.ts')
  const {settleRows} = await import('./maintenance/repair/settle-rows.ts')
  const database = await openDatabase(path, {isRestoring: true})
  try {
    const now = clock.now()
    const {settings} = options
    const node =
      (settings.node as NodeId | undefined) ??
      (await ownNodeOf(database, layout, now, head.node as NodeId))
    await rehome(database.db, {from: head.node as NodeId, to: node, hostname: hostname(), now})
    const {maintenance} = buildContexts(
      {...options, role: 'command'},
      {settings},
      {database, layout, node, clock},
    )
    const setBack = await settleRows(maintenance)
    const counts = await countByState(database.db, node)
    return {images: counts.reduce((sum, {count}) => sum + count, 0), setBack}
  } finally {
    await database.close()
  }
}

/** The id that the store has keeps being its id; a store without one takes the backup's. */
async function ownNodeOf(
  database: Database,
  layout: Layout,
  now: number,
  backedUp: NodeId,
): Promise<NodeId> {
  const node = (await nodeOfTrees(database.db, layout)) ?? backedUp
  try {
    return ensureNodeId(layout.nodeFile, now, node)
  } catch (error) {
    if (toImgstoreError(error).code !== 'store_invalid') throw error
    replaceNodeId(layout.nodeFile, now, node)
    return node
  }
}
