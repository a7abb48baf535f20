import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import {mkdir} from 'node:fs/promises'
import {join} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {openBlobs, type BlobStore} from '../../../src/core/blobs/blob-store.ts'
import {armFailpoint, disarmFailpoints} from '../../../src/core/failpoint.ts'
import {MiB} from '../../../src/core/limits.ts'
import {digestOf, randomContent} from '../../support/fake-source.ts'
import {rejection} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const {signal} = new AbortController()
const fresh = {isTakeover: false, signal}
const content = randomContent(3 * MiB + 17)
const digest = digestOf(content)

const withBlobs = (body: (blobs: BlobStore, dir: string) => Promise<void>): Promise<void> =>
  withTempDir((dir) => body(openBlobs(dir), join(dir, 'blobs')))

describe('a part writer', () => {
  afterEach(disarmFailpoints)

  it('makes a blob of what is appended, and leaves nothing else', async () => {
    await withBlobs(async (blobs, dir) => {
      const writer = await blobs.beginPart(digest, fresh)
      await writer.saveNote({url: 'http://host/', validator: '"1"', totalBytes: content.length})
      await writer.append([content.subarray(0, MiB), content.subarray(MiB, MiB + 1)])
      await writer.append([])
      await writer.append([content.subarray(MiB + 1)])
      expect(existsSync(blobs.pathOf(digest))).to.equal(false)
      expect(await writer.commit()).to.eql({digest, sizeBytes: content.length})
      expect(readFileSync(blobs.pathOf(digest)).equals(content)).to.equal(true)
      expect(readdirSync(dir)).to.eql([`${digest}.tar`])
      expect(await blobs.verify(digest)).to.eql({ok: true, sizeBytes: content.length})
    })
  })

  it('goes on with a part as it was left, and sees when somebody else changed it', async () => {
    for (const isChanged of [false, true]) {
      await withBlobs(async (blobs) => {
        const first = await blobs.beginPart(digest, fresh)
        await first.append([content.subarray(0, MiB)])
        await first.abandon()
        if (isChanged) {
          // As many bytes, and the old time: only the number of changes of the file tells.
          const path = blobs.partPathOf(digest)
          const {atime, mtime} = statSync(path)
          writeFileSync(path, Buffer.alloc(MiB, 1))
          utimesSync(path, atime, mtime)
        }
        const second = await blobs.beginPart(digest, fresh)
        const there = isChanged ? Buffer.alloc(MiB, 1) : content.subarray(0, MiB)
        expect(second.digest()).to.equal(digestOf(there))
        await second.append([content.subarray(MiB)])
        expect(second.digest() === digest).to.equal(!isChanged)
        await (isChanged ? second.discard() : second.commit())
        expect((await blobs.stat(digest))?.sizeBytes).to.equal(
          isChanged ? undefined : content.length,
        )
      })
    }
  })

  it('makes the empty blob', async () => {
    await withBlobs(async (blobs) => {
      const nothing = digestOf(Buffer.alloc(0))
      const writer = await blobs.beginPart(nothing, fresh)
      expect(await writer.commit()).to.eql({digest: nothing, sizeBytes: 0})
      expect((await blobs.stat(nothing))?.sizeBytes).to.equal(0)
    })
  })

  it('refuses bytes with another digest and removes them', async () => {
    await withBlobs(async (blobs, dir) => {
      const writer = await blobs.beginPart(digest, fresh)
      await writer.saveNote({url: 'http://host/'})
      await writer.append([Buffer.from('other')])
      const error = await rejection(writer.commit())
      expect(error).to.have.property('code', 'digest_mismatch')
      expect(error).to.have.nested.property('details.actual', digestOf(Buffer.from('other')))
      expect(readdirSync(dir)).to.eql([])
    })
  })

  it('goes on from an abandoned part with its note, its hash and its bytes', async () => {
    await withBlobs(async (blobs) => {
      const first = await blobs.beginPart(digest, fresh)
      const note = {url: 'http://host/', validator: '"1"', totalBytes: 9, mismatches: 1}
      await first.saveNote(note)
      await first.append([content.subarray(0, 2 * MiB)])
      await first.abandon()
      expect((await blobs.statPart(digest))?.sizeBytes).to.equal(2 * MiB)
      const second = await blobs.beginPart(digest, fresh)
      expect(second.sizeBytes).to.equal(2 * MiB)
      expect(second.note).to.eql(note)
      expect(second.digest()).to.equal(digestOf(content.subarray(0, 2 * MiB)))
      expect((await second.read(100, 50)).equals(content.subarray(100, 150))).to.equal(true)
      expect((await second.read(2 * MiB - 5, 50)).length).to.equal(5)
      await second.append([content.subarray(2 * MiB)])
      await second.commit()
      expect(await blobs.verify(digest)).to.have.property('ok', true)
    })
  })

  it('does without a note that is torn, foreign or of another shape', async () => {
    await withBlobs(async (blobs, dir) => {
      for (const text of ['', '{"url"', '[]', 'null', '{"url":1}', '{"validator":"x"}']) {
        const first = await blobs.beginPart(digest, fresh)
        await first.append([content.subarray(0, 10)])
        await first.abandon()
        writeFileSync(join(dir, `${digest}.tar.tmp.json`), text)
        const second = await blobs.beginPart(digest, fresh)
        expect(second.note, text).to.equal(undefined)
        await second.discard()
      }
      expect(readdirSync(dir)).to.eql([])
    })
  })

  it('forgets everything on restart', async () => {
    await withBlobs(async (blobs, dir) => {
      const writer = await blobs.beginPart(digest, fresh)
      await writer.saveNote({url: 'http://host/'})
      await writer.append([Buffer.from('wrong'), content])
      await writer.restart()
      expect(writer.sizeBytes).to.equal(0)
      expect(writer.note).to.equal(undefined)
      expect(readdirSync(dir)).to.eql([`${digest}.tar.tmp`])
      await writer.append([content])
      await writer.commit()
      expect(statSync(blobs.pathOf(digest)).size).to.equal(content.length)
    })
  })

  it('cannot be used after its end', async () => {
    await withBlobs(async (blobs) => {
      const writer = await blobs.beginPart(digest, fresh)
      await writer.discard()
      expect(await rejection(writer.append([content]))).to.have.property('name', 'BugError')
      await writer.discard()
      await writer.abandon()
    })
  })

  it('does not follow a symbolic link in the place of a part', async () => {
    await withBlobs(async (blobs, dir) => {
      await mkdir(dir)
      writeFileSync(join(dir, 'target'), 'precious')
      symlinkSync('target', blobs.partPathOf(digest))
      expect(await rejection(blobs.beginPart(digest, fresh))).to.have.property('code', 'io_failed')
      expect(readFileSync(join(dir, 'target'), 'utf8')).to.equal('precious')
    })
  })

  it('stops hashing an old part when the caller gives up', async () => {
    await withBlobs(async (blobs) => {
      const first = await blobs.beginPart(digest, fresh)
      await first.append([content])
      await first.abandon()
      const reason = new Error('enough')
      const aborted = {isTakeover: false, signal: AbortSignal.abort(reason)}
      expect(await rejection(blobs.beginPart(digest, aborted))).to.equal(reason)
    })
  })

  it('assembles any cut of the bytes into the same blob', async () => {
    const bytes = content.subarray(0, 5000)
    const cuts = fc.array(fc.tuple(fc.integer({min: 0, max: 5000}), fc.boolean()), {maxLength: 8})
    await fc.assert(
      fc.asyncProperty(cuts, fc.boolean(), async (steps, isTakeover) => {
        await withBlobs(async (blobs) => {
          const wanted = digestOf(bytes)
          let writer = await blobs.beginPart(wanted, fresh)
          for (const [end, isReopened] of [...steps].sort(([a], [b]) => a - b)) {
            await writer.append([bytes.subarray(writer.sizeBytes, end)])
            if (!isReopened) continue
            await writer.abandon()
            writer = await blobs.beginPart(wanted, {isTakeover, signal})
            expect(writer.sizeBytes).to.equal(end)
          }
          await writer.append([bytes.subarray(writer.sizeBytes)])
          await writer.commit()
          expect(await blobs.verify(wanted)).to.eql({ok: true, sizeBytes: 5000})
        })
      }),
      {numRuns: 30},
    )
  })
})

