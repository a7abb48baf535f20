/** What every journal promises (src/core/journal.ts), as a suite for each of them: the one in SQL and the one of tests. */
import {expect} from 'chai'
import type {ImageClaim, ImageJournal} from '../../src/core/db/journal.ts'
import {errorToJson, fail, ImgstoreError} from '../../src/core/errors.ts'
import type {OwnerId, RunId} from '../../src/core/ids.ts'
import type {ImageState} from '../../src/core/image.ts'
import type {FixedClock} from '../support/fixed-clock.ts'

export type JournalScene = {
  journal: ImageJournal
  clock: FixedClock
  /** Opens a run towards ACTIVE of an image in state NEW; due at `dueAt` or now. */
  add: (name: string, dueAt?: number) => Promise<RunId>
  /** Where the image and its run are. */
  look: (name: string) => Promise<{state: string; status: string; attempt: number}>
}

const [one, two] = ['owner-one', 'owner-two'] as [OwnerId, OwnerId]
const leaseMs = 1000
const error = errorToJson(fail('io_failed', {path: '/x', reason: 'y'}))
const recordOf = (claim: ImageClaim, from: ImageState = 'NEW') => ({
  step: 'begin',
  attempt: claim.attempt,
  from,
  startedAt: 0,
})

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const thrown = await promise.then(
    () => undefined,
    (met: unknown) => met,
  )
  return thrown instanceof ImgstoreError ? thrown.code : String(thrown)
}

