/**
 * Run as a process of its own by tests of the database: `open`, `count N` or `claim N` on the database at argv[3];
 * `open-many` on new databases in the directory argv[3], from the time argv[4] on.
 */
import {sql} from 'kysely'
import {systemClock} from '../../src/core/clock.ts'
import {openJournal} from '../../src/core/db/journal.ts'
import {migrationNames} from '../../src/core/db/migrate.ts'
import {openDatabase} from '../../src/core/db/open.ts'
import type {NodeId, OwnerId} from '../../src/core/ids.ts'

const [act, path, node, times] = process.argv.slice(2)
if (act === 'open-many') await openMany(path ?? '', Number(node))
const database = await openDatabase(path ?? '')
const answer: string[] = []
if (act === 'open') {
  const {rows} = await sql<{name: string}>`select name from migrations order by name`.execute(
    database.db,
  )
  answer.push(...rows.map((row) => row.name), String(migrationNames.length))
}
if (act === 'count') {
  for (let i = 0; i < Number(times); i++)
    await database.db.transaction().execute(async (trx) => {
      const {rows} = await sql<{n: number}>`select entries as n from placements`.execute(trx)
      // The read and the write of a lost update, were transactions not immediate.
      await sql`update placements set entries = ${(rows[0]?.n ?? 0) + 1}`.execute(trx)
    })
}
if (act === 'claim') {
  const journal = openJournal(database, node as NodeId, systemClock)
  const owner = `owner-${process.pid}` as OwnerId
  for (;;) {
    const claim = await journal.claim({owner, leaseMs: 60_000})
    if (!claim) break
    answer.push(claim.run)
    await journal.finish(claim)
  }
}
console.log(JSON.stringify(answer))
await database.close()

/** Opens and closes one new database after another at moments that all such processes share; says what failed. */
async function openMany(dir: string, beginMs: number): Promise<never> {
  const failed: string[] = []
  for (let i = 0; i < 30; i++) {
    await new Promise((resolve) => setTimeout(resolve, beginMs + i * 150 - Date.now()))
    try {
      const one = await openDatabase(`${dir}/${i}.db`)
      await one.close()
    } catch (error) {
      failed.push(`${i}: ${String(error)}`)
    }
  }
  console.log(JSON.stringify(failed))
  process.exit(0)
}
