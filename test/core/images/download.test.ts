import {existsSync, readdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {gzipSync} from 'node:zlib'
import {expect} from 'chai'
import fc from 'fast-check'
import {openBlobs, type BlobStore} from '../../../src/core/blobs/blob-store.ts'
import type {Digest} from '../../../src/core/digest.ts'
import {fail, ImgstoreError} from '../../../src/core/errors.ts'
import {downloadBlob, type DownloadOptions} from '../../../src/core/images/download.ts'
import {GiB, KiB, MiB} from '../../../src/core/limits.ts'
import {openSource} from '../../../src/core/sources/source.ts'
import {
  digestOf,
  FakeSource,
  randomContent,
  withFakeSource,
  type Behaviour,
} from '../../support/fake-source.ts'
import {rejection, sourceOptions} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const content = randomContent(3 * MiB + 77)

type World = {
  peer: FakeSource
  blobs: BlobStore
  blobsDir: string
  /** One attempt. */
  attempt: (changes?: Partial<DownloadOptions>) => ReturnType<typeof downloadBlob>
  /** The code of the error of one attempt. */
  failure: (changes?: Partial<DownloadOptions>) => Promise<ImgstoreError>
}

function withWorld(bytes: Buffer, body: (world: World) => Promise<void>): Promise<void> {
  return withTempDir((dir) =>
    withFakeSource(bytes, async (peer) => {
      const blobs = openBlobs(dir)
      const source = await openSource(peer.url, sourceOptions({stallTimeoutMs: 200}))
      const attempt = (changes: Partial<DownloadOptions> = {}) =>
        downloadBlob({
          source,
          blobs,
          digest: digestOf(bytes),
          url: peer.url,
          isTakeover: false,
          signal: new AbortController().signal,
          maxBlobBytes: GiB,
          onProgress: () => undefined,
          ...changes,
        })
      const failure = async (changes: Partial<DownloadOptions> = {}) => {
        const error = await rejection(attempt(changes))
        expect(error).to.be.instanceOf(ImgstoreError)
        return error as ImgstoreError
      }
      await body({peer, blobs, blobsDir: join(dir, 'blobs'), attempt, failure})
    }),
  )
}

/** Checks that the store holds the blob, the right one, and nothing else. */
function expectOnlyBlob(world: World, bytes: Buffer): void {
  const digest = digestOf(bytes)
  expect(readdirSync(world.blobsDir)).to.eql([`${digest}.tar`])
  expect(readFileSync(world.blobs.pathOf(digest)).equals(bytes)).to.equal(true)
}

/** Leaves a part of so many bytes behind. */
async function leavePart(world: World, afterBytes: number): Promise<void> {
  world.peer.script = [{kind: 'cut', afterBytes}]
  const error = await world.failure()
  expect(error.code).to.equal('source_incomplete')
  expect((await world.blobs.statPart(world.peer.digest))?.sizeBytes).to.equal(afterBytes)
  world.peer.requests.length = 0
}

describe('downloading a blob', () => {
  it('brings it in one request and tells how it goes', async () => {
    await withWorld(content, async (world) => {
      const seen: number[] = []
      const onProgress: DownloadOptions['onProgress'] = ({receivedBytes, totalBytes}) => {
        seen.push(receivedBytes)
        expect(totalBytes).to.equal(content.length)
      }
      const result = await world.attempt({onProgress})
      expect(result).to.eql({
        sizeBytes: content.length,
        downloadedBytes: content.length,
        resumedFromBytes: 0,
      })
      expect(seen).to.eql([...seen].sort((a, b) => a - b))
      expect(seen.at(-1)).to.equal(content.length)
      expect(world.peer.requests.length).to.equal(1)
      expectOnlyBlob(world, content)
    })
  })

  it('goes on where a cut left off, by Range and If-Range, with a little overlap', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, 2 * MiB)
      const result = await world.attempt()
      expect(result.resumedFromBytes).to.equal(2 * MiB)
      expect(result.downloadedBytes).to.equal(content.length - 2 * MiB + 16 * KiB)
      const headers = world.peer.requests[0]?.headers
      expect(headers).to.include({range: `bytes=${2 * MiB - 16 * KiB}-`, 'if-range': '"v1"'})
      expectOnlyBlob(world, content)
    })
  })

  it('goes on in a copy of the part when it takes over from another worker', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, 2 * MiB)
      expect((await world.attempt({isTakeover: true})).resumedFromBytes).to.equal(2 * MiB)
      expectOnlyBlob(world, content)
    })
  })

  it('resumes a part from another address without its validator', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, 2 * MiB)
      const result = await world.attempt({url: 'http://mirror.test/image.tar'})
      expect(result.resumedFromBytes).to.equal(2 * MiB)
      expect(world.peer.requests[0]?.headers).not.to.have.property('if-range')
      expectOnlyBlob(world, content)
    })
  })

  it('resumes a part without a note', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, 2 * MiB)
      writeFileSync(join(world.blobsDir, `${world.peer.digest}.tar.tmp.json`), 'torn')
      expect((await world.attempt()).downloadedBytes).to.be.lessThan(2 * MiB)
      expectOnlyBlob(world, content)
    })
  })

  it('asks nothing when the part is complete already', async () => {
    await withWorld(content, async (world) => {
      const writer = await world.blobs.beginPart(world.peer.digest, {
        isTakeover: false,
        signal: new AbortController().signal,
      })
      await writer.append([content])
      await writer.abandon()
      expect((await world.attempt()).downloadedBytes).to.equal(0)
      expect(world.peer.requests.length).to.equal(0)
      expectOnlyBlob(world, content)
    })
  })

  it('keeps no secret of the address in the note', async () => {
    await withWorld(content, async (world) => {
      world.peer.script = [{kind: 'cut', afterBytes: MiB}]
      await world.failure({url: 'http://user:hidden@host/a?X-Amz-Signature=hidden'})
      const note = readFileSync(join(world.blobsDir, `${world.peer.digest}.tar.tmp.json`), 'utf8')
      expect(note).to.contain('host/a').and.not.to.contain('hidden')
    })
  })
})

