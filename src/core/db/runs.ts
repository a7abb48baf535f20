/** Runs: one open one for an image on a host at most, claimed by owners under leases. */
import {sql, type RawBuilder} from 'kysely'
import type {Digest} from '../digest.ts'
import {newUlid, type ImageName, type NodeId, type OwnerId, type RunId} from '../ids.ts'
import type {Goal, ImageState, RunStatus, RunSummary} from '../image.ts'
import {errorFrom, present, type Query} from './query.ts'
import type {RunsTable} from './schema.ts'

/** Ids made in the same millisecond are in no order; the order of insertion is. */
const newestFirst = sql`rowid`

const open = ['pending', 'running', 'waiting'] as const

type Row = Omit<RunsTable, 'attempt' | 'epoch' | 'is_takeover'> & {
  attempt: number
  epoch: number
  is_takeover: 0 | 1
}

function toSummary(row: Row): RunSummary {
  return {
    id: row.id,
    image: row.image_name,
    node: row.node,
    digest: row.digest,
    goal: row.goal,
    status: row.status,
    attempt: row.attempt,
    epoch: row.epoch,
    createdAt: row.created_at,
    ...present({
      step: row.step,
      owner: row.owner,
      dueAt: row.status === 'waiting' ? row.due_at : null,
      startedAt: row.started_at,
      finishedAt: row.finished_at,
      error: errorFrom(row.error),
      progress:
        row.progress_at === null
          ? null
          : {
              doneBytes: row.progress_done ?? 0,
              at: row.progress_at,
              ...(row.progress_total === null ? {} : {totalBytes: row.progress_total}),
            },
    }),
  }
}

/** Opens a run; the image must have no open one (`cancelOpenRun` first). */
export async function addRun(
  q: Query,
  run: {imageId: number; image: ImageName; node: NodeId; digest: Digest; goal: Goal; now: number},
): Promise<RunId> {
  const id = newUlid(run.now) as RunId
  await q
    .insertInto('runs')
    .values({
      id,
      image_id: run.imageId,
      image_name: run.image,
      node: run.node,
      digest: run.digest,
      goal: run.goal,
      status: 'pending',
      step: null,
      owner: null,
      lease_expires_at: null,
      due_at: run.now,
      progress_done: null,
      progress_total: null,
      progress_at: null,
      error: null,
      created_at: run.now,
      started_at: null,
      finished_at: null,
    })
    .execute()
  return id
}

export async function getOpenRun(
  q: Query,
  imageId: number,
  node: NodeId,
): Promise<RunSummary | undefined> {
  const row = await q
    .selectFrom('runs')
    .selectAll()
    .where('image_id', '=', imageId)
    .where('node', '=', node)
    .where('status', 'in', open)
    .executeTakeFirst()
  return row && toSummary(row)
}

/** The open run of an image, else its last one. */
export async function getLatestRun(
  q: Query,
  imageId: number,
  node: NodeId,
): Promise<RunSummary | undefined> {
  const row = await q
    .selectFrom('runs')
    .selectAll()
    .where('image_id', '=', imageId)
    .where('node', '=', node)
    .orderBy(newestFirst, 'desc')
    .limit(1)
    .executeTakeFirst()
  return row && toSummary(row)
}

/** Runs by id or by the start of one. */
export async function findRuns(q: Query, node: NodeId, prefix: string): Promise<RunSummary[]> {
  if (!/^[0-9A-HJKMNP-TV-Z]{4,26}$/i.test(prefix)) return []
  const rows = await q
    .selectFrom('runs')
    .selectAll()
    .where('node', '=', node)
    .where(sql<boolean>`id like ${`${prefix.toUpperCase()}%`}`)
    .limit(2)
    .execute()
  return (rows as Row[]).map(toSummary)
}

/** Newest first. */
export async function listRuns(
  q: Query,
  filter: {node: NodeId; image?: ImageName; isOpen?: boolean; limit: number},
): Promise<RunSummary[]> {
  let query = q.selectFrom('runs').selectAll().where('node', '=', filter.node)
  if (filter.image !== undefined) query = query.where('image_name', '=', filter.image)
  if (filter.isOpen === true) query = query.where('status', 'in', open)
  return (await query.orderBy(newestFirst, 'desc').limit(filter.limit).execute()).map(toSummary)
}

/**
 * Ends an open run without result; its owner, if any, finds its lease lost. Until that owner has let go, the run is
 * marked as one that somebody may still be at work on.
 */
export async function cancelRun(q: Query, id: RunId, now: number): Promise<void> {
  await q
    .updateTable('runs')
    .set({
      status: 'canceled',
      owner: null,
      lease_expires_at: null,
      finished_at: now,
      is_takeover: sql<0 | 1>`is_takeover or status = 'running'`,
    })
    .where('id', '=', id)
    .where('status', 'in', open)
    .execute()
}

