/** A real store in a temporary directory, which must leave nothing behind. */
import {readdirSync, readFileSync, readlinkSync, realpathSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import type {Clock} from '../../src/core/clock.ts'
import {disarmFailpoints} from '../../src/core/failpoint.ts'
import {findMounts, mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {unmountSync} from '../../src/core/mounts/mount.ts'
import {
  resolveSettings,
  type SettingInputs,
  type SettingOrigins,
  type Settings,
} from '../../src/core/settings.ts'
import {openStore, type OpenStoreOptions, type Store} from '../../src/core/store.ts'
import {withTempDir} from './temp-dir.ts'

export type Flags = NonNullable<SettingInputs['flags']>

export type TempStore = {
  store: Store
  /** The temporary directory; the store is below it. */
  dir: string
  /** The store's own directory. */
  storeDir: string
  settings: Settings
  origins: SettingOrigins
  /** Another store object on the same directory, as another process would have; closed at the end. */
  reopen: (options?: {
    flags?: Flags
    role?: OpenStoreOptions['role']
    access?: 'read' | 'write'
  }) => Promise<Store>
}

export type TempStoreOptions = {
  flags?: Flags
  clock?: Clock
  /** Name of the store's directory; may hold anything that a path may. */
  storeName?: string
  /** What the test leaves on purpose: mounts (unmounted here), staged trees, running runs. */
  leaves?: readonly ('mounts' | 'staging' | 'running')[]
}

/** Short waits, so that tests need not own the clock. */
const quick: Flags = {pollMs: '10ms', retryWaitMs: '1ms', retryJitterPercent: 0, maxAttempts: 3}

/**
 * Runs `body` with a store, closes it, and throws when something is left: a mount below the directory, a run that
 * is `running`, an entry in the staging directory, a child process, a descriptor of a file in the directory.
 */
export async function withTempStore<T>(
  body: (context: TempStore) => Promise<T>,
  options: TempStoreOptions = {},
): Promise<T> {
  return await withTempDir(async (made) => {
    const dir = realpathSync(made)
    const storeDir = join(dir, options.storeName ?? 'store')
    const opened: Store[] = []
    const open: TempStore['reopen'] = async (more = {}) => {
      const flags = {
        store: storeDir,
        db: join(dir, 'store.db'),
        // Most tests look at trees that are not mounted. IMGSTORE_TEST_BACKEND runs them with the other one.
        backend: process.env['IMGSTORE_TEST_BACKEND'] ?? 'dir',
        ...quick,
        ...options.flags,
        ...more.flags,
      }
      const store = await openStore({
        ...resolveSettings({flags, env: {}, dataDir: dir, cwd: dir}),
        role: more.role ?? 'command',
        ...(options.clock ? {clock: options.clock} : {}),
        ...(more.access ? {access: more.access} : {}),
      })
      opened.push(store)
      return store
    }
    const childrenBefore = new Set(childrenOf(process.pid))
    try {
      const store = await open()
      const result = await body({
        store,
        dir,
        storeDir,
        settings: store.settings,
        origins: store.origins,
        reopen: open,
      })
      for (const each of opened.splice(0)) await each.close()
      const left = findLeaks(dir, storeDir, childrenBefore, options.leaves ?? [])
      if (left.length > 0) throw new Error(`the test left behind:\n  ${left.join('\n  ')}`)
      return result
    } finally {
      disarmFailpoints()
      for (const each of opened) await each.close()
      for (const mount of mountsBelow(dir).reverse()) {
        for (let n = findMounts(mount.mountPoint).length; n > 0; n--)
          unmountSync(mount.mountPoint, {lazy: true})
      }
    }
  })
}

function findLeaks(
  dir: string,
  storeDir: string,
  childrenBefore: ReadonlySet<string>,
  leaves: readonly string[],
): string[] {
  const left: string[] = []
  if (!leaves.includes('mounts'))
    left.push(...mountsBelow(dir).map((mount) => `a mount at ${mount.mountPoint}`))
  if (!leaves.includes('staging'))
    left.push(...namesIn(join(storeDir, 'staging')).map((name) => `staging/${name}`))
  if (!leaves.includes('running')) left.push(...runningRuns(join(dir, 'store.db')))
  for (const child of childrenOf(process.pid)) {
    if (!childrenBefore.has(child)) left.push(`the process ${child}`)
  }
  left.push(...openFilesBelow(dir).map((path) => `an open file: ${path}`))
  return left
}

function runningRuns(path: string): string[] {
  let file: SqliteDatabase.Database
  try {
    file = new SqliteDatabase(path, {readonly: true, fileMustExist: true})
  } catch {
    // The test made something of the database that is none.
    return []
  }
  try {
    const rows = file.prepare(`select id, image_name from runs where status = 'running'`).all()
    return (rows as {id: string; image_name: string}[]).map(
      (row) => `run ${row.id} of ${row.image_name} is still running`,
    )
  } catch {
    return []
  } finally {
    file.close()
  }
}

/** Descriptors of this process that lead to files below `dir`. */
export function openFilesBelow(dir: string): string[] {
  const paths: string[] = []
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      if (target.startsWith(`${dir}/`)) paths.push(target)
    } catch {
      // The descriptor of the listing itself.
    }
  }
  return paths
}

/** Process ids of the children of `pid`, corpses too. */
export function childrenOf(pid: number): string[] {
  const children: string[] = []
  for (const task of namesIn(`/proc/${pid}/task`)) {
    try {
      children.push(
        ...readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean),
      )
    } catch {
      // A thread that ended meanwhile.
    }
  }
  return children
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}
