import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {hostname} from 'node:os'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {acquireLock} from '../../../src/core/syscalls/lock.ts'
import {newUlid} from '../../../src/core/ids.ts'
import {openStore, type RepairReport, type Store} from '../../../src/core/store.ts'
import {useServers, type BlobServer} from '../../support/blob-server.ts'
import {smallImage} from '../../support/small-image.ts'
import {withTempStore, type TempStore} from '../../support/temp-store.ts'

const startServer = useServers()
const HOUR_MS = 3_600_000

/** A store with one STORED image. */
async function withStored(
  server: BlobServer,
  body: (context: TempStore & {digest: string}) => Promise<void>,
  options: Parameters<typeof withTempStore>[1] = {},
): Promise<void> {
  await withTempStore(async (context) => {
    const image = smallImage()
    const url = server.put('/one.tar', image.bytes)
    await context.store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
    await context.store.images.settle('one')
    await body({...context, digest: image.digest})
  }, options)
}

/** Opens the store as `doctor --repair` does. */
async function repair(context: TempStore, isDryRun = false): Promise<RepairReport> {
  const store = await openForRepair(context)
  try {
    return await store.maintenance.repair({isDryRun})
  } finally {
    await store.close()
  }
}

async function openForRepair({settings, origins}: TempStore): Promise<Store> {
  return await openStore({settings, origins, role: 'command', access: 'read', isForRepair: true})
}

function write(context: TempStore, body: (db: SqliteDatabase.Database) => void): void {
  const db = new SqliteDatabase(join(context.dir, 'store.db'))
  db.pragma('foreign_keys = off')
  try {
    body(db)
  } finally {
    db.close()
  }
}

const shown = (report: RepairReport): string[] =>
  report.items.map(({kind, problem}) => `${kind}: ${problem}`)

/** An open run of the image, held by an owner whose process is that of process 1 of another boot or namespace. */
function holdRun(
  context: TempStore,
  o: {node: string; owner: string; bootId: string; leaseMs: number},
): void {
  write(context, (db) => {
    const now = Date.now()
    db.prepare(`insert into owners values (${'?,'.repeat(9)}?)`).run(
      ...[o.owner, o.node, 'worker', 'elsewhere', o.bootId, 'pid:[7]', 1, '1', now, now],
    )
    db.prepare(
      `insert into runs (id, image_id, image_name, node, digest, goal, status, owner, lease_expires_at, due_at, created_at)
       select ?, i.id, i.name, ?, i.digest, 'ACTIVE', 'running', ?, ?, 1, 1 from images i`,
    ).run(newUlid(now), o.node, o.owner, now + o.leaseMs)
  })
}