describe('a server that answers a resume in its own way', () => {
  // Each is answered so once; the part must survive and everything come in this one attempt.
  const passing: Behaviour[] = [
    {kind: 'ignore_range'},
    {kind: 'other_start', shiftBytes: 5},
    {kind: 'no_content_range'},
    {kind: 'other_total', extraBytes: 5},
    {kind: 'multipart'},
    {kind: 'first_bytes'},
    {kind: 'gzip'},
    {kind: 'etag', etag: '"v2"'},
    {kind: 'wrong_bytes', fromByte: 0},
  ]
  for (const behaviour of passing) {
    it(`loses nothing by ${behaviour.kind} once`, async () => {
      await withWorld(content, async (world) => {
        await leavePart(world, 2 * MiB)
        world.peer.script = [behaviour]
        const result = await world.attempt()
        expect(world.peer.requests.length).to.equal(2)
        expect(world.peer.requests[1]?.headers.range).to.match(/^bytes=/)
        expect(result.resumedFromBytes).to.equal(2 * MiB)
        expectOnlyBlob(world, content)
      })
    })
    it(`gives the blob in spite of ${behaviour.kind} every time`, async () => {
      await withWorld(content, async (world) => {
        await leavePart(world, 2 * MiB)
        // A plain GET is answered honestly: these are the ways of servers that cannot do ranges.
        world.peer.script = Array.from({length: 5}, () => behaviour)
        await world.attempt()
        expect(world.peer.requests.length).to.be.at.most(6)
        expectOnlyBlob(world, content)
      })
    })
  }

  it('waits longer for a server that has continued the part before', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, MiB + 1)
      world.peer.script = [{kind: 'cut', afterBytes: MiB}]
      expect((await world.failure()).code).to.equal('source_incomplete')
      world.peer.script = Array.from({length: 7}, () => ({kind: 'ignore_range'}))
      const result = await world.attempt()
      expect(result.downloadedBytes).to.be.lessThan(2 * MiB)
      expectOnlyBlob(world, content)
    })
  })

  it('fetches everything again when the resumed bytes were wrong beyond the overlap', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, 2 * MiB)
      world.peer.script = [{kind: 'wrong_bytes', fromByte: 100 * KiB}]
      await world.attempt()
      expect(world.peer.requests.map(({headers}) => headers.range !== undefined)).to.eql([
        true,
        false,
      ])
      expectOnlyBlob(world, content)
    })
  })

  it('starts anew when the part itself is of other content', async () => {
    await withWorld(content, async (world) => {
      const writer = await world.blobs.beginPart(world.peer.digest, {
        isTakeover: false,
        signal: new AbortController().signal,
      })
      await writer.append([randomContent(4 * MiB)])
      await writer.abandon()
      await world.attempt()
      expectOnlyBlob(world, content)
    })
  })

  it('takes pieces when the server gives only pieces', async () => {
    await withWorld(content, async (world) => {
      world.peer.script = Array.from({length: 4}, () => ({kind: 'short_range', lengthBytes: MiB}))
      const result = await world.attempt()
      expect(result.sizeBytes).to.equal(content.length)
      expectOnlyBlob(world, content)
    })
  })

  it('ends the attempt, but keeps the part, when the pieces are tiny', async () => {
    await withWorld(content, async (world) => {
      world.peer.script = [{kind: 'short_range', lengthBytes: 100}]
      expect((await world.failure()).code).to.equal('source_incomplete')
      expect((await world.blobs.statPart(world.peer.digest))?.sizeBytes).to.equal(100)
      await world.attempt()
      expectOnlyBlob(world, content)
    })
  })
})

