import type {NodeId, OwnerId} from '../ids.ts'
import type {Query} from './query.ts'
import type {NodesTable, OwnersTable} from './schema.ts'

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

export type NodeRow = NodesTable

export async function listNodes(q: Query): Promise<NodeRow[]> {
  return await q.selectFrom('nodes').selectAll().orderBy('id').execute()
}

/** The hosts whose images have these trees. */
export async function nodesOfTrees(q: Query, treeIds: readonly string[]): Promise<NodeId[]> {
  const nodes = new Set<NodeId>()
  // SQLite takes a limited number of values in one statement.
  for (let start = 0; start < treeIds.length; start += 500) {
    const rows = await q
      .selectFrom('placements')
      .select('node')
      .distinct()
      .where('tree_id', 'in', treeIds.slice(start, start + 500))
      .execute()
    for (const {node} of rows) nodes.add(node)
  }
  return [...nodes].sort()
}

/** Hosts that images are on and that have no row. */
export async function listUnknownNodes(q: Query): Promise<NodeId[]> {
  const rows = await q
    .selectFrom('placements')
    .leftJoin('nodes', 'nodes.id', 'placements.node')
    .where('nodes.id', 'is', null)
    .select('placements.node')
    .distinct()
    .execute()
  return rows.map((row) => row.node)
}
