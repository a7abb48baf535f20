import {existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {newUlid} from '../../../src/core/ids.ts'
import type {CleanupReport, Store} from '../../../src/core/store.ts'
import {useServers, type BlobServer} from '../../support/blob-server.ts'
import {smallImage} from '../../support/small-image.ts'
import {withTempStore} from '../../support/temp-store.ts'

const startServer = useServers()
const hex = (digit: string): string => digit.repeat(64)

function namesIn(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir).sort() : []
}

/** Every path in a directory, to see that nothing changed. */
function listing(dir: string): string[] {
  return readdirSync(dir, {recursive: true}).map(String).sort()
}

const shown = (report: CleanupReport): string[] =>
  report.items.map(({kind, path}) => `${kind} ${path.split('/').at(-1)}`).sort()

function put(path: string, ageMs = 0, text = 'x'.repeat(5000)): void {
  mkdirSync(join(path, '..'), {recursive: true})
  writeFileSync(path, text)
  const at = (Date.now() - ageMs) / 1000
  utimesSync(path, at, at)
}

/** A store full of what nobody needs, beside one image that is STORED. */
async function litter(store: Store, storeDir: string, server: BlobServer): Promise<string> {
  const image = smallImage()
  const url = server.put('/one.tar', image.bytes)
  await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
  await store.images.settle('one')
  const day = 86_400_000
  put(join(storeDir, 'blobs', `${hex('a')}.tar`))
  put(join(storeDir, 'blobs', `${hex('b')}.tar.tmp`), day)
  put(join(storeDir, 'blobs', `${hex('c')}.tar.tmp`))
  put(join(storeDir, 'blobs', `${hex('f')}.tar.raw.tmp-1a`), day)
  put(join(storeDir, 'blobs', `${hex('f')}.tar.raw.tmp-2b`))
  put(join(storeDir, 'blobs', `${hex('1')}.tar.raw`))
  put(join(storeDir, 'blobs', `${hex('1')}.tar.raw.json`))
  put(join(storeDir, 'blobs', `${hex('2')}.tar.raw.json`))
  put(join(storeDir, 'blobs', 'notes.txt'), day)
  put(join(storeDir, 'quarantine', `${hex('d')}.tar`), day)
  put(join(storeDir, 'quarantine', `${hex('e')}.tar`))
  put(join(storeDir, 'staging', `old-${newUlid(1)}`, 'rootfs/file'))
  put(join(storeDir, 'staging', `${newUlid(1)}-1`, 'rootfs/file'))
  put(join(storeDir, 'images/vanished/rootfs/file'))
  put(join(storeDir, 'overlays/vanished/upper/file'))
  mkdirSync(join(storeDir, 'active/vanished'), {recursive: true})
  return image.digest
}

const expected = [
  `blob ${hex('a')}.tar`,
  `part ${hex('b')}.tar.tmp`,
  `part ${hex('f')}.tar.raw.tmp-1a`,
  `plain ${hex('1')}.tar.raw`,
  `plain ${hex('2')}.tar.raw.json`,
  `quarantine ${hex('d')}.tar`,
  'mount vanished',
  'overlay vanished',
  'tree vanished',
]

/** Runs `act` right after the nth query for all images, before anything else is asked. Returns what ends that. */
function afterLookAtImages(nth: number, act: () => void): () => void {
  const memory = new SqliteDatabase(':memory:')
  const statements = Object.getPrototypeOf(memory.prepare('select 1')) as {
    source: string
    all: (...parameters: unknown[]) => unknown
  }
  memory.close()
  const {all} = statements
  let left = nth
  statements.all = function (...parameters) {
    const rows = all.apply(this, parameters)
    if (this.source.includes('order by "images"."name"') && --left === 0) act()
    return rows
  }
  return () => {
    statements.all = all
  }
}

