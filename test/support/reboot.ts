/** What a boot changes in the records of a store, without one. */
import SqliteDatabase from 'better-sqlite3'

/** Makes the owners in a database those of the boot before, with a number that lives again under this one. */
export function forgetBoot(databasePath: string): void {
  const database = new SqliteDatabase(databasePath)
  database.prepare(`update owners set boot_id = 'the boot before', pid = ?`).run(process.pid)
  database.close()
}
