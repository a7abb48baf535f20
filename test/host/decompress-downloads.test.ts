/** Compressed images that are indexed: decompressed once, while they download. */
import {
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import {execFileSync} from 'node:child_process'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import type {RunEvent} from '../../src/core/image.ts'
import type {Store} from '../../src/core/store.ts'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {
  packedImage,
  placesOf,
  reached,
  removed,
  type Compression,
} from '../support/backend-image.ts'
import {useServers, type Answer, type BlobServer} from '../support/blob-server.ts'
import {makeImage, makeTar, readTree, sha256, type Image} from '../support/image-maker.ts'
import {until, useScenes} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {eventsOf, expectSoundStore} from '../support/store-check.ts'
import {withTempStore, type TempStore, type TempStoreOptions} from '../support/temp-store.ts'

const startServer = useServers()
const plainImage = makeImage(7, {
  files: 60,
  fileBytes: 200_000,
  extra: [{name: 'zeros', content: Buffer.alloc(9_000_000)}],
})
const images: Record<'gzip' | 'zstd', Image> = {
  gzip: packedImage('gzip', plainImage),
  zstd: packedImage('zstd', plainImage),
}

type Scene = TempStore & {
  server: BlobServer
  image: Image
  url: string
  places: ReturnType<typeof placesOf>
  fetch: (name?: string, more?: Partial<Parameters<Store['images']['fetch']>[0]>) => Promise<void>
}

/** A store and a server with a compressed image; at the end everything is removed, which must leave nothing. */
async function withScene(
  o: {
    compression?: Exclude<Compression, 'plain'>
    image?: Image
    answer?: (nth: number) => Answer
  } & TempStoreOptions,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const server = await startServer()
  await withTempStore(async (context) => {
    const {store, storeDir} = context
    const image = o.image ?? images[o.compression ?? 'gzip']
    const url = server.put('/one.tar', image.bytes, o.answer ?? {})
    const places = placesOf(storeDir, 'one', image.digest)
    const fetch: Scene['fetch'] = async (name = 'one', more = {}) => {
      await store.images.fetch({name, url, digest: image.digest, backend: 'erofs', ...more})
    }
    await body({...context, server, image, url, places, fetch})
    for (const each of await store.images.list()) await removed(store, each.name)
    expect(readdirSync(join(storeDir, 'blobs'))).to.deep.equal([])
    expect(mountsBelow(storeDir)).to.deep.equal([])
  }, o)
}

/** What the step that left a state says of itself, the last time. */
async function detailOf(store: Store, from: string, image = 'one'): Promise<RunEvent['detail']> {
  const events = await store.runs.events({image})
  return events.findLast((event) => event.kind === 'transition' && event.from === from)?.detail
}

const namesOf = (storeDir: string): string[] =>
  existsSync(join(storeDir, 'blobs')) ? readdirSync(join(storeDir, 'blobs')).sort() : []
const expectedNames = ({digest}: Image): string[] =>
  ['.tar', '.tar.raw', '.tar.raw.json'].map((end) => `${digest}${end}`)

/** The blob, and the plain tar with nothing else beside it, whose zeros take no space. */
function expectPlain({storeDir, image, places}: Scene): void {
  expect(namesOf(storeDir)).to.deep.equal(expectedNames(image))
  expect(readFileSync(places.plain).equals(plainImage.bytes)).to.equal(true)
  const {size, blocks} = statSync(places.plain)
  expect(blocks * 512).to.be.lessThan(size - 8_000_000)
}

for (const compression of ['gzip', 'zstd'] as const)
  describe(`a ${compression} image that is indexed`, () => {
    requires('root')

    it('is decompressed while it downloads; UNPACKING reads the plain tar', () =>
      withScene({compression}, async (scene) => {
        const {store, fetch, places, image} = scene
        await fetch()
        await reached(store)
        expectPlain(scene)
        const size = plainImage.bytes.length
        expect(await detailOf(store, 'DOWNLOADING')).to.include({plain_bytes: size})
        expect(await detailOf(store, 'UNPACKING')).to.include({
          is_plain_ready: true,
          format: compression,
        })
        expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
        const report = await store.maintenance.verify({})
        expect(report.damagedTrees).to.deep.equal([])
        expect(report.bytes).to.be.greaterThan(size + image.bytes.length)
        expect((await store.maintenance.cleanup({isDryRun: true})).items).to.deep.equal([])
      }))

    it('goes on, decompressed from its beginning, when the download was cut', () =>
      withScene(
        {compression, answer: (nth) => (nth === 0 ? {cutAfterBytes: 2_500_000} : {})},
        async (scene) => {
          await scene.fetch()
          await reached(scene.store)
          expectPlain(scene)
          expect(await detailOf(scene.store, 'UNPACKING')).to.include({is_plain_ready: true})
          expect(readTree(scene.places.mountPoint)).to.deep.equal(scene.image.tree)
        },
      ))

    it('has one plain tar when two images share its blob, at once or one after the other', () =>
      withScene({compression}, async (scene) => {
        const {store, fetch, storeDir, image, server} = scene
        await fetch('one')
        await fetch('two')
        await store.work({once: true, signal: new AbortController().signal})
        await fetch('three')
        await reached(store, 'three')
        expect(await detailOf(store, 'UNPACKING', 'three')).to.include({is_plain_ready: true})
        expect(namesOf(storeDir)).to.deep.equal(expectedNames(image))
        for (const name of ['one', 'two', 'three']) {
          const {mountPoint} = placesOf(storeDir, name, image.digest)
          expect(readTree(mountPoint)).to.deep.equal(image.tree)
        }
        expect(server.of('/one.tar').length).to.be.lessThan(4)
        expect((await store.maintenance.verify({})).damagedTrees).to.deep.equal([])
      }))
  })

describe('a plain tar that was made while its blob came', () => {
  requires('root')

  for (const [what, damage] of [
    [
      'has another byte',
      (path: string): void => {
        const bytes = readFileSync(path)
        bytes[5_000_000] = (bytes[5_000_000] ?? 0) ^ 1
        writeFileSync(path, bytes)
      },
    ],
    ['was cut', (path: string): void => truncateSync(path, 4096)],
    ['is gone', (path: string): void => rmSync(path)],
  ] as const)
    it(`is made anew from the blob when it ${what}`, () =>
      withScene({}, async ({store, fetch, places, image}) => {
        await fetch()
        await reached(store)
        await store.images.deactivate('one')
        await reached(store)
        damage(places.plain)
        expect((await store.maintenance.verify({})).damagedTrees).to.have.lengthOf(1)
        for (const backend of ['dir', 'erofs'] as const) {
          await store.images.convert('one', {backend})
          await reached(store)
        }
        expect(await detailOf(store, 'UNPACKING')).to.not.have.property('is_plain_ready')
        expect((await store.maintenance.verify({})).damagedTrees).to.deep.equal([])
        await store.images.activate('one')
        await reached(store)
        expect(readTree(places.mountPoint)).to.deep.equal(image.tree)
      }))

  it('is not made for an image that is extracted, and goes by cleanup when it is converted', () =>
    withScene({}, async ({store, storeDir, fetch, image}) => {
      await fetch('one', {backend: 'dir'})
      await reached(store)
      expect(namesOf(storeDir)).to.deep.equal([`${image.digest}.tar`])
      await removed(store)
      await fetch('one')
      await reached(store)
      await store.images.convert('one', {backend: 'dir'})
      await reached(store)
      const dry = await store.maintenance.cleanup({isDryRun: true})
      const real = await store.maintenance.cleanup({isDryRun: false})
      expect(dry.items).to.deep.equal(real.items)
      expect(real.items.map(({kind}) => kind)).to.deep.equal(['plain'])
      expect(namesOf(storeDir)).to.deep.equal([`${image.digest}.tar`])
    }))

  it('is not used under a ratio that it is over, and the refusal is that of its blob', () => {
    const zeros = makeTar([{name: 'zeros', content: Buffer.alloc(80_000_000)}])
    const noise = plainImage.bytes.subarray(0, -1024)
    const image = packedImage('gzip', {...plainImage, bytes: Buffer.concat([noise, zeros])})
    return withScene({image}, async ({store, fetch}) => {
      await fetch('one')
      await reached(store)
      expect(await detailOf(store, 'DOWNLOADING')).to.have.property('plain_bytes')
      for (const name of ['two', 'three']) {
        // The third has no plain tar to be told anything by.
        if (name === 'three') for (const each of ['one', 'two']) await removed(store, each)
        await fetch(name, {limits: {ratioMax: 4}})
        const {outcome, status} = await store.images.settle(name)
        expect(outcome).to.equal('failed')
        expect(status?.failed).to.include({code: 'unsafe_archive', from: 'UNPACKING'})
        expect(status?.failed?.message).to.contain('makes more than 4 bytes')
      }
    })
  })
})

describe('what goes wrong with a compressed download that is decompressed meanwhile', () => {
  requires('root')

  const failing: [string, Image, string, string][] = [
    [
      'damaged compression with the right digest',
      damaged(images.gzip, (bytes) => bytes.fill(0xff, 5_000_000, 5_000_200)),
      'bad_archive',
      'UNPACKING',
    ],
    [
      'something behind the archive, with the right digest',
      damaged(images.zstd, (bytes) => Buffer.concat([bytes, Buffer.from('more')])),
      'bad_archive',
      'UNPACKING',
    ],
    [
      'damaged compression with another digest',
      {
        ...damaged(images.gzip, (bytes) => bytes.fill(0xff, 5_000_000, 5_000_200)),
        digest: images.gzip.digest,
      },
      'digest_mismatch',
      'DOWNLOADING',
    ],
    [
      'another archive than was asked for',
      {...images.zstd, digest: images.gzip.digest},
      'digest_mismatch',
      'DOWNLOADING',
    ],
  ]
  for (const [what, image, code, from] of failing)
    it(`is told as ever: ${what} is ${code} in ${from}`, () =>
      withScene({image}, async ({store, storeDir, fetch}) => {
        await fetch()
        const {outcome, status} = await store.images.settle('one')
        expect(outcome).to.equal('failed')
        expect(status?.failed).to.include({code, from})
        expect(namesOf(storeDir)).to.deep.equal(from === 'UNPACKING' ? [`${image.digest}.tar`] : [])
      }))

  it('leaves nothing when the image is removed meanwhile', () =>
    withScene({answer: () => ({stallAfterBytes: 5_000_000})}, async ({store, storeDir, fetch}) => {
      await fetch()
      const stop = new AbortController()
      const working = store.work({signal: stop.signal, once: false})
      await until('a plain tar in the making', () =>
        namesOf(storeDir).some((name) => name.includes('.raw.tmp-')),
      )
      await removed(store)
      stop.abort()
      await working
      expect(namesOf(storeDir)).to.deep.equal([])
    }))

  for (const [what, megabytes, end] of [
    ['neither for the plain tar nor later', 16, 'no_space'],
    ['for both, but only just', 32, 'reached'],
  ] as const)
    it(`downloads onto a disk that has room ${what}`, () =>
      withTempStore(async ({store, storeDir}) => {
        execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', storeDir])
        try {
          const server = await startServer()
          const {bytes, digest} = images.gzip
          const url = server.put('/one.tar', bytes)
          const goal = 'STORED'
          await store.images.fetch({name: 'one', url, digest, backend: 'erofs', goal})
          const {outcome, status} = await store.images.settle('one')
          if (end === 'reached') expect(outcome, JSON.stringify(status)).to.equal(end)
          else {
            expect(status?.failed).to.include({code: end, from: 'UNPACKING'})
            expect(namesOf(storeDir)).to.deep.equal([`${digest}.tar`])
          }
          await removed(store)
        } finally {
          execFileSync('umount', ['--recursive', storeDir])
        }
      }))
})

/** The image with bytes that someone spoilt before its digest was made. */
function damaged(image: Image, spoil: (bytes: Buffer) => Buffer): Image {
  const bytes = spoil(Buffer.from(image.bytes))
  return {...image, bytes, digest: sha256(bytes)}
}

describe('a program that dies while it decompresses a download', () => {
  requires('root')
  const newScene = useScenes()

  it('leaves no process, goes on, and has one plain tar in the end', async () => {
    const scene = newScene()
    const server = await startServer()
    const image = images.gzip
    const url = server.put('/one.tar', image.bytes, (nth) =>
      // Counted from where an answer begins: the second must not reach the end either.
      nth < 2 ? {stallAfterBytes: nth === 0 ? 4_500_000 : 500_000} : {},
    )
    Object.assign(scene.env, {
      IMGSTORE_BACKEND: 'erofs',
      // Its end is waited for; a busy host must be able to renew it in time.
      IMGSTORE_LEASE: '2s',
      IMGSTORE_POLL: '20ms',
      IMGSTORE_RETRY_WAIT: '30ms',
    })
    await scene.ok(['fetch', 'one', url, image.digest])
    const parts = (): string[] => namesOf(scene.store).filter((name) => name.includes('.raw.tmp-'))
    for (let round = 0; round < 2; round++) {
      const worker = scene.start(['worker'])
      await until('a plain tar in the making', () =>
        parts().some((name) => statSync(join(scene.store, 'blobs', name)).size > 1_000_000),
      )
      await until('all that comes', () => server.of('/one.tar').length === round + 1)
      worker.kill('SIGKILL')
      await worker.exited
      expect(await scene.processesLeft()).to.deep.equal([])
      expect(parts(), 'what it left').to.have.lengthOf(1)
      await sleep(2200)
    }
    await scene.ok(['worker', '--once'])
    expect(namesOf(scene.store)).to.deep.equal(expectedNames(image))
    const step = eventsOf(scene).find(
      ({kind, from_state}) => kind === 'transition' && from_state === 'UNPACKING',
    )
    expect(JSON.stringify(step)).to.contain('is_plain_ready')
    expect(readTree(join(scene.store, 'active', 'one'))).to.deep.equal(image.tree)
    await expectSoundStore(scene)
    await scene.ok(['remove', 'one'])
    expect(namesOf(scene.store)).to.deep.equal([])
  })
})
