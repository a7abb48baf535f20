import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {useServers} from '../../support/blob-server.ts'
import {smallImage} from '../../support/small-image.ts'
import {withTempStore} from '../../support/temp-store.ts'

const startServer = useServers()

describe('forgetting old runs', () => {
  it('keeps the last run of each image with its events, whatever their age, and those of late', async () => {
    const server = await startServer()
    await withTempStore(async ({store, dir, reopen}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      const fetch = async (name: string): Promise<void> => {
        await store.images.fetch({name, url, digest: image.digest, goal: 'STORED'})
        await store.images.settle(name)
      }
      for (const name of ['kept', 'gone']) await fetch(name)
      await store.images.remove('gone')
      await store.images.settle('gone')
      // Twice brought to where it is: the first run is over for good.
      await store.images.convert('kept', {backend: 'erofs'}).catch(() => undefined)
      await store.images.settle('kept')
      const database = new SqliteDatabase(join(dir, 'store.db'))
      const count = (): unknown =>
        database
          .prepare(
            'select image_name as name, count(*) as runs, (select count(*) from run_events e where e.image_name = r.image_name) as events from runs r group by 1 order by 1',
          )
          .all()
      const before = count()
      expect((await store.maintenance.cleanup({isDryRun: false})).forgotten).to.deep.equal({
        runs: 0,
        events: 0,
      })
      const month = 31 * 86_400_000
      database.prepare('update runs set finished_at = finished_at - ?').run(month)
      database.prepare('update run_events set at = at - ?').run(month)
      await fetch('new')
      const dry = await store.maintenance.cleanup({isDryRun: true})
      expect(dry.forgotten.runs).to.equal(3)
      expect((count() as unknown[]).slice(0, 2)).to.deep.equal(before)
      const {forgotten} = await store.maintenance.cleanup({isDryRun: false})
      expect(forgotten).to.deep.equal(dry.forgotten)
      expect(
        database
          .prepare('select image_name as name, count(*) as runs from runs group by 1 order by 1')
          .all(),
      ).to.deep.equal([
        {name: 'kept', runs: 1},
        {name: 'new', runs: 1},
      ])
      const loose = database
        .prepare('select count(*) from run_events where run_id not in (select id from runs)')
        .pluck()
      expect(loose.get()).to.equal(0)
      const [last] = await store.runs.list({image: 'kept', limit: 1})
      expect(last?.status).to.be.oneOf(['done', 'pending'])

      // A worker forgets by itself.
      const impatient = await reopen({flags: {keepEventsMs: '0'}, role: 'worker'})
      await store.images.remove('new')
      await impatient.work({signal: new AbortController().signal, once: true})
      const again = await reopen({flags: {keepEventsMs: '0'}, role: 'worker'})
      await again.work({signal: new AbortController().signal, once: true})
      expect(database.prepare('select distinct image_name from runs').pluck().all()).to.deep.equal([
        'kept',
      ])
      database.close()
    })
  })
})