describe('cleanup', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('removes each kind of what nobody needs, and nothing else', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const digest = await litter(store, storeDir, server)
      const report = await store.maintenance.cleanup({isDryRun: false})
      const staging = shown(report).filter((line) => line.startsWith('staging'))
      expect(staging).to.have.lengthOf(2)
      expect(shown(report).filter((line) => !line.startsWith('staging'))).to.deep.equal(
        expected.sort(),
      )
      expect(report.items.every((item) => item.error === undefined && item.reason !== '')).to.equal(
        true,
      )
      expect(report.freedBytes).to.equal(
        report.items.reduce((sum, item) => sum + item.sizeBytes, 0),
      )
      expect(report.freedBytes).to.be.greaterThan(25_000)
      expect(namesIn(join(storeDir, 'images'))).to.deep.equal(['one'])
      expect(namesIn(join(storeDir, 'overlays'))).to.deep.equal([])
      expect(namesIn(join(storeDir, 'active'))).to.deep.equal([])
      expect(namesIn(join(storeDir, 'staging'))).to.deep.equal([])
      expect(namesIn(join(storeDir, 'blobs'))).to.deep.equal(
        [`${digest}.tar`, `${hex('c')}.tar.tmp`, `${hex('f')}.tar.raw.tmp-2b`, 'notes.txt'].sort(),
      )
      expect((await store.maintenance.cleanup({isDryRun: false})).items).to.deep.equal([])
      expect((await store.images.status('one')).state).to.equal('STORED')
    })
  })

  it('changes nothing in a dry run, and says the same', async () => {
    await withTempStore(async ({store, storeDir}) => {
      await litter(store, storeDir, server)
      const before = listing(storeDir)
      const dry = await store.maintenance.cleanup({isDryRun: true})
      expect(dry.isDryRun).to.equal(true)
      expect(listing(storeDir)).to.deep.equal(before)
      const real = await store.maintenance.cleanup({isDryRun: false})
      expect(shown(real)).to.deep.equal(shown(dry))
      expect(real.freedBytes).to.equal(dry.freedBytes)
    })
  })

  it('keeps the part and the staged tree that an open run needs, however old they are', async () => {
    await withTempStore(
      async ({store, storeDir}) => {
        const image = smallImage({big: Buffer.alloc(300_000)})
        const url = server.put('/one.tar', image.bytes, (nth) =>
          nth === 0 ? {stallAfterBytes: 100_000} : {},
        )
        await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
        await store.images.settle('one', {timeoutMs: 200}).catch(() => undefined)
        const part = join(storeDir, 'blobs', `${image.digest}.tar.tmp`)
        expect(existsSync(part)).to.equal(true)
        utimesSync(part, 1, 1)
        const [run] = await store.runs.list({isOpen: true})
        put(join(storeDir, 'staging', `${run?.id}-${run?.epoch}`, 'rootfs/file'), 86_400_000)
        put(join(storeDir, 'staging', `${run?.id}-0`, 'rootfs/file'))
        const report = await store.maintenance.cleanup({isDryRun: false})
        expect(shown(report)).to.deep.equal([`staging ${run?.id}-0`])
        expect((await store.images.settle('one')).outcome).to.equal('reached')
        expect(server.of('/one.tar')[1]?.range).to.match(/^bytes=/)
      },
      {flags: {staleAfterMs: 0}},
    )
  })

  it('keeps a tree that is finished, and whose run changes hands, while it looks', async () => {
    await withTempStore(
      async ({store, storeDir, dir}) => {
        const url = server.put('/one.tar', smallImage().bytes)
        await store.images.fetch({name: 'one', url, digest: smallImage().digest})
        const file = new SqliteDatabase(join(dir, 'store.db'))
        const {id} = file.prepare('select id from runs').get() as {id: string}
        put(join(storeDir, 'staging', `${id}-1`, 'rootfs/file'))
        try {
          // Each phase looks once, some more often.
          for (let nth = 1; nth <= 5; nth++) {
            file.exec(`update placements set state = 'UNPACKING', tree_id = null;
              update runs set epoch = 1`)
            const restore = afterLookAtImages(nth, () =>
              file.exec(`update placements set state = 'UNPACKED', tree_id = '${id}-1';
                update runs set epoch = 2`),
            )
            const report = await store.maintenance.cleanup({isDryRun: false}).finally(restore)
            expect(shown(report), `look ${nth}`).to.deep.equal([])
          }
        } finally {
          file.close()
        }
        expect(namesIn(join(storeDir, 'staging'))).to.deep.equal([`${id}-1`])
      },
      {leaves: ['staging']},
    )
  })

  it('keeps a blob that one image needs though another one of it FAILED, and takes it when all did', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage({'etc/long': 'x'.repeat(1000)})
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'good', url, digest: image.digest, goal: 'STORED'})
      await store.images.settle('good')
      await store.images.fetch({
        name: 'bad',
        url,
        digest: image.digest,
        goal: 'STORED',
        limits: {fileBytesMax: 10},
      })
      expect((await store.images.settle('bad')).status?.failed?.code).to.equal('unsafe_archive')
      expect((await store.maintenance.cleanup({isDryRun: false})).items).to.deep.equal([])
      await store.images.remove('good')
      await store.images.settle('good')
      // The last image that is not FAILED took the blob along.
      expect(namesIn(join(storeDir, 'blobs'))).to.deep.equal([])
      await store.images.retry('bad', {limits: {fileBytesMax: 10_000}})
      expect((await store.images.settle('bad')).outcome).to.equal('reached')
    })
  })

  it('takes the blob of an image that FAILED', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage({'etc/long': 'x'.repeat(1000)})
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({
        name: 'bad',
        url,
        digest: image.digest,
        goal: 'STORED',
        limits: {filesMax: 1},
      })
      await store.images.settle('bad')
      expect(shown(await store.maintenance.cleanup({isDryRun: true}))).to.deep.equal([
        `blob ${image.digest}.tar`,
      ])
    })
  })

  it('takes no trees for leftovers when the database has never known an image', async () => {
    await withTempStore(async ({storeDir, dir, store, reopen}) => {
      await litter(store, storeDir, server)
      const other = await reopen({flags: {db: join(dir, 'other.db')}})
      await other.maintenance.cleanup({isDryRun: false})
      for (const place of ['images/one/rootfs', 'overlays/vanished/upper'])
        expect(existsSync(join(storeDir, place)), place).to.equal(true)
    })
  })

  it('goes on past what it cannot remove, and says why', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const url = server.put('/one.tar', smallImage().bytes)
      await store.images.fetch({name: 'one', url, digest: smallImage().digest, goal: 'STORED'})
      put(join(storeDir, 'active/vanished/file'))
      put(join(storeDir, 'images/other/rootfs/file'))
      const report = await store.maintenance.cleanup({isDryRun: false})
      const [first] = report.items.filter(({kind}) => kind === 'mount')
      expect(first?.error?.code).to.equal('io_failed')
      expect(namesIn(join(storeDir, 'images'))).to.deep.equal([])
      expect(report.freedBytes).to.be.greaterThan(0)
    })
  })

  it('never takes what an image brings that is fetched while it works', async () => {
    await withTempStore(
      async ({store, reopen}) => {
        const worker = await reopen({role: 'worker'})
        const stop = new AbortController()
        const working = worker.work({signal: stop.signal})
        let isOver = false
        const cleaning = (async () => {
          while (!isOver) {
            const report = await store.maintenance.cleanup({isDryRun: false})
            for (const item of report.items) if (item.error) throw new Error(item.error.message)
          }
        })()
        for (let n = 0; n < 3; n++) {
          const image = smallImage({'etc/number': `${n}`})
          const url = server.put(`/${n}.tar`, image.bytes)
          await store.images.fetch({name: `image-${n}`, url, digest: image.digest, goal: 'STORED'})
          const {outcome, status} = await store.images.settle(`image-${n}`)
          expect(outcome, status?.failed?.message ?? '').to.equal('reached')
        }
        isOver = true
        await cleaning
        stop.abort()
        await working
        const {missing} = await store.maintenance.verify({})
        expect(missing).to.deep.equal([])
      },
      {flags: {staleAfterMs: 0}},
    )
  })
})
