/** Forgetting what happened long ago, so that a database does not grow for ever. */
import {sql} from 'kysely'
import type {NodeId} from '../ids.ts'
import type {Query} from './query.ts'

export type Pruned = {runs: number; events: number}

/** Runs that are over, but for the last one of each image that is there: `status` shows that, with its events. */
const forgettable = sql`
  status in ('done', 'failed', 'canceled') and is_takeover = 0 and rowid not in (
    select max(r.rowid) from runs r join placements p on p.image_id = r.image_id and p.node = r.node
    group by r.image_id, r.node)`

/** How much there is to forget of a host from before a time. */
export async function countPrunable(q: Query, node: NodeId, before: number): Promise<Pruned> {
  const {rows} = await sql<Pruned>`
    select
      (select count(*) from runs where node = ${node} and finished_at < ${before} and ${forgettable}) as runs,
      (select count(*) from run_events where node = ${node} and at < ${before} and run_id not in (
        select id from runs where not (finished_at < ${before} and ${forgettable}))) as events`.execute(
    q,
  )
  return rows[0] ?? {runs: 0, events: 0}
}

/**
 * Forgets at most `limit` runs and events each from before a time, the oldest first. Returns how many; none when there
 * is nothing left. Short for a small limit: it holds the write lock.
 */
export async function pruneSome(
  q: Query,
  node: NodeId,
  before: number,
  limit: number,
): Promise<Pruned> {
  const runs = await sql`
    delete from runs where rowid in (
      select rowid from runs where node = ${node} and finished_at < ${before} and ${forgettable}
      order by rowid limit ${limit})`.execute(q)
  // What is left of a run that is not forgotten yet goes with the next ones.
  const events = await sql`
    delete from run_events where seq in (
      select seq from run_events where node = ${node} and at < ${before}
        and not exists (select 1 from runs where runs.id = run_events.run_id)
      order by seq limit ${limit})`.execute(q)
  return {
    runs: Number(runs.numAffectedRows ?? 0n),
    events: Number(events.numAffectedRows ?? 0n),
  }
}