export function journalSuite(
  name: string,
  within: (body: (scene: JournalScene) => Promise<void>) => Promise<void>,
): void {
  const claimed = async ({journal}: JournalScene, owner = one): Promise<ImageClaim> => {
    const claim = await journal.claim({owner, leaseMs})
    if (!claim) throw new Error('nothing was there to claim')
    return claim
  }
  const promise = (title: string, body: (scene: JournalScene) => Promise<void>): void => {
    it(title, async () => await within(body))
  }

  describe(`the journal ${name}`, () => {
    promise('gives what is due longest, once, and nothing before its time', async (scene) => {
      const now = scene.clock.now()
      await scene.add('later', now - 1)
      await scene.add('first', now - 2)
      const future = await scene.add('future', now + 500)
      expect((await claimed(scene)).name).to.equal('first')
      expect((await claimed(scene, two)).name).to.equal('later')
      expect(await scene.journal.claim({owner: one, leaseMs})).to.equal(undefined)
      expect(await scene.journal.claim({owner: one, leaseMs, run: future})).to.equal(undefined)
      expect(await scene.journal.nextDueAt()).to.equal(now + Math.min(500, leaseMs))
      scene.clock.advance(500)
      expect(await claimed(scene)).to.include({
        run: future,
        attempt: 1,
        state: 'NEW',
        goal: 'ACTIVE',
      })
    })

    promise('says when something is due, be it by the end of a lease', async (scene) => {
      expect(await scene.journal.nextDueAt()).to.equal(undefined)
      const now = scene.clock.now()
      await scene.add('image', now - 1)
      expect(await scene.journal.nextDueAt()).to.equal(now - 1)
      const claim = await claimed(scene)
      expect(await scene.journal.nextDueAt()).to.equal(now + leaseMs)
      await scene.journal.finish(claim)
      expect(await scene.journal.nextDueAt()).to.equal(undefined)
    })

    promise('raises the epoch with each claim, and says when one takes over', async (scene) => {
      await scene.add('image')
      const first = await claimed(scene)
      expect(first.isTakeover).to.equal(false)
      await scene.journal.release(first)
      const second = await claimed(scene, two)
      expect(second).to.include({epoch: first.epoch + 1, isTakeover: false})
      scene.clock.advance(leaseMs)
      const third = await claimed(scene)
      expect(third).to.include({epoch: first.epoch + 2, isTakeover: true})
      await scene.journal.release(third)
      const fourth = await claimed(scene)
      expect(fourth.isTakeover).to.equal(true)
      await scene.journal.transition(fourth, 'DOWNLOADING', recordOf(fourth), {isLast: false})
      await scene.journal.release(fourth)
      expect((await claimed(scene)).isTakeover).to.equal(false)
    })

    promise('keeps a lease that is renewed, and names the lost ones', async (scene) => {
      await scene.add('a')
      await scene.add('b')
      const claims = [await claimed(scene), await claimed(scene)]
      scene.clock.advance(leaseMs - 1)
      expect(await scene.journal.renew(claims.slice(0, 1), leaseMs)).to.deep.equal([])
      scene.clock.advance(1)
      const stolen = await claimed(scene, two)
      expect(await scene.journal.renew(claims, leaseMs)).to.deep.equal([stolen.run])
    })

    promise('lets nobody write who is not the current owner', async (scene) => {
      await scene.add('image')
      const claim = await claimed(scene)
      scene.clock.advance(leaseMs)
      await claimed(scene, two)
      const {journal} = scene
      let effects = 0
      const effect = (): void => {
        effects++
      }
      const options = {error, dueAt: 1, nextAttempt: 2}
      const writes = [
        journal.transition(claim, 'DOWNLOADING', recordOf(claim), {isLast: false, effect}),
        journal.wait(claim, recordOf(claim), options),
        journal.fail(claim, recordOf(claim), error),
        journal.hold(claim, recordOf(claim), 'STORED', error),
        journal.finish(claim),
        journal.fenced(claim, effect),
      ]
      for (const write of await Promise.all(writes.map(codeOf)))
        expect(write).to.equal('lease_lost')
      await journal.release(claim)
      expect(await journal.progress(claim, 'begin', 1)).to.equal(false)
      expect(effects).to.equal(0)
      expect(await scene.look('image')).to.deep.equal({state: 'NEW', status: 'running', attempt: 1})
    })

    promise(
      'writes nothing of a transition whose effect throws, or that begins elsewhere',
      async (scene) => {
        await scene.add('image')
        const claim = await claimed(scene)
        const effect = (): never => {
          throw fail('mount_busy', {path: 'p'})
        }
        const options = {isLast: false, effect}
        const {journal} = scene
        expect(
          await codeOf(journal.transition(claim, 'DOWNLOADING', recordOf(claim), options)),
        ).to.equal('mount_busy')
        const elsewhere = recordOf(claim, 'STORED')
        expect(
          await codeOf(journal.transition(claim, 'ACTIVE', elsewhere, {isLast: true})),
        ).to.equal('lease_lost')
        expect(await scene.look('image')).to.deep.equal({
          state: 'NEW',
          status: 'running',
          attempt: 1,
        })
      },
    )

    promise('tells each write as an event with what it was', async (scene) => {
      const run = await scene.add('image')
      const claim = await claimed(scene)
      const {journal, clock} = scene
      const record = {...recordOf(claim), startedAt: clock.now() - 3, detail: {n: 1}}
      const moved = await journal.transition(claim, 'DOWNLOADING', record, {isLast: false})
      expect(moved).to.deep.include({
        run,
        kind: 'transition',
        from: 'NEW',
        to: 'DOWNLOADING',
        durationMs: 3,
        detail: {n: 1},
      })
      const options = {error, dueAt: clock.now() + 5, nextAttempt: 2}
      const waits = await journal.wait(claim, recordOf(claim, 'DOWNLOADING'), options)
      expect(waits).to.deep.include({kind: 'retry', error, dueAt: options.dueAt})
      expect(waits?.seq).to.be.greaterThan(moved.seq)
      expect(await scene.look('image')).to.deep.equal({
        state: 'DOWNLOADING',
        status: 'waiting',
        attempt: 2,
      })
      clock.advance(5)
      const again = await claimed(scene)
      expect(again).to.include({attempt: 2, state: 'DOWNLOADING'})
      const failed = await journal.fail(again, recordOf(again, 'DOWNLOADING'), error)
      expect(failed).to.deep.include({
        kind: 'failed',
        from: 'DOWNLOADING',
        to: 'FAILED',
        attempt: 2,
        error,
      })
      expect(await scene.look('image')).to.include({state: 'FAILED', status: 'failed'})
    })

    promise('tells of a run that waits for the host once, until a step is done', async (scene) => {
      await scene.add('image')
      const {journal, clock} = scene
      const look = async (from: string, code: string): Promise<boolean> => {
        const claim = await claimed(scene)
        const options = {
          error: {...error, code},
          dueAt: clock.now() + 5,
          nextAttempt: claim.attempt,
          isLook: true,
        }
        const event = await journal.wait(claim, recordOf(claim, from as 'NEW'), options)
        clock.advance(5)
        return event !== undefined
      }
      expect(await look('NEW', 'space_low')).to.equal(true)
      expect(await look('NEW', 'space_low')).to.equal(false)
      expect(await scene.look('image')).to.include({status: 'waiting', attempt: 1})
      expect(await look('NEW', 'another')).to.equal(true)
      expect(await look('NEW', 'space_low')).to.equal(true)
      const claim = await claimed(scene)
      await journal.transition(claim, 'DOWNLOADING', recordOf(claim), {isLast: false})
      await journal.release(claim)
      expect(await look('DOWNLOADING', 'space_low')).to.equal(true)
    })

    promise('ends a run at its goal, short of it, or where it already was', async (scene) => {
      for (const each of ['a', 'b', 'c']) await scene.add(each)
      const [a, b, c] = [await claimed(scene), await claimed(scene), await claimed(scene)]
      await scene.journal.transition(a, 'ACTIVE', recordOf(a), {isLast: true})
      const held = await scene.journal.hold(b, recordOf(b), 'STORED', error)
      await scene.journal.finish(c)
      expect(held).to.deep.include({kind: 'held', to: 'STORED', error})
      const looks = [a, b, c].map(async ({name: each}) => await scene.look(each))
      expect(
        (await Promise.all(looks)).map(({state, status}) => `${state} ${status}`),
      ).to.deep.equal(['ACTIVE done', 'STORED done', 'NEW done'])
      expect(await scene.journal.claim({owner: two, leaseMs})).to.equal(undefined)
    })
  })
}