describe('repairing a store', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('finds nothing in a sound one', async () => {
    await withStored(server, async (context) => {
      expect(await repair(context)).to.deep.equal({isDryRun: false, isSound: true, items: []})
    })
  })

  it('sets an image back whose tree is gone, and keeps what was written into it', async () => {
    await withStored(server, async (context) => {
      const {store, storeDir} = context
      mkdirSync(join(storeDir, 'overlays/one/upper'), {recursive: true})
      writeFileSync(join(storeDir, 'overlays/one/upper/mine'), 'mine')
      rmSync(join(storeDir, 'images/one'), {recursive: true})
      const dry = await repair(context, true)
      expect(shown(dry)).to.deep.equal(['image: STORED, but the tree is gone'])
      expect((await store.images.status('one')).state).to.equal('STORED')
      const real = await repair(context)
      expect(real.items[0]).to.include({image: 'one', done: true})
      expect((await store.images.status('one')).state).to.equal('DOWNLOADED')
      expect((await store.images.settle('one')).outcome).to.equal('reached')
      expect(existsSync(join(storeDir, 'images/one/rootfs'))).to.equal(true)
      expect(readFileSync(join(storeDir, 'overlays/one/upper/mine'), 'utf8')).to.equal('mine')
      expect(server.of('/one.tar')).to.have.lengthOf(1)
      expect((await repair(context)).items).to.deep.equal([])
    })
  })

  it('fetches again what lost its tree and its blob', async () => {
    await withStored(server, async (context) => {
      const {store, storeDir, digest} = context
      rmSync(join(storeDir, 'images/one'), {recursive: true})
      rmSync(join(storeDir, 'blobs', `${digest}.tar`))
      expect(shown(await repair(context))).to.deep.equal([
        'row: the database has this blob, and the file is gone',
        'image: STORED, but the tree is gone',
      ])
      expect((await store.images.status('one')).state).to.equal('NEW')
      expect((await store.images.settle('one')).outcome).to.equal('reached')
      expect(server.of('/one.tar')).to.have.lengthOf(2)
    })
  })

  it('leaves a whole tree alone that lost its blob', async () => {
    await withStored(server, async (context) => {
      rmSync(join(context.storeDir, 'blobs', `${context.digest}.tar`))
      expect(shown(await repair(context))).to.deep.equal([
        'row: the database has this blob, and the file is gone',
      ])
      expect((await context.store.images.status('one')).state).to.equal('STORED')
      expect((await repair(context)).items).to.deep.equal([])
    })
  })

  it('does not touch an image while the lease of a worker holds, in another namespace or not', async () => {
    await withStored(
      server,
      async (context) => {
        const {store, storeDir} = context
        const {boot_id: bootId} = ownIdentityRow()
        holdRun(context, {node: store.node, owner: newUlid(2), bootId, leaseMs: HOUR_MS / 2})
        rmSync(join(storeDir, 'images/one'), {recursive: true})
        expect((await repair(context)).items).to.deep.equal([])
        expect((await store.images.status('one')).state).to.equal('STORED')
        expect(await store.runs.list({isOpen: true, limit: 10})).to.have.lengthOf(1)
        write(
          context,
          (db) => void db.exec('update runs set lease_expires_at = 1 where owner is not null'),
        )
        expect(shown(await repair(context))).to.deep.equal(['image: STORED, but the tree is gone'])
      },
      {leaves: ['running']},
    )
  })

  it('frees the runs of a dead owner, and leaves those of other hosts to them', async () => {
    await withStored(
      server,
      async (context) => {
        const {store} = context
        holdRun(context, {
          node: store.node,
          owner: newUlid(2),
          bootId: 'gone',
          leaseMs: HOUR_MS / 2,
        })
        write(context, (db) => {
          db.prepare(`insert into nodes values ('other', 'other.example', 1)`).run()
          db.prepare(
            `insert into placements select image_id, 'other', 'ACTIVE', goal, profile, limits, 0, 'x', 1, 1, null, null, null, 1, 1, 'dir', 'dir' from placements`,
          ).run()
        })
        holdRun(context, {node: 'other', owner: newUlid(3), bootId: 'gone', leaseMs: -HOUR_MS})
        const report = await repair(context)
        expect(shown(report)).to.deep.equal([
          'owner: worker 1 on elsewhere is dead',
          'run: STORED on the way to STORED, but its run goes to ACTIVE',
        ])
        write(context, (db) => {
          expect(
            db.prepare('select node, status from runs where owner is not null').all(),
          ).to.deep.equal([{node: 'other', status: 'running'}])
          expect(
            db.prepare(`select state from placements where node = 'other'`).all(),
          ).to.deep.equal([{state: 'ACTIVE'}])
          expect(db.prepare('select node from owners').all()).to.deep.equal([{node: 'other'}])
        })
      },
      {leaves: ['running']},
    )
  })

  it('gives runs back that the clock stranded', async () => {
    await withStored(server, async (context) => {
      const {store} = context
      await store.images.activate('one')
      write(
        context,
        (db) =>
          void db.exec(`update runs set due_at = due_at + 400 * 86400000 where status = 'pending'`),
      )
      const report = await repair(context)
      expect(report.items.map(({action}) => action)).to.deep.equal(['due now'])
      write(context, (db) => {
        const row = db.prepare(`select due_at from runs where status = 'pending'`).get()
        expect((row as {due_at: number}).due_at).to.be.at.most(Date.now())
      })
    })
  })

  it('removes rows that hang in the air, and makes damaged indexes again', async () => {
    await withStored(server, async (context) => {
      write(context, (db) => {
        db.unsafeMode(true)
        db.pragma('writable_schema = on')
        const sql = `create index images_by_digest on images (digest)`
        db.prepare(
          `update sqlite_schema set sql = sql || ' where 0' where name = 'images_by_digest'`,
        ).run()
        db.pragma('writable_schema = reset')
        db.prepare(
          `insert into images (name, url, digest, created_at, updated_at) values ('air', 'x', ?, 1, 1)`,
        ).run('a'.repeat(64))
        db.pragma('writable_schema = on')
        db.prepare(`update sqlite_schema set sql = ? where name = 'images_by_digest'`).run(
          sql.replace('create index', 'CREATE INDEX'),
        )
        db.pragma('writable_schema = reset')
        db.prepare(
          `insert into placements select 4711, node, 'NEW', goal, profile, limits, 0, null, null, null, null, null, null, 1, 1, 'dir', null from placements`,
        ).run()
      })
      const report = await repair(context)
      expect(shown(report)[0]).to.match(/^database: an index is damaged: /)
      expect(shown(report).slice(1)).to.deep.equal([
        'row: 1 row is of an image or a host that is gone',
        'row: the image is on no host',
      ])
      expect(report.isSound).to.equal(true)
      expect((await repair(context)).items).to.deep.equal([])
    })
  })

  it('says what to do when the database itself is damaged, and changes nothing', async () => {
    await withStored(server, async (context) => {
      const {store, dir, storeDir} = context
      await store.close()
      const path = join(dir, 'store.db')
      const bytes = readFileSync(path)
      // Behind the header and the schema.
      bytes.fill(0x5a, 3 * 4096, bytes.length - 4096)
      writeFileSync(path, bytes)
      for (const end of ['-wal', '-shm']) rmSync(`${path}${end}`, {force: true})
      const before = readdirSync(storeDir, {recursive: true})
      const error = (await repair(context).catch((caught: unknown) => caught)) as Error & {
        code: string
        hint: string
      }
      expect(error.code).to.equal('store_invalid')
      expect(error.hint).to.contain('imgstore restore')
      expect(readdirSync(storeDir, {recursive: true})).to.deep.equal(before)
    })
  })

  it('takes no trees for leftovers when the database is not theirs', async () => {
    await withStored(server, async (context) => {
      const {settings, dir, storeDir} = context
      const elsewhere = {...context, settings: {...settings, db: join(dir, 'typo.db')}}
      const attempts = [
        () => repair(elsewhere),
        async () => {
          await (await openStore({...elsewhere, role: 'command'})).close()
          await repair(elsewhere)
        },
      ]
      for (const attempt of attempts) {
        const error = (await attempt().catch((caught: unknown) => caught)) as Error
        expect(error).to.have.property('code', 'store_invalid')
        expect(error.message).to.contain('typo.db')
      }
      expect(existsSync(join(storeDir, 'images/one/rootfs'))).to.equal(true)
    })
  })

  it('narrows the modes of the store’s directories', async () => {
    await withStored(server, async (context) => {
      const {storeDir} = context
      const {chmodSync, statSync} = await import('node:fs')
      chmodSync(join(storeDir, 'blobs'), 0o777)
      chmodSync(join(storeDir, 'images'), 0o550)
      chmodSync(join(storeDir, 'staging'), 0o755)
      const report = await repair(context)
      expect(report.items.map(({action}) => action)).to.deep.equal([
        'set to 0775',
        'set to 0750',
        'set to 0700',
      ])
      expect(statSync(join(storeDir, 'blobs')).mode & 0o777).to.equal(0o775)
    })
  })
})

