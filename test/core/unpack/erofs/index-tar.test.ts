/** Indexing through its own process: what is written, what is left, and OCI whiteouts. */
import {randomBytes} from 'node:crypto'
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {gzipSync, zstdCompressSync} from 'node:zlib'
import {expect} from 'chai'
import {ImgstoreError} from '../../../../src/core/errors.ts'
import {resolveLimits} from '../../../../src/core/limits.ts'
import {landlockVersion} from '../../../../src/core/syscalls/confine.ts'
import {indexArchive} from '../../../../src/core/unpack/erofs/index-archive.ts'
import {PlainFile} from '../../../../src/core/unpack/erofs/plain-file.ts'
import {type IndexRequest, indexTar} from '../../../../src/core/unpack/unpack.ts'
import {ErofsReader} from '../../../support/erofs-reader.ts'
import {archive, directory, file, pax, symlink} from '../../../support/tar-builder.ts'
import {withTempDir} from '../../../support/temp-dir.ts'

const limits = resolveLimits('image', {})

function request(dir: string, bytes: Buffer): IndexRequest {
  writeFileSync(join(dir, 'blob'), bytes)
  mkdirSync(join(dir, 'images'), {recursive: true})
  mkdirSync(join(dir, 'tars'), {recursive: true})
  return {
    blobPath: join(dir, 'blob'),
    imagePath: join(dir, 'images/image'),
    plainPath: join(dir, 'tars/plain'),
    profile: 'image',
    limits,
    digest: `sha256:${'ab'.repeat(32)}`,
  }
}

