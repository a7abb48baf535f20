import {statSync} from 'node:fs'
import {expect} from 'chai'
import type {ImageClaim} from '../../../src/core/db/journal.ts'
import {listEvents} from '../../../src/core/db/events.ts'
import {getPlaced, updatePlacement} from '../../../src/core/db/images.ts'
import {
  addRun,
  cancelRun,
  findRuns,
  freeRunsOf,
  hurryRun,
  listRuns,
  mayHaveOtherWriter,
} from '../../../src/core/db/runs.ts'
import {errorToJson, fail, ImgstoreError, type ErrorJson} from '../../../src/core/errors.ts'
import {armFailpoint, disarmFailpoints} from '../../../src/core/failpoint.ts'
import type {ImageName, OwnerId, RunId} from '../../../src/core/ids.ts'
import type {StepRecord} from '../../../src/core/journal.ts'
import type {ImageState} from '../../../src/core/image.ts'
import {node, withTempDatabase, type TempDatabase} from '../../support/db-rows.ts'

const one = 'owner-one' as OwnerId
const two = 'owner-two' as OwnerId
const leaseMs = 1000
const error: ErrorJson = errorToJson(fail('io_failed', {path: '/x', reason: 'y'}))

function recordOf(
  claim: ImageClaim,
  step = 'begin',
  from: ImageState = 'NEW',
): StepRecord<ImageState> {
  return {step, attempt: claim.attempt, from, startedAt: 0}
}

async function claimed(context: TempDatabase, owner = one): Promise<ImageClaim> {
  const claim = await context.journal.claim({owner, leaseMs})
  if (!claim) throw new Error('nothing was there to claim')
  return claim
}

async function code(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise
    return undefined
  } catch (thrown) {
    if (thrown instanceof ImgstoreError) return thrown.code
    throw thrown
  }
}

/** Everything that the database holds, to see that nothing changed. */
async function everything({database}: TempDatabase): Promise<unknown> {
  return {
    runs: await database.db.selectFrom('runs').selectAll().execute(),
    placements: await database.db.selectFrom('placements').selectAll().execute(),
    events: await database.db.selectFrom('run_events').selectAll().execute(),
  }
}