/**
 * The owner of a canceled run has noticed, and works on it no more. One that had taken the run over says nothing about
 * the owner before it, which may still write.
 */
export async function letGoOfCanceled(
  q: Query,
  claim: {run: RunId; epoch: number; isTakeover: boolean},
): Promise<void> {
  if (claim.isTakeover) return
  await q
    .updateTable('runs')
    .set({is_takeover: 0})
    .where('id', '=', claim.run)
    .where('epoch', '=', claim.epoch)
    .where('status', '=', 'canceled')
    .execute()
}

/**
 * Whether an owner of another run with the same digest may still be writing that blob: it was canceled and has not
 * let go yet, or slept past its lease.
 */
export async function mayHaveOtherWriter(
  q: Query,
  run: {id: RunId; node: NodeId; digest: Digest},
): Promise<boolean> {
  const row = await q
    .selectFrom('runs')
    .where('node', '=', run.node)
    .where('digest', '=', run.digest)
    .where('id', '!=', run.id)
    .where((eb) => eb.or([eb('status', '=', 'running'), eb('is_takeover', '=', 1)]))
    .select('id')
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

/** Makes a waiting run due at once. */
export async function hurryRun(q: Query, id: RunId, now: number): Promise<void> {
  await q
    .updateTable('runs')
    .set({due_at: now, attempt: 1})
    .where('id', '=', id)
    .where('status', '=', 'waiting')
    .execute()
}

export type Claimable = {
  id: RunId
  image_id: number
  image_name: ImageName
  node: NodeId
  goal: Goal
  state: ImageState
  status: 'pending' | 'running' | 'waiting'
  attempt: number
  epoch: number
  is_takeover: 0 | 1
}

/** No lease and no wait is longer (settings `lease` and `retry_wait_max`, with its jitter). */
const leaseMsMax = 3_600_000
const waitMsMax = 2 * 86_400_000

/**
 * The oldest run that is due, or whose lease has expired. Two runs never fetch the same blob at once on one host:
 * one whose image is not DOWNLOADED yet waits while another leased one with the same digest is not either.
 *
 * A lease or a wait that is longer than any can be was written before somebody set the clock back: it is over. What
 * is pending waits for nothing.
 */
export async function nextClaimable(
  q: Query,
  request: {node: NodeId; now: number; run?: RunId},
): Promise<Claimable | undefined> {
  const early = sql`('NEW', 'DOWNLOADING')`
  const isLeased = (of: RawBuilder<unknown>) =>
    sql`${of}.lease_expires_at between ${request.now + 1} and ${request.now + leaseMsMax}`
  const one = request.run === undefined ? sql`` : sql`and r.id = ${request.run}`
  const {rows} = await sql<Claimable>`
    select r.id, r.image_id, r.image_name, r.node, r.goal, p.state, r.status, r.attempt, r.epoch,
      r.is_takeover
    from runs r join placements p on p.image_id = r.image_id and p.node = r.node
    where r.node = ${request.node} ${one}
      and (r.status = 'pending'
        or (r.status = 'waiting'
          and (r.due_at <= ${request.now} or r.due_at > ${request.now + waitMsMax}))
        or (r.status = 'running' and not ${isLeased(sql`r`)}))
      and not (p.state in ${early} and r.goal <> 'REMOVED' and exists (
        select 1 from runs o join placements op on op.image_id = o.image_id and op.node = o.node
        where o.status = 'running' and ${isLeased(sql`o`)} and o.node = r.node
          and o.id <> r.id and o.digest = r.digest and o.goal <> 'REMOVED' and op.state in ${early}))
    order by r.due_at, r.id
    limit 1`.execute(q)
  return rows[0]
}

export async function leaseRun(
  q: Query,
  id: RunId,
  lease: {owner: OwnerId; epoch: number; expiresAt: number; isTakeover: boolean; now: number},
): Promise<void> {
  await q
    .updateTable('runs')
    .set({
      status: 'running',
      owner: lease.owner,
      epoch: lease.epoch,
      lease_expires_at: lease.expiresAt,
      is_takeover: lease.isTakeover ? 1 : 0,
      started_at: sql<number>`coalesce(started_at, ${lease.now})`,
      step: null,
      progress_done: null,
      progress_total: null,
      progress_at: null,
    })
    .where('id', '=', id)
    .execute()
}

/** Writes to a run behind the fence: false when owner and epoch are not the current ones any more. */
export async function updateClaimed(
  q: Query,
  claim: {run: RunId; owner: OwnerId; epoch: number},
  set: Partial<Omit<Row, 'id'>> | {lease_expires_at: RawBuilder<number>},
): Promise<boolean> {
  const result = await q
    .updateTable('runs')
    .set(set)
    .where('id', '=', claim.run)
    .where('status', '=', 'running')
    .where('owner', '=', claim.owner)
    .where('epoch', '=', claim.epoch)
    .executeTakeFirst()
  return result.numUpdatedRows > 0n
}

/**
 * Frees what an owner holds without waiting for leases. Returns how many. An owner that is not dead may still be in
 * the middle of a step: `mayStillWork` makes the next claim a takeover.
 */
export async function freeRunsOf(
  q: Query,
  owner: OwnerId,
  now: number,
  options: {mayStillWork: boolean},
): Promise<number> {
  const result = await q
    .updateTable('runs')
    .set({status: 'pending', owner: null, lease_expires_at: null, due_at: now})
    .$if(options.mayStillWork, (update) => update.set({is_takeover: 1}))
    .where('owner', '=', owner)
    .where('status', '=', 'running')
    .executeTakeFirst()
  return Number(result.numUpdatedRows)
}

/** The code of the error that a run last waited for, as long as no step was done since. */
export async function lastErrorCode(q: Query, id: RunId): Promise<string | undefined> {
  const row = await q.selectFrom('runs').where('id', '=', id).select('error').executeTakeFirst()
  return errorFrom(row?.error ?? null)?.code
}

/** How many runs wait, by the code of what they wait for. */
export async function countWaiting(
  q: Query,
  node: NodeId,
): Promise<{code: string; count: number}[]> {
  const code = sql<string>`coalesce(json_extract(error, '$.code'), 'none')`
  return await q
    .selectFrom('runs')
    .where('node', '=', node)
    .where('status', '=', 'waiting')
    .select([code.as('code'), sql<number>`count(*)`.as('count')])
    .groupBy(code)
    .execute()
}

/** When the next run is due, or its lease runs out if somebody works on it. */
export async function nextDueAt(q: Query, node: NodeId): Promise<number | undefined> {
  const row = await q
    .selectFrom('runs')
    .where('node', '=', node)
    .where('status', 'in', open)
    .select(
      sql<number | null>`min(case status when 'running' then lease_expires_at else due_at end)`.as(
        'at',
      ),
    )
    .executeTakeFirst()
  return row?.at ?? undefined
}

/** Until when an owner holds a run; undefined when nobody does, `expiresAt` undefined for a lease that never ends. */
export async function getLease(
  q: Query,
  id: RunId,
): Promise<{owner: OwnerId; expiresAt?: number} | undefined> {
  const row = await q
    .selectFrom('runs')
    .select(['owner', 'lease_expires_at'])
    .where('id', '=', id)
    .where('status', '=', 'running')
    .executeTakeFirst()
  if (row?.owner == null) return undefined
  return {
    owner: row.owner,
    ...(row.lease_expires_at === null ? {} : {expiresAt: row.lease_expires_at}),
  }
}

export type OddRun = {id: RunId; image: ImageName; status: RunStatus}

/** Open runs of a host whose image is not there: nobody ever claims them. */
export async function listOrphanRuns(q: Query, node: NodeId): Promise<OddRun[]> {
  return await q
    .selectFrom('runs')
    .leftJoin('placements', (join) =>
      join
        .onRef('placements.image_id', '=', 'runs.image_id')
        .onRef('placements.node', '=', 'runs.node'),
    )
    .where('runs.node', '=', node)
    .where('runs.status', 'in', open)
    .where('placements.image_id', 'is', null)
    .select(['runs.id', 'runs.image_name as image', 'runs.status'])
    .execute()
}

/** Runs of a host that nobody would claim in any sensible time: the clock was set back, or the row was damaged. */
export async function listStrandedRuns(
  q: Query,
  node: NodeId,
  until: {leasedUntil: number; dueUntil: number},
): Promise<OddRun[]> {
  return await q
    .selectFrom('runs')
    .where('node', '=', node)
    .where((eb) =>
      eb.or([
        eb.and([
          eb('status', '=', 'running'),
          eb.or([
            eb('lease_expires_at', 'is', null),
            eb('lease_expires_at', '>', until.leasedUntil),
          ]),
        ]),
        eb.and([eb('status', 'in', ['pending', 'waiting']), eb('due_at', '>', until.dueUntil)]),
      ]),
    )
    .select(['id', 'image_name as image', 'status'])
    .execute()
}

/** Brings a stranded run back into time: its lease ends soon, unless its owner lives and renews it; or it is due. */
export async function unstrandRun(
  q: Query,
  id: RunId,
  times: {now: number; leaseMs: number},
): Promise<void> {
  await q
    .updateTable('runs')
    .set({
      lease_expires_at: sql<
        number | null
      >`case status when 'running' then ${times.now + times.leaseMs} end`,
      due_at: sql<number>`min(due_at, ${times.now})`,
    })
    .where('id', '=', id)
    .execute()
}