async function failureOf(work: Promise<unknown>): Promise<ImgstoreError> {
  try {
    await work
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

const written = (dir: string): string[] =>
  [...readdirSync(join(dir, 'images')), ...readdirSync(join(dir, 'tars'))].sort()

describe('indexing a tar', () => {
  const tar = archive(
    directory('bin', {mode: 0o755}),
    file('bin/large', randomBytes(100_000), {mode: 0o755}),
    file('bin/zeros', Buffer.alloc(300_000)),
    symlink('sh', 'bin/large'),
  )

  it('leaves a plain blob as it is, and writes one file beside', () =>
    withTempDir(async (dir) => {
      const result = await indexTar(request(dir, tar))
      expect(result).to.include({format: 'tar', entries: 4, files: 2, totalBytes: 400_000})
      expect(result).not.to.have.property('plainBytes')
      expect(result.isConfined).to.equal(landlockVersion() >= 2)
      expect(written(dir)).to.deep.equal(['image'])
      expect(result.imageBytes).to.equal(statSync(join(dir, 'images/image')).size)
      const reader = new ErofsReader(readFileSync(join(dir, 'images/image')), [tar])
      expect([...reader.list().keys()]).to.deep.equal(['', 'bin', 'bin/large', 'bin/zeros', 'sh'])
      expect(reader.tags).to.deep.equal(['ab'.repeat(32)])
    }))

  for (const [format, compress] of [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ] as const) {
    it(`makes the tar of a ${format} blob, with holes, and the same image`, () =>
      withTempDir(async (dir) => {
        const job = request(dir, tar)
        await indexTar(job)
        const image = readFileSync(job.imagePath)
        writeFileSync(job.blobPath, compress(tar))
        const result = await indexTar(job)
        expect(result).to.include({format, plainBytes: tar.length})
        expect(written(dir)).to.deep.equal(['image', 'plain'])
        expect(readFileSync(join(dir, 'tars/plain')).equals(tar)).to.equal(true)
        const {blocks} = statSync(join(dir, 'tars/plain'))
        expect(blocks * 512).to.be.below(tar.length - 250_000)
        expect(readFileSync(job.imagePath).equals(image)).to.equal(true)
      }))
  }

  it('names the image by the digest of its blob', () =>
    withTempDir(async (dir) => {
      const job = request(dir, tar)
      await indexTar(job)
      const first = new ErofsReader(readFileSync(job.imagePath), [tar]).uuid
      await indexTar({...job, digest: 'sha256:other'})
      const second = new ErofsReader(readFileSync(job.imagePath), [tar]).uuid
      expect(first).not.to.equal(second)
      for (const uuid of [first, second]) expect(uuid).to.match(/^.{12}8.{3}[89ab]/)
    }))

  it('leaves nothing of a refused archive, and keeps what was there', () =>
    withTempDir(async (dir) => {
      const job = request(dir, gzipSync(archive(file('a', 'x'), file('../b', 'x'))))
      writeFileSync(job.imagePath, 'older')
      const failure = await failureOf(indexTar(job))
      expect(failure).to.include({code: 'unsafe_archive'})
      expect(written(dir)).to.deep.equal(['image'])
      expect(readFileSync(job.imagePath, 'utf8')).to.equal('older')
    }))

  it('takes away what a killed run left', () =>
    withTempDir(async (dir) => {
      const job = request(dir, tar)
      writeFileSync(`${job.imagePath}.part`, 'half')
      await indexTar(job)
      expect(written(dir)).to.deep.equal(['image'])
    }))

  it('stops at once when it is interrupted, and leaves nothing', () =>
    withTempDir(async (dir) => {
      const job = request(dir, gzipSync(archive(file('a', Buffer.alloc(64 << 20, 'x')))))
      const controller = new AbortController()
      const work = failureOf(
        indexTar({...job, signal: controller.signal, onProgress: () => controller.abort()}),
      )
      expect(await work).to.include({code: 'interrupted'})
      expect(written(dir)).to.deep.equal([])
    }))

  it('says when the directory is not there', () =>
    withTempDir(async (dir) => {
      const job = request(dir, tar)
      const failure = await failureOf(indexTar({...job, imagePath: join(dir, 'none/image')}))
      expect(failure.code).to.equal('io_failed')
    }))

  it('indexes a strict archive of more than one file may have', () =>
    withTempDir(async (dir) => {
      const body = Buffer.alloc(3 << 20, 'imgstore')
      const names = Array.from({length: 40}, (_, index) => file(`f${index}`, body))
      const job = request(dir, gzipSync(archive(...names), {level: 1}))
      const strict = resolveLimits('strict', {ratioMax: 1e6})
      const result = await indexTar({...job, profile: 'strict', limits: strict})
      expect(result.plainBytes).to.be.above(strict.fileBytesMax)
    }))
})

describe('the plain file of a compressed blob', () => {
  it('is the same however its chunks are cut', () =>
    withTempDir((dir) => {
      const whole = Buffer.alloc(200_000)
      for (const at of [0, 5000, 5001, 40_960, 150_000, 199_999]) whole[at] = 1
      for (const size of [1000, 4096, 4097, 65_536, 200_000]) {
        const path = join(dir, String(size))
        const fd = openSync(path, 'w+')
        const plain = new PlainFile(fd)
        for (let at = 0; at < whole.length; at += size) plain.add(whole.subarray(at, at + size))
        plain.end()
        closeSync(fd)
        expect(readFileSync(path).equals(whole), `chunks of ${size}`).to.equal(true)
      }
    }))
})

describe('OCI whiteouts in an index', () => {
  const list = async (parts: Buffer[], whiteouts: 'keep' | 'overlay' = 'overlay') =>
    withTempDir(async (dir) => {
      const job = request(dir, archive(...parts))
      const result = await indexArchive({...job, whiteouts})
      const reader = new ErofsReader(readFileSync(job.imagePath), [readFileSync(job.blobPath)])
      return {lines: reader.list({xattrs: true}), result}
    })
  const opaque = 'trusted.overlay.opaque=79'

  it('become what overlayfs understands', async () => {
    const {lines} = await list([
      file('etc/.wh.passwd'),
      directory('var', {mode: 0o700}),
      file('var/.wh..wh..opq'),
      file('var/new', 'x'),
    ])
    expect([...lines.keys()]).to.deep.equal(['', 'etc', 'etc/passwd', 'var', 'var/new'])
    expect(lines.get('etc/passwd')).to.match(/^20000 0:0 size 0 mtime \d+ device 0 links 1$/)
    expect(lines.get('var')).to.include(opaque)
    expect(lines.get('etc')).not.to.include('trusted')
  })

  it('hide only what lies below, whatever the order', async () => {
    for (const isFirst of [true, false]) {
      const marks = [file('d/.wh..wh..opq'), file('.wh.d2'), file('.wh.f')]
      const own = [
        pax([['SCHILY.xattr.user.a', 'b']]),
        directory('d', {mode: 0o711}),
        file('d2/x', 'x'),
        directory('d2', {mode: 0o711}),
        file('f', 'own'),
      ]
      const {lines} = await list(isFirst ? [...marks, ...own] : [...own, ...marks])
      expect([...lines.keys()]).to.deep.equal(['', 'd', 'd2', 'd2/x', 'f'])
      expect(lines.get('d')).to.match(/^40711 .*trusted.overlay.opaque=79 user.a=62$/)
      expect(lines.get('d2'))
        .to.match(/^40711 /)
        .and.include(opaque)
      expect(lines.get('f')).to.include('size 3').and.not.include('device')
    }
  })

  it('may hide all that is below the root', async () => {
    const {lines} = await list([file('.wh..wh..opq'), directory('./', {mode: 0o750})])
    expect(lines.get(''))
      .to.match(/^40750 /)
      .and.include(opaque)
  })

  it('are no targets of links', async () => {
    const parts = [file('.wh.x'), pax([['linkpath', 'x']]), file('y', '', {type: '1'})]
    expect(await failureOf(list(parts))).to.include({code: 'unsafe_archive'})
  })

  it('lose what AUFS left', async () => {
    const {lines, result} = await list([
      directory('.wh..wh.plnk', {mode: 0o700}),
      file('.wh..wh.plnk/1.2', 'x'),
      file('.wh..wh.aufs'),
      file('a'),
    ])
    expect([...lines.keys()]).to.deep.equal(['', 'a'])
    expect(result.warnings.map(({code}) => code)).to.deep.equal(Array(3).fill('aufs_leftover'))
  })

  for (const [title, part] of [
    ['of nothing', file('.wh.')],
    ['of the directory itself', file('a/.wh..')],
    ['of the directory above', file('a/.wh...')],
    ['that is a directory', directory('.wh.x')],
    ['that is a link', symlink('.wh.x', 'y')],
    ['of all that is a directory', directory('a/.wh..wh..opq')],
  ] as const) {
    it(`refuses one ${title}`, async () => {
      expect(await failureOf(list([part]))).to.include({code: 'unsafe_archive'})
    })
  }

  it('stay files where nothing else is asked for', async () => {
    const {lines} = await list([file('.wh.x'), file('d/.wh..wh..opq')], 'keep')
    expect([...lines.keys()]).to.deep.equal(['', '.wh.x', 'd', 'd/.wh..wh..opq'])
  })
})
