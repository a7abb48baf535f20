import type {ErrorJson} from '../errors.ts'
import type {ImageName, NodeId, RunId} from '../ids.ts'
import type {ImageState, RunEvent, RunEventKind} from '../image.ts'
import {errorFrom, present, toJson, type Query} from './query.ts'
import type {RunEventsTable} from './schema.ts'

export type NewEvent = {
  run: RunId
  image: ImageName
  node: NodeId
  at: number
  kind: RunEventKind
  attempt: number
  epoch: number
  step?: string
  from?: ImageState
  to?: ImageState | 'REMOVED'
  startedAt?: number
  dueAt?: number
  error?: ErrorJson
  detail?: Record<string, unknown>
}

export async function addEvent(q: Query, event: NewEvent): Promise<RunEvent> {
  const durationMs =
    event.startedAt === undefined ? undefined : Math.max(0, event.at - event.startedAt)
  const {seq} = await q
    .insertInto('run_events')
    .values({
      run_id: event.run,
      image_name: event.image,
      node: event.node,
      at: event.at,
      kind: event.kind,
      step: event.step ?? null,
      attempt: event.attempt,
      epoch: event.epoch,
      from_state: event.from ?? null,
      to_state: event.to ?? null,
      started_at: event.startedAt ?? null,
      duration_ms: durationMs ?? null,
      due_at: event.dueAt ?? null,
      error_code: event.error?.code ?? null,
      error: toJson(event.error),
      detail: toJson(event.detail),
    })
    .returning('seq')
    .executeTakeFirstOrThrow()
  const shown: RunEvent & {epoch?: number} = {...event, seq}
  delete shown.epoch
  if (durationMs !== undefined) shown.durationMs = durationMs
  return shown
}

type Row = Omit<RunEventsTable, 'seq'> & {seq: number}

function toEvent(row: Row): RunEvent {
  const error = errorFrom(row.error)
  return {
    seq: row.seq,
    at: row.at,
    run: row.run_id,
    image: row.image_name,
    node: row.node,
    kind: row.kind,
    attempt: row.attempt,
    ...present({
      step: row.step,
      from: row.from_state,
      to: row.to_state,
      startedAt: row.started_at,
      durationMs: row.duration_ms,
      dueAt: row.due_at,
      error,
      detail: row.detail === null ? null : (JSON.parse(row.detail) as Record<string, unknown>),
    }),
  }
}

/** Oldest first; without `afterSeq` the last `limit` ones. */
export async function listEvents(
  q: Query,
  filter: {node: NodeId; run?: RunId; image?: ImageName; afterSeq?: number; limit: number},
): Promise<RunEvent[]> {
  let query = q
    .selectFrom('run_events')
    .selectAll()
    .where('node', '=', filter.node)
    .limit(filter.limit)
  if (filter.run !== undefined) query = query.where('run_id', '=', filter.run)
  if (filter.image !== undefined) query = query.where('image_name', '=', filter.image)
  if (filter.afterSeq !== undefined) query = query.where('seq', '>', filter.afterSeq)
  const rows = await query.orderBy('seq', filter.afterSeq === undefined ? 'desc' : 'asc').execute()
  if (filter.afterSeq === undefined) rows.reverse()
  return rows.map(toEvent)
}

export async function lastSeq(q: Query): Promise<number> {
  const row = await q
    .selectFrom('run_events')
    .select((eb) => eb.fn.max('seq').as('seq'))
    .executeTakeFirst()
  return row?.seq ?? 0
}
