/** What goes wrong with an indexed image: damage, mounts taken away by hand, crashes. */
import {execFileSync} from 'node:child_process'
import {readdirSync, readFileSync, rmSync, truncateSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {armFailpoint, disarmFailpoints} from '../../src/core/failpoint.ts'
import type {FollowEvent} from '../../src/core/image.ts'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {unmountSync} from '../../src/core/mounts/mount.ts'
import {mountErofsSync} from '../../src/core/mounts/erofs.ts'
import {
  mountKinds,
  packedImage,
  placesOf,
  reached,
  removed,
  type Compression,
} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {readTree, type Image} from '../support/image-maker.ts'
import {requires} from '../support/requires.ts'
import {withTempStore, type TempStore, type TempStoreOptions} from '../support/temp-store.ts'

const startServer = useServers()
const forever = (): AbortSignal => new AbortController().signal

type Scene = TempStore & {
  server: BlobServer
  image: Image
  url: string
  places: ReturnType<typeof placesOf>
}

/** A store with the indexed image `one`, in the state that `fetch` brings it to. */
async function withIndexed(
  o: {compression?: Compression; isFetched?: boolean} & TempStoreOptions,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const server = await startServer()
  await withTempStore(async (context) => {
    const {store, storeDir} = context
    const image = packedImage(o.compression ?? 'gzip')
    const url = server.put('/one.tar', image.bytes)
    const places = placesOf(storeDir, 'one', image.digest)
    await store.images.fetch({name: 'one', url, digest: image.digest, backend: 'erofs'})
    if (o.isFetched !== false) await reached(store)
    await body({...context, server, image, url, places})
    const [left] = await store.images.list()
    if (left) await removed(store)
    expect(readdirSync(join(storeDir, 'blobs'))).to.deep.equal([])
    expect(mountsBelow(storeDir)).to.deep.equal([])
  }, o)
}

function flipBit(path: string): void {
  const bytes = readFileSync(path)
  const at = Math.floor(bytes.length / 2)
  bytes[at] = (bytes[at] ?? 0) ^ 1
  writeFileSync(path, bytes)
}

describe('verifying indexed images', () => {
  requires('root')

  for (const which of ['index', 'plain'] as const) {
    const act = {
      'one flipped bit': flipBit,
      'a cut end': (path: string) => truncateSync(path, readFileSync(path).length - 512),
      'a missing file': (path: string) => rmSync(path),
    }
    for (const [what, damage] of Object.entries(act))
      it(`names ${what} of the ${which}, and converting there and back mends it`, () =>
        withIndexed({}, async ({store, places, image, server}) => {
          expect((await store.maintenance.verify({})).damagedTrees).to.deep.equal([])
          await store.images.deactivate('one')
          await reached(store)
          damage(places[which])
          const report = await store.maintenance.verify({})
          expect(report.damagedTrees.map(({image: name, path}) => [name, path])).to.deep.equal([
            ['one', places[which]],
          ])
          expect([report.damaged, report.missing]).to.deep.equal([[], []])
          for (const backend of ['dir', 'erofs'] as const) {
            await store.images.convert('one', {backend})
            await reached(store)
          }
          expect((await store.maintenance.verify({})).damagedTrees).to.deep.equal([])
          await store.images.activate('one')
          await reached(store)
          expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
          expect(server.of('/one.tar')).to.have.lengthOf(1)
        }))
  }

  it('names a tree that is gone with its note', () =>
    withIndexed({}, async ({store, places}) => {
      await store.images.deactivate('one')
      await reached(store)
      rmSync(places.image, {recursive: true})
      const report = await store.maintenance.verify({image: 'one'})
      expect(report.damagedTrees.map(({path}) => path)).to.deep.equal([places.note])
    }))
})

describe('activating an indexed image without its archive', () => {
  requires('root')

  for (const [what, compression, which] of [
    ['the archive', 'plain', 'blob'],
    ['the plain tar of a compressed archive', 'gzip', 'plain'],
  ] as const)
    it(`says that ${what} is gone, and retry brings it back`, () =>
      withIndexed({compression}, async ({store, storeDir, places, image}) => {
        writeFileSync(join(places.mountPoint, 'new'), 'written')
        await store.images.deactivate('one')
        await reached(store)
        rmSync(places[which])
        await store.images.activate('one')
        const {outcome, status} = await store.images.settle('one')
        expect(outcome).to.equal('failed')
        expect(status?.failed).to.include({code: 'blob_damaged', from: 'STORED'})
        expect(status?.failed?.message).to.contain('gone')
        expect(status?.failed?.hint).to.contain('imgstore retry')
        expect(mountKinds(storeDir, 'one')).to.deep.equal([])
        await store.images.retry('one')
        await reached(store)
        const tree = readTree(places.mountPoint)
        expect(tree.delete('new')).to.equal(true)
        expect(tree).to.deep.equal(image.tree)
      }))
})

describe('mounts of an indexed image that others changed', () => {
  requires('root')

  const cases: Record<string, (scene: Scene) => void> = {
    'the overlay': ({places}) => unmountSync(places.mountPoint),
    'the index, lazily': ({places}) => unmountSync(places.rootfs, {lazy: true}),
    'both, as a reboot does': ({places}) => {
      unmountSync(places.mountPoint)
      unmountSync(places.rootfs)
    },
  }
  for (const [what, act] of Object.entries(cases))
    it(`are mended when somebody unmounted ${what}`, () =>
      withIndexed({}, async (scene) => {
        const {store, storeDir, places, image} = scene
        act(scene)
        await store.work({signal: forever(), once: true})
        expect(await store.images.status('one')).to.include({state: 'ACTIVE', isMounted: true})
        expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
        await store.images.deactivate('one')
        await reached(store)
        expect(mountKinds(storeDir, 'one')).to.deep.equal([])
      }))

  it('are taken away when the index of a STORED image was left mounted', () =>
    withIndexed({}, async ({store, storeDir, places}) => {
      await store.images.deactivate('one')
      await reached(store)
      const devicePaths = [places.plain]
      for (let i = 0; i < 2; i++) {
        mountErofsSync({imagePath: places.index, devicePaths, mountPoint: places.rootfs})
        await store.work({signal: forever(), once: true})
        expect(mountKinds(storeDir, 'one')).to.deep.equal([])
      }
    }))

  it('are taken away by cleanup when the image vanished, and count no bytes', () =>
    withIndexed({}, async ({store, dir, storeDir, places}) => {
      unmountSync(places.mountPoint)
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file.pragma('foreign_keys = ON')
      file.exec('delete from images')
      file.close()
      const report = await store.maintenance.cleanup({isDryRun: false})
      const kinds = report.items.map(({kind, error}) => [kind, error?.code])
      expect(kinds).to.have.deep.members(
        ['blob', 'mount', 'tree', 'overlay', 'plain'].map((kind) => [kind, undefined]),
      )
      const tree = report.items.find(({kind}) => kind === 'tree')
      expect(tree?.sizeBytes).to.be.lessThan(32_768)
      expect(mountsBelow(storeDir)).to.deep.equal([])
      expect(readdirSync(join(storeDir, 'images'))).to.deep.equal([])
    }))
})

describe('making an indexed image that is cut off', () => {
  requires('root')
  afterEach(disarmFailpoints)

  for (const name of ['images.published', 'images.index_mounted'])
    it(`goes on after ${name}`, () =>
      withIndexed({isFetched: false}, async ({store, storeDir, places, image}) => {
        let isFirst = true
        armFailpoint(name, () => {
          if (!isFirst) return
          isFirst = false
          throw new Error(`failpoint ${name}`)
        })
        const events: FollowEvent[] = []
        await store.images.settle('one', {onEvent: (event) => events.push(event)})
        expect(isFirst).to.equal(false)
        expect(await store.images.status('one')).to.include({state: 'ACTIVE'})
        expect(mountKinds(storeDir, 'one')).to.deep.equal(['erofs', 'overlay'])
        expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
        expect((await store.maintenance.verify({})).damagedTrees).to.deep.equal([])
      }))

  it('is not mounted at all when its overlay cannot be', () =>
    withIndexed({}, async ({store, storeDir, places, image}) => {
      await store.images.deactivate('one')
      await reached(store)
      // Overlayfs refuses a work directory that is no directory of its own.
      const work = join(storeDir, 'overlays/one/work')
      rmSync(work, {recursive: true})
      execFileSync('ln', ['-s', '/nonexistent', work])
      await store.images.activate('one')
      const {outcome} = await store.images.settle('one')
      expect(outcome).not.to.equal('reached')
      expect(mountKinds(storeDir, 'one')).to.deep.equal([])
      rmSync(work)
      await store.images.retry('one')
      await reached(store)
      expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
    }))

  it('is made anew by retry after FAILED', () =>
    withIndexed({isFetched: false}, async ({store, dir, places, image}) => {
      await reached(store)
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file.exec(
        `update placements set state = 'FAILED', failed = '{"code":"io_failed"}', failed_from = 'ACTIVE'`,
      )
      file.close()
      await store.images.retry('one')
      await reached(store)
      expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
    }))
})
