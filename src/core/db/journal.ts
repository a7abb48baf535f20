/** The state machine's journal in SQL: every write is one immediate transaction behind the fence of its claim. */
import {sql, type Kysely, type Transaction} from 'kysely'
import type {Clock} from '../clock.ts'
import {fail, type ErrorJson} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {NodeId, RunId} from '../ids.ts'
import type {Goal, ImageState, RunEvent} from '../image.ts'
import type {Claim, Journal, StepRecord} from '../journal.ts'
import {addEvent, type NewEvent} from './events.ts'
import {removePlacement, updatePlacement, type PlacementPatch} from './images.ts'
import type {Database} from './open.ts'
import {toJson} from './query.ts'
import {
  lastErrorCode,
  leaseRun,
  letGoOfCanceled,
  nextClaimable,
  nextDueAt,
  updateClaimed,
} from './runs.ts'
import type {DB} from './schema.ts'

export type ImagePatch = Pick<PlacementPatch, 'treeId' | 'treeBackend' | 'entries' | 'treeBytes'>
export type ImageClaim = Claim<ImageState, Goal>
export type ImageJournal = Journal<ImageState, Goal, ImagePatch>
type Record_ = StepRecord<ImageState>

export function openJournal(database: Database, node: NodeId, clock: Clock): ImageJournal {
  return new SqlJournal(database, node, clock)
}

class SqlJournal implements ImageJournal {
  readonly #db: Kysely<DB>
  readonly #fast: Kysely<DB>
  readonly #node: NodeId
  readonly #clock: Clock

  constructor(database: Database, node: NodeId, clock: Clock) {
    this.#db = database.db
    this.#fast = database.fast
    this.#node = node
    this.#clock = clock
  }

