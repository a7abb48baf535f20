/**
 * Bits that flip on the disk, where nobody writes: in blobs, and in the bytes that are files of images. `verify` finds
 * every one, moves the blob away, fetches it again, and makes anew what lived on it; and whoever makes something of a
 * rotten blob before that gets nothing.
 */
import {
  closeSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  writeSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import type {Store} from '../../src/core/store.ts'
import {
  packedImage,
  placesOf,
  reached,
  removed,
  type Compression,
} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {sha256Of} from '../support/disk-image.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {
  makeImage,
  randomOf,
  readTree,
  sha256,
  type Image,
  type TarEntry,
} from '../support/image-maker.ts'
import {useScenes} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe} from '../support/serve-process.ts'
import {expectSoundStore, imagesOf} from '../support/store-check.ts'
import {withTempStore} from '../support/temp-store.ts'

const random = randomOf(faultSeed)
const forever = (): AbortSignal => new AbortController().signal

/** What an image is and how it is made; each lives on other bytes of the store. */
const sorts = [
  {kind: 'rootfs', backend: 'dir', compression: 'plain', goal: 'ACTIVE'},
  {kind: 'rootfs', backend: 'erofs', compression: 'plain', goal: 'ACTIVE'},
  {kind: 'rootfs', backend: 'erofs', compression: 'gzip', goal: 'ACTIVE'},
  {kind: 'rootfs', backend: 'erofs', compression: 'plain', goal: 'STORED'},
  {kind: 'rootfs', backend: 'dir', compression: 'zstd', goal: 'STORED'},
  {kind: 'disk', backend: 'dir', compression: 'plain', goal: 'ACTIVE'},
  {kind: 'disk', backend: 'dir', compression: 'gzip', goal: 'ACTIVE'},
] as const
type Sort = (typeof sorts)[number]

type Made = Sort & {name: string; url: string; path: string; image: Image; files: Buffer[]}

/** An archive with files that can be found in it again, and nothing else like them; a disk is one such file. */
function makeOf({kind, compression}: Sort, seed: number): {image: Image; files: Buffer[]} {
  const files = Array.from({length: 5}, (_, n) => randomContent(seed * 10 + n, 5000 + 1000 * n))
  if (kind === 'disk') {
    const raw = Buffer.concat([...files, Buffer.alloc(-(5 * 7000) & 4095)])
    const bytes = raw.subarray(0, raw.length - (raw.length % 512))
    const image = packedImage(compression, {bytes, digest: sha256(bytes), tree: new Map()})
    return {image: {...image, tree: new Map([['disk', sha256Of(bytes)]])}, files}
  }
  const extra: TarEntry[] = files.map((content, n) => ({name: `random-${n}`, content}))
  return {image: packedImage(compression, makeImage(seed, {files: 8, extra})), files}
}

function randomContent(seed: number, sizeBytes: number): Buffer {
  const next = randomOf(seed)
  return Buffer.from(Array.from({length: sizeBytes}, () => Math.floor(next() * 256)))
}

/** Turns one bit of a file over, in place. */
function flipBit(path: string, at: number): void {
  const file = openSync(path, 'r+')
  try {
    const byte = Buffer.alloc(1)
    readSync(file, byte, 0, 1, at)
    byte.writeUInt8(byte.readUInt8(0) ^ (1 << Math.floor(random() * 8)))
    writeSync(file, byte, 0, 1, at)
  } finally {
    closeSync(file)
  }
}

/** A random byte of a file. */
function anywhereIn(path: string): number {
  const file = openSync(path, 'r')
  try {
    return Math.floor(random() * fstatSync(file).size)
  } finally {
    closeSync(file)
  }
}

/** A random byte of one of the files of an image, in the tar or disk that they lie in; undefined where none does. */
function insideOf(path: string, files: readonly Buffer[]): number | undefined {
  const content = files[Math.floor(random() * files.length)] ?? Buffer.alloc(0)
  const at = readFileSync(path).indexOf(content.subarray(0, 512))
  return at < 0 ? undefined : at + Math.floor(random() * content.length)
}

async function fetchAll(store: Store, server: BlobServer, count: number): Promise<Made[]> {
  const all: Made[] = []
  for (let n = 0; n < count; n++) {
    const sort = sorts[n % sorts.length] as Sort
    const {image, files} = makeOf(sort, faultSeed + n)
    const [name, path] = [`image-${n}`, `/${n}`]
    const url = server.put(path, image.bytes)
    const {kind, backend, goal} = sort
    await store.images.fetch({name, url, digest: image.digest, kind, backend, goal})
    all.push({...sort, name, url, path, image, files})
  }
  expect((await store.work({signal: forever(), once: true})).failed).to.equal(0)
  return all
}

