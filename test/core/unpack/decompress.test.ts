/** Decompressing a blob while it comes: the same bytes and the same refusals as reading it whole. */
import {createHash, randomBytes} from 'node:crypto'
import {readFileSync, writeFileSync} from 'node:fs'
import {open} from 'node:fs/promises'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {gzipSync, zstdCompressSync} from 'node:zlib'
import {expect} from 'chai'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {KiB, MiB, resolveLimits, type UnpackLimits} from '../../../src/core/limits.ts'
import {landlockVersion} from '../../../src/core/syscalls/confine.ts'
import {decompressGrowing, indexTar} from '../../../src/core/unpack/unpack.ts'
import {makeImage, makeTar} from '../../support/image-maker.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const tar = makeImage(3, {files: 20, fileBytes: 20_000}).bytes
const withHoles = makeTar([{name: 'zeros', content: Buffer.alloc(MiB)}, {name: 'end'}])
const halves = [tar.subarray(0, 100_000), tar.subarray(100_000)] as const
const gzip = (bytes: Buffer): Buffer => gzipSync(bytes, {level: 1})
const limits = resolveLimits('image', {})

/** A skippable frame of zstd. */
function skippable(bytes: Buffer): Buffer {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(0x184d_2a53, 0)
  head.writeUInt32LE(bytes.length, 4)
  return Buffer.concat([head, bytes])
}

type Refused = {code: string; reason: string | undefined}
type Outcome = {format: string; digest: string; sizeBytes: number} | Refused