describe('claims', () => {
  it('go to the run that is due longest', async () => {
    await withTempDatabase(async (context) => {
      const now = context.clock.now()
      await context.add('later', {dueAt: now - 1})
      await context.add('first', {dueAt: now - 3})
      await context.add('second', {dueAt: now - 2})
      await context.add('future', {dueAt: now + 1})
      const order: string[] = []
      for (let n = 0; n < 3; n++) order.push((await claimed(context)).name)
      expect(order).to.deep.equal(['first', 'second', 'later'])
      expect(await context.journal.claim({owner: one, leaseMs})).to.equal(undefined)
      expect(await context.journal.nextDueAt()).to.equal(now + 1)
      context.clock.advance(1)
      expect((await claimed(context)).name).to.equal('future')
    })
  })

  it('can ask for one run', async () => {
    await withTempDatabase(async (context) => {
      await context.add('first')
      const {run} = await context.add('second')
      const claim = await context.journal.claim({owner: one, leaseMs, run})
      expect(claim).to.include({
        run,
        name: 'second',
        epoch: 1,
        attempt: 1,
        state: 'NEW',
        isTakeover: false,
      })
      expect(await context.journal.claim({owner: one, leaseMs, run})).to.equal(undefined)
    })
  })

  it('never give two owners the download of one blob, but its removal and its unpacking', async () => {
    await withTempDatabase(async (context) => {
      const digest = 'd'.repeat(64)
      const now = context.clock.now()
      await context.add('a', {digest, dueAt: now - 3})
      await context.add('b', {digest, dueAt: now - 2})
      const first = await claimed(context)
      expect(first.name).to.equal('a')
      expect(await context.journal.claim({owner: two, leaseMs})).to.equal(undefined)
      await context.add('gone', {digest, goal: 'REMOVED'})
      expect((await claimed(context, two)).name).to.equal('gone')
      await context.add('unpacking', {digest, state: 'DOWNLOADED'})
      expect((await claimed(context, two)).name).to.equal('unpacking')
      await context.add('other')
      expect((await claimed(context, two)).name).to.equal('other')
      // Once the first has its bytes the second may go on.
      await context.journal.transition(first, 'DOWNLOADING', recordOf(first), {isLast: false})
      expect(await context.journal.claim({owner: two, leaseMs})).to.equal(undefined)
      const record = recordOf(first, 'download', 'DOWNLOADING')
      await context.journal.transition(first, 'DOWNLOADED', record, {isLast: false})
      expect((await claimed(context, two)).name).to.equal('b')
    })
  })

  it('take over a run whose lease has expired, with a higher epoch, until a step is done', async () => {
    await withTempDatabase(async (context) => {
      await context.add('image')
      const first = await claimed(context)
      context.clock.advance(leaseMs - 1)
      expect(await context.journal.claim({owner: two, leaseMs})).to.equal(undefined)
      context.clock.advance(1)
      const second = await claimed(context, two)
      expect(second).to.include({run: first.run, epoch: first.epoch + 1, isTakeover: true})
      // The first may still be at it when the second gives the run back.
      await context.journal.release(second)
      const third = await claimed(context, one)
      expect(third).to.include({epoch: 3, isTakeover: true})
      await context.journal.transition(third, 'DOWNLOADING', recordOf(third), {isLast: false})
      await context.journal.release(third)
      expect((await claimed(context, one)).isTakeover).to.equal(false)
    })
  })

  it('are no takeover of a run that was given back or whose owner is dead', async () => {
    await withTempDatabase(async (context) => {
      await context.add('image')
      await context.journal.release(await claimed(context))
      const again = await claimed(context)
      expect(again).to.include({epoch: 2, isTakeover: false})
      const {db} = context.database
      const now = context.clock.now()
      expect(await freeRunsOf(db, two, now, {mayStillWork: false})).to.equal(0)
      expect(await freeRunsOf(db, one, now, {mayStillWork: false})).to.equal(1)
      const third = await claimed(context, two)
      expect(third).to.include({epoch: 3, isTakeover: false})
      expect(await freeRunsOf(db, two, now, {mayStillWork: true})).to.equal(1)
      expect((await claimed(context, one)).isTakeover).to.equal(true)
    })
  })

  it('of a canceled run remember every owner that may still write, until the last one has let go', async () => {
    const other = 'other' as RunId
    for (const isGivenBackFirst of [true, false]) {
      await withTempDatabase(async (context) => {
        const {run, digest} = await context.add('image')
        const {db} = context.database
        // The first owner sleeps past its lease, and goes on to sleep.
        await claimed(context)
        context.clock.advance(leaseMs)
        const second = await claimed(context, two)
        if (isGivenBackFirst) await context.journal.release(second)
        await cancelRun(db, run, context.clock.now())
        if (!isGivenBackFirst) await context.journal.release(second)
        expect(await mayHaveOtherWriter(db, {id: other, node, digest})).to.equal(true)
      })
    }
    await withTempDatabase(async (context) => {
      const {run, digest} = await context.add('image')
      const {db} = context.database
      const claim = await claimed(context)
      await cancelRun(db, run, context.clock.now())
      expect(await mayHaveOtherWriter(db, {id: other, node, digest})).to.equal(true)
      await context.journal.release(claim)
      expect(await mayHaveOtherWriter(db, {id: other, node, digest})).to.equal(false)
    })
  })

  it('are given as ever when the clock was set back by years', async () => {
    await withTempDatabase(async (context) => {
      const {clock} = context
      const years = 4 * 365 * 86_400_000
      const waiting = (await context.add('waiting'), await claimed(context))
      const running = (await context.add('running'), await claimed(context))
      await context.add('pending')
      const options = {error, dueAt: clock.now() + 60_000, nextAttempt: 2}
      await context.journal.wait(waiting, recordOf(waiting), options)
      clock.jump(-years)
      const again = [await claimed(context, two), await claimed(context, two)]
      again.push(await claimed(context, two))
      expect(again.map(({name}) => name).sort()).to.deep.equal(['pending', 'running', 'waiting'])
      expect(again.find(({run}) => run === running.run)?.isTakeover).to.equal(true)
      // A lease of today is one.
      expect(await context.journal.claim({owner: one, leaseMs})).to.equal(undefined)
    })
  })

  it('are kept by renewal, and told when they are lost', async () => {
    await withTempDatabase(async (context) => {
      await context.add('a')
      await context.add('b')
      const [a, b] = [await claimed(context), await claimed(context)]
      context.clock.advance(leaseMs - 1)
      expect(await context.journal.renew([a], leaseMs)).to.deep.equal([])
      context.clock.advance(1)
      const stolen = await claimed(context, two)
      expect(stolen.run).to.equal(b.run)
      expect(await context.journal.renew([a, b], leaseMs)).to.deep.equal([b.run])
    })
  })
})

