/** Whole databases as files: copied while others write, examined before anybody trusts them, put to rest. */
import {rmSync} from 'node:fs'
import {open} from 'node:fs/promises'
import SqliteDatabase from 'better-sqlite3'
import {Kysely, SqliteDialect} from 'kysely'
import {parseDigest} from '../digest.ts'
import {fail, systemCode} from '../errors.ts'
import {syncFileNow} from '../syscalls/durable.ts'
import {isNodeIdText, parseImageName} from '../ids.ts'
import {parseTreeId} from '../layout.ts'
import {fromDatabaseError} from './errors.ts'
import {migrate, migrationNames} from './migrate.ts'
import {integrityOf} from './open.ts'
import type {DB} from './schema.ts'

/**
 * Copies a database as it is at one moment, without keeping anybody from writing meanwhile.
 *
 * Guarantees: `to` is a whole database in one file, durable, for its owner alone; what was there is gone.
 * Errors: store_invalid, no_space, io_failed, permission_denied.
 * Cost: one pass over the database; this process waits for it.
 */
export async function copyDatabase(from: string, to: string): Promise<void> {
  let file: SqliteDatabase.Database | undefined
  try {
    rmSync(to, {force: true})
    // Made first, with the right mode: SQLite fills an empty file.
    await (await open(to, 'wx', 0o600)).close()
    file = new SqliteDatabase(from, {readonly: true, fileMustExist: true, timeout: 15_000})
    // One read transaction: in WAL mode that holds up no writer, and no writer makes it begin again.
    file.prepare('vacuum into ?').run(to)
  } catch (error) {
    throw fromDatabaseError(error, from)
  } finally {
    file?.close()
  }
  syncFileNow(to)
}

/**
 * Brings a copy from elsewhere to the newest schema, after looking at everything in it that the program would believe.
 *
 * The danger: it may be made by anybody. A trigger would run with our next write, and a name with `..` in it would be
 * joined to a path.
 * Errors: backup_invalid (with `shownAs` as its path), store_newer.
 */
export async function admitCopy(path: string, shownAs: string): Promise<void> {
  const refuse = (reason: string): Error => fail('backup_invalid', {path: shownAs, reason})
  let file: SqliteDatabase.Database | undefined
  try {
    file = new SqliteDatabase(path, {fileMustExist: true})
    file.pragma('trusted_schema = off')
    const [words] = integrityOf(file)
    if (words !== undefined) throw refuse(`its database is damaged: ${words}`)
    const version = file.pragma('user_version', {simple: true}) as number
    if (version > migrationNames.length) {
      const known = String(migrationNames.length)
      throw fail('store_newer', {path: shownAs, found: String(version), known})
    }
    if (version < 1) throw refuse('its database is none of imgstore')
    refuseCode(file, refuse)
    await bringUp(file, path)
    await expectSchema(file, refuse)
    if ((file.pragma('foreign_key_check') as unknown[]).length > 0)
      throw refuse('its database has rows that refer to nothing')
    refuseValues(file, refuse)
  } catch (error) {
    if (/^SQLITE_/.test(systemCode(error) ?? ''))
      throw refuse(`its database cannot be read: ${(error as Error).message}`)
    throw error
  } finally {
    file?.close()
  }
}

/** Nothing of ours has these; they would be run by our own statements. */
function refuseCode(file: SqliteDatabase.Database, refuse: (reason: string) => Error): void {
  const found = file
    .prepare(
      `select type from sqlite_schema where type in ('trigger', 'view') or sql like 'create virtual%' limit 1`,
    )
    .pluck()
    .get()
  if (found !== undefined) throw refuse('its database has more in it than tables')
}

async function bringUp(file: SqliteDatabase.Database, path: string): Promise<void> {
  const db = new Kysely<DB>({dialect: new SqliteDialect({database: borrowed(file)})})
  await migrate(db, path)
  await db.destroy()
}

/** kysely closes what it is given; this stays open. */
function borrowed(file: SqliteDatabase.Database): SqliteDatabase.Database {
  return new Proxy(file, {
    get: (target, key) => {
      if (key === 'close') return () => undefined
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

const schemaOf = (file: SqliteDatabase.Database): string =>
  JSON.stringify(
    file
      .prepare(
        `select type, name, tbl_name, sql from sqlite_schema where name not like 'sqlite_%' order by name`,
      )
      .all(),
  )

/** The schema must be the one that our migrations make, to the letter. */
async function expectSchema(
  file: SqliteDatabase.Database,
  refuse: (reason: string) => Error,
): Promise<void> {
  const fresh = new SqliteDatabase(':memory:')
  try {
    await bringUp(fresh, ':memory:')
    if (schemaOf(fresh) !== schemaOf(file)) throw refuse('its database has another schema')
  } finally {
    fresh.close()
  }
}

/** Names, digests and ids become paths, texts become objects: each as the program itself would have written it. */
function refuseValues(file: SqliteDatabase.Database, refuse: (reason: string) => Error): void {
  const check = (sql: string, isRight: (value: string) => boolean): void => {
    for (const value of file.prepare(sql).pluck().iterate() as Iterable<string | null>)
      if (value !== null && !isRight(value))
        throw refuse(
          `its database holds ${JSON.stringify(value.slice(0, 100))}, which is none of ours`,
        )
  }
  const isName = passes(parseImageName)
  const isDigest = (text: string): boolean =>
    text === text.toLowerCase() && passes(parseDigest)(text) && text.length === 64
  const isUlid = (text: string): boolean => /^[0-9A-HJKMNP-TV-Z]{26}$/.test(text)
  const isObject = passes((text) => {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null) throw new TypeError('no object')
  })
  check('select name from images', isName)
  check('select digest from images', isDigest)
  check('select digest from blobs', isDigest)
  check('select id from nodes', isNodeIdText)
  check('select tree_id from placements', (text) => parseTreeId(text) !== undefined)
  check('select image_name from runs', isName)
  check('select image_name from run_events', isName)
  check('select digest from runs', isDigest)
  check('select id from runs', isUlid)
  check('select run_id from run_events', isUlid)
  for (const column of ['limits', 'held', 'failed'])
    check(`select ${column} from placements`, isObject)
  check('select error from runs', isObject)
  for (const column of ['error', 'detail']) check(`select ${column} from run_events`, isObject)
}

function passes(parse: (text: string) => unknown): (text: string) => boolean {
  return (text) => {
    try {
      parse(text)
      return true
    } catch {
      return false
    }
  }
}

/**
 * Puts a database to rest: everything in one file, durable, nothing beside it. Nobody else may have it open.
 *
 * Errors: store_invalid when it is damaged, store_busy, no_space, io_failed.
 */
export function restDatabase(path: string): void {
  let file: SqliteDatabase.Database | undefined
  try {
    file = new SqliteDatabase(path, {fileMustExist: true})
    file.pragma('wal_checkpoint(truncate)')
    const mode = file.pragma('journal_mode = delete', {simple: true})
    if (mode !== 'delete') throw fail('store_busy', {path})
  } catch (error) {
    throw fromDatabaseError(error, path)
  } finally {
    file?.close()
  }
  syncFileNow(path)
}
