/**
 * Brings a database to the newest schema. kysely's own Migrator neither locks nor runs in a transaction on SQLite,
 * so eight processes that start at once would trample each other; this one does all in one immediate transaction.
 */
import {sql, type Kysely} from 'kysely'
import type {Migration} from 'kysely/migration'
import {migrations} from '../../../migrations/index.ts'
import {fail} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {codedDatabaseError} from './errors.ts'
import type {DB} from './schema.ts'

/** Migrations by name, in order: a program's own, or those that an older or a newer one has. */
export type Migrations = Readonly<Record<string, Migration>>

export const migrationNames = Object.keys(migrations)

/**
 * Runs what is missing, in order. `user_version` is the count of migrations done, so that opening need not look.
 *
 * Guarantees: all of it or nothing, also when it is cut off; the program that made the old schema can go on with it.
 * Errors: store_newer when the database has a migration that this program does not know; store_invalid when one
 * cannot be applied to what is there; those of the database.
 */
export async function migrate(
  database: Kysely<DB>,
  path: string,
  known: Migrations = migrations,
): Promise<void> {
  const names = Object.keys(known)
  const db = database as unknown as Kysely<{migrations: {name: string; applied_at: number}}>
  await db.transaction().execute(async (trx) => {
    await sql`create table if not exists migrations (name text primary key not null, applied_at integer not null) strict`.execute(
      trx,
    )
    const done = (await trx.selectFrom('migrations').select('name').orderBy('name').execute()).map(
      (row) => row.name,
    )
    const unknown = done.find((name) => !names.includes(name))
    if (unknown !== undefined) {
      throw fail('store_newer', {path, found: unknown, known: names.at(-1) ?? 'none'})
    }
    for (const [name, migration] of Object.entries(known)) {
      if (done.includes(name)) continue
      await apply(name, path, () => migration.up(trx))
      await trx.insertInto('migrations').values({name, applied_at: Date.now()}).execute()
      failpoint('db.migration_done')
    }
    await sql.raw(`pragma user_version = ${names.length}`).execute(trx)
  })
  failpoint('db.migrated')
}

async function apply(name: string, path: string, up: () => Promise<void>): Promise<void> {
  try {
    await up()
  } catch (error) {
    const coded = codedDatabaseError(error, path)
    if (coded) throw coded
    const why = error instanceof Error ? error.message : String(error)
    const reason = `migration ${name} failed, and nothing was changed: ${why}`
    throw fail('store_invalid', {path, reason}, {cause: error})
  }
}