describe('the fence', () => {
  const writes: [string, (context: TempDatabase, claim: ImageClaim) => Promise<unknown>][] = [
    [
      'transition',
      ({journal}, claim) =>
        journal.transition(claim, 'DOWNLOADING', recordOf(claim), {isLast: false}),
    ],
    [
      'last transition',
      ({journal}, claim) => journal.transition(claim, 'REMOVED', recordOf(claim), {isLast: true}),
    ],
    [
      'wait',
      ({journal}, claim) => journal.wait(claim, recordOf(claim), {error, dueAt: 1, nextAttempt: 2}),
    ],
    ['fail', ({journal}, claim) => journal.fail(claim, recordOf(claim), error)],
    ['hold', ({journal}, claim) => journal.hold(claim, recordOf(claim), 'STORED', error)],
    ['finish', ({journal}, claim) => journal.finish(claim)],
  ]
  const losses: [string, (context: TempDatabase, claim: ImageClaim) => Promise<unknown>][] = [
    [
      'a run taken over',
      async (context) => {
        context.clock.advance(leaseMs)
        await claimed(context, two)
      },
    ],
    [
      'a run taken over by the same owner',
      async (context) => {
        context.clock.advance(leaseMs)
        await claimed(context, one)
      },
    ],
    [
      'a canceled run',
      ({database, clock}, claim) => cancelRun(database.db, claim.run, clock.now()),
    ],
    ['a run given back', ({journal}, claim) => journal.release(claim)],
    ['a run that is done', ({journal}, claim) => journal.finish(claim)],
  ]
  for (const [loss, lose] of losses) {
    it(`stops every write to ${loss}, and nothing changes`, async () => {
      await withTempDatabase(async (context) => {
        await context.add('image')
        const claim = await claimed(context)
        await lose(context, claim)
        const before = await everything(context)
        for (const [name, write] of writes)
          expect(await code(write(context, claim)), name).to.equal('lease_lost')
        await context.journal.progress(claim, 'begin', 1, 2)
        expect(await context.journal.renew([claim], leaseMs)).to.deep.equal([claim.run])
        expect(await everything(context)).to.deep.equal(before)
        // To give back what is lost says only that nobody is at work on it any more.
        await context.journal.release(claim)
        const {db} = context.database
        if (loss !== 'a canceled run') expect(await everything(context)).to.deep.equal(before)
        else await db.updateTable('runs').set({is_takeover: 1}).execute()
        expect(await everything(context)).to.deep.equal(before)
      })
    })
  }

  it('stops a transition from a state in which the image is not', async () => {
    await withTempDatabase(async (context) => {
      await context.add('image')
      const claim = await claimed(context)
      const before = await everything(context)
      const record = recordOf(claim, 'unpack', 'UNPACKING')
      const write = context.journal.transition(claim, 'UNPACKED', record, {isLast: false})
      expect(await code(write)).to.equal('lease_lost')
      expect(await everything(context)).to.deep.equal(before)
    })
  })

  it('writes each time, so that a commit that failed before it stays undone', async () => {
    await withTempDatabase(async (context) => {
      await context.add('one')
      const claim = await claimed(context)
      const written = (): number => statSync(`${context.path}-wal`).size
      for (let i = 0; i < 3; i++) {
        const before = written()
        await context.journal.fenced(claim, () => undefined)
        expect(written()).to.be.greaterThan(before)
      }
    })
  })

  it('tells whoever does not know how a transition ended that it was done', async () => {
    await withTempDatabase(async (context) => {
      await context.add('one')
      const claim = await claimed(context)
      await context.journal.transition(claim, 'DOWNLOADING', recordOf(claim), {isLast: false})
      let effects = 0
      const effect = (): void => {
        effects++
      }
      expect(await code(context.journal.fenced(claim, effect, 'NEW'))).to.equal('lease_lost')
      expect(effects).to.equal(0)
      await context.journal.fenced(claim, effect, 'DOWNLOADING')
      expect(effects).to.equal(1)
    })
  })

  it('comes before the effect of a transition, which runs inside it and undoes it by throwing', async () => {
    await withTempDatabase(async (context) => {
      await context.add('image')
      const claim = await claimed(context)
      const before = await everything(context)
      let effects = 0
      const options = {
        isLast: false,
        effect: () => {
          effects++
          throw fail('mount_busy', {path: '/m'})
        },
      }
      const write = context.journal.transition(claim, 'DOWNLOADING', recordOf(claim), options)
      expect(await code(write)).to.equal('mount_busy')
      expect(effects).to.equal(1)
      expect(await everything(context)).to.deep.equal(before)
      context.clock.advance(leaseMs)
      await claimed(context, two)
      const late = context.journal.transition(claim, 'DOWNLOADING', recordOf(claim), options)
      expect(await code(late)).to.equal('lease_lost')
      expect(effects).to.equal(1)
    })
  })
})

