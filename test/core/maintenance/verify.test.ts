import {existsSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {useServers, type BlobServer} from '../../support/blob-server.ts'
import {smallImage} from '../../support/small-image.ts'
import {withTempStore} from '../../support/temp-store.ts'

const startServer = useServers()

describe('verify', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('reads every blob, and finds sound ones sound', async () => {
    await withTempStore(async ({store}) => {
      const images = ['a', 'b'].map((which) => smallImage({'etc/which': which}))
      for (const [n, image] of images.entries()) {
        const url = server.put(`/${n}`, image.bytes)
        await store.images.fetch({name: `image-${n}`, url, digest: image.digest, goal: 'STORED'})
        await store.images.settle(`image-${n}`)
      }
      const seen: number[] = []
      const report = await store.maintenance.verify({
        onProgress: ({doneBytes}) => seen.push(doneBytes),
      })
      const bytes = images.reduce((sum, image) => sum + image.bytes.length, 0)
      expect(report).to.deep.equal({
        checked: 2,
        bytes,
        damaged: [],
        missing: [],
        damagedTrees: [],
        repairs: [],
      })
      expect(seen).not.to.be.empty
      expect((await store.maintenance.verify({image: 'image-0'})).checked).to.equal(1)
    })
  })

  it('puts a damaged blob into quarantine, and the image fetches it again when it needs it', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      await store.images.settle('one')
      const path = join(storeDir, 'blobs', `${image.digest}.tar`)
      const bytes = readFileSync(path)
      bytes[600] = (bytes[600] ?? 0) ^ 1
      writeFileSync(path, bytes)
      const {damaged, missing} = await store.maintenance.verify({})
      expect(damaged).to.have.lengthOf(1)
      expect(damaged[0]).to.deep.include({digest: image.digest, images: ['one']})
      expect(damaged[0]?.quarantinedAs).to.equal(
        join(storeDir, 'quarantine', `${image.digest}.tar`),
      )
      expect(missing).to.deep.equal([])
      expect(existsSync(path)).to.equal(false)
      expect(readFileSync(damaged[0]?.quarantinedAs ?? '').equals(bytes)).to.equal(true)
      const again = await store.maintenance.verify({})
      expect(again.damaged).to.deep.equal([])
      expect(again.missing).to.deep.equal([{digest: image.digest, images: ['one']}])
      await store.images.fetch({name: 'two', url, digest: image.digest, goal: 'STORED'})
      expect((await store.images.settle('two')).outcome).to.equal('reached')
      expect(server.of('/one.tar')).to.have.lengthOf(2)
      expect((await store.maintenance.verify({})).missing).to.deep.equal([])
    })
  })

  it('trusts a blob that is there by its size, and by its bytes when asked to', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      await store.images.settle('one')
      const path = join(storeDir, 'blobs', `${image.digest}.tar`)
      const bytes = readFileSync(path)
      bytes[600] = (bytes[600] ?? 0) ^ 1
      writeFileSync(path, bytes)
      await store.images.fetch({
        name: 'two',
        url,
        digest: image.digest,
        goal: 'STORED',
        verify: true,
      })
      expect((await store.images.settle('two')).outcome).to.equal('reached')
      expect(server.of('/one.tar')).to.have.lengthOf(2)
      expect(readdirSync(join(storeDir, 'quarantine'))).to.deep.equal([`${image.digest}.tar`])
      // A blob of another size than was noted is never trusted.
      writeFileSync(path, bytes.subarray(1))
      await store.images.fetch({name: 'three', url, digest: image.digest, goal: 'STORED'})
      expect((await store.images.settle('three')).outcome).to.equal('reached')
      expect(server.of('/one.tar')).to.have.lengthOf(3)
    })
  })

  it('says which images miss their blob', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      await store.images.settle('one')
      await store.images.fetch({name: 'not-yet', url: `${url}x`, digest: 'a'.repeat(64)})
      rmSync(join(storeDir, 'blobs', `${image.digest}.tar`))
      expect((await store.maintenance.verify({})).missing).to.deep.equal([
        {digest: image.digest, images: ['one']},
      ])
      expect((await store.maintenance.verify({image: 'one'})).missing).to.have.lengthOf(1)
      await store.images.remove('not-yet')
      await store.images.settle('not-yet')
    })
  })

  it('is interrupted by its signal, before and within a blob', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage({big: Buffer.alloc(5_000_000)})
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      await store.images.settle('one')
      const stop = new AbortController()
      const within = store.maintenance.verify({signal: stop.signal, onProgress: () => stop.abort()})
      expect(await within.catch((error: unknown) => error)).to.include({
        code: 'interrupted',
        exit: 130,
      })
      const before = store.maintenance.verify({signal: stop.signal})
      expect(await before.catch((error: unknown) => error)).to.include({code: 'interrupted'})
      expect((await store.maintenance.verify({})).damaged).to.deep.equal([])
      const unknown = store.maintenance.verify({image: 'unknown'})
      expect(await unknown.catch((error: unknown) => error)).to.include({code: 'image_not_found'})
    })
  })
})
