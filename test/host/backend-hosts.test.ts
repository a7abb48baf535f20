/** Indexed images where the host makes it hard: full disks, odd paths, nobody who may mount. */
import {spawn, execFileSync} from 'node:child_process'
import {once} from 'node:events'
import {chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {expect} from 'chai'
import type {ImageStatus} from '../../src/core/image.ts'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {
  compress,
  longStorePath,
  mountKinds,
  packedImage,
  placesOf,
  reached,
  removed,
} from '../support/backend-image.ts'
import {useServers} from '../support/blob-server.ts'
import {makeImage, readTree, sha256} from '../support/image-maker.ts'
import {requires} from '../support/requires.ts'
import {withTempStore} from '../support/temp-store.ts'

const startServer = useServers()
const forever = (): AbortSignal => new AbortController().signal

describe('a disk that is full before an image is whole', () => {
  requires('root')

  for (const backend of ['dir', 'erofs'] as const)
    it(`has nothing of it, and with more room retry makes it: ${backend}`, async () => {
      const server = await startServer()
      await withTempStore(async ({store, storeDir}) => {
        mkdirSync(storeDir, {recursive: true})
        execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', storeDir])
        try {
          // Well compressed, so that the blob fits and the tar does not.
          const entries = [{name: 'big', content: Buffer.alloc(30 << 20, 'abcdefg')}]
          const bytes = compress.gzip(makeImage(1, {extra: entries}).bytes)
          const digest = sha256(bytes)
          const url = server.put('/big.tar', bytes)
          await store.images.fetch({name: 'one', url, digest, backend})
          const {outcome, status} = await store.images.settle('one')
          expect(outcome).to.equal('failed')
          expect(status?.failed).to.include({code: 'no_space', from: 'UNPACKING'})
          expect(readdirSync(join(storeDir, 'staging'))).to.deep.equal([])
          expect(readdirSync(join(storeDir, 'blobs'))).to.deep.equal([`${digest}.tar`])
          expect(existsSync(placesOf(storeDir, 'one', digest).image)).to.equal(false)

          execFileSync('mount', ['-o', 'remount,size=64m', storeDir])
          await store.images.retry('one')
          expect(await reached(store)).to.include({state: 'ACTIVE', treeBackend: backend})
          const big = readFileSync(join(placesOf(storeDir, 'one', digest).mountPoint, 'big'))
          expect(big.equals(Buffer.alloc(30 << 20, 'abcdefg'))).to.equal(true)
          await removed(store)
          expect(readdirSync(join(storeDir, 'blobs'))).to.deep.equal([])
        } finally {
          execFileSync('umount', [storeDir])
        }
      })
    })
})

describe('an indexed image in a store with a long and odd path', () => {
  requires('root')

  it('is mounted, taken down and verified like any other', () =>
    withTempStore(async ({dir, reopen}) => {
      const server = await startServer()
      const storeDir = join(dir, longStorePath(dir))
      expect(Buffer.byteLength(storeDir)).to.be.greaterThan(255)
      const store = await reopen({flags: {store: storeDir, db: join(dir, 'other.db')}})
      for (const compression of ['plain', 'gzip'] as const) {
        const image = packedImage(compression)
        const url = server.put(`/${compression}.tar`, image.bytes)
        await store.images.fetch({name: 'one', url, digest: image.digest, backend: 'erofs'})
        await reached(store)
        expect(mountKinds(storeDir, 'one')).to.deep.equal(['erofs', 'overlay'])
        expect(readTree(join(storeDir, 'active/one'))).to.deep.equal(image.tree)
        expect((await store.maintenance.verify({})).damagedTrees).to.deep.equal([])
        await removed(store)
        expect(mountsBelow(storeDir)).to.deep.equal([])
      }
    }))
})

describe('an indexed image on a file system that EROFS takes no files from', () => {
  requires('root')

  it('is mounted through loop devices, which are gone when it is taken down', () =>
    withTempStore(async ({dir, reopen}) => {
      const server = await startServer()
      // The kernel reads a file-backed image through the page cache, which a tmpfs does not offer it.
      const storeDir = join(dir, 'memory')
      mkdirSync(storeDir)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', storeDir])
      const loops = (): string =>
        execFileSync('losetup', ['--list', '--noheadings'], {encoding: 'utf8'})
      try {
        const place = join(storeDir, 'store')
        const store = await reopen({flags: {store: place, db: join(dir, 'other.db')}})
        const image = packedImage('plain')
        const url = server.put('/image.tar', image.bytes)
        await store.images.fetch({name: 'one', url, digest: image.digest, backend: 'erofs'})
        await reached(store)
        expect(mountKinds(place, 'one')).to.deep.equal(['erofs', 'overlay'])
        expect(readTree(join(place, 'active/one'))).to.deep.equal(image.tree)
        expect(loops()).to.include(place)
        await removed(store)
        expect(loops()).not.to.include(place)
      } finally {
        execFileSync('umount', [storeDir])
      }
    }))
})

describe('the backends on a host that cannot mount EROFS', () => {
  requires('root', 'program:setpriv')

  /** Drains the store as a user without rights. */
  async function asNobody(dir: string, storeDir: string): Promise<ImageStatus[]> {
    for (const path of [
      dir,
      ...readdirSync(dir, {recursive: true}).map((n) => join(dir, String(n))),
    ])
      chownSync(path, 65_534, 65_534)
    const own = ['--reuid', '65534', '--regid', '65534', '--clear-groups', '--inh-caps=-all']
    const program = [process.execPath, '--no-warnings', resolve('test/support/store-process.ts')]
    const args = [...own, '--', ...program, storeDir, join(dir, 'store.db')]
    const child = spawn('setpriv', args, {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: {PATH: process.env['PATH']},
    })
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    expect((await once(child, 'close'))[0]).to.equal(0)
    return JSON.parse(said) as ImageStatus[]
  }

  it('auto extracts, erofs indexes and waits as STORED for a host that can or for dir', async () => {
    const server = await startServer()
    await withTempStore(async ({store, dir, storeDir}) => {
      chmodSync(dir, 0o755)
      const image = packedImage('gzip')
      const url = server.put('/one.tar', image.bytes)
      for (const backend of ['auto', 'erofs'] as const)
        await store.images.fetch({name: backend, url, digest: image.digest, backend})
      const [auto, erofs] = await asNobody(dir, storeDir)
      expect(auto).to.include({name: 'auto', state: 'STORED', treeBackend: 'dir'})
      expect(erofs).to.include({name: 'erofs', state: 'STORED', treeBackend: 'erofs'})
      for (const each of [auto, erofs]) expect(each?.held?.code).to.equal('host_cannot_mount')
      expect(existsSync(placesOf(storeDir, 'erofs', image.digest).index)).to.equal(true)

      await store.images.retry('erofs', {backend: 'dir'})
      expect(await reached(store, 'erofs')).to.include({state: 'ACTIVE', treeBackend: 'dir'})
      await store.images.convert('erofs', {backend: 'erofs'})
      expect(await reached(store, 'erofs')).to.include({state: 'ACTIVE', treeBackend: 'erofs'})
      await store.work({signal: forever(), once: true})
      expect(await store.images.status('auto')).to.include({state: 'ACTIVE', treeBackend: 'dir'})
      for (const name of ['auto', 'erofs']) {
        expect(readTree(join(storeDir, 'active', name))).to.deep.equal(image.tree)
        await removed(store, name)
      }
    })
  })
})
