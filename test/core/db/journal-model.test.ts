/**
 * The simulation believes in a store in memory (test/support/simulation/store.ts). Random calls, made of it and of the
 * journal in SQL, must have the same answers and leave the same rows: what holds in a million schedules holds here.
 */
import {expect} from 'chai'
import {openJournal, type ImageClaim, type ImageJournal} from '../../../src/core/db/journal.ts'
import {addImage, addPlacement, digestsInUse, updatePlacement} from '../../../src/core/db/images.ts'
import {openDatabase, type Database} from '../../../src/core/db/open.ts'
import {addNode} from '../../../src/core/db/owners.ts'
import {addRun, cancelRun, freeRunsOf, mayHaveOtherWriter} from '../../../src/core/db/runs.ts'
import type {Digest} from '../../../src/core/digest.ts'
import {errorToJson, fail, toImgstoreError} from '../../../src/core/errors.ts'
import type {ImageName, NodeId, OwnerId, RunId} from '../../../src/core/ids.ts'
import type {Goal, ImageState} from '../../../src/core/image.ts'
import {lifecycle} from '../../../src/core/images/lifecycle.ts'
import {FixedClock} from '../../support/fixed-clock.ts'
import {randomOf} from '../../support/image-maker.ts'
import {testSeed} from '../../support/seed.ts'
import {SimulatedStore, type SimulatedClaim} from '../../support/simulation/store.ts'

const sequences = 80
const calls = 60
const leaseMs = 50
const node = 'node' as NodeId
const owners = ['one', 'two', 'three'] as OwnerId[]
const goals: Goal[] = ['ACTIVE', 'STORED', 'REMOVED']
const digestOf = (n: number): Digest => String(n).repeat(64) as Digest
const error = errorToJson(fail('io_failed', {path: 'p', reason: 'r'}))

/** Both stores side by side. Places and runs have the same numbers in both. */
class Pair {
  readonly #random: () => number
  readonly #clock = new FixedClock()
  readonly #model = new SimulatedStore(this.#clock)
  readonly #database: Database
  readonly #journal: ImageJournal
  readonly #images: number[] = []
  readonly #runs: RunId[] = []
  readonly #claims: {model: SimulatedClaim; sql: ImageClaim}[] = []