describe('a server that encodes what it was asked to leave alone', () => {
  it('is asked again, and decoded when it insists and the digest is of the plain content', async () => {
    await withWorld(content, async (world) => {
      world.peer.script = Array.from({length: 9}, () => ({kind: 'gzip'}))
      await world.attempt()
      expectOnlyBlob(world, content)
    })
  })

  it('does not cost the part that is there already, however often it does so', async () => {
    await withWorld(content, async (world) => {
      await leavePart(world, 2 * MiB)
      const headers = {'content-encoding': 'gzip', 'content-length': '100'}
      const encoded: Behaviour = {kind: 'status', status: 200, headers, body: 'x'.repeat(100)}
      world.peer.script = Array.from({length: 4}, () => encoded)
      const result = await world.attempt()
      expect(result.downloadedBytes).to.equal(content.length - 2 * MiB + 16 * KiB)
      expectOnlyBlob(world, content)
    })
  })

  it('is taken at its bytes when the digest is of the compressed file', async () => {
    await withWorld(content, async (world) => {
      const compressed = gzipSync(content, {level: 1})
      world.peer.script = Array.from({length: 9}, () => ({kind: 'gzip'}))
      await world.attempt({digest: digestOf(compressed)})
      expectOnlyBlob(world, compressed)
    })
  })

  it('is refused when its encoding is broken', async () => {
    await withWorld(content, async (world) => {
      const headers = {'content-encoding': 'gzip'}
      const body = 'plain text, no gzip at all'
      world.peer.script = Array.from({length: 9}, () => ({
        kind: 'status',
        status: 200,
        headers,
        body,
      }))
      const error = await world.failure()
      expect(error.code).to.equal('source_refused')
      expect(error.message).to.contain('gzip')
      expect(readdirSync(world.blobsDir)).to.eql([])
    })
  })
})

describe('a download that fails', () => {
  const wrong = digestOf(Buffer.from('something else'))

  it('reports wrong bytes after one whole answer and leaves nothing', async () => {
    await withWorld(content, async (world) => {
      const error = await world.failure({digest: wrong})
      expect(error.code).to.equal('digest_mismatch')
      expect(error.exit).to.equal(12)
      expect(error.details).to.include({expected: wrong, actual: world.peer.digest})
      expect(world.peer.requests.length).to.equal(1)
      expect(readdirSync(world.blobsDir)).to.eql([])
    })
  })

  it('does not go round for ever on a wrong checksum and a bad line', async () => {
    await withWorld(content, async (world) => {
      const ends: string[] = []
      for (let n = 0; n < 30 && ends.at(-1) !== 'digest_mismatch'; n++) {
        // Every whole answer is cut; only the resumed rests come to an end.
        const cut = {kind: 'cut', afterBytes: MiB} as const
        world.peer.script = n === 0 ? [cut] : [{kind: 'honest'}, cut]
        ends.push((await world.failure({digest: wrong})).code)
      }
      expect(ends.at(-1)).to.equal('digest_mismatch')
      expect(ends.length).to.be.at.most(5)
    })
  })

  it('calls an HTML page by its name, but not an archive that is served as one', async () => {
    const page = Buffer.from('\ufeff <!DOCTYPE html>\n<html><body>Sign in</body></html>')
    await withWorld(page, async (world) => {
      const error = await world.failure({digest: wrong})
      expect(error.code).to.equal('source_not_image')
      expect(error.message).to.contain('HTML')
      expect(readdirSync(world.blobsDir)).to.eql([])
    })
    await withWorld(content, async (world) => {
      const headers = {'content-type': 'text/html'}
      const serve = async (body: string): Promise<string> => {
        world.peer.script = [{kind: 'status', status: 200, headers, body}]
        return (await world.failure({digest: wrong})).code
      }
      expect(await serve('Not found, sorry')).to.equal('source_not_image')
      expect(await serve(`${'\0'.repeat(257)}ustar`)).to.equal('digest_mismatch')
    })
  })

  it('keeps the part when another attempt may help, and removes it when none can', async () => {
    const cases: [Behaviour, string, boolean][] = [
      [{kind: 'stall', afterBytes: 2 * MiB}, 'source_stalled', true],
      [{kind: 'cut', afterBytes: 2 * MiB}, 'source_incomplete', true],
      [{kind: 'status', status: 503}, 'source_unavailable', true],
      [{kind: 'status', status: 404}, 'source_not_found', false],
      [{kind: 'status', status: 403}, 'source_refused', false],
      [{kind: 'redirect', location: '/image.tar'}, 'redirect_refused', true],
    ]
    for (const [behaviour, code, isKept] of cases) {
      await withWorld(content, async (world) => {
        await leavePart(world, MiB)
        world.peer.script = [behaviour]
        expect((await world.failure()).code).to.equal(code)
        expect(existsSync(world.blobs.partPathOf(world.peer.digest)), code).to.equal(isKept)
        if (!isKept) expect(readdirSync(world.blobsDir)).to.eql([])
      })
    }
  })

  it('stops at the size limit, announced or not, and leaves nothing', async () => {
    for (const behaviour of [{kind: 'honest'}, {kind: 'no_length'}] as const) {
      await withWorld(content, async (world) => {
        world.peer.script = [behaviour]
        expect((await world.failure({maxBlobBytes: MiB})).code).to.equal('source_too_large')
        expect(readdirSync(world.blobsDir)).to.eql([])
      })
    }
  })

  it('keeps the part and rejects with the reason when the caller gives up', async () => {
    await withWorld(content, async (world) => {
      const controller = new AbortController()
      const reason = fail('lease_lost', {run: 'r'})
      world.peer.script = [{kind: 'stall', afterBytes: 2 * MiB}]
      const onProgress = (): void => controller.abort(reason)
      const error = await rejection(world.attempt({signal: controller.signal, onProgress}))
      expect(error).to.equal(reason)
      expect((await world.blobs.statPart(world.peer.digest))?.sizeBytes).to.be.greaterThan(0)
      await world.attempt()
      expectOnlyBlob(world, content)
    })
  })
})