describe('a part that another worker took over', () => {
  afterEach(disarmFailpoints)

  it('is out of reach of the one who had it', async () => {
    await withBlobs(async (blobs) => {
      const stopped = await blobs.beginPart(digest, fresh)
      await stopped.append([content.subarray(0, MiB)])
      const owner = await blobs.beginPart(digest, {isTakeover: true, signal})
      expect(owner.sizeBytes).to.equal(MiB)
      await stopped.append([Buffer.from('written by a worker that woke up too late')])
      await owner.append([content.subarray(MiB)])
      await stopped.restart()
      await stopped.discard()
      await owner.commit()
      expect(await blobs.verify(digest)).to.eql({ok: true, sizeBytes: content.length})
    })
  })

  it('cannot be committed by the one who had it, though his bytes are right', async () => {
    await withBlobs(async (blobs) => {
      const stopped = await blobs.beginPart(digest, fresh)
      await stopped.append([content])
      const owner = await blobs.beginPart(digest, {isTakeover: true, signal})
      await owner.restart()
      await owner.append([content.subarray(0, 10)])
      expect(await rejection(stopped.commit())).to.have.property('code', 'blob_busy')
      await stopped.abandon()
      expect(await blobs.stat(digest)).to.equal(undefined)
      await owner.append([content.subarray(10)])
      await owner.commit()
    })
  })

  it('is begun anew where there was none', async () => {
    await withBlobs(async (blobs, dir) => {
      const owner = await blobs.beginPart(digest, {isTakeover: true, signal})
      expect(owner.sizeBytes).to.equal(0)
      expect(readdirSync(dir)).to.eql([`${digest}.tar.tmp`])
      await owner.discard()
    })
  })
})

