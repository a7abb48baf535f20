import {readdirSync, readFileSync, rmSync, truncateSync, writeFileSync, writeSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {openBlobs, type BlobStore} from '../../../src/core/blobs/blob-store.ts'
import {parseBlobFileName} from '../../../src/core/blobs/layout.ts'
import {digestOf} from '../../support/fake-source.ts'
import {rejection} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const bytes = Buffer.from('a plain tar')
const digest = digestOf(Buffer.from('its blob'))
const note = {sizeBytes: bytes.length, digest: digestOf(bytes), format: 'gzip', ratio: 0}
const {signal} = new AbortController()

const withBlobs = (body: (blobs: BlobStore, dir: string) => Promise<void>): Promise<void> =>
  withTempDir((dir) => body(openBlobs(dir), join(dir, 'blobs')))

async function adopted(blobs: BlobStore): Promise<void> {
  const plain = await blobs.beginPlain(digest)
  writeSync(plain.fd, bytes)
  await plain.adopt(note)
}

describe('a plain tar in the making', () => {
  it('gets its name and a note when it is adopted, and is not to be seen before', () =>
    withBlobs(async (blobs, dir) => {
      const plain = await blobs.beginPlain(digest)
      writeSync(plain.fd, bytes)
      expect(await blobs.statPlain(digest)).to.equal(undefined)
      expect(readdirSync(dir).map((name) => parseBlobFileName(name))).to.deep.equal([
        {kind: 'plain-part', digest},
      ])
      await plain.adopt(note)
      expect(readFileSync(blobs.plainPathOf(digest)).equals(bytes)).to.equal(true)
      expect(await blobs.notedPlain(digest)).to.deep.equal(note)
      expect(readdirSync(dir).sort()).to.deep.equal([`${digest}.tar.raw`, `${digest}.tar.raw.json`])
    }))

  it('leaves nothing when it is discarded, by removePart, and when another one is begun', () =>
    withBlobs(async (blobs, dir) => {
      await (await blobs.beginPlain(digest)).discard()
      expect(readdirSync(dir)).to.deep.equal([])
      const left = await blobs.beginPlain(digest)
      await blobs.removePart(digest)
      expect(readdirSync(dir)).to.deep.equal([])
      await left.discard()
      const slow = await blobs.beginPlain(digest)
      const next = await blobs.beginPlain(digest)
      expect(readdirSync(dir)).to.have.lengthOf(1)
      writeSync(slow.fd, bytes)
      // Whoever was overtaken cannot take the other's file, half as it is, for its own.
      expect(await rejection(slow.adopt(note))).to.include({code: 'io_failed'})
      await slow.discard()
      writeSync(next.fd, bytes)
      await next.adopt(note)
      expect(await blobs.notedPlain(digest)).to.deep.equal(note)
      expect(readdirSync(dir)).to.have.lengthOf(2)
    }))

  it('is not adopted with another size than it is said to have', () =>
    withBlobs(async (blobs, dir) => {
      const plain = await blobs.beginPlain(digest)
      writeSync(plain.fd, bytes.subarray(1))
      expect(await rejection(plain.adopt(note))).to.include({code: 'io_failed'})
      await plain.discard()
      expect(readdirSync(dir)).to.deep.equal([])
    }))

  it('is vouched for by no note that is gone, torn, or of another size', () =>
    withBlobs(async (blobs, dir) => {
      const notePath = join(dir, `${digest}.tar.raw.json`)
      const spoils: (() => Promise<void> | void)[] = [
        () => blobs.forgetPlain(digest),
        () => truncateSync(notePath, 9),
        () => writeFileSync(notePath, JSON.stringify({...note, digest: 'x'})),
        () => writeFileSync(notePath, 'null'),
        () => writeFileSync(blobs.plainPathOf(digest), 'more than it was'),
        () => rmSync(blobs.plainPathOf(digest)),
      ]
      for (const spoil of spoils) {
        await adopted(blobs)
        expect(await blobs.notedPlain(digest)).to.deep.equal(note)
        await spoil()
        expect(await blobs.notedPlain(digest)).to.equal(undefined)
      }
    }))

  it('goes with its note, and with its blob', () =>
    withBlobs(async (blobs, dir) => {
      await adopted(blobs)
      expect(await blobs.removePlain(digest)).to.equal(true)
      expect(readdirSync(dir)).to.deep.equal([])
      await adopted(blobs)
      const writer = await blobs.beginPart(digest, {isTakeover: false, signal})
      await writer.append([Buffer.from('its blob')])
      await writer.commit()
      expect(await blobs.remove(digest)).to.equal(true)
      expect(readdirSync(dir)).to.deep.equal([])
    }))
})
