/**
 * Brings a database to the newest schema. kysely's own Migrator neither locks nor runs in a transaction on SQLite,
 * so eight processes that start at once would trample each other; this one does all in one immediate transaction.
 */
import {sql, type Kysely} from 'kysely'
import {migrations} from '../../../migrations/index.ts'
import {fail} from '../errors.ts'
import type {DB} from './schema.ts'

export const migrationNames = Object.keys(migrations)

/**
 * Runs what is missing, in order. `user_version` is the count of migrations done, so that opening need not look.
 *
 * Errors: store_newer when the database has a migration that this program does not know.
 */
export async function migrate(database: Kysely<DB>, path: string): Promise<void> {
  const db = database as unknown as Kysely<{migrations: {name: string; applied_at: number}}>
  await db.transaction().execute(async (trx) => {
    await sql`create table if not exists migrations (name text primary key not null, applied_at integer not null) strict`.execute(
      trx,
    )
    const done = (await trx.selectFrom('migrations').select('name').orderBy('name').execute()).map(
      (row) => row.name,
    )
    const unknown = done.find((name) => !migrationNames.includes(name))
    if (unknown !== undefined) {
      throw fail('store_newer', {path, found: unknown, known: migrationNames.at(-1) ?? 'none'})
    }
    for (const [name, migration] of Object.entries(migrations)) {
      if (done.includes(name)) continue
      await migration.up(trx)
      await trx.insertInto('migrations').values({name, applied_at: Date.now()}).execute()
    }
    await sql.raw(`pragma user_version = ${migrationNames.length}`).execute(trx)
  })
}
