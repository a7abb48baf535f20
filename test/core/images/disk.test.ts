import {
  existsSync,
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
import {ImgstoreError} from '../../../src/core/errors.ts'
import type {ImageStatus} from '../../../src/core/image.ts'
import type {Store} from '../../../src/core/store.ts'
import {useServers, type BlobServer} from '../../support/blob-server.ts'
import {diskForms, packDisk, rawDisk, sha256Of} from '../../support/disk-image.ts'
import {requires} from '../../support/requires.ts'
import {withTempStore, type TempStore} from '../../support/temp-store.ts'

const startServer = useServers()

async function code(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise
    return undefined
  } catch (thrown) {
    if (thrown instanceof ImgstoreError) return thrown.code
    throw thrown
  }
}

async function settled(store: Store, name = 'disk'): Promise<ImageStatus | undefined> {
  return (await store.images.settle(name)).status
}

describe('disk images', () => {
  requires('program:qemu-img')
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  async function fetched({store}: TempStore, bytes: Buffer, more = {}): Promise<ImageStatus> {
    const url = server.put('/disk', bytes)
    const digest = sha256Of(bytes)
    await store.images.fetch({name: 'disk', url, digest, kind: 'disk', ...more})
    return (await settled(store)) as ImageStatus
  }

  for (const form of diskForms) {
    it(`become ACTIVE as the raw bytes of ${form}`, () =>
      withTempStore(async (temp) => {
        const raw = rawDisk()
        const status = await fetched(temp, packDisk(temp.dir, raw, form))
        expect(status, JSON.stringify(status.failed)).to.deep.include({
          imageKind: 'disk',
          state: 'ACTIVE',
          treeBytes: raw.length,
        })
        expect(status.disk).to.include({digest: sha256Of(raw), isPublished: true})
        expect(status.mountPoint).to.equal(undefined)
        const path = status.disk?.path ?? ''
        expect(readFileSync(path).equals(raw)).to.equal(true)
        expect(statSync(path).mode & 0o777).to.equal(0o444)
        expect(await temp.store.maintenance.verify({})).to.deep.include({
          damaged: [],
          missing: [],
          damagedTrees: [],
        })
      }))
  }

  it('take the room of their blob only once when that is the disk', () =>
    withTempStore(async (temp) => {
      const status = await fetched(temp, rawDisk())
      const blob = join(temp.storeDir, 'blobs', `${status.digest}.tar`)
      expect(statSync(blob).ino).to.equal(statSync(status.disk?.path ?? '').ino)
    }))

  it('go out of sight and come again, and go altogether', () =>
    withTempStore(async (temp) => {
      const {store, storeDir} = temp
      await fetched(temp, packDisk(temp.dir, rawDisk(), 'qcow2'))
      const shown = (): string[] => readdirSync(join(storeDir, 'disks')).map((n) => n.slice(-5))
      await store.images.deactivate('disk')
      expect((await settled(store))?.state).to.equal('STORED')
      expect(shown()).to.deep.equal([])
      await store.images.activate('disk')
      expect((await settled(store))?.disk?.isPublished).to.equal(true)
      expect(shown().sort()).to.deep.equal(['.json', '1.raw'])
      await store.images.remove('disk')
      expect((await store.images.settle('disk')).outcome).to.equal('removed')
      expect(shown()).to.deep.equal([])
      expect(readdirSync(join(storeDir, 'images'))).to.deep.equal([])
      expect(readdirSync(join(storeDir, 'blobs'))).to.deep.equal([])
    }))

  it('are shown again when somebody took them away', () =>
    withTempStore(async (temp) => {
      const {store, storeDir} = temp
      const before = await fetched(temp, rawDisk())
      for (const name of ['disk.json', `${String(before.disk?.path).split('/').at(-1)}`]) {
        rmSync(join(storeDir, 'disks', name))
        expect((await store.images.status('disk')).disk?.isPublished).to.equal(false)
        await store.work({signal: new AbortController().signal, once: true})
        expect((await store.images.status('disk')).disk?.isPublished).to.equal(true)
      }
      expect((await store.runs.list({limit: 9})).length).to.equal(3)
    }))

  for (const [who, mend] of [
    ['the worker', undefined],
    ['a repair', (store: Store) => store.maintenance.repair({isDryRun: false})],
    ['who deactivates them', (store: Store) => store.images.deactivate('disk')],
  ] as const) {
    it(`leave no bytes behind that a note which cannot be read named, by ${who}`, () =>
      withTempStore(async (temp) => {
        const {store, storeDir} = temp
        await fetched(temp, rawDisk())
        truncateSync(join(storeDir, 'disks/disk.json'))
        if (who !== 'who deactivates them') {
          const db = new SqliteDatabase(join(temp.dir, 'store.db'))
          db.prepare("update placements set goal = 'STORED'").run()
          db.close()
        }
        await mend?.(store)
        await store.work({signal: new AbortController().signal, once: true})
        expect((await store.images.status('disk')).state).to.equal('STORED')
        expect(readdirSync(join(storeDir, 'disks'))).to.deep.equal([])
      }))
  }

  it('are no root filesystems: nothing runs in them, and they are not converted', () =>
    withTempStore(async (temp) => {
      const {store} = temp
      await fetched(temp, rawDisk())
      expect(await code(store.images.run('disk', ['ls'], {}))).to.equal('wrong_kind')
      expect(await code(store.images.convert('disk', {backend: 'dir'}))).to.equal('wrong_kind')
    }))

  it('keep their kind: the same name for the other one is taken', () =>
    withTempStore(async (temp) => {
      const bytes = rawDisk()
      await fetched(temp, bytes)
      const again = {name: 'disk', url: server.put('/disk', bytes), digest: sha256Of(bytes)}
      expect(await code(temp.store.images.fetch(again))).to.equal('name_taken')
      const same = await temp.store.images.fetch({...again, kind: 'disk'})
      expect(same.outcome).to.equal('unchanged')
    }))

  it('fail with a reason when they cannot be taken, and leave nothing that is shown', () =>
    withTempStore(async (temp) => {
      const head = Buffer.alloc(4096)
      head.write('QFI\xfb', 'latin1')
      head.writeUInt32BE(3, 4)
      head.writeBigUInt64BE(4096n, 8)
      head.writeBigUInt64BE(1024n, 24)
      const status = await fetched(temp, head)
      expect(status.failed).to.include({code: 'bad_disk', from: 'UNPACKING'})
      expect(existsSync(join(temp.storeDir, 'disks'))).to.equal(false)
      const limits = {totalBytesMax: 1024}
      await temp.store.images.remove('disk')
      await temp.store.images.settle('disk')
      const large = await fetched(temp, rawDisk(), {limits})
      expect(large.failed?.code).to.equal('unsafe_archive')
    }))

  it('that are damaged on the disk are found', () =>
    withTempStore(async (temp) => {
      const {store, storeDir} = temp
      await fetched(temp, packDisk(temp.dir, rawDisk(), 'raw.zst'))
      const path = join(storeDir, 'images/disk/disk.raw')
      const bytes = readFileSync(path)
      bytes[3_000_000] = (bytes[3_000_000] ?? 0) ^ 1
      writeFileSync(path, bytes)
      const {damagedTrees} = await store.maintenance.verify({})
      expect(damagedTrees.map(({image, path: at}) => [image, at])).to.deep.equal([['disk', path]])
    }))

  it('leave to cleanup what belongs to none of them, and nothing else', () =>
    withTempStore(async (temp) => {
      const {store, storeDir} = temp
      await fetched(temp, rawDisk())
      const dir = join(storeDir, 'disks')
      writeFileSync(join(dir, 'gone.json'), '{}')
      writeFileSync(join(dir, '01J00000000000000000000000-1.raw'), 'old')
      writeFileSync(join(dir, 'README'), 'mine')
      const before = readdirSync(dir)
      const {items} = await store.maintenance.cleanup({isDryRun: false})
      expect(items.map(({kind, path}) => [kind, path.slice(dir.length + 1)])).to.have.deep.members([
        ['disk', 'gone.json'],
        ['disk', '01J00000000000000000000000-1.raw'],
      ])
      expect(readdirSync(dir)).to.have.length(before.length - 2)
    }))
})
