import {existsSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {resolveSettings} from '../../../src/core/settings.ts'
import {openStore, type Store} from '../../../src/core/store.ts'
import {FixedClock} from '../../support/fixed-clock.ts'
import {withTempDir} from '../../support/temp-dir.ts'
import {withTempStore} from '../../support/temp-store.ts'

describe('the doctor', () => {
  it('looks at program, store, database, space, clock, worker and host, with a hint for each trouble', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const report = await store.maintenance.doctor()
      expect(report.isOk).to.equal(true)
      const names = report.checks.map(({name}) => name)
      expect(names).to.include.members([
        'program',
        'store',
        'database',
        'space',
        'clock',
        'worker',
        'overlayfs',
        'mount',
      ])
      expect(new Set(names).size).to.equal(names.length)
      const byName = new Map(report.checks.map((check) => [check.name, check]))
      expect(byName.get('store')?.detail).to.include(storeDir).and.include('flag --store')
      expect(byName.get('worker')).to.include({status: 'warn'})
      for (const check of report.checks)
        if (check.status === 'fail') expect(check.hint, check.name).to.be.a('string')
    })
  })

  it('shows every setting with its origin, and no secret', async () => {
    await withTempDir(async (dir) => {
      const env = {AWS_SECRET_ACCESS_KEY: 'HUSH', IMGSTORE_LEASE: '40s'}
      const store = await openStore({
        ...resolveSettings({flags: {store: join(dir, 'store')}, env, dataDir: dir, cwd: dir}),
        role: 'command',
      })
      const {settings} = await store.maintenance.doctor()
      await store.close()
      const byKey = new Map(settings.map((setting) => [setting.key, setting]))
      expect(byKey.get('leaseMs')).to.deep.equal({
        key: 'leaseMs',
        value: '40s',
        origin: 'IMGSTORE_LEASE',
        env: ['IMGSTORE_LEASE'],
      })
      expect(byKey.get('s3SecretAccessKey')).to.include({
        value: '***',
        origin: 'AWS_SECRET_ACCESS_KEY',
      })
      expect(JSON.stringify(settings)).not.to.include('HUSH')
      expect(byKey.has('failpoints')).to.equal(false)
    })
  })

  it('makes nothing where there is no store', async () => {
    await withTempDir(async (dir) => {
      const store = await openStore({
        ...resolveSettings({
          flags: {store: join(dir, 'deep/store')},
          env: {},
          dataDir: dir,
          cwd: dir,
        }),
        role: 'command',
        access: 'read',
      })
      expect(await store.images.list()).to.deep.equal([])
      expect(await store.runs.list()).to.deep.equal([])
      expect(await store.runs.events()).to.deep.equal([])
      const {checks} = await store.maintenance.doctor()
      expect(checks.find(({name}) => name === 'database')?.detail).to.include('none yet')
      await store.close()
      expect(existsSync(join(dir, 'deep'))).to.equal(false)
    })
  })

  it('sees a clock that was set back', async () => {
    const clock = new FixedClock(Date.now())
    await withTempStore(
      async ({store}) => {
        await store.images.fetch({name: 'one', url: 'http://127.0.0.1:1/x', digest: 'a'.repeat(64)})
        await store.images.remove('one')
        clock.advance(-3_600_000)
        const {checks} = await store.maintenance.doctor()
        const found = checks.find(({name}) => name === 'clock')
        expect(found).to.include({status: 'warn'})
        expect(found?.detail).to.include('3600 s ahead')
      },
      {clock},
    )
  })

  it('fails over a damaged database', async () => {
    await withTempStore(async ({dir}) => {
      const file = new SqliteDatabase(join(dir, 'store.db'))
      // An index that points to nothing.
      file.unsafeMode(true)
      file.pragma('writable_schema = ON')
      file.exec(`update sqlite_master set rootpage = 3 where name = 'images_by_digest'`)
      file.close()
      const other = await openStore({
        ...resolveSettings({flags: {store: join(dir, 'store')}, env: {}, dataDir: dir, cwd: dir}),
        role: 'command',
      }).catch((error: unknown) => error)
      if (other instanceof Error) expect(other).to.include({code: 'store_invalid'})
      else {
        const opened = other as Store
        const report = await opened.maintenance.doctor()
        await opened.close()
        const found = report.checks.find(({name}) => name === 'database')
        expect(report.isOk).to.equal(false)
        expect(found?.status).to.equal('fail')
        expect(found?.hint).to.be.a('string')
      }
    })
  })
})

describe('a store', () => {
  it('of a newer program is refused, and not touched', async () => {
    await withTempStore(async ({store, dir, reopen}) => {
      await store.close()
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file.pragma('user_version = 999')
      file.close()
      for (const access of ['read', 'write'] as const) {
        const thrown = await reopen({access}).catch((error: unknown) => error)
        expect(thrown).to.include({code: 'store_newer', exit: 15})
      }
    })
  })

  it('is healthy until its space falls below the reserve', async () => {
    await withTempStore(async ({store, settings}) => {
      const well = await store.health()
      expect(well.database.isOk && well.space.isOk).to.equal(true)
      store.reload({...settings, healthSpaceBytes: well.space.totalBytes + 1})
      expect((await store.health()).space.isOk).to.equal(false)
    })
  })

  it('keeps its place when settings are reloaded', async () => {
    await withTempStore(({store, settings, storeDir}) => {
      store.reload({...settings, store: '/elsewhere', db: '/elsewhere.db', concurrency: 7})
      expect(store.settings).to.include({store: storeDir, concurrency: 7})
      return Promise.resolve()
    })
  })

  it('finds runs by the start of their ids, and only when one run has it', async () => {
    await withTempStore(async ({store}) => {
      for (const name of ['a', 'b'])
        await store.images.fetch({name, url: 'http://127.0.0.1:1/x', digest: 'a'.repeat(64)})
      const [run] = await store.runs.list({image: 'a'})
      expect((await store.runs.show((run?.id ?? '').toLowerCase())).run.image).to.equal('a')
      for (const wrong of ['', '%', '____', run?.id.slice(0, 4) ?? '', '../..', 'ZZZZ']) {
        const thrown = await store.runs.show(wrong).catch((error: unknown) => error)
        expect(thrown, wrong).to.include({code: 'run_not_found', exit: 10})
      }
    })
  })

  it('hands on events as they come, until nobody listens', async () => {
    await withTempStore(async ({store}) => {
      const stop = new AbortController()
      const seen: string[] = []
      const following = (async () => {
        for await (const event of store.runs.follow({signal: stop.signal, afterSeq: 0})) {
          seen.push(event.kind)
          if (seen.length === 2) stop.abort()
        }
      })()
      await store.images.fetch({name: 'one', url: 'http://127.0.0.1:1/x', digest: 'a'.repeat(64)})
      await store.images.deactivate('one')
      await store.images.remove('one')
      await following
      expect(seen).to.deep.equal(['canceled', 'canceled'])
    })
  })
})
