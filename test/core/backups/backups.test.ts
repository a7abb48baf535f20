import {spawnSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import fc from 'fast-check'
import {decodeHeader, encodeHeader} from '../../../src/core/backups/format.ts'
import {BackupWriter} from '../../../src/core/backups/write.ts'
import type {ImgstoreError} from '../../../src/core/errors.ts'
import {resolveSettings} from '../../../src/core/settings.ts'
import {openStore, restoreStore, type RestoreReport} from '../../../src/core/store.ts'
import {useServers, type BlobServer} from '../../support/blob-server.ts'
import {smallImage} from '../../support/small-image.ts'
import {testSeed} from '../../support/seed.ts'
import {withTempDir} from '../../support/temp-dir.ts'
import {withTempStore, type TempStore} from '../../support/temp-store.ts'

const startServer = useServers()

type Backed = TempStore & {path: string; digest: string}

/** A store with a STORED image, and a backup of it with its blob. */
async function withBackup(
  server: BlobServer,
  body: (context: Backed) => Promise<void>,
): Promise<void> {
  await withTempStore(async (context) => {
    const image = smallImage()
    const url = server.put('/one.tar', image.bytes)
    await context.store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
    await context.store.images.settle('one')
    const path = join(context.dir, 'backup.tar')
    await context.store.maintenance.backup({path, isForced: false, withBlobs: true})
    await body({...context, path, digest: image.digest})
  })
}

/** Restores into a new store below the directory of another. */
async function restore(
  {dir}: TempStore,
  path: string,
  o: {to?: string; isForced?: boolean} = {},
): Promise<RestoreReport> {
  const to = join(dir, o.to ?? 'target')
  const flags = {store: join(to, 'store'), db: join(to, 'store.db')}
  const resolved = resolveSettings({flags, env: {}, dataDir: dir, cwd: dir})
  return await restoreStore(resolved, {path, isForced: o.isForced ?? false})
}

async function refused(promise: Promise<unknown>): Promise<ImgstoreError> {
  const error: unknown = await promise.then(
    () => new Error('it was taken'),
    (caught: unknown) => caught,
  )
  expect(error).to.have.property('name', 'ImgstoreError')
  return error as ImgstoreError
}

type File = {name: string; body: Buffer; type?: string; link?: string}

/** A tar of these files; `contents.json` is made to agree with them unless they have one. */
function tarOf(files: File[]): Buffer {
  const listed = files.map(({name, body}) => ({
    name,
    size: body.length,
    sha256: createHash('sha256').update(body).digest('hex'),
  }))
  const contents = {name: 'contents.json', body: Buffer.from(JSON.stringify({files: listed}))}
  const all: File[] = files.some(({name}) => name === contents.name) ? files : [...files, contents]
  return Buffer.concat([
    ...all.flatMap(({name, body, type, link}) => {
      const header = encodeHeader({name, sizeBytes: body.length, mtimeS: 0})
      if (type !== undefined || link !== undefined) {
        header.write(type ?? '0', 156, 'latin1')
        header.write(link ?? '', 157, 'latin1')
        header.write('        ', 148, 'latin1')
        const sum = header.reduce((total, byte) => total + byte, 0)
        header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
      }
      return [header, body, Buffer.alloc(-body.length & 511)]
    }),
    Buffer.alloc(1024),
  ])
}

/** The files of a backup that is right. */
function filesOf(path: string): File[] {
  const bytes = readFileSync(path)
  const files: File[] = []
  for (let at = 0; ;) {
    const header = decodeHeader(path, bytes.subarray(at, at + 512))
    if (!header) return files.filter(({name}) => name !== 'contents.json')
    const body = bytes.subarray(at + 512, at + 512 + header.sizeBytes)
    files.push({name: header.name, body})
    at += 512 + body.length + (-body.length & 511)
  }
}

describe('a backup', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('is a tar of the database and the blobs, for its owner alone', async () => {
    await withBackup(server, async ({path, digest, dir, store, storeDir}) => {
      expect(statSync(path).mode & 0o777).to.equal(0o600)
      const listed = spawnSync('tar', ['tf', path], {encoding: 'utf8'})
      expect(listed.status).to.equal(0)
      expect(listed.stdout.trim().split('\n')).to.deep.equal([
        'backup.json',
        'store.db',
        `blobs/${digest}.tar`,
        'contents.json',
      ])
      const out = join(dir, 'out')
      mkdirSync(out)
      expect(spawnSync('tar', ['xf', path, '-C', out]).status).to.equal(0)
      const found = new SqliteDatabase(join(out, 'store.db'), {readonly: true})
      expect(found.prepare('select name from images').pluck().all()).to.deep.equal(['one'])
      found.close()
      const blob = readFileSync(join(out, `blobs/${digest}.tar`))
      expect(createHash('sha256').update(blob).digest('hex')).to.equal(digest)
      expect(readdirSync(dir).filter((name) => name.startsWith('backup.tar.'))).to.deep.equal([])
      expect(readdirSync(join(storeDir, 'staging'))).to.deep.equal([])
      const again = store.maintenance.backup({path, isForced: false, withBlobs: false})
      expect((await refused(again)).code).to.equal('file_exists')
    })
  })

  it('leaves out what is damaged, gone or removed, and says so', async () => {
    await withBackup(server, async ({store, storeDir, path, digest}) => {
      const blob = join(storeDir, 'blobs', `${digest}.tar`)
      const take = async (): Promise<unknown> => {
        const o = {path, isForced: true, withBlobs: true}
        const {leftOut, blobs} = await store.maintenance.backup(o)
        expect(blobs.count).to.equal(0)
        return leftOut
      }
      const bytes = readFileSync(blob)
      bytes[700] = (bytes[700] ?? 0) ^ 1
      writeFileSync(blob, bytes)
      expect(await take()).to.deep.equal([{digest, reason: 'damaged', images: ['one']}])
      rmSync(blob)
      expect(await take()).to.deep.equal([{digest, reason: 'gone', images: ['one']}])
    })
  })

  it('says that there is nothing to copy, and stops when it is told to', async () => {
    await withTempDir(async (dir) => {
      const flags = {store: join(dir, 'store')}
      const resolved = resolveSettings({flags, env: {}, dataDir: dir, cwd: dir})
      const store = await openStore({...resolved, role: 'command', access: 'read'})
      const path = join(dir, 'b.tar')
      const o = {path, isForced: false, withBlobs: true}
      expect((await refused(store.maintenance.backup(o))).code).to.equal('store_invalid')
      await store.close()
      const made = await openStore({...resolved, role: 'command'})
      const aborted = made.maintenance.backup({...o, signal: AbortSignal.abort()})
      expect((await refused(aborted)).code).to.equal('interrupted')
      await made.close()
      expect(readdirSync(dir).filter((name) => name.startsWith('b.tar'))).to.deep.equal([])
    })
  })

  it('is written by one at a time', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'b.tar')
      const first = await BackupWriter.create(path, {isForced: false, now: 0})
      const second = BackupWriter.create(path, {isForced: false, now: 0})
      expect((await refused(second)).code).to.equal('file_busy')
      await first.finish()
      await first.close()
      expect(readdirSync(dir)).to.deep.equal(['b.tar'])
    })
  })

  it('has headers that come back as they were, also of files beyond 8 GiB', () => {
    fc.assert(
      fc.property(fc.nat({max: Number.MAX_SAFE_INTEGER}), (sizeBytes) => {
        const header = encodeHeader({name: 'blobs/x', sizeBytes, mtimeS: 7})
        expect(decodeHeader('b', header)).to.deep.equal({name: 'blobs/x', sizeBytes})
      }),
      {seed: testSeed(), examples: [[8 ** 11 - 1], [8 ** 11], [0]]},
    )
  })
})

