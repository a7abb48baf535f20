import {execFileSync} from 'node:child_process'
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {openBlobs} from '../../src/core/blobs/blob-store.ts'
import {downloadBlob} from '../../src/core/images/download.ts'
import {GiB, MiB} from '../../src/core/limits.ts'
import {openSource} from '../../src/core/sources/source.ts'
import {digestOf, randomContent, withFakeSource} from '../support/fake-source.ts'
import {requires} from '../support/requires.ts'
import {rejection, sourceOptions} from '../support/source-options.ts'

const {signal} = new AbortController()

/** Runs `body` with a file system of its own of so many bytes. */
async function withSmallDisk(options: string, body: (dir: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', dir])
  try {
    await body(dir)
  } finally {
    execFileSync('umount', [dir])
    rmdirSync(dir)
  }
}

describe('a download onto a full disk', function () {
  requires('root')

  for (const [what, options] of [
    ['no bytes', 'size=2m'],
    ['no inodes', 'nr_inodes=3'],
  ] as const) {
    it(`says no_space when there are ${what} left, and leaves nothing`, async () => {
      const content = randomContent(5 * MiB + 3)
      await withFakeSource(content, async (peer) => {
        await withSmallDisk(options, async (dir) => {
          const source = await openSource(peer.url, sourceOptions())
          const attempt = downloadBlob({
            source,
            blobs: openBlobs(dir),
            digest: peer.digest,
            url: peer.url,
            isTakeover: false,
            signal,
            maxBlobBytes: GiB,
            onProgress: () => undefined,
          })
          const error = await rejection(attempt)
          expect(error).to.include({code: 'no_space', exit: 14})
          expect(readdirSync(join(dir, 'blobs'))).to.eql([])
        })
      })
    })
  }
})

describe('a part on a disk that is full of something that can go', () => {
  requires('root')

  it('is written, and noted, when that has gone', async () => {
    const content = randomContent(4 * MiB + 3)
    const digest = digestOf(content)
    await withSmallDisk('size=6m', async (dir) => {
      const blobs = openBlobs(dir)
      const room: (() => Promise<void>)[] = []
      const makeRoom = async (): Promise<boolean> => {
        const free = room.shift()
        await free?.()
        return free !== undefined
      }
      const fill = async (sizeBytes: number): Promise<void> => {
        const plain = await blobs.beginPlain(digest)
        writeSync(plain.fd, Buffer.alloc(sizeBytes, 1))
        room.push(() => plain.discard())
      }
      await fill(4 * MiB)
      const writer = await blobs.beginPart(digest, {isTakeover: false, signal, makeRoom})
      await writer.append([content.subarray(0, 99), content.subarray(99, 3 * MiB)])
      expect(room).to.deep.equal([])
      await fill(3 * MiB - 8192)
      await writer.append([content.subarray(3 * MiB)])
      expect(room).to.deep.equal([])
      await fill(2 * MiB - 16384)
      const before = statfsSync(dir)
      writeFileSync(join(dir, 'rest'), Buffer.alloc(before.bavail * before.bsize, 1))
      await writer.saveNote({url: 'http://host/'})
      expect(room).to.deep.equal([])
      expect(await writer.commit()).to.eql({digest, sizeBytes: content.length})
      expect(readdirSync(join(dir, 'blobs'))).to.eql([`${digest}.tar`])
      expect(readFileSync(blobs.pathOf(digest)).equals(content)).to.equal(true)
    })
  })

  it('is said to be full when nothing could go', async () => {
    const content = randomContent(4 * MiB)
    await withSmallDisk('size=2m', async (dir) => {
      const blobs = openBlobs(dir)
      const makeRoom = (): Promise<boolean> => Promise.resolve(false)
      const options = {isTakeover: false, signal, makeRoom}
      const writer = await blobs.beginPart(digestOf(content), options)
      expect(await rejection(writer.append([content]))).to.include({code: 'no_space'})
      await writer.discard()
      expect(readdirSync(join(dir, 'blobs'))).to.eql([])
    })
  })
})