describe('the journal', () => {
  afterEach(disarmFailpoints)

  it('writes a transition with its event, its patch and a fresh count of attempts', async () => {
    await withTempDatabase(async (context) => {
      const {database, journal, clock} = context
      await context.add('image')
      const claim = await claimed(context)
      clock.advance(5)
      const record = {
        ...recordOf(claim),
        attempt: 2,
        startedAt: clock.now() - 3,
        detail: {size_bytes: 7},
      }
      const event = await journal.transition(claim, 'DOWNLOADING', record, {
        isLast: false,
        patch: {treeId: 't', entries: 3, treeBytes: 9},
      })
      const expected = {
        seq: 1,
        at: clock.now(),
        run: claim.run,
        image: 'image',
        node,
        kind: 'transition',
        step: 'begin',
        attempt: 2,
        from: 'NEW',
        to: 'DOWNLOADING',
        startedAt: clock.now() - 3,
        durationMs: 3,
        detail: {size_bytes: 7},
      }
      expect(event).to.deep.equal(expected)
      expect(await listEvents(database.db, {node, limit: 10})).to.deep.equal([expected])
      const placed = await getPlaced(database.db, node, 'image' as ImageName)
      expect(placed).to.include({state: 'DOWNLOADING', treeId: 't', entries: 3, treeBytes: 9})
    })
  })

  it('keeps why and whence an image FAILED, and why one is held', async () => {
    await withTempDatabase(async (context) => {
      const {database, journal} = context
      await context.add('a')
      await journal.fail(
        await claimed(context),
        {step: 'download', attempt: 3, from: 'DOWNLOADING', startedAt: 0},
        error,
      )
      const failed = await getPlaced(database.db, node, 'a' as ImageName)
      expect(failed).to.deep.include({state: 'FAILED', failed: error, failedFrom: 'DOWNLOADING'})
      await context.add('b')
      await journal.hold(
        await claimed(context),
        {step: 'prepare', attempt: 1, from: 'STORED', startedAt: 0},
        'STORED',
        error,
      )
      const held = await getPlaced(database.db, node, 'b' as ImageName)
      expect(held).to.deep.include({state: 'STORED', held: error})
      const runs = await listRuns(database.db, {node, limit: 10})
      expect(runs.map((run) => [run.image, run.status, run.error?.code])).to.deep.equal([
        ['b', 'done', 'io_failed'],
        ['a', 'failed', 'io_failed'],
      ])
    })
  })

  it('lets a waiting run rest until it is due or hurried', async () => {
    await withTempDatabase(async (context) => {
      const {database, journal, clock} = context
      const {run} = await context.add('image')
      const dueAt = clock.now() + 500
      await journal.wait(await claimed(context), recordOf({attempt: 1} as ImageClaim), {
        error,
        dueAt,
        nextAttempt: 2,
      })
      expect(await journal.claim({owner: one, leaseMs})).to.equal(undefined)
      expect(await journal.nextDueAt()).to.equal(dueAt)
      clock.advance(500)
      const claim = await claimed(context)
      expect(claim.attempt).to.equal(2)
      await journal.wait(claim, recordOf(claim), {error, dueAt: dueAt + 1e6, nextAttempt: 3})
      await hurryRun(database.db, run, clock.now())
      expect((await claimed(context)).attempt).to.equal(1)
    })
  })

  it('takes an image that is removed out of the database, and keeps its history', async () => {
    await withTempDatabase(async (context) => {
      const {database, journal} = context
      const {run} = await context.add('image', {goal: 'REMOVED'})
      const claim = await claimed(context)
      const event = await journal.transition(claim, 'REMOVED', recordOf(claim, 'erase'), {
        isLast: true,
      })
      expect(event).to.include({kind: 'removed', to: 'REMOVED', from: 'NEW'})
      expect(await getPlaced(database.db, node, 'image' as ImageName)).to.equal(undefined)
      expect(await database.db.selectFrom('images').selectAll().execute()).to.deep.equal([])
      const [found] = await findRuns(database.db, node, run.slice(0, 26).toLowerCase())
      expect(found).to.include({id: run, status: 'done'})
      await context.add('image')
    })
  })

  it('has a transition for good before anything that follows it can die', async () => {
    await withTempDatabase(async (context) => {
      await context.add('image')
      const claim = await claimed(context)
      armFailpoint('journal.begin', 'throw')
      const write = context.journal.transition(claim, 'DOWNLOADING', recordOf(claim), {
        isLast: false,
      })
      const thrown = await write.catch((met: unknown) => met)
      // Past the failpoint the transition is durable: whoever comes next finds it done.
      expect(thrown).to.have.property('message', 'failpoint journal.begin')
      const placed = await getPlaced(context.database.db, node, 'image' as ImageName)
      expect(placed?.state).to.equal('DOWNLOADING')
    })
  })

  it('allows one open run for an image', async () => {
    await withTempDatabase(async ({database, clock, add}) => {
      const {imageId, run, digest} = await add('image')
      const more = {
        imageId,
        image: 'image' as ImageName,
        node,
        digest,
        goal: 'STORED' as const,
        now: clock.now(),
      }
      const thrown = await addRun(database.db, more).catch((met: unknown) => met)
      expect(thrown).to.have.property('code', 'SQLITE_CONSTRAINT_UNIQUE')
      await cancelRun(database.db, run, clock.now())
      await addRun(database.db, more)
      const runs = await listRuns(database.db, {node, limit: 10})
      expect(runs.map(({status}) => status)).to.deep.equal(['pending', 'canceled'])
    })
  })

  it('shows progress of the step at work, and forgets it with the step', async () => {
    await withTempDatabase(async (context) => {
      const {database, journal} = context
      await context.add('image')
      const claim = await claimed(context)
      await journal.progress(claim, 'download', 5, 10)
      const [during] = await listRuns(database.db, {node, limit: 1})
      expect(during?.progress).to.include({doneBytes: 5, totalBytes: 10})
      expect(during?.step).to.equal('download')
      await journal.transition(claim, 'DOWNLOADING', recordOf(claim), {isLast: false})
      const [after] = await listRuns(database.db, {node, limit: 1})
      expect(after).not.to.have.property('progress')
    })
  })

  it('pages events in both directions', async () => {
    await withTempDatabase(async (context) => {
      const {database, journal} = context
      const {imageId} = await context.add('image')
      const claim = await claimed(context)
      for (let n = 0; n < 5; n++) {
        await updatePlacement(database.db, imageId, node, {state: 'NEW'}, 0)
        await journal.transition(claim, 'DOWNLOADING', recordOf(claim), {isLast: false})
      }
      const seqs = async (filter: {afterSeq?: number; limit: number}): Promise<number[]> =>
        (await listEvents(database.db, {node, ...filter})).map(({seq}) => seq)
      expect(await seqs({limit: 2})).to.deep.equal([4, 5])
      expect(await seqs({afterSeq: 1, limit: 2})).to.deep.equal([2, 3])
      expect(await seqs({afterSeq: 5, limit: 2})).to.deep.equal([])
    })
  })
})