describe('a restore', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('makes the images of another host this one’s, and sets back what is not here', async () => {
    await withBackup(server, async (context) => {
      const {path, dir, store} = context
      // A store that has its own id already, and nothing else.
      const flags = {
        store: join(dir, 'target/store'),
        db: join(dir, 'target/store.db'),
        backend: 'dir',
      }
      const resolved = resolveSettings({flags, env: {}, dataDir: dir, cwd: dir})
      const empty = await openStore({...resolved, role: 'command'})
      await empty.close()
      const report = await restore(context, path)
      expect(report).to.deep.include({
        images: 1,
        setBack: [{image: 'one', from: 'STORED', to: 'DOWNLOADED', reason: 'the tree is gone'}],
      })
      expect(report.blobs.count).to.equal(1)
      const restored = await openStore({...resolved, role: 'command'})
      try {
        expect([restored.node, empty.node === store.node]).to.deep.equal([empty.node, false])
        expect((await restored.images.settle('one')).outcome).to.equal('reached')
        expect(existsSync(join(dir, 'target/store/images/one/rootfs'))).to.equal(true)
        expect(server.of('/one.tar')).to.have.lengthOf(1)
      } finally {
        await restored.close()
      }
      expect((await refused(restore(context, path))).code).to.equal('store_exists')
      const forced = await restore(context, path, {isForced: true})
      expect(existsSync(forced.kept ?? '')).to.equal(true)
      // Its tree is here, and it is not that of the backup.
      expect(forced.setBack).to.deep.equal([
        {image: 'one', from: 'STORED', to: 'DOWNLOADED', reason: 'the tree is another one'},
      ])
    })
  })

  it('gives a store without an id that of the backup', async () => {
    await withBackup(server, async (context) => {
      const {path, dir, store} = context
      await restore(context, path)
      expect(readFileSync(join(dir, 'target/store/node-id'), 'utf8')).to.equal(`${store.node}\n`)
    })
  })

  it('refuses what is no backup, or not all of one', async () => {
    await withBackup(server, async (context) => {
      const {path, dir} = context
      const whole = readFileSync(path)
      const bad = join(dir, 'bad.tar')
      const attempt = async (bytes: Buffer): Promise<void> => {
        writeFileSync(bad, bytes)
        const error = await refused(restore(context, bad))
        expect(error.code, error.message).to.equal('backup_invalid')
        expect(existsSync(join(dir, 'target/store.db'))).to.equal(false)
      }
      const files = filesOf(path)
      const [head, database, blob] = files as [File, File, File]
      await attempt(tarOf(files).fill(1, 0, 8))
      await attempt(Buffer.alloc(0))
      await attempt(Buffer.from('hello'))
      for (const length of [100, 512, 5000, whole.length - 1024, whole.length - 4000])
        await attempt(whole.subarray(0, length))
      await attempt(Buffer.concat([whole, Buffer.from('more')]))
      await attempt(tarOf([database, head, blob]))
      await attempt(tarOf([head, database, {...blob, name: 'blobs/../../../etc/passwd'}]))
      await attempt(tarOf([head, database, {...blob, name: '/etc/cron.d/x'}]))
      await attempt(tarOf([head, database, {...blob, type: '2', link: '/etc/passwd'}]))
      await attempt(tarOf([head, database, {...blob, type: '1', link: 'store.db'}]))
      await attempt(tarOf([head, database, blob, blob]))
      await attempt(tarOf([head, database, {...blob, name: `blobs/${'0'.repeat(64)}.tar`}]))
      await attempt(tarOf([head, {...database, body: Buffer.from('no database')}, blob]))
      await attempt(tarOf([{...head, body: Buffer.from('{}')}, database, blob]))
      await attempt(
        tarOf([head, database, {name: 'contents.json', body: Buffer.from('{"files":[]}')}]),
      )
      expect((await refused(restore(context, join(dir, 'none')))).code).to.equal('file_not_found')
      // What was refused left nothing.
      expect(readdirSync(join(dir, 'target/store'))).to.deep.equal(
        readdirSync(join(dir, 'target/store')).filter((name) => name === 'staging'),
      )
      expect(readdirSync(join(dir, 'target'))).to.deep.equal(['store'])
    })
  })

  it('refuses any bit that fell over', async () => {
    await withBackup(server, async (context) => {
      const {path, dir} = context
      const bad = join(dir, 'bad.tar')
      const whole = readFileSync(path)
      await fc.assert(
        fc.asyncProperty(fc.nat({max: whole.length - 1}), fc.nat({max: 7}), async (at, bit) => {
          const bytes = Buffer.from(whole)
          bytes[at] = (bytes[at] ?? 0) ^ (1 << bit)
          writeFileSync(bad, bytes)
          const error = await refused(restore(context, bad))
          expect(error.code, `byte ${at}`).to.equal('backup_invalid')
        }),
        {seed: testSeed(), numRuns: 60},
      )
    })
  })

  it('believes nothing of a database that others made', async () => {
    await withBackup(server, async (context) => {
      const {path, dir} = context
      const [head, database] = filesOf(path) as [File, File]
      const bad = join(dir, 'bad.tar')
      const changes: [string, RegExp][] = [
        [`update images set name = '../../up'`, /none of ours/],
        [`update images set digest = '${'/'.repeat(64)}'`, /none of ours/],
        [`update placements set tree_id = '../x'`, /none of ours/],
        [`update placements set limits = 'no JSON'`, /none of ours/],
        [`create trigger t after insert on runs begin delete from images; end`, /more in it/],
        [`create view v as select 1`, /more in it/],
        [`create table more (x)`, /another schema/],
        [`drop index runs_open`, /another schema/],
        [`update runs set image_name = '/abs'`, /none of ours/],
        [`pragma user_version = 0`, /none of imgstore/],
      ]
      for (const [sql, why] of changes) {
        const file = join(dir, 'changed.db')
        writeFileSync(file, database.body)
        const changed = new SqliteDatabase(file)
        changed.pragma('foreign_keys = off')
        changed.exec(sql)
        changed.pragma('wal_checkpoint(truncate)')
        changed.pragma('journal_mode = delete')
        changed.close()
        writeFileSync(
          bad,
          tarOf([
            {...head, body: Buffer.from(head.body.toString().replace('true', 'false'))},
            {...database, body: readFileSync(file)},
          ]),
        )
        const error = await refused(restore(context, bad))
        expect(error.code, sql).to.equal('backup_invalid')
        expect(error.message, sql).to.match(why)
      }
      writeFileSync(bad, 'x')
      truncateSync(bad, 0)
    })
  })

  it('refuses a database of a newer program', async () => {
    await withBackup(server, async (context) => {
      const {path, dir} = context
      const [head, database, blob] = filesOf(path) as [File, File, File]
      const file = join(dir, 'newer.db')
      writeFileSync(file, database.body)
      const newer = new SqliteDatabase(file)
      newer.pragma('user_version = 99')
      newer.close()
      const bad = join(dir, 'newer.tar')
      writeFileSync(bad, tarOf([head, {...database, body: readFileSync(file)}, blob]))
      expect((await refused(restore(context, bad))).code).to.equal('store_newer')
    })
  })
})