  constructor(random: () => number, database: Database) {
    this.#random = random
    this.#database = database
    this.#journal = openJournal(database, node, this.#clock)
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n)
  }

  #goal(): Goal {
    return goals[this.#below(3)] ?? 'ACTIVE'
  }

  /** One call of both. Returns what it was. */
  async call(): Promise<string> {
    // No two things are due at the same moment: which of them is first is nobody's promise.
    this.#clock.advance(1)
    const dice = this.#random()
    if (this.#images.length === 0 || dice < 0.06) return await this.#register()
    if (dice < 0.16) return await this.#wish()
    if (dice < 0.38) return await this.#claim()
    if (dice < 0.43) return await this.#free()
    if (dice < 0.53) {
      this.#clock.advance(this.#below(2 * leaseMs))
      return 'time'
    }
    return await this.#write()
  }

  async #register(): Promise<string> {
    const [goal, digest, name] = [this.#goal(), this.#below(2), `image-${this.#images.length}`]
    this.#model.register(name, digest, goal)
    const now = this.#clock.now()
    await this.#database.db.transaction().execute(async (trx) => {
      const image = {name: name as ImageName, url: 'u', digest: digestOf(digest), now}
      const imageId = await addImage(trx, {...image, kind: 'rootfs'})
      const rules = {profile: 'strict', limits: {}, backend: 'dir', isBlobVerified: false} as const
      await addPlacement(trx, {imageId, node, goal, ...rules, now})
      const run = {imageId, image: image.name, node, digest: image.digest, goal, now}
      this.#images.push(imageId)
      this.#runs.push(await addRun(trx, run))
    })
    return `register ${goal}`
  }

  /** As `restart` of src/core/images/ask.ts. */
  async #wish(): Promise<string> {
    const place = this.#model.places[this.#below(this.#images.length)]
    if (!place || place.state === 'REMOVED') return 'nothing'
    const goal = this.#goal()
    const old = place.run && this.#runs[this.#model.runs.indexOf(place.run)]
    if (place.state === 'FAILED') Object.assign(place, {state: 'NEW', failed: undefined})
    this.#model.open(place, goal)
    const now = this.#clock.now()
    await this.#database.db.transaction().execute(async (trx) => {
      const imageId = this.#images[place.id] ?? 0
      if (old !== undefined) await cancelRun(trx, old, now)
      const state = place.state as ImageState
      await updatePlacement(trx, imageId, node, {goal, state, failed: null, held: null}, now)
      const digest = digestOf(place.digest)
      this.#runs.push(await addRun(trx, {imageId, image: place.name, node, digest, goal, now}))
    })
    return `wish ${goal}`
  }

  async #claim(): Promise<string> {
    const at = this.#below(this.#runs.length)
    const owner = owners[this.#below(3)] ?? owners[0]
    const [run, id] = [this.#model.runs[at], this.#runs[at]]
    if (!run || id === undefined || owner === undefined) return 'nothing'
    const model = await this.#model.claim({owner, leaseMs, run: run.id})
    const sql = await this.#journal.claim({owner, leaseMs, run: id})
    const shown = (claim: typeof sql): unknown => claim && {...claim, run: at, subject: 0, node: ''}
    expect(shown(sql), 'the claim').to.deep.equal(shown(model))
    if (model && sql) this.#claims.push({model, sql})
    return `claim ${at} by ${owner}: ${model !== undefined}`
  }

  async #free(): Promise<string> {
    const owner = owners[this.#below(3)] ?? ('' as OwnerId)
    const mayStillWork = this.#random() < 0.5
    this.#model.free(owner, mayStillWork)
    await freeRunsOf(this.#database.db, owner, this.#clock.now(), {mayStillWork})
    return `free ${owner}`
  }

  /** A write of some claim, be it lost long ago; towards where the image is, or was when it was claimed. */
  async #write(): Promise<string> {
    const claim = this.#claims[this.#below(this.#claims.length)]
    if (!claim) return 'nothing'
    const {model, sql} = claim
    const place = this.#model.places[model.subject]
    const from = this.#random() < 0.8 && place ? place.state : model.state
    if (from === 'REMOVED') return 'nothing'
    const record = {step: 's', attempt: 1, from, startedAt: this.#clock.now()}
    const row = lifecycle.next(from, model.goal)
    const dueAt = this.#clock.now() + this.#below(100)
    const kinds = ['transition', 'transition', 'transition', 'wait', 'fail', 'hold', 'finish']
    const kind = [...kinds, 'release', 'renew', 'fenced'][this.#below(10)]
    const write = async (journal: ImageJournal, by: ImageClaim): Promise<unknown> => {
      switch (kind) {
        case 'transition': {
          if (!row) return undefined
          const isLast = row.to === 'REMOVED' || row.to === model.goal
          await journal.transition(by, row.to, record, {isLast})
          return undefined
        }
        case 'wait':
          await journal.wait(by, record, {error, dueAt, nextAttempt: 2})
          return undefined
        case 'fail':
          await journal.fail(by, record, error)
          return undefined
        case 'hold':
          await journal.hold(by, record, 'STORED', error)
          return undefined
        case 'finish':
          await journal.finish(by)
          return undefined
        case 'release':
          await journal.release(by)
          return undefined
        case 'renew':
          return (await journal.renew([by], leaseMs)).length
        default:
          await journal.fenced(by, () => undefined)
          return undefined
      }
    }
    const answer = async (promise: Promise<unknown>): Promise<unknown> =>
      await promise.catch((met: unknown) => toImgstoreError(met).code)
    const expected = await answer(write(this.#model, model))
    expect(await answer(write(this.#journal, sql)), kind).to.equal(expected)
    return `${kind} of ${this.#model.runs.findIndex(({id}) => id === model.run)}: ${String(expected)}`
  }

  /** All that either knows. */
  async compare(): Promise<void> {
    const {db} = this.#database
    const placements = await db.selectFrom('placements').selectAll().execute()
    const places = this.#model.places.filter(({state}) => state !== 'REMOVED')
    expect(placements.map(({image_id, state, goal}) => [image_id, state, goal])).to.deep.equal(
      places.map(({id, state, goal}) => [this.#images[id], state, goal]),
    )
    const rows = await db.selectFrom('runs').selectAll().execute()
    const byId = new Map(rows.map((row) => [row.id, row]))
    for (const [n, run] of this.#model.runs.entries()) {
      const {status, attempt, epoch, owner, is_takeover} = byId.get(this.#runs[n] as RunId) ?? {}
      const {isTakeover} = run
      expect({status, attempt, epoch, owner: owner ?? undefined}, `run ${n}`).to.deep.equal({
        status: run.status,
        attempt: run.attempt,
        epoch: run.epoch,
        owner: run.owner,
      })
      expect(is_takeover === 1, `takeover of run ${n}`).to.equal(isTakeover)
      const id = this.#runs[n] as RunId
      const other = await mayHaveOtherWriter(db, {id, node, digest: digestOf(run.digest)})
      if (run.status === 'running')
        expect(other, `other writers than run ${n}`).to.equal(
          this.#model.mayHaveOtherWriter(run.id, run.digest),
        )
    }
    const inUse = await digestsInUse(db)
    for (const digest of [0, 1])
      expect(inUse.has(digestOf(digest)), `digest ${digest}`).to.equal(this.#model.isInUse(digest))
    expect(await this.#journal.nextDueAt()).to.equal(await this.#model.nextDueAt())
  }
}

describe('the journal in SQL and the one of the simulation', () => {
  it(`answer the same in ${sequences} sequences of ${calls} random calls`, async () => {
    const first = testSeed() >>> 0
    console.log(`    IMGSTORE_TEST_SEED=${first}`)
    for (let seed = first; seed < first + sequences; seed++) {
      const database = await openDatabase(':memory:')
      const done: string[] = []
      try {
        await addNode(database.db, node, 'host', 1)
        const pair = new Pair(randomOf(seed), database)
        for (let n = 0; n < calls; n++) {
          done.push(await pair.call())
          await pair.compare()
        }
      } catch (error_) {
        throw new Error(`IMGSTORE_TEST_SEED=${seed}: ${String(error_)}\nafter ${done.join(', ')}`, {
          cause: error_,
        })
      } finally {
        await database.close()
      }
    }
  }).timeout(60_000)
})
