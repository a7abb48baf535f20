/** Opens the database file: pragmas, version check, migration. The only place that knows better-sqlite3. */
import {existsSync, mkdirSync} from 'node:fs'
import {dirname} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {Kysely} from 'kysely'
import {fail, fromSystemError, ImgstoreError, systemCode} from '../errors.ts'
import {ImmediateDialect} from './dialect.ts'
import {migrate, migrationNames} from './migrate.ts'
import type {DB} from './schema.ts'

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
  close(): Promise<void>
}

/** How long a statement waits for the write lock of another process. */
const busyTimeoutMs = 15_000

/**
 * Opens the database at `path`, made and migrated when needed; `path` `:memory:` gives an empty private one.
 *
 * Guarantees: safe to call from many processes at once.
 * Errors: store_newer, store_invalid, store_busy, permission_denied, no_space, io_failed.
 */
export async function openDatabase(path: string): Promise<Database> {
  if (path === ':memory:') return finish(path, await prepare(path), undefined)
  let main: SqliteDatabase.Database | undefined
  try {
    if (!existsSync(dirname(path))) mkdirSync(dirname(path), {recursive: true})
    main = await prepare(path)
    const fast = new SqliteDatabase(path, {timeout: busyTimeoutMs})
    fast.pragma('synchronous = NORMAL')
    return finish(path, main, fast)
  } catch (error) {
    main?.close()
    throw fromDatabaseError(error, path)
  }
}

async function prepare(path: string): Promise<SqliteDatabase.Database> {
  const file = new SqliteDatabase(path, {timeout: busyTimeoutMs})
  try {
    const version = file.pragma('user_version', {simple: true}) as number
    if (version > migrationNames.length) {
      const known = String(migrationNames.length)
      throw fail('store_newer', {path, found: String(version), known})
    }
    // WAL lets readers go on while one process writes. Asked for only when it is not so yet: the change needs a lock.
    if (file.pragma('journal_mode', {simple: true}) !== 'wal') file.pragma('journal_mode = WAL')
    // A lost transition would mean a repeated step: every commit of this connection is synced.
    file.pragma('synchronous = FULL')
    file.pragma('foreign_keys = ON')
    if (version < migrationNames.length) await migrate(file, path)
    return file
  } catch (error) {
    file.close()
    throw error
  }
}

function finish(
  path: string,
  main: SqliteDatabase.Database,
  second: SqliteDatabase.Database | undefined,
): Database {
  const db = new Kysely<DB>({dialect: new ImmediateDialect({database: main})})
  const fast = second ? new Kysely<DB>({dialect: new ImmediateDialect({database: second})}) : db
  const version = main.prepare('pragma data_version').pluck()
  return {
    db,
    fast,
    path,
    dataVersion: () => version.get() as number,
    quickCheck: () => main.pragma('quick_check', {simple: true}) as string,
    async close() {
      if (second) await fast.destroy()
      await db.destroy()
    },
  }
}

/** SQLite's error codes as ours. */
export function fromDatabaseError(error: unknown, path: string): ImgstoreError {
  const code = systemCode(error) ?? ''
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) {
    return fail('store_busy', {path}, {cause: error})
  }
  if (code === 'SQLITE_FULL') return fail('no_space', {path}, {cause: error})
  if (code === 'SQLITE_READONLY' || code.startsWith('SQLITE_READONLY_')) {
    return fail('permission_denied', {path, action: 'write'}, {cause: error})
  }
  if (code === 'SQLITE_NOTADB' || code.startsWith('SQLITE_CORRUPT')) {
    const reason = error instanceof Error ? error.message : 'not a database'
    return fail('store_invalid', {path, reason}, {cause: error})
  }
  if (code.startsWith('SQLITE_CANTOPEN')) {
    return fail('permission_denied', {path, action: 'open'}, {cause: error})
  }
  return fromSystemError(error, path, 'open')
}