  async claim(request: {
    owner: ImageClaim['owner']
    leaseMs: number
    run?: RunId
  }): Promise<ImageClaim | undefined> {
    const look = {
      node: this.#node,
      now: this.#clock.now(),
      ...(request.run === undefined ? {} : {run: request.run}),
    }
    // A look without the write lock first: idle workers must not hold others up.
    if (!(await nextClaimable(this.#db, look))) return undefined
    const claimed = await this.#db.transaction().execute(async (trx) => {
      const now = this.#clock.now()
      const found = await nextClaimable(trx, {...look, now})
      if (!found) return undefined
      // Stays so until a step is done, whoever held the run in between: the former owner may still be at it.
      const isTakeover = found.status === 'running' || found.is_takeover === 1
      const epoch = found.epoch + 1
      const lease = {owner: request.owner, epoch, expiresAt: now + request.leaseMs, isTakeover, now}
      await leaseRun(trx, found.id, lease)
      return {
        run: found.id,
        epoch,
        owner: request.owner,
        node: found.node,
        subject: found.image_id,
        name: found.image_name,
        goal: found.goal,
        state: found.state,
        attempt: found.attempt,
        isTakeover,
      }
    })
    failpoint('journal.claimed')
    return claimed
  }

  async renew(claims: readonly ImageClaim[], leaseMs: number): Promise<RunId[]> {
    const lost: RunId[] = []
    const expiresAt = this.#clock.now() + leaseMs
    for (const claim of claims) {
      const isHeld = await updateClaimed(this.#fast, claim, {lease_expires_at: expiresAt})
      if (!isHeld) lost.push(claim.run)
    }
    return lost
  }

  async progress(
    claim: ImageClaim,
    step: string,
    doneBytes: number,
    totalBytes?: number,
  ): Promise<boolean> {
    try {
      return await updateClaimed(this.#fast, claim, {
        step,
        progress_done: doneBytes,
        progress_total: totalBytes ?? null,
        progress_at: this.#clock.now(),
      })
    } catch {
      // Progress is for those who watch; a busy or full disk must not end the work for it.
      return true
    }
  }

  async fenced(claim: ImageClaim, effect: () => void, state?: ImageState): Promise<void> {
    await this.#write(async (trx) => {
      if (state !== undefined) await this.#expectState(trx, claim, state)
      // SQLite writes no page that stays as it was, and then a commit touches no disk: a millisecond makes it do so.
      await this.#fence(trx, claim, {lease_expires_at: sql<number>`lease_expires_at + 1`})
      effect()
    })
  }

  async transition(
    claim: ImageClaim,
    to: ImageState | 'REMOVED',
    record: Record_,
    options: {isLast: boolean; patch?: ImagePatch; effect?: () => void},
  ): Promise<RunEvent> {
    const written = await this.#write(async (trx, now) => {
      const ended = {
        status: 'done' as const,
        owner: null,
        lease_expires_at: null,
        finished_at: now,
        error: null,
      }
      const going = {
        step: null,
        attempt: 1,
        is_takeover: 0 as const,
        error: null,
        progress_done: null,
        progress_total: null,
        progress_at: null,
      }
      await this.#fence(trx, claim, options.isLast ? {...ended, step: record.step} : going)
      await this.#expectState(trx, claim, record.from)
      options.effect?.()
      if (to === 'REMOVED') {
        const event = await addEvent(trx, this.#event(claim, record, now, {kind: 'removed', to}))
        await removePlacement(trx, claim.subject, claim.node)
        return event
      }
      await updatePlacement(
        trx,
        claim.subject,
        claim.node,
        {...options.patch, state: to, held: null},
        now,
      )
      return await addEvent(trx, this.#event(claim, record, now, {kind: 'transition', to}))
    })
    failpoint(`journal.${record.step}`)
    return written
  }

  async wait(
    claim: ImageClaim,
    record: Record_,
    options: {error: ErrorJson; dueAt: number; nextAttempt: number; isLook?: boolean},
  ): Promise<RunEvent | undefined> {
    const written = await this.#write(async (trx, now) => {
      const before = options.isLook === true ? await lastErrorCode(trx, claim.run) : undefined
      await this.#fence(trx, claim, {
        status: 'waiting',
        owner: null,
        lease_expires_at: null,
        due_at: options.dueAt,
        attempt: options.nextAttempt,
        step: record.step,
        error: toJson(options.error),
      })
      if (before === options.error.code) return undefined
      const extra = {kind: 'retry' as const, error: options.error, dueAt: options.dueAt}
      return await addEvent(trx, this.#event(claim, record, now, extra))
    })
    failpoint('journal.waited')
    return written
  }

  async fail(claim: ImageClaim, record: Record_, error: ErrorJson): Promise<RunEvent> {
    const written = await this.#write(async (trx, now) => {
      await this.#end(trx, claim, 'failed', record.step, error, now)
      const patch = {state: 'FAILED' as const, failed: error, failedFrom: record.from, held: null}
      await updatePlacement(trx, claim.subject, claim.node, patch, now)
      return await addEvent(
        trx,
        this.#event(claim, record, now, {kind: 'failed', to: 'FAILED', error}),
      )
    })
    failpoint('journal.failed')
    return written
  }

  async hold(
    claim: ImageClaim,
    record: Record_,
    at: ImageState,
    error: ErrorJson,
  ): Promise<RunEvent> {
    const written = await this.#write(async (trx, now) => {
      await this.#end(trx, claim, 'done', record.step, error, now)
      await updatePlacement(trx, claim.subject, claim.node, {state: at, held: error}, now)
      return await addEvent(trx, this.#event(claim, record, now, {kind: 'held', to: at, error}))
    })
    failpoint('journal.held')
    return written
  }

  async finish(claim: ImageClaim): Promise<void> {
    await this.#write(async (trx, now) => {
      await this.#end(trx, claim, 'done', null, undefined, now)
    })
    failpoint('journal.finished')
  }

  async release(claim: ImageClaim): Promise<void> {
    const freed = {
      status: 'pending' as const,
      owner: null,
      lease_expires_at: null,
      due_at: this.#clock.now(),
    }
    if (!(await updateClaimed(this.#db, claim, freed))) await letGoOfCanceled(this.#db, claim)
    failpoint('journal.released')
  }

  async nextDueAt(): Promise<number | undefined> {
    return await nextDueAt(this.#db, this.#node)
  }

  async #write<T>(body: (trx: Transaction<DB>, now: number) => Promise<T>): Promise<T> {
    return await this.#db.transaction().execute((trx) => body(trx, this.#clock.now()))
  }

  async #fence(
    trx: Transaction<DB>,
    claim: ImageClaim,
    set: Parameters<typeof updateClaimed>[2],
  ): Promise<void> {
    if (!(await updateClaimed(trx, claim, set))) throw fail('lease_lost', {run: claim.run})
  }

  async #end(
    trx: Transaction<DB>,
    claim: ImageClaim,
    status: 'done' | 'failed',
    step: string | null,
    error: ErrorJson | undefined,
    now: number,
  ): Promise<void> {
    const set = {
      status,
      owner: null,
      lease_expires_at: null,
      finished_at: now,
      step,
      error: toJson(error),
    }
    await this.#fence(trx, claim, set)
  }

  /** The transition names the old state: a row that is elsewhere was moved by somebody else. */
  async #expectState(trx: Transaction<DB>, claim: ImageClaim, state: ImageState): Promise<void> {
    const row = await trx
      .selectFrom('placements')
      .select('state')
      .where('image_id', '=', claim.subject)
      .where('node', '=', claim.node)
      .executeTakeFirst()
    if (row?.state !== state) throw fail('lease_lost', {run: claim.run})
  }

  #event(
    claim: ImageClaim,
    record: Record_,
    now: number,
    more: Pick<NewEvent, 'kind' | 'to' | 'error' | 'dueAt'>,
  ): NewEvent {
    return {
      run: claim.run,
      image: claim.name,
      node: claim.node,
      at: now,
      step: record.step,
      attempt: record.attempt,
      epoch: claim.epoch,
      from: record.from,
      startedAt: record.startedAt,
      ...(record.detail === undefined ? {} : {detail: record.detail}),
      ...more,
    }
  }
}