/** Every image is where it should be, with the bytes that it should have. */
async function expectAllRight(store: Store, storeDir: string, all: readonly Made[]): Promise<void> {
  for (const {name, goal, kind, image} of all) {
    const status = await store.images.status(name)
    expect(status.state, JSON.stringify(status.failed)).to.equal(goal)
    if (goal !== 'ACTIVE') continue
    if (kind === 'disk')
      expect(sha256Of(readFileSync(status.disk?.path ?? '')), name).to.equal(image.tree.get('disk'))
    else expect(readTree(join(storeDir, 'active', name)), name).to.deep.equal(image.tree)
  }
  for (const file of readdirSync(join(storeDir, 'blobs')).filter((one) => one.endsWith('.tar')))
    expect(sha256Of(readFileSync(join(storeDir, 'blobs', file)))).to.equal(file.slice(0, -4))
}

describe('bits that flip on the disk', function () {
  requires('root', 'program:qemu-img')
  this.timeout(isLong ? 3_600_000 : 300_000)
  const newServer = useServers()
  const newScene = useScenes()
  before(() => console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`))

  const count = howMany(20, 100)
  it(`in ${count} blobs are all found, and all blobs fetched again`, async () => {
    const server = await newServer()
    await withTempStore(async ({store, storeDir}) => {
      const all = await fetchAll(store, server, count + 5)
      const rotten = all.slice(0, count)
      for (const {name, image} of rotten) {
        const {blob} = placesOf(storeDir, name, image.digest)
        flipBit(blob, anywhereIn(blob))
      }
      const report = await store.maintenance.verify({isRepairing: true})
      const digests = rotten.map(({image}) => image.digest).sort()
      expect(report.damaged.map(({digest}) => digest as string).sort()).to.deep.equal(digests)
      expect(report.repairs.filter(({error}) => error !== undefined)).to.deep.equal([])
      const away = readdirSync(join(storeDir, 'quarantine')).sort()
      expect(away).to.deep.equal(digests.map((digest) => `${digest}.tar`))
      await expectAllRight(store, storeDir, all)
      const asked = all.map(({path}) => server.of(path).length)
      expect(asked).to.deep.equal(all.map((_, n) => (n < count ? 2 : 1)))
      expect(await store.maintenance.verify({}))
        .to.include({checked: count + 5})
        .and.deep.include({
          damaged: [],
          missing: [],
          damagedTrees: [],
        })
      for (const {name} of all) await removed(store, name)
    })
    recordRow({
      row: 'bit-rot',
      injected: `one bit in each of ${count} of ${count + 5} blobs of images of ${sorts.length} sorts`,
      checked:
        'verify finds all and no other, quarantines them, fetches each once again; every image right after',
    })
  })

  it(`in ${count} files of images, wherever their bytes lie, are found and mended`, async () => {
    const server = await newServer()
    const places = new Map<string, number>()
    await withTempStore(async ({store, storeDir}) => {
      const all = await fetchAll(store, server, count)
      for (const {name, image, files} of all) {
        const {blob, plain} = placesOf(storeDir, name, image.digest)
        const disk = join(storeDir, 'images', name, 'disk.raw')
        const candidates = [plain, disk, blob].flatMap((path) => {
          try {
            const at = insideOf(path, files)
            return at === undefined ? [] : [{path, at}]
          } catch {
            return []
          }
        })
        // A compressed blob whose image is a directory has its files nowhere else; any byte of it is some of theirs.
        const {path, at} = candidates[0] ?? {path: blob, at: anywhereIn(blob)}
        flipBit(path, at)
        const kind = path === plain ? 'plain tars' : path === disk ? 'disks' : 'blobs'
        places.set(kind, (places.get(kind) ?? 0) + 1)
      }
      const report = await store.maintenance.verify({isRepairing: true})
      const found = new Set([
        ...report.damaged.flatMap(({images}) => images),
        ...report.damagedTrees.map(({image}) => image),
      ])
      expect([...found].sort()).to.deep.equal(all.map(({name}) => name).sort())
      expect(report.repairs.filter(({error}) => error !== undefined)).to.deep.equal([])
      await expectAllRight(store, storeDir, all)
      const after = await store.maintenance.verify({})
      expect([after.damaged, after.missing, after.damagedTrees]).to.deep.equal([[], [], []])
      for (const {name} of all) await removed(store, name)
    })
    recordRow({
      row: 'bit-rot',
      injected: `one bit in one file each of ${count} images (${[...places].map(([what, n]) => `${n} in ${what}`).join(', ')})`,
      checked: 'verify finds all, mends all; every file right after',
    })
  })

  const makers = howMany(1, 4)
  for (const compression of ['plain', 'gzip'] as const)
    it(`are not unpacked, indexed or made a disk: ${compression}`, async () => {
      for (let n = 0; n < makers; n++) await expectNothingMade(await newServer(), compression, n)
      recordRow({
        row: 'bit-rot',
        injected: `one bit in ${3 * makers} ${compression} blobs before something is made of them again`,
        checked:
          'blob_damaged and quarantine, no tree; right after a retry; convert leaves the image as it is',
      })
    })

  /** A second image of a rotten blob, of each sort; and the conversion of the first. */
  async function expectNothingMade(
    server: BlobServer,
    compression: Compression,
    n: number,
  ): Promise<void> {
    await withTempStore(async ({store, storeDir}) => {
      for (const [kind, backend] of [
        ['rootfs', 'dir'],
        ['rootfs', 'erofs'],
        ['disk', 'dir'],
      ] as const) {
        const sort = {kind, backend, compression, goal: 'STORED'} as unknown as Sort
        const {image, files} = makeOf(sort, faultSeed + n)
        const url = server.put(`/${kind}-${backend}`, image.bytes)
        const wish = {url, digest: image.digest, kind, backend, goal: 'STORED'} as const
        await store.images.fetch({...wish, name: 'first', backend: 'dir'})
        await reached(store, 'first')
        const {blob} = placesOf(storeDir, 'first', image.digest)
        flipBit(blob, insideOf(blob, files) ?? anywhereIn(blob))
        await store.images.fetch({...wish, name: 'second'})
        const {outcome, status} = await store.images.settle('second')
        expect(outcome, `${kind} ${backend}`).to.equal('failed')
        expect(status?.failed).to.include({code: 'blob_damaged', from: 'UNPACKING'})
        expect(readdirSync(join(storeDir, 'images'))).to.deep.equal(['first'])
        expect(readdirSync(join(storeDir, 'quarantine'))).to.include(`${image.digest}.tar`)
        await store.images.retry('second')
        await reached(store, 'second')
        if (kind === 'rootfs') {
          flipBit(blob, anywhereIn(blob))
          const before = await store.images.status('first')
          const thrown = await store.images
            .convert('first', {backend: 'erofs'})
            .catch((error: unknown) => error)
          expect(thrown).to.include({code: 'blob_damaged', exit: 12})
          expect((await store.images.status('first')).state).to.equal(before.state)
          await store.maintenance.verify({isRepairing: true})
          await store.images.convert('first', {backend: 'erofs'})
          await reached(store, 'first')
        }
        const after = await store.maintenance.verify({})
        expect([after.damaged, after.missing, after.damagedTrees]).to.deep.equal([[], [], []])
        for (const name of ['first', 'second']) await removed(store, name)
        await store.maintenance.cleanup({isDryRun: false})
      }
    })
  }

  it('in a disk that is served are seen by clients who ask for its digest, and mended or not served', async () => {
    const scene = newScene()
    const server = await newServer()
    const sort = {kind: 'disk', backend: 'dir', compression: 'plain', goal: 'ACTIVE'} as const
    const {image} = makeOf(sort, faultSeed)
    const url = server.put('/disk', image.bytes, (nth) => (nth < 2 ? {} : {status: 404}))
    await scene.ok(['fetch', 'one', url, image.digest, '--kind', 'disk', '--wait', '--activate'])
    const serving = await startServe(scene, [], {IMGSTORE_IMAGES_ROOT: join(scene.dir, 'none')})
    const get = async (): Promise<{status: number; bytes: string; promised: string}> => {
      const answer = await fetch(`${serving.url}/v1/images/one`, {
        headers: {'want-repr-digest': 'sha-256=10'},
      })
      const bytes = sha256Of(Buffer.from(await answer.arrayBuffer()))
      const said = /sha-256=:([^:]+):/.exec(answer.headers.get('repr-digest') ?? '')?.[1] ?? ''
      return {status: answer.status, bytes, promised: Buffer.from(said, 'base64').toString('hex')}
    }
    const right = image.digest
    expect(await get()).to.deep.equal({status: 200, bytes: right, promised: right})
    const rot = (): void => {
      const path = join(scene.store, 'images/one/disk.raw')
      flipBit(path, anywhereIn(path))
    }
    rot()
    const rotten = await get()
    expect(rotten.promised).to.equal(right)
    expect(rotten.bytes).not.to.equal(right)
    expect((await scene.run(['verify'])).code).to.equal(12)
    expect(await get()).to.deep.equal({status: 200, bytes: right, promised: right})

    // And where the source has it no longer, it is not served at all.
    rot()
    const found = await scene.run(['verify'])
    expect(found).to.include({code: 12})
    expect(found.stdout).to.match(/^NOT MENDED one: /m)
    expect((await get()).status).to.equal(404)
    expect(imagesOf(scene)[0]?.state).to.equal('FAILED')
    server.put('/disk', image.bytes)
    await scene.ok(['retry', 'one', '--wait'])
    expect(await get()).to.deep.equal({status: 200, bytes: right, promised: right})
    serving.running.kill('SIGTERM')
    await serving.running.exited
    await scene.ok(['remove', 'one'])
    await expectSoundStore(scene)
    recordRow({
      row: 'bit-rot',
      injected: 'one bit of a disk while it is served',
      checked:
        'its Repr-Digest stays the right one; after verify right bytes, or none without a source',
    })
  })
})
