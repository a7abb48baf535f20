/** The two backends with real mounts: what an image is, how it changes from one to the other, and what is shared. */
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import type {TreeBackend} from '../../src/core/image.ts'
import {findMounts, mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {unmountSync} from '../../src/core/mounts/mount.ts'
import {mount} from '../../src/core/syscalls/mount.ts'
import {
  compressions,
  kindsOf,
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
import {rejection} from '../support/source-options.ts'
import {withTempStore, type TempStore, type TempStoreOptions} from '../support/temp-store.ts'

const startServer = useServers()
const forever = (): AbortSignal => new AbortController().signal
const backends = ['dir', 'erofs'] as const

type Scene = TempStore & {
  server: BlobServer
  image: Image
  url: string
  places: ReturnType<typeof placesOf>
}

/** A store with the image `one`, ACTIVE; removed at the end, which must leave nothing. */
async function withOne(
  o: {backend: TreeBackend; compression?: Compression} & TempStoreOptions,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const server = await startServer()
  await withTempStore(async (context) => {
    const {store, storeDir} = context
    const image = packedImage(o.compression ?? 'plain')
    const url = server.put('/one.tar', image.bytes)
    const places = placesOf(storeDir, 'one', image.digest)
    await store.images.fetch({name: 'one', url, digest: image.digest, backend: o.backend})
    expect(await reached(store)).to.include({state: 'ACTIVE', treeBackend: o.backend})
    await body({...context, server, image, url, places})
    await removed(store)
    for (const dir of ['images', 'overlays', 'active', 'blobs', 'staging'])
      expect(readdirSync(join(storeDir, dir)), dir).to.deep.equal([])
    expect(mountsBelow(storeDir)).to.deep.equal([])
  }, o)
}

for (const backend of backends)
  for (const compression of compressions)
    describe(`an image of a ${compression} archive with backend ${backend}`, () => {
      requires('root')

      it('has the tree of its archive, takes writes above it, and comes down and up again', () =>
        withOne({backend, compression}, async ({store, storeDir, places, image}) => {
          expect(mountKinds(storeDir, 'one')).to.deep.equal(kindsOf[backend])
          expect(existsSync(places.plain)).to.equal(backend === 'erofs' && compression !== 'plain')
          expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
          writeFileSync(join(places.mountPoint, 'new'), 'written')
          rmSync(join(places.mountPoint, 'd0'), {recursive: true})
          expect(readTree(places.rootfs), 'the tree below').to.deep.equal(image.tree)

          await store.images.deactivate('one')
          expect(await reached(store)).to.include({state: 'STORED'})
          expect(mountKinds(storeDir, 'one')).to.deep.equal([])
          expect(readFileSync(join(places.upper, 'new'), 'utf8')).to.equal('written')

          await store.images.activate('one')
          await reached(store)
          expect(mountKinds(storeDir, 'one')).to.deep.equal(kindsOf[backend])
          expect(readFileSync(join(places.mountPoint, 'new'), 'utf8')).to.equal('written')
          expect(existsSync(join(places.mountPoint, 'd0'))).to.equal(false)
        }))

      it('becomes one of the other and comes back, with what was written and without a request', () =>
        withOne({backend, compression}, async ({store, storeDir, server, places, image}) => {
          writeFileSync(join(places.mountPoint, 'new'), 'written')
          const other = backend === 'dir' ? 'erofs' : 'dir'
          for (const next of [other, backend] as const) {
            const {status, wasChanged} = await store.images.convert('one', {backend: next})
            expect({wasChanged, goal: status.goal}).to.deep.equal({
              wasChanged: true,
              goal: 'ACTIVE',
            })
            const end = await reached(store)
            expect(end).to.include({state: 'ACTIVE', backend: next, treeBackend: next})
            expect(mountKinds(storeDir, 'one')).to.deep.equal(kindsOf[next])
            const tree = readTree(places.mountPoint)
            expect(tree.delete('new')).to.equal(true)
            expect(tree).to.deep.equal(image.tree)
            expect(readTree(places.rootfs)).to.deep.equal(image.tree)
            const again = await store.images.convert('one', {backend: next})
            expect(again.wasChanged).to.equal(false)
          }
          expect(server.of('/one.tar')).to.have.lengthOf(1)
        }))
    })

describe('converting an image', () => {
  requires('root')

  for (const backend of backends) {
    const other = backend === 'dir' ? 'erofs' : 'dir'

    it(`that is STORED leaves it STORED, from ${backend} to ${other}`, () =>
      withOne({backend, compression: 'gzip'}, async ({store, storeDir, places, image}) => {
        await store.images.deactivate('one')
        await reached(store)
        await store.images.convert('one', {backend: other})
        expect(await reached(store)).to.include({state: 'STORED', treeBackend: other})
        expect(mountKinds(storeDir, 'one')).to.deep.equal([])
        expect(existsSync(places.index)).to.equal(other === 'erofs')
        await store.images.activate('one')
        await reached(store)
        expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
      }))

    it(`that is in use leaves it as it is, with backend ${backend}`, () =>
      withOne({backend}, async ({store, storeDir, places, image}) => {
        const descriptor = openSync(places.mountPoint, 'r')
        try {
          const error = await rejection(store.images.convert('one', {backend: other}))
          expect(error).to.include({code: 'image_busy', exit: 11})
        } finally {
          closeSync(descriptor)
        }
        const status = await store.images.status('one')
        expect(status).to.include({state: 'ACTIVE', goal: 'ACTIVE', treeBackend: backend})
        expect(status).not.to.have.property('held')
        await store.work({signal: forever(), once: true})
        expect(mountKinds(storeDir, 'one')).to.deep.equal(kindsOf[backend])
        expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
      }))
  }

  it('needs its archive', () =>
    withOne({backend: 'erofs'}, async ({store, places}) => {
      rmSync(places.blob)
      const error = await rejection(store.images.convert('one', {backend: 'dir'}))
      expect(error).to.include({code: 'blob_damaged', exit: 12})
      expect(await store.images.status('one')).to.include({state: 'ACTIVE', goal: 'ACTIVE'})
    }))
})

describe('an index', () => {
  requires('root')

  it('does not keep its image from going down while somebody reads it', () =>
    withOne({backend: 'erofs'}, async ({store, storeDir, places}) => {
      const descriptor = openSync(places.rootfs, 'r')
      try {
        await store.images.deactivate('one')
        expect(await reached(store)).to.include({state: 'STORED'})
        expect(mountKinds(storeDir, 'one')).to.deep.equal([])
        await store.images.activate('one')
        await reached(store)
      } finally {
        closeSync(descriptor)
      }
    }))

  it('is not taken for what somebody else mounted in its place', () =>
    withOne({backend: 'erofs'}, async ({store, places}) => {
      await store.images.deactivate('one')
      await reached(store)
      mount('somebody', places.rootfs, 'tmpfs', 0, null)
      writeFileSync(join(places.rootfs, 'theirs'), '')
      await store.work({signal: forever(), once: true})
      await store.images.activate('one')
      const {outcome, status} = await store.images.settle('one')
      expect(outcome).to.equal('failed')
      expect(status?.failed).to.include({code: 'mount_failed'})
      await store.images.remove('one')
      await store.images.settle('one')
      expect((await store.images.status('one')).failed).to.include({code: 'mount_busy'})
      expect(readdirSync(places.rootfs)).to.deep.equal(['theirs'])
      unmountSync(places.rootfs)
      expect(findMounts(places.rootfs)).to.deep.equal([])
    }))

  it('and another one of the same archive share its plain tar, which goes with the last', () =>
    withOne({backend: 'erofs', compression: 'zstd'}, async ({store, url, image, places}) => {
      await store.images.fetch({name: 'two', url, digest: image.digest, backend: 'erofs'})
      await reached(store, 'two')
      await store.images.deactivate('one')
      await reached(store)
      await removed(store, 'two')
      expect(existsSync(places.plain)).to.equal(true)
      await store.images.activate('one')
      await reached(store)
      expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
    }))

  it('keeps its plain tar through cleanup, and gives it up when it is no index any more', () =>
    withOne({backend: 'erofs', compression: 'gzip'}, async ({store, places}) => {
      const kinds = async (): Promise<string[]> =>
        (await store.maintenance.cleanup({isDryRun: false})).items.map(({kind}) => kind)
      expect(await kinds()).to.deep.equal([])
      await store.images.deactivate('one')
      await reached(store)
      expect(await kinds()).to.deep.equal([])
      await store.images.convert('one', {backend: 'dir'})
      // While the run is under way it is not known what it will need.
      expect(await kinds()).to.deep.equal([])
      await reached(store)
      expect(await kinds()).to.deep.equal(['plain'])
      expect(existsSync(places.plain)).to.equal(false)
      expect(existsSync(places.blob)).to.equal(true)
    }))
})
