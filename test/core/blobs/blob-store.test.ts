import {readdirSync, readFileSync, truncateSync, writeFileSync} from 'node:fs'
import {open} from 'node:fs/promises'
import {join} from 'node:path'
import {expect} from 'chai'
import {openBlobs, type BlobFile, type BlobStore} from '../../../src/core/blobs/blob-store.ts'
import {parseBlobFileName} from '../../../src/core/blobs/layout.ts'
import {parseDigest, type Digest} from '../../../src/core/digest.ts'
import {armFailpoint, disarmFailpoints} from '../../../src/core/failpoint.ts'
import {MiB} from '../../../src/core/limits.ts'
import {digestOf, randomContent} from '../../support/fake-source.ts'
import {rejection} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const {signal} = new AbortController()
const none = parseDigest('0'.repeat(64))

async function store(blobs: BlobStore, content: Buffer): Promise<Digest> {
  const writer = await blobs.beginPart(digestOf(content), {isTakeover: false, signal})
  await writer.append([content])
  return (await writer.commit()).digest
}

async function listAll(blobs: BlobStore): Promise<BlobFile[]> {
  const found: BlobFile[] = []
  for await (const file of blobs.list()) found.push(file)
  return found.sort((a, b) => (a.name < b.name ? -1 : 1))
}

describe('a blob store', () => {
  afterEach(disarmFailpoints)

  it('names its files by the digest, whatever the store path holds', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(join(dir, 'a, b:c é\\'))
      const digest = await store(blobs, Buffer.from('content'))
      expect(blobs.pathOf(digest)).to.equal(join(dir, 'a, b:c é\\', 'blobs', `${digest}.tar`))
      expect(blobs.partPathOf(digest)).to.equal(`${blobs.pathOf(digest)}.tmp`)
      expect(await blobs.stat(digest)).to.include({sizeBytes: 7})
      expect(await blobs.stat(none)).to.equal(undefined)
    })
  })

  it('touches nothing before it is used', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(join(dir, 'store'))
      expect(await listAll(blobs)).to.eql([])
      expect(await blobs.remove(none)).to.equal(false)
      expect(await blobs.removePart(none)).to.equal(false)
      expect(await blobs.quarantine(none)).to.equal(undefined)
      expect(readdirSync(dir)).to.eql([])
    })
  })

  it('lists blobs, parts with their notes and copies, quarantined and foreign files', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const kept = await store(blobs, Buffer.from('kept'))
      const bad = await store(blobs, Buffer.from('bad'))
      await blobs.quarantine(bad)
      const part = await blobs.beginPart(none, {isTakeover: false, signal})
      await part.append([Buffer.from('12345')])
      await part.saveNote({url: 'http://host/'})
      await part.abandon()
      writeFileSync(join(dir, 'blobs', `${none}.tar.tmp.copy-0a1b`), '')
      writeFileSync(join(dir, 'blobs', 'README'), '')
      const found = (await listAll(blobs)).map(({kind, digest, sizeBytes}) => [
        kind,
        digest,
        sizeBytes,
      ])
      const noteBytes = readFileSync(join(dir, 'blobs', `${none}.tar.tmp.json`)).length
      expect(found).to.have.deep.members([
        ['blob', kept, 4],
        ['quarantine', bad, 3],
        ['part', none, 5],
        ['part', none, 0],
        ['sidecar', none, noteBytes],
        ['other', undefined, 0],
      ])
      expect(await blobs.removePart(none)).to.equal(true)
      const left = (await listAll(blobs)).map(({kind}) => kind)
      expect(left).to.have.members(['blob', 'quarantine', 'other'])
    })
  })

  it('removes a blob once', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const digest = await store(blobs, Buffer.from('content'))
      expect(await blobs.remove(digest)).to.equal(true)
      expect(await blobs.remove(digest)).to.equal(false)
      expect(await listAll(blobs)).to.eql([])
    })
  })

  it('keeps every quarantined file of one digest', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const names = []
      for (let n = 0; n < 3; n++) {
        const digest = await store(blobs, Buffer.from('content'))
        names.push(await blobs.quarantine(digest))
      }
      const digest = digestOf(Buffer.from('content'))
      const base = join(dir, 'quarantine', `${digest}.tar`)
      expect(names).to.eql([base, `${base}.1`, `${base}.2`])
      const kinds = (await listAll(blobs)).map((file) => [file.kind, file.digest])
      expect(kinds).to.eql([1, 2, 3].map(() => ['quarantine', digest]))
    })
  })

  it('has moved a blob to quarantine when it dies right after', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const digest = await store(blobs, Buffer.from('content'))
      armFailpoint('blobs.quarantined', 'throw')
      await rejection(blobs.quarantine(digest))
      expect(await blobs.stat(digest)).to.equal(undefined)
      expect(readdirSync(join(dir, 'quarantine'))).to.eql([`${digest}.tar`])
    })
  })

  it('has removed a discarded part when it dies right after', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const writer = await blobs.beginPart(none, {isTakeover: false, signal})
      armFailpoint('blobs.part_discarded', 'throw')
      await rejection(writer.discard())
      expect(await listAll(blobs)).to.eql([])
    })
  })
})

describe('verifying a blob', () => {
  it('finds one flipped bit, a lost tail and a missing file, and shows progress', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const content = randomContent(2 * MiB + 5)
      const digest = await store(blobs, content)
      const seen: number[] = []
      const options = {signal, onProgress: (bytes: number) => seen.push(bytes)}
      expect(await blobs.verify(digest, options)).to.eql({ok: true, sizeBytes: content.length})
      expect(seen.at(-1)).to.equal(content.length)
      const file = await open(blobs.pathOf(digest), 'r+')
      await file.write(Buffer.from([(content[MiB] ?? 0) ^ 4]), 0, 1, MiB)
      await file.close()
      const flipped = await blobs.verify(digest)
      expect(flipped).to.include({ok: false, sizeBytes: content.length})
      truncateSync(blobs.pathOf(digest), 10)
      expect(await blobs.verify(digest)).to.eql({
        ok: false,
        actual: digestOf(content.subarray(0, 10)),
        sizeBytes: 10,
      })
      await blobs.remove(digest)
      expect(await rejection(blobs.verify(digest))).to.have.property('code', 'blob_damaged')
    })
  })

  it('stops with the reason when the caller gives up', async () => {
    await withTempDir(async (dir) => {
      const blobs = openBlobs(dir)
      const digest = await store(blobs, Buffer.from('content'))
      const reason = new Error('enough')
      expect(await rejection(blobs.verify(digest, {signal: AbortSignal.abort(reason)}))).to.equal(
        reason,
      )
    })
  })
})

describe('parseBlobFileName', () => {
  it('takes only names that this program makes', () => {
    expect(parseBlobFileName(`${none}.tar`)).to.eql({kind: 'blob', digest: none})
    expect(parseBlobFileName(`${none}.tar.tmp.json.0a1b`).kind).to.equal('sidecar')
    for (const name of ['', '.tar', none, `${none}.tar.gz`, `x${none}.tar`, `${none}.tar.tmp.x`]) {
      expect(parseBlobFileName(name), name).to.eql({kind: 'other'})
    }
    expect(parseBlobFileName(`${'A'.repeat(64)}.tar`).kind).to.equal('other')
  })
})
