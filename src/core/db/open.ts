/** Opens the database file: pragmas, version check, migration. The only place that loads better-sqlite3. */
import {existsSync, realpathSync} from 'node:fs'
import {dirname} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import SqliteDatabase from 'better-sqlite3'
import {Kysely} from 'kysely'
import {fail, systemCode} from '../errors.ts'
import {isLocked} from '../syscalls/lock.ts'
import {codedDatabaseError, fromDatabaseError} from './errors.ts'
import {ImmediateDialect} from './dialect.ts'
import {migrate, migrationNames, type Migrations} from './migrate.ts'
import type {DB} from './schema.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

export type Database = {
  /** Commits are durable when they return (`synchronous=FULL`): states, runs, events. */
  db: Kysely<DB>
  /** Commits may be lost by a power cut (`synchronous=NORMAL`): heartbeats and progress. */
  fast: Kysely<DB>
  path: string
  /** Changes when another connection wrote. */
  dataVersion(): number
  /** The words of `pragma quick_check`: "ok" when the file is sound. */
  quickCheck(): string
  /** What `pragma integrity_check` finds, one thing each; empty when the file is sound. */
  integrityCheck(): string[]
  /** Makes all indexes again from their tables. */
  reindex(): void
  /** How many rows refer to rows that are not there. */
  orphanRows(): number
  /** Removes those rows; returns how many. */
  removeOrphanRows(): number
  close(): Promise<void>
}

/** Held while another database is put in the place of this one; beside the file itself, whatever links lead to it. */
export function restoreLockOf(path: string): string {
  return `${existsSync(path) ? realpathSync(path) : path}.restore-lock`
}

/** Where a database is made that is to take the place of this one. */
export function stagedPathOf(path: string): string {
  return `${path}.restore-part`
}

/** How long the write lock of another process is waited for. */
const busyTimeoutMs = 15_000

export type OpenDatabaseOptions = {
  /** Another program's migrations than this one's. */
  migrations?: Migrations
  /** Opened by who puts it in its place, under the lock of that. */
  isRestoring?: boolean
}

/**
 * Opens the database at `path`, made and migrated when needed; `:memory:` gives an empty private one.
 *
 * Guarantees: safe to call from many processes at once; a migration that fails leaves the database as it was.
 * Errors: store_newer, store_invalid, store_busy, permission_denied, no_space, io_failed.
 */
export async function openDatabase(
  path: string,
  options: OpenDatabaseOptions = {},
): Promise<Database> {
  let main: SqliteDatabase.Database | undefined
  // Whoever opened the old one now would write to what is put aside a moment later.
  const mayBeReplaced = path !== ':memory:' && options.isRestoring !== true
  if (mayBeReplaced && isLocked(restoreLockOf(path))) throw fail('store_busy', {path})
  try {
    if (path !== ':memory:' && !existsSync(dirname(path))) makeDirectories(dirname(path))
    main = await openFileInTurn(path)
    const db = kyselyOn(main)
    await bringUpToDate(main, db, path, options.migrations)
    if (path === ':memory:') return describe(path, [main], db, db)
    const second = await openFileInTurn(path)
    second.pragma('synchronous = NORMAL')
    return describe(path, [main, second], db, kyselyOn(second))
  } catch (error) {
    main?.close()
    throw fromDatabaseError(error, path)
  }
}

/**
 * Opens a file that others may be making at this moment: of two that change a new one to WAL, SQLite turns one away at
 * once, whatever the timeout, because both waiting would never end.
 */
async function openFileInTurn(path: string): Promise<SqliteDatabase.Database> {
  const deadline = performance.now() + busyTimeoutMs
  for (;;) {
    try {
      return openFile(path)
    } catch (error) {
      const isBusy = systemCode(error)?.startsWith('SQLITE_BUSY') === true
      if (!isBusy || performance.now() >= deadline) throw error
      await sleep(5 + Math.random() * 20)
    }
  }
}

function openFile(path: string): SqliteDatabase.Database {
  const file = new SqliteDatabase(path, {timeout: busyTimeoutMs})
  try {
    // WAL lets readers go on while one process writes. Asked for only when it is not so yet: the change needs a lock.
    if (file.pragma('journal_mode', {simple: true}) !== 'wal') file.pragma('journal_mode = WAL')
    // A lost transition would mean a repeated step: every commit is synced.
    file.pragma('synchronous = FULL')
    file.pragma('foreign_keys = ON')
    // From here on a busy database is waited for by the dialect, which does not block the event loop.
    file.pragma('busy_timeout = 0')
    return file
  } catch (error) {
    file.close()
    throw error
  }
}

function kyselyOn(database: SqliteDatabase.Database): Kysely<DB> {
  return new Kysely<DB>({dialect: new ImmediateDialect({database, busyTimeoutMs})})
}

async function bringUpToDate(
  file: SqliteDatabase.Database,
  db: Kysely<DB>,
  path: string,
  migrations: Migrations | undefined,
): Promise<void> {
  const version = patiently(file, () => file.pragma('user_version', {simple: true})) as number
  const known = migrations ? Object.keys(migrations).length : migrationNames.length
  if (version > known) {
    throw fail('store_newer', {path, found: String(version), known: String(known)})
  }
  if (version < known) await migrate(db, path, migrations)
}

function describe(
  path: string,
  files: [SqliteDatabase.Database, ...SqliteDatabase.Database[]],
  db: Kysely<DB>,
  fast: Kysely<DB>,
): Database {
  const [main] = files
  const version = main.prepare('pragma data_version').pluck()
  return {
    db,
    fast,
    path,
    dataVersion: () => patiently(main, () => version.get()) as number,
    quickCheck: () => patiently(main, () => main.pragma('quick_check', {simple: true})) as string,
    ...checksOf(main),
    async close() {
      if (fast !== db) await fast.destroy()
      await db.destroy()
      // kysely leaves a connection open that was never asked anything.
      for (const file of files) file.close()
    },
  }
}

type ForeignKeyTrouble = {table: string; rowid: number | null}

function checksOf(
  main: SqliteDatabase.Database,
): Pick<Database, 'integrityCheck' | 'reindex' | 'orphanRows' | 'removeOrphanRows'> {
  const orphans = (): ForeignKeyTrouble[] => main.pragma('foreign_key_check') as ForeignKeyTrouble[]
  const remove = (): number => {
    let removed = 0
    for (const {table, rowid} of orphans()) {
      const statement = `delete from "${table.replaceAll('"', '""')}" where rowid = ?`
      removed += main.prepare(statement).run(rowid).changes
    }
    return removed
  }
  return {
    integrityCheck: () => integrityOf(main),
    reindex: () => {
      patiently(main, () => main.exec('reindex'))
    },
    orphanRows: () => new Set(orphans().map(({table, rowid}) => `${table}:${rowid}`)).size,
    removeOrphanRows: () => patiently(main, () => main.transaction(remove).immediate()),
  }
}

/** Runs what is rare and goes past the dialect, and so waits for other processes by itself. */
function patiently<T>(file: SqliteDatabase.Database, body: () => T): T {
  file.pragma(`busy_timeout = ${busyTimeoutMs}`)
  try {
    return body()
  } catch (error) {
    throw codedDatabaseError(error, file.name) ?? error
  } finally {
    file.pragma('busy_timeout = 0')
  }
}

/** What `pragma integrity_check` finds in a file; empty when it is sound. */
export function integrityOf(file: SqliteDatabase.Database): string[] {
  const rows = file.pragma('integrity_check(20)') as {integrity_check: string}[]
  return rows.flatMap((row) => row.integrity_check.split('\n')).filter((words) => words !== 'ok')
}