describe('the id of a host that was lost', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('comes back by itself, whoever asks first, so that no image is taken for nobody’s', async () => {
    await withStored(server, async (context) => {
      const {store, storeDir, reopen} = context
      rmSync(join(storeDir, 'node-id'))
      const again = await reopen()
      expect(again.node).to.equal(store.node)
      expect(readFileSync(join(storeDir, 'node-id'), 'utf8')).to.equal(`${store.node}\n`)
      expect((await again.maintenance.cleanup({isDryRun: false})).items).to.deep.equal([])
      expect((await again.images.status('one')).state).to.equal('STORED')
    })
  })

  it('comes back by the name of the host where there is no tree to tell', async () => {
    await withStored(server, async (context) => {
      const {store, storeDir, reopen} = context
      rmSync(join(storeDir, 'images/one'), {recursive: true})
      rmSync(join(storeDir, 'node-id'))
      expect((await reopen()).node).to.equal(store.node)
    })
  })

  it('is not guessed where several hosts may be this one', async () => {
    await withStored(server, async (context) => {
      const {storeDir, reopen} = context
      rmSync(join(storeDir, 'images/one'), {recursive: true})
      rmSync(join(storeDir, 'node-id'))
      write(
        context,
        (db) => void db.prepare(`insert into nodes values ('second', ?, 1)`).run(hostname()),
      )
      const error = (await reopen().catch((caught: unknown) => caught)) as Error
      expect(error).to.have.property('code', 'store_invalid')
      expect(error.message).to.contain('second')
    })
  })

  it('is mended when it is damaged or another’s, and not by a dry run', async () => {
    await withStored(server, async (context) => {
      const {store, storeDir, reopen} = context
      const file = join(storeDir, 'node-id')
      for (const text of ['\0\0', '', `${newUlid(5)}\n`]) {
        writeFileSync(file, text)
        const dry = await repair(context, true)
        expect(dry.items.map(({kind}) => kind)).to.deep.equal(['node'])
        expect(readFileSync(file, 'utf8')).to.equal(text)
        expect((await repair(context)).isSound).to.equal(true)
        expect(readFileSync(file, 'utf8')).to.equal(`${store.node}\n`)
        expect((await repair(context)).items).to.deep.equal([])
      }
      expect((await reopen()).node).to.equal(store.node)
    })
  })
})

describe('what publishing left in the images root', () => {
  it('goes with cleanup when it is old and nobody is at it', async () => {
    await withTempStore(
      async ({store, dir}) => {
        const image = join(dir, 'root/chunked/disk')
        const staging = join(image, 'v1~publishing')
        mkdirSync(join(staging, 'chunks'), {recursive: true})
        mkdirSync(join(image, 'v0/chunks'), {recursive: true})
        writeFileSync(join(staging, 'chunks/00000000.bin'), 'x')
        const lock = acquireLock(join(image, '~publishing.lock'))
        expect((await store.maintenance.cleanup({isDryRun: false})).items).to.deep.equal([])
        lock?.release()
        const dry = await store.maintenance.cleanup({isDryRun: true})
        expect(dry.items.map(({kind, path}) => [kind, path])).to.deep.equal([
          ['publishing', staging],
        ])
        expect(existsSync(staging)).to.equal(true)
        await store.maintenance.cleanup({isDryRun: false})
        expect(readdirSync(image)).to.deep.equal(['v0'])
      },
      {flags: {imagesRoot: 'root', staleAfterMs: '0'}},
    )
  })
})

function ownIdentityRow(): {boot_id: string} {
  return {boot_id: readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()}
}