const refusal = (error: unknown): Refused => {
  if (!(error instanceof ImgstoreError)) throw error
  const {reason, rule, what} = error.details as Record<string, string | undefined>
  return {code: error.code, reason: reason ?? rule ?? what}
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** Decompresses `blob` while it is written piece by piece; the bytes that were made must be those that are told. */
async function growing(dir: string, blob: Buffer, o: Partial<UnpackLimits> = {}): Promise<Outcome> {
  const paths = [join(dir, 'part'), join(dir, 'plain')] as const
  writeFileSync(paths[0], '')
  const writer = await open(paths[0], 'r+')
  const [reader, plain] = [await open(paths[0], 'r'), await open(paths[1], 'wx')]
  try {
    const work = decompressGrowing({
      blobFd: reader.fd,
      plainFd: plain.fd,
      blobBytesMax: 64 * MiB,
      limits: {...limits, ...o},
      signal: new AbortController().signal,
    })
    const ended = work.result.catch((error: unknown) => refusal(error))
    const pieces = [4096, 4097, Math.floor(blob.length / 2), blob.length - 1, blob.length]
    let at = 0
    for (const to of pieces.map((n) => Math.min(n, blob.length)).sort((x, y) => x - y)) {
      await writer.write(blob, at, to - at, at)
      at = to
      work.grown(at)
      await sleep(5)
    }
    work.end(blob.length)
    const made = await ended
    if ('code' in made) return made
    const bytes = readFileSync(paths[1])
    const {format, digest, sizeBytes, isConfined} = made
    expect(isConfined, 'Landlock').to.equal(landlockVersion() >= 2)
    expect(made).to.include({digest: sha256(bytes), sizeBytes: bytes.length})
    return {format, digest, sizeBytes}
  } finally {
    for (const file of [writer, reader, plain]) await file.close()
  }
}

/** The same by the reader of whole blobs. */
async function whole(dir: string, blob: Buffer, o: Partial<UnpackLimits> = {}): Promise<Outcome> {
  const [blobPath, plainPath] = [join(dir, 'blob'), join(dir, 'whole.tar')]
  writeFileSync(blobPath, blob)
  const job = {blobPath, plainPath, imagePath: join(dir, 'image'), digest: sha256(blob)}
  try {
    const {format} = await indexTar({...job, profile: 'image', limits: {...limits, ...o}})
    const bytes = readFileSync(plainPath)
    return {format, digest: sha256(bytes), sizeBytes: bytes.length}
  } catch (error) {
    return refusal(error)
  }
}

const blobs: Record<string, {blob: Buffer; end: string; limits?: Partial<UnpackLimits>}> = {
  gzip: {blob: gzip(tar), end: 'gzip'},
  'gzip with holes': {blob: gzip(withHoles), end: 'gzip'},
  'two members': {blob: Buffer.concat(halves.map(gzip)), end: 'gzip'},
  'gzip with zeros behind': {
    blob: Buffer.concat([gzip(tar), Buffer.alloc(300 * KiB)]),
    end: 'gzip',
  },
  'gzip with something behind zeros': {
    blob: Buffer.concat([gzip(tar), Buffer.alloc(300 * KiB), Buffer.from('x')]),
    end: 'bad_archive',
  },
  'gzip with something behind': {
    blob: Buffer.concat([gzip(tar), randomBytes(99)]),
    end: 'bad_archive',
  },
  'gzip cut short': {blob: gzip(tar).subarray(0, -9), end: 'bad_archive'},
  'gzip with a damaged middle': {
    blob: ((bytes) => (bytes.fill(0xff, bytes.length / 2, bytes.length / 2 + 99), bytes))(
      gzip(tar),
    ),
    end: 'bad_archive',
  },
  zstd: {blob: zstdCompressSync(tar), end: 'zstd'},
  'zstd of several frames, some skippable': {
    blob: Buffer.concat([
      skippable(Buffer.from('first')),
      ...halves.map((half) => zstdCompressSync(half)),
      skippable(Buffer.alloc(100_000)),
    ]),
    end: 'zstd',
  },
  'zstd with something behind': {
    blob: Buffer.concat([zstdCompressSync(tar), Buffer.from('something')]),
    end: 'bad_archive',
  },
  'zstd cut short': {blob: zstdCompressSync(tar).subarray(0, -5), end: 'bad_archive'},
  'no archive inside': {blob: gzip(randomBytes(9000)), end: 'source_not_image'},
  'nothing inside': {blob: gzip(Buffer.alloc(0)), end: 'source_not_image'},
  'gzip inside gzip': {blob: gzip(gzip(tar)), end: 'source_not_image'},
  'more than the ratio allows': {
    blob: gzipSync(makeTar([{name: 'zeros', content: Buffer.alloc(80 * MiB)}])),
    limits: {ratioMax: 20},
    end: 'unsafe_archive',
  },
}

describe('decompressing a blob while it comes', () => {
  for (const [what, {blob, end, limits: own}] of Object.entries(blobs))
    it(`comes to the same as reading it whole: ${what}`, () =>
      withTempDir(async (dir) => {
        const outcome = await growing(dir, blob, own)
        expect(outcome).to.deep.equal(await whole(dir, blob, own))
        expect('code' in outcome ? outcome.code : outcome.format).to.equal(end)
      }))

  it('stops at the bytes that an archive within the limits can have', () =>
    withTempDir(async (dir) => {
      const zeros = zstdCompressSync(Buffer.alloc(64 * MiB))
      const start = zstdCompressSync(makeTar([{name: 'empty'}]))
      const blob = Buffer.concat([start, ...Array.from({length: 17}, () => zeros)])
      const outcome = await growing(dir, blob, {totalBytesMax: 0, filesMax: 0, ratioMax: 1e9})
      expect(outcome).to.deep.include({code: 'unsafe_archive'})
    }))

  it('ends at once, and says so, when it is told to', () =>
    withTempDir(async (dir) => {
      writeFileSync(join(dir, 'part'), gzip(tar).subarray(0, 5000))
      const [reader, plain] = [await open(join(dir, 'part'), 'r'), await open(join(dir, 'p'), 'wx')]
      const stop = new AbortController()
      const [blobFd, plainFd] = [reader.fd, plain.fd]
      const {signal} = stop
      const work = decompressGrowing({blobFd, plainFd, blobBytesMax: MiB, limits, signal})
      work.grown(5000)
      await sleep(100)
      stop.abort()
      const error = await work.result.catch((thrown: unknown) => thrown)
      expect(error).to.include({code: 'interrupted'})
      await reader.close()
      await plain.close()
    }))
})
