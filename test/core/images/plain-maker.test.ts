/** A download with somebody who decompresses it meanwhile; the process is real, the server is made to misbehave. */
import {readdirSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {gzipSync} from 'node:zlib'
import {expect} from 'chai'
import {openBlobs, type BlobStore} from '../../../src/core/blobs/blob-store.ts'
import {fail} from '../../../src/core/errors.ts'
import {downloadBlob, type DownloadResult} from '../../../src/core/images/download.ts'
import {PlainMaker, type PlainMakerOptions} from '../../../src/core/images/plain-maker.ts'
import {GiB, MiB, resolveLimits} from '../../../src/core/limits.ts'
import {silentLogger} from '../../../src/core/log.ts'
import {openSource} from '../../../src/core/sources/source.ts'
import {decompressGrowing, type Decompression} from '../../../src/core/unpack/unpack.ts'
import {FakeSource, randomContent, withFakeSource} from '../../support/fake-source.ts'
import {makeTar} from '../../support/image-maker.ts'
import {rejection, sourceOptions} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const tar = makeTar([{name: 'noise', content: randomContent(6 * MiB)}])
const blob = gzipSync(tar, {level: 1})

type World = {
  peer: FakeSource
  blobs: BlobStore
  names: () => string[]
  /** How many processes were started. */
  started: Decompression[]
  attempt: (o?: {
    maker?: Partial<PlainMakerOptions>
    signal?: AbortSignal
    onProgress?: (receivedBytes: number) => void
  }) => Promise<DownloadResult>
}

function withWorld(body: (world: World) => Promise<void>, content: Buffer = blob): Promise<void> {
  return withTempDir((dir) =>
    withFakeSource(content, async (peer) => {
      const blobs = openBlobs(dir)
      const source = await openSource(peer.url, sourceOptions({stallTimeoutMs: 300}))
      const started: Decompression[] = []
      const attempt: World['attempt'] = (o = {}) =>
        downloadBlob({
          source,
          blobs,
          digest: peer.digest,
          url: peer.url,
          isTakeover: false,
          signal: o.signal ?? new AbortController().signal,
          maxBlobBytes: GiB,
          onProgress: ({receivedBytes}) => o.onProgress?.(receivedBytes),
          plainMaker: new PlainMaker({
            blobs,
            digest: peer.digest,
            limits: resolveLimits('image', {}),
            maxBlobBytes: GiB,
            isWanted: () => Promise.resolve(true),
            decompress: (request) => {
              started.push(decompressGrowing(request))
              return Promise.resolve(started.at(-1) as Decompression)
            },
            log: silentLogger,
            ...o.maker,
          }),
        })
      const names = (): string[] =>
        readdirSync(join(dir, 'blobs'))
          .map((name) => name.replace(peer.digest, ''))
          .sort()
      await body({peer, blobs, names, started, attempt})
    }),
  )
}

function expectPlain({blobs, peer, names}: World, result: DownloadResult): void {
  expect(names()).to.deep.equal(['.tar', '.tar.raw', '.tar.raw.json'])
  expect(readFileSync(blobs.plainPathOf(peer.digest)).equals(tar)).to.equal(true)
  expect(result.plain).to.include({sizeBytes: tar.length, format: 'gzip'})
}

describe('decompressing a download meanwhile', () => {
  it('gives the plain tar with the blob', () =>
    withWorld(async (world) => {
      expectPlain(world, await world.attempt())
      expect(world.started).to.have.lengthOf(1)
    }))

  it('begins at the beginning of a part that an earlier attempt left', () =>
    withWorld(async (world) => {
      world.peer.script = [{kind: 'cut', afterBytes: 4 * MiB + 5}]
      expect(await rejection(world.attempt())).to.include({code: 'source_incomplete'})
      expect(world.names()).to.deep.equal(['.tar.tmp', '.tar.tmp.json'])
      const result = await world.attempt()
      expect(result.resumedFromBytes).to.equal(4 * MiB + 5)
      expectPlain(world, result)
    }))

  it('begins anew with a part that begins anew', () =>
    withWorld(async (world) => {
      world.peer.script = [{kind: 'cut', afterBytes: 5 * MiB}]
      expect(await rejection(world.attempt())).to.include({code: 'source_incomplete'})
      // Another beginning under the right head: the whole is wrong, and is fetched at a stretch.
      world.peer.script = [{kind: 'wrong_bytes', fromByte: 16 * 1024}]
      expectPlain(world, await world.attempt())
      expect(world.peer.requests).to.have.lengthOf(3)
    }))

  it('throws it away when the digest is wrong, whatever was decompressed', () =>
    withWorld(async (world) => {
      world.peer.script = [{kind: 'wrong_bytes', fromByte: blob.length - 4096}]
      expect(await rejection(world.attempt())).to.include({code: 'digest_mismatch'})
      expect(world.names()).to.deep.equal([])
    }))

  it('leaves nothing but the part when the download is interrupted', () =>
    withWorld(async (world) => {
      const stop = new AbortController()
      world.peer.script = [{kind: 'stall', afterBytes: 5 * MiB}]
      const onProgress = (bytes: number): void => {
        if (bytes === 5 * MiB) stop.abort(fail('interrupted', {what: 'test'}))
      }
      await rejection(world.attempt({signal: stop.signal, onProgress}))
      expect(world.names()).to.deep.equal(['.tar.tmp', '.tar.tmp.json'])
    }))

  it('gives the blob alone when it is interrupted while it waits for the rest', () =>
    withWorld(async (world) => {
      const stop = new AbortController()
      const never: Decompression = {
        grown: () => undefined,
        end: () => stop.abort(),
        result: new Promise((_, reject) =>
          stop.signal.addEventListener('abort', () => reject(new Error('stopped'))),
        ),
      }
      const maker = {decompress: () => Promise.resolve(never)}
      const result = await world.attempt({maker, signal: stop.signal})
      expect(result).to.not.have.property('plain')
      expect(world.names()).to.deep.equal(['.tar'])
    }))

  for (const [what, maker] of [
    ['the process cannot be started', {decompress: () => Promise.reject(new Error('no'))}],
    ['nobody can say whether it is wanted', {isWanted: () => Promise.reject(new Error('no'))}],
    ['it is not wanted', {isWanted: () => Promise.resolve(false)}],
    [
      'the limits are too low',
      {limits: resolveLimits('image', {totalBytesMax: -GiB, filesMax: 0})},
    ],
  ] as const)
    it(`gives the blob alone when ${what}`, () =>
      withWorld(async (world) => {
        const result = await world.attempt({maker})
        expect(result).to.not.have.property('plain')
        expect(world.names()).to.deep.equal(['.tar'])
      }))

  it('does nothing for what is small or plain', async () => {
    const contents: Buffer[] = [gzipSync(randomContent(MiB)), randomContent(5 * MiB)]
    for (const content of contents)
      await withWorld(async (world) => {
        expect(await world.attempt()).to.not.have.property('plain')
        expect(world.started).to.deep.equal([])
      }, content)
  })
})
