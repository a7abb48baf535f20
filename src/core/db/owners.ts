import type {NodeId, OwnerId} from '../ids.ts'
import type {Query} from './query.ts'
import type {OwnersTable} from './schema.ts'

export type OwnerRow = OwnersTable

export async function hasNode(q: Query, id: NodeId): Promise<boolean> {
  const row = await q.selectFrom('nodes').select('id').where('id', '=', id).executeTakeFirst()
  return row !== undefined
}

export async function addNode(q: Query, id: NodeId, hostname: string, now: number): Promise<void> {
  await q
    .insertInto('nodes')
    .values({id, hostname, created_at: now})
    .onConflict((conflict) => conflict.column('id').doNothing())
    .execute()
}

export async function addOwner(q: Query, owner: OwnerRow): Promise<void> {
  await q.insertInto('owners').values(owner).execute()
}

export async function removeOwner(q: Query, id: OwnerId): Promise<void> {
  await q.deleteFrom('owners').where('id', '=', id).execute()
}

/** False when the row is gone: another process took this owner for dead. */
export async function touchOwner(q: Query, id: OwnerId, now: number): Promise<boolean> {
  const result = await q
    .updateTable('owners')
    .set({heartbeat_at: now})
    .where('id', '=', id)
    .executeTakeFirst()
  return result.numUpdatedRows > 0n
}

export async function listOwners(q: Query, node: NodeId): Promise<OwnerRow[]> {
  return await q.selectFrom('owners').selectAll().where('node', '=', node).execute()
}
