/** Making a database that was another host's, or another time's, this host's own. */
import type {Kysely} from 'kysely'
import type {NodeId} from '../ids.ts'
import type {DB} from './schema.ts'

/**
 * Forgets who was at work: owners and leases are of processes that know nothing of this copy.
 *
 * Gives the images of `from` to `to`, unless the database knows `to` by itself.
 */
export async function rehome(
  db: Kysely<DB>,
  host: {from: NodeId; to: NodeId; hostname: string; now: number},
): Promise<void> {
  const {from, to, hostname, now} = host
  await db.transaction().execute(async (trx) => {
    await trx.deleteFrom('owners').execute()
    await trx
      .updateTable('runs')
      .set({
        status: 'pending',
        owner: null,
        lease_expires_at: null,
        due_at: now,
        is_takeover: 0,
        progress_done: null,
        progress_total: null,
        progress_at: null,
      })
      .where('status', '=', 'running')
      .execute()
    await trx.updateTable('runs').set({is_takeover: 0}).where('is_takeover', '=', 1).execute()
    const known = await trx.selectFrom('nodes').select('id').where('id', '=', to).executeTakeFirst()
    if (known) return
    await trx.insertInto('nodes').values({id: to, hostname, created_at: now}).execute()
    for (const table of ['placements', 'runs', 'run_events'] as const)
      await trx.updateTable(table).set({node: to}).where('node', '=', from).execute()
    await trx.deleteFrom('nodes').where('id', '=', from).execute()
  })
}