describe('a worker that dies while it writes a blob', () => {
  afterEach(disarmFailpoints)

  // Every durable act of the room, and what must be there when the program ends right after it.
  const acts = [
    ['blobs.part_opened', 'part'],
    ['blobs.note_saved', 'part'],
    ['blobs.synced', 'part'],
    ['blobs.renamed', 'blob'],
    ['blobs.durable', 'blob'],
  ] as const

  for (const [name, left] of acts) {
    it(`leaves a ${left} that the next one can use when it ends at ${name}`, async () => {
      await withBlobs(async (blobs, dir) => {
        await mkdir(dir)
        const saved = join(dir, '..', 'as-it-was')
        // What the disk holds at that moment is what a killed process leaves.
        armFailpoint(name, () => {
          const path = left === 'blob' ? blobs.pathOf(digest) : blobs.partPathOf(digest)
          copyFileSync(path, saved)
          throw new Error('died')
        })
        const write = async (): Promise<void> => {
          const writer = await blobs.beginPart(digest, fresh)
          try {
            await writer.saveNote({url: 'http://host/'})
            await writer.append([content.subarray(writer.sizeBytes)])
            await writer.commit()
          } finally {
            await writer.abandon()
          }
        }
        expect(String(await rejection(write()))).to.contain('died')
        disarmFailpoints()
        if (left === 'blob') expect(readFileSync(saved).equals(content)).to.equal(true)
        else
          expect(content.subarray(0, statSync(saved).size).equals(readFileSync(saved))).to.equal(
            true,
          )
        if ((await blobs.stat(digest)) === undefined) await write()
        expect(await blobs.verify(digest)).to.have.property('ok', true)
      })
    })
  }

  it('leaves the old part or the copy when it ends during a takeover', async () => {
    await withBlobs(async (blobs) => {
      const first = await blobs.beginPart(digest, fresh)
      await first.append([content])
      await first.abandon()
      armFailpoint('blobs.part_copied', 'throw')
      await rejection(blobs.beginPart(digest, {isTakeover: true, signal}))
      disarmFailpoints()
      const second = await blobs.beginPart(digest, {isTakeover: true, signal})
      expect(second.sizeBytes).to.equal(content.length)
      await second.commit()
    })
  })
})