describe('any sequence of faults', () => {
  const bytes = randomContent(2 * MiB + 333)
  const place = fc.integer({min: 0, max: bytes.length})
  const fault: fc.Arbitrary<Behaviour> = fc.oneof(
    fc.constant<Behaviour>({kind: 'reset'}),
    fc.constant<Behaviour>({kind: 'ignore_range'}),
    fc.constant<Behaviour>({kind: 'no_content_range'}),
    fc.constant<Behaviour>({kind: 'multipart'}),
    fc.constant<Behaviour>({kind: 'first_bytes'}),
    fc.constant<Behaviour>({kind: 'gzip'}),
    fc.constant<Behaviour>({kind: 'no_length'}),
    fc.constant<Behaviour>({kind: 'etag', etag: '"v2"'}),
    fc.constant<Behaviour>({kind: 'status', status: 503}),
    fc.constant<Behaviour>({kind: 'stall', afterBytes: 500_000}),
    place.map((afterBytes): Behaviour => ({kind: 'cut', afterBytes})),
    place.map((lengthBytes): Behaviour => ({kind: 'short_range', lengthBytes: lengthBytes + 1})),
    fc
      .integer({min: 1, max: 99})
      .map((shiftBytes): Behaviour => ({kind: 'other_start', shiftBytes})),
    fc
      .integer({min: 1, max: 99})
      .map((extraBytes): Behaviour => ({kind: 'other_total', extraBytes})),
  )

  it('ends in the right blob, in no more attempts than faults and one', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fault, {maxLength: 12}),
        fc.boolean(),
        async (script, isTakeover) => {
          await withWorld(bytes, async (world) => {
            world.peer.script = [...script]
            let attempts = 0
            for (let isDone = false; !isDone;) {
              attempts++
              expect(attempts).to.be.at.most(script.length + 1)
              try {
                await world.attempt({isTakeover: isTakeover && attempts > 1})
                isDone = true
              } catch (error) {
                expect(error).to.be.instanceOf(ImgstoreError)
                expect((error as ImgstoreError).retry, String(error)).to.equal('backoff')
              }
            }
            expect(world.peer.requests.length).to.be.at.most(script.length + 4)
            expectOnlyBlob(world, bytes)
          })
        },
      ),
      {numRuns: 25},
    )
  }).timeout(60_000)

  it('never gives a wrong blob, even from a server that sends wrong bytes', async () => {
    const lie = place.map((fromByte): Behaviour => ({kind: 'wrong_bytes', fromByte}))
    await fc.assert(
      fc.asyncProperty(fc.array(fc.oneof(fault, lie), {maxLength: 8}), async (script) => {
        await withWorld(bytes, async (world) => {
          world.peer.script = [...script]
          const digest: Digest = world.peer.digest
          for (let attempts = 0; attempts < 12 && !(await world.blobs.stat(digest)); attempts++) {
            try {
              await world.attempt()
            } catch (error) {
              // A whole answer with wrong bytes is rightly taken for a wrong checksum.
              expect(
                (error as ImgstoreError).retry === 'backoff' ||
                  (error as ImgstoreError).code === 'digest_mismatch',
              ).to.equal(true)
            }
          }
          expectOnlyBlob(world, bytes)
        })
      }),
      {numRuns: 15},
    )
  }).timeout(60_000)
})
