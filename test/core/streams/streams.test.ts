import {execFileSync} from 'node:child_process'
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import type {Digest} from '../../../src/core/digest.ts'
import {ImgstoreError} from '../../../src/core/errors.ts'
import type {LogFields, Logger} from '../../../src/core/log.ts'
import type {FoundImage, StoreDisk, Streams} from '../../../src/core/stream.ts'
import {openStreams, type StreamsOptions} from '../../../src/core/streams/streams.ts'
import {withTempDir} from '../../support/temp-dir.ts'

type Line = {level: string; fields: LogFields; message: string}

type World = {
  root: string
  /** Outside the root. */
  elsewhere: string
  streams: Streams
  lines: Line[]
  /** Writes a file under the root, with its directories. */
  put: (path: string, content: string) => void
  catalog: (images: object[]) => void
}

function memoryLog(lines: Line[]): Logger {
  const at =
    (level: string) =>
    (fields: LogFields, message: string): void => {
      lines.push({level, fields, message})
    }
  return {error: at('error'), warn: at('warn'), info: at('info'), debug: at('debug')}
}

function withWorld(
  body: (world: World) => void,
  options: Partial<StreamsOptions> = {},
): Promise<void> {
  return withTempDir((dir) => {
    const root = join(dir, 'images')
    const elsewhere = join(dir, 'elsewhere')
    mkdirSync(root)
    mkdirSync(elsewhere)
    const lines: Line[] = []
    const log = memoryLog(lines)
    const streams = openStreams({imagesRoot: root, requireManifest: false, log, ...options})
    const put = (path: string, content: string): void => {
      mkdirSync(join(root, path, '..'), {recursive: true})
      writeFileSync(join(root, path), content)
    }
    const catalog = (images: object[]): void => put('manifest.json', JSON.stringify({images}))
    try {
      body({root, elsewhere, streams, lines, put, catalog})
    } finally {
      streams.close()
    }
  })
}

const ids = (streams: Streams): string[] => streams.list().images.map(({id}) => id)

function codeOf(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    if (error instanceof ImgstoreError) return error.code
    throw error
  }
  return 'none'
}

function found(streams: Streams, id: string): FoundImage {
  const image = streams.find(id)
  if (!image) throw new Error(`there is no ${id}`)
  return image
}

/** An etag as the specification gives it, by hand. */
function etagOf(path: string): string {
  const {size, mtimeNs} = statSync(path, {bigint: true})
  const hex = (value: bigint): string => value.toString(16)
  return `"${hex(size)}-${hex(mtimeNs / 10n ** 9n)}-${hex(mtimeNs % 10n ** 9n)}"`
}

describe('a bare directory', () => {
  it('is served as its regular files with names that are ids, by bytes', () =>
    withWorld(({root, elsewhere, streams, put}) => {
      for (const name of ['b', 'a', 'B', '.hidden', 'a-1', 'a b', 'ü']) put(name, name)
      put('dir/inside', 'x')
      writeFileSync(join(elsewhere, 'secret'), 'secret')
      symlinkSync('a', join(root, 'inner'))
      symlinkSync(join(elsewhere, 'secret'), join(root, 'outer'))
      execFileSync('mkfifo', [join(root, 'fifo')])
      expect(ids(streams)).to.deep.equal(['.hidden', 'B', 'a', 'a-1', 'b'])
      expect(streams.list().problems).to.deep.equal([])
      expect(streams.list().images[2]).to.deep.equal({
        id: 'a',
        name: 'a',
        size: 1,
        etag: etagOf(join(root, 'a')),
        modifiedNs: statSync(join(root, 'a'), {bigint: true}).mtimeNs,
        isPublic: true,
        origin: 'directory',
      })
    }))

  it('gives by id what is not listed but inside, and nothing else', () =>
    withWorld(({root, elsewhere, streams, put}) => {
      put('a', 'a')
      put('dir/inside', 'inside')
      writeFileSync(join(elsewhere, 'secret'), 'secret')
      symlinkSync('dir/inside', join(root, 'inner'))
      symlinkSync(join(elsewhere, 'secret'), join(root, 'outer'))
      symlinkSync(elsewhere, join(root, 'way'))
      symlinkSync('loop', join(root, 'loop'))
      symlinkSync('/dev/zero', join(root, 'device'))
      symlinkSync('nowhere', join(root, 'dangling'))
      execFileSync('mkfifo', [join(root, 'fifo')])
      expect(found(streams, 'inner').size).to.equal(6)
      for (const id of ['outer', 'way', 'loop', 'device', 'dangling', 'fifo', 'dir', 'none'])
        expect(streams.find(id), id).to.equal(undefined)
      for (const id of ['.', '..', 'dir/inside', '', 'a\0', '../elsewhere/secret'])
        expect(streams.find(id), id).to.equal(undefined)
    }))

  it('is not misled by a neighbour whose name begins like its own', () =>
    withWorld(({root, streams}) => {
      mkdirSync(`${root}-other`)
      writeFileSync(`${root}-other/x`, 'x')
      symlinkSync(`${root}-other/x`, join(root, 'x'))
      expect(streams.find('x')).to.equal(undefined)
    }))

  it('shows at the next look what was added, changed, replaced and removed', () =>
    withWorld(({root, streams, put}) => {
      expect(ids(streams)).to.deep.equal([])
      put('a', 'one')
      expect(ids(streams)).to.deep.equal(['a'])
      const first = found(streams, 'a')
      put('a', 'other')
      const second = found(streams, 'a')
      expect([first.size, second.size]).to.deep.equal([3, 5])
      expect(second.etag)
        .to.equal(etagOf(join(root, 'a')))
        .and.not.to.equal(first.etag)
      put('b', 'third')
      utimesSync(join(root, 'b'), 1, 1)
      renameSync(join(root, 'b'), join(root, 'a'))
      expect(found(streams, 'a').etag).to.equal('"5-1-0"')
      rmSync(join(root, 'a'))
      expect(streams.find('a')).to.equal(undefined)
      expect(ids(streams)).to.deep.equal([])
    }))

  it('tells no time before 1970', () =>
    withWorld(({root, streams, put}) => {
      put('old', '0123456789abcdef')
      execFileSync('touch', ['-d', '1965-06-01T00:00:00.5Z', join(root, 'old')])
      expect(found(streams, 'old')).to.include({etag: '"10-0-0"', modifiedNs: undefined})
    }))

  it('names a file that is too large to count in', () =>
    withTempDir((dir) => {
      // A file system in memory takes sizes that one on a disk refuses.
      const root = join('/dev/shm', dir.replaceAll('/', '-'))
      mkdirSync(root)
      const streams = openStreams({imagesRoot: root, requireManifest: false, log: memoryLog([])})
      try {
        writeFileSync(join(root, 'large'), '')
        execFileSync('truncate', ['-s', '9007199254740991', join(root, 'large')])
        expect(found(streams, 'large').size).to.equal(Number.MAX_SAFE_INTEGER)
        execFileSync('truncate', ['-s', '9007199254740992', join(root, 'large')])
        expect(streams.find('large')).to.equal(undefined)
        expect(streams.list().problems).to.deep.equal([
          {id: 'large', reason: 'it is larger than 2^53-1 bytes', kind: 'file'},
        ])
      } finally {
        streams.close()
        rmSync(root, {recursive: true})
      }
    }))

  it('is refused where a catalog is required', () =>
    withWorld(
      ({streams, put, catalog}) => {
        put('a', 'a')
        for (const act of [
          () => streams.list(),
          () => streams.find('a'),
          () => streams.openChunked('a', undefined, undefined),
        ])
          expect(codeOf(act)).to.equal('catalog_invalid')
        catalog([{id: 'x', file: 'a', name: 'A'}])
        expect(ids(streams)).to.deep.equal(['x'])
      },
      {requireManifest: true},
    ))

  it('must be there and readable when it is opened', () =>
    withTempDir((dir) => {
      for (const name of ['none', 'file']) {
        writeFileSync(join(dir, 'file'), '')
        const open = (): unknown =>
          openStreams({imagesRoot: join(dir, name), requireManifest: false, log: memoryLog([])})
        expect(codeOf(open), name).to.equal('io_failed')
      }
    }))

  it('may be a link, and is then the directory that it led to at the start', () =>
    withTempDir((dir) => {
      mkdirSync(join(dir, 'one'))
      mkdirSync(join(dir, 'two'))
      writeFileSync(join(dir, 'one/a'), 'a')
      symlinkSync('one', join(dir, 'current'))
      const streams = openStreams({
        imagesRoot: join(dir, 'current'),
        requireManifest: false,
        log: memoryLog([]),
      })
      rmSync(join(dir, 'current'))
      symlinkSync('two', join(dir, 'current'))
      expect(ids(streams)).to.deep.equal(['a'])
      streams.close()
    }))
})

describe('a catalog', () => {
  it('names what is served, in its order, with its own words about it', () =>
    withWorld(({root, streams, put, catalog}) => {
      put('linux/z.img', 'zzz')
      put('a.img', 'aaaa')
      catalog([
        {id: 'z', file: 'linux/z.img', name: 'Z', public: false, recommended_chunk_size_bytes: 512},
        {id: 'a', file: './a.img', name: 'A', description: 'first', etag: 'W/"r3"'},
        {id: 'dated', file: 'a.img', name: '', last_modified: '2026-01-10T00:00:00.5Z'},
      ])
      const {images, problems} = streams.list()
      expect(problems).to.deep.equal([])
      expect(images).to.deep.equal([
        {
          id: 'z',
          name: 'Z',
          size: 3,
          etag: etagOf(join(root, 'linux/z.img')),
          modifiedNs: statSync(join(root, 'linux/z.img'), {bigint: true}).mtimeNs,
          isPublic: false,
          recommendedChunkSize: 512,
          origin: 'catalog',
        },
        {
          id: 'a',
          name: 'A',
          description: 'first',
          size: 4,
          etag: 'W/"r3"',
          modifiedNs: statSync(join(root, 'a.img'), {bigint: true}).mtimeNs,
          isPublic: true,
          origin: 'catalog',
        },
        {
          id: 'dated',
          name: '',
          size: 4,
          etag: '"4-69619680-1dcd6500"',
          modifiedNs: 1_768_003_200_500_000_000n,
          isPublic: true,
          origin: 'catalog',
        },
      ])
      const image = found(streams, 'a')
      expect(image).to.deep.include(images[1])
      const file = image.open()
      expect(file).to.include({size: 4, etag: 'W/"r3"', modifiedNs: images[1]?.modifiedNs})
      file.release()
      for (const id of ['a.img', 'manifest.json', 'linux'])
        expect(streams.find(id), id).to.equal(undefined)
    }))

  it('is seen when it appears, changes and goes', () =>
    withWorld(({root, streams, put, catalog}) => {
      put('a', 'a')
      put('b', 'b')
      expect(ids(streams)).to.deep.equal(['a', 'b'])
      for (const id of ['x', 'y', 'z', 'x']) {
        catalog([{id, file: 'a', name: id}])
        expect(ids(streams)).to.deep.equal([id])
      }
      catalog([{id: 'y', file: 'b', name: 'Y'}])
      renameSync(join(root, 'manifest.json'), join(root, 'other'))
      expect(ids(streams)).to.deep.equal(['a', 'b', 'other'])
      renameSync(join(root, 'other'), join(root, 'manifest.json'))
      expect(ids(streams)).to.deep.equal(['y'])
    }))

  it('loses one entry to one missing or unfit file, and says so once', () =>
    withWorld(({root, elsewhere, streams, lines, put, catalog}) => {
      put('a', 'a')
      writeFileSync(join(elsewhere, 'secret'), 'secret')
      symlinkSync(join(elsewhere, 'secret'), join(root, 'outer'))
      catalog(
        [
          ['a', 'a'],
          ['gone', 'gone'],
          ['outer', 'outer'],
          ['dir', '.'],
          ['under', 'a/b'],
        ].map(([id, file]) => ({id, file, name: 'x'})),
      )
      for (let i = 0; i < 3; i++) {
        expect(ids(streams)).to.deep.equal(['a'])
        for (const id of ['gone', 'outer', 'dir', 'under'])
          expect(streams.find(id), id).to.equal(undefined)
      }
      expect(streams.list().problems).to.deep.equal([
        {id: 'gone', reason: 'the file is missing', kind: 'file'},
        {id: 'outer', reason: 'it is outside the images directory', kind: 'file'},
        {id: 'dir', reason: 'it is not a regular file', kind: 'file'},
        {id: 'under', reason: 'the file is missing', kind: 'file'},
      ])
      const warnings = lines.filter(({level}) => level === 'warn')
      expect(warnings.map(({fields}) => fields['image_id'])).to.deep.equal([
        ...['gone', 'outer', 'dir', 'under'],
      ])
      put('gone', 'back')
      expect(found(streams, 'gone').size).to.equal(4)
      rmSync(join(root, 'gone'))
      expect(streams.find('gone')).to.equal(undefined)
      expect(lines.filter(({fields}) => fields['image_id'] === 'gone')).to.have.length(3)
    }))

  it('loses one bad entry, which hides what the directory or the store has under its id', () =>
    withWorld(({streams, lines, put, catalog}) => {
      put('a', 'a')
      put('chunked/bad/manifest.json', '{}')
      catalog([
        {id: 'a', file: 'a', name: 'A'},
        {id: 'bad', file: 'a', name: 'B', etag: 'x'},
      ])
      for (let i = 0; i < 3; i++) expect(ids(streams)).to.deep.equal(['a'])
      const [problem] = streams.list().problems
      expect(problem).to.include({id: 'bad', kind: 'entry'})
      expect(streams.find('bad')).to.equal(undefined)
      expect(streams.openChunked('bad', undefined, undefined)).to.equal(undefined)
      expect(streams.versions('bad')).to.deep.equal([])
      const errors = lines.filter(({level}) => level === 'error')
      expect(errors).to.have.length(1)
      expect(errors[0]?.fields).to.include({image_id: 'bad'}).and.to.have.property('reason')
    }))

  it('stops everything while it is invalid, says so once, and is taken again at once', () =>
    withWorld(({root, streams, lines, put, catalog}) => {
      put('a', 'a')
      const good = [{id: 'a', file: 'a', name: 'A'}]
      for (const [text, reason] of [
        ['{', 'not JSON'],
        ['[]', 'no images'],
        [JSON.stringify([...good, ...good]), 'twice'],
      ] as const) {
        put('manifest.json', text)
        for (const act of [
          () => streams.list(),
          () => streams.find('a'),
          () => streams.openChunked('a', undefined, undefined),
          () => streams.versions('a'),
        ])
          expect(codeOf(act)).to.equal('catalog_invalid')
        const errors = lines.splice(0).filter(({level}) => level === 'error')
        expect(errors).to.have.length(1)
        expect(errors[0]?.fields['reason']).to.include(reason)
        catalog(good)
        expect(ids(streams)).to.deep.equal(['a'])
      }
      rmSync(join(root, 'manifest.json'))
      mkdirSync(join(root, 'manifest.json'))
      expect(codeOf(() => streams.list())).to.equal('catalog_invalid')
      rmSync(join(root, 'manifest.json'), {recursive: true})
      execFileSync('mkfifo', [join(root, 'manifest.json')])
      expect(codeOf(() => streams.list())).to.equal('catalog_invalid')
    }))

  it('of ten thousand images is listed whole', () =>
    withWorld(({streams, put, catalog}) => {
      const names = Array.from({length: 10_000}, (_, index) => `image-${index}`)
      for (let index = 0; index < 100; index++) put(`file-${index}`, '')
      catalog(names.map((id, index) => ({id, file: `file-${index % 100}`, name: id})))
      for (let i = 0; i < 3; i++) expect(ids(streams)).to.deep.equal(names)
      expect(streams.list().problems).to.deep.equal([])
    }))

  it('whose files are all gone makes a few lines in the log', () =>
    withWorld(({streams, lines, catalog}) => {
      const names = Array.from({length: 500}, (_, index) => `image-${index}`)
      catalog(names.map((id) => ({id, file: id, name: id})))
      for (let i = 0; i < 3; i++) expect(streams.list().problems).to.have.length(500)
      const warnings = lines.filter(({level}) => level === 'warn')
      expect(warnings).to.have.length(21)
      expect(warnings.at(-1)?.fields).to.deep.equal({images: 480})
    }))
})

describe('the chunked form', () => {
  const open = (
    streams: Streams,
    ...of: [string, string | undefined, string | undefined]
  ): number | undefined => {
    const chunked = streams.openChunked(...of)
    chunked?.file?.release()
    return chunked?.file?.size
  }

  it('is found flat and by version in a bare directory, without the image itself', () =>
    withWorld(({root, streams, put}) => {
      put('chunked/a/manifest.json', '1')
      put('chunked/a/chunks/0.bin', '22')
      put('chunked/a/v1/manifest.json', '333')
      put('chunked/a/v1/chunks/00000000.bin', '4444')
      put('chunked/a/chunks/manifest.json', '55555')
      put('chunked/a/draft/chunks/0.bin', 'x')
      expect(open(streams, 'a', undefined, undefined)).to.equal(1)
      expect(open(streams, 'a', undefined, '0.bin')).to.equal(2)
      expect(open(streams, 'a', 'v1', undefined)).to.equal(3)
      expect(open(streams, 'a', 'v1', '00000000.bin')).to.equal(4)
      expect(open(streams, 'a', 'chunks', undefined)).to.equal(5)
      for (const [id, version, name] of [
        ['a', 'v1', '0.bin'],
        ['a', 'v2', undefined],
        ['b', undefined, undefined],
        ['a', '..', undefined],
        ['a', undefined, '../manifest.json'],
        ['a/v1', undefined, undefined],
      ] as const)
        expect(open(streams, id, version, name)).to.equal(undefined)
      expect(streams.versions('a')).to.deep.equal(['', 'chunks', 'v1'])
      expect(streams.versions('none')).to.deep.equal([])
      const chunk = streams.openChunked('a', 'v1', undefined)
      expect(chunk?.isPublic).to.equal(true)
      expect(chunk?.file?.etag).to.equal(etagOf(join(root, 'chunked/a/v1/manifest.json')))
      chunk?.file?.release()
    }))

  it('follows the version that the catalog names, and its word on who may see it', () =>
    withWorld(({streams, put, catalog}) => {
      put('chunked/a/manifest.json', '1')
      put('chunked/a/v1/manifest.json', '333')
      put('chunked/b/manifest.json', '1')
      const entry = {id: 'a', file: 'gone', name: 'A', etag: '"own"', public: false}
      catalog([entry])
      expect(open(streams, 'a', undefined, undefined)).to.equal(1)
      catalog([{...entry, chunked_version: 'v1'}])
      expect(open(streams, 'a', undefined, undefined)).to.equal(3)
      const chunked = streams.openChunked('a', undefined, undefined)
      expect(chunked?.isPublic).to.equal(false)
      expect(chunked?.file?.etag).not.to.equal('"own"')
      chunked?.file?.release()
      catalog([{...entry, chunked_version: 'v2'}])
      expect(open(streams, 'a', undefined, undefined)).to.equal(undefined)
      expect(open(streams, 'a', 'v1', undefined)).to.equal(3)
      expect(open(streams, 'b', undefined, undefined)).to.equal(undefined)
      expect(streams.versions('b')).to.deep.equal([])
    }))

  it('is not led outside by links anywhere on the way', () =>
    withWorld(({root, elsewhere, streams, put}) => {
      mkdirSync(join(elsewhere, 'v1/chunks'), {recursive: true})
      writeFileSync(join(elsewhere, 'v1/manifest.json'), 'secret')
      writeFileSync(join(elsewhere, 'v1/chunks/0.bin'), 'secret')
      put('chunked/a/v0/manifest.json', '1')
      put('chunked/a/v0/chunks/1.bin', '22')
      symlinkSync(join(elsewhere, 'v1'), join(root, 'chunked/a/v1'))
      symlinkSync(join(elsewhere, 'v1/chunks/0.bin'), join(root, 'chunked/a/v0/chunks/0.bin'))
      symlinkSync('v0', join(root, 'chunked/a/current'))
      symlinkSync(elsewhere, join(root, 'chunked/b'))
      expect(open(streams, 'a', 'v1', undefined)).to.equal(undefined)
      expect(open(streams, 'a', 'v1', '0.bin')).to.equal(undefined)
      expect(open(streams, 'a', 'v0', '0.bin')).to.equal(undefined)
      expect(open(streams, 'b', 'v1', undefined)).to.equal(undefined)
      expect(open(streams, 'a', 'current', '1.bin')).to.equal(2)
      expect(streams.versions('a')).to.deep.equal(['current', 'v0'])
      expect(streams.versions('b')).to.deep.equal([])
    }))
})

describe("the store's own disks", () => {
  const sha256 = 'ab'.repeat(32) as Digest

  /** One disk of four bytes, in a store beside the images. */
  function withDisk(body: (world: World & {disk: StoreDisk; path: string}) => void): Promise<void> {
    const disks: StoreDisk[] = []
    return withWorld(
      (world) => {
        const path = join(world.elsewhere, 'disk.raw')
        writeFileSync(path, 'disk')
        const disk = {id: 'd', name: 'Disk', isPublic: true, path, size: 4, sha256}
        disks.push(disk)
        body({...world, disk, path})
      },
      {disks: () => disks},
    )
  }

  it('stand behind those of the directory, with a tag of their digest', () =>
    withDisk(({streams, put, path}) => {
      put('z', 'z')
      const {images} = streams.list()
      expect(images.map(({id}) => id)).to.deep.equal(['z', 'd'])
      expect(images[1]).to.deep.equal({
        id: 'd',
        name: 'Disk',
        size: 4,
        etag: `"sha256-${sha256}"`,
        modifiedNs: statSync(path, {bigint: true}).mtimeNs,
        isPublic: true,
        sha256,
        origin: 'store',
      })
      const file = found(streams, 'd').open()
      expect(file).to.include({size: 4, etag: `"sha256-${sha256}"`})
      file.release()
    }))

  it('are hidden by an image of the directory with the same id, which is logged once', () =>
    withDisk(({root, streams, lines, put, catalog}) => {
      put('d', 'directory')
      for (let i = 0; i < 3; i++) expect(ids(streams)).to.deep.equal(['d'])
      expect(found(streams, 'd')).to.include({origin: 'directory', size: 9})
      const clashes = (): number =>
        lines.filter(({level, fields}) => level === 'warn' && fields['image_id'] === 'd').length
      expect(clashes()).to.equal(1)
      rmSync(join(root, 'd'))
      expect(found(streams, 'd').origin).to.equal('store')
      expect(streams.list().images[0]?.origin).to.equal('store')
      put('other', 'x')
      catalog([{id: 'd', file: 'other', name: 'D'}])
      expect(found(streams, 'd')).to.include({origin: 'catalog', size: 1})
      for (let i = 0; i < 3; i++) expect(streams.list().images).to.have.length(1)
      expect(clashes()).to.equal(2)
      rmSync(join(root, 'other'))
      expect(streams.find('d')).to.equal(undefined)
    }))

  it('are hidden by a linked file that the directory serves but does not list', () =>
    withDisk(({root, streams, put}) => {
      put('z', 'z')
      symlinkSync('z', join(root, 'd'))
      expect(found(streams, 'd').origin).to.equal('directory')
      expect(ids(streams)).to.deep.equal(['z'])
    }))

  it('are left out when their file is not what the store wrote', () =>
    withDisk(({streams, path}) => {
      truncateSync(path, 3)
      expect(streams.find('d')).to.equal(undefined)
      expect(streams.list()).to.deep.equal({
        images: [],
        problems: [{id: 'd', reason: 'its file has 3 bytes and should have 4', kind: 'file'}],
      })
      rmSync(path)
      expect(streams.list().problems[0]?.reason).to.equal('the file is missing')
    }))

  it('may have a chunked form in the directory', () =>
    withDisk(({streams, put, catalog}) => {
      put('chunked/d/v1/manifest.json', '333')
      put('a', 'a')
      expect(streams.versions('d')).to.deep.equal(['v1'])
      catalog([{id: 'a', file: 'a', name: 'A'}])
      expect(ids(streams)).to.deep.equal(['a', 'd'])
      expect(streams.versions('d')).to.deep.equal(['v1'])
    }))
})

describe('trouble with a file', () => {
  before(function () {
    // Root may read what nobody may.
    if (process.getuid?.() === 0) process.setegid?.(65_534)
    if (process.getuid?.() === 0) process.seteuid?.(65_534)
  })
  after(() => {
    if (process.getuid?.() === 0) process.seteuid?.(0)
    if (process.getuid?.() === 0) process.setegid?.(0)
  })

  it('that may not be read is an error when it is opened, and its metadata are served', () =>
    withWorld(({root, streams, put}) => {
      put('a', 'a')
      chmodSync(join(root, 'a'), 0)
      const image = found(streams, 'a')
      expect(codeOf(() => image.open())).to.equal('permission_denied')
    }))

  it('in a closed directory is an error, and a problem of that image in the list', () =>
    withWorld(({root, streams, put, catalog}) => {
      put('dir/a', 'a')
      put('b', 'b')
      catalog([
        {id: 'a', file: 'dir/a', name: 'A'},
        {id: 'b', file: 'b', name: 'B'},
      ])
      chmodSync(join(root, 'dir'), 0)
      expect(codeOf(() => streams.find('a'))).to.equal('permission_denied')
      expect(ids(streams)).to.deep.equal(['b'])
      const reason = 'it cannot be read (EACCES)'
      expect(streams.list().problems).to.deep.equal([{id: 'a', reason, kind: 'file'}])
      chmodSync(join(root, 'dir'), 0o700)
    }))
})

describe('an opened image', () => {
  it('is what was found, or an error when it was replaced in between', () =>
    withWorld(({root, streams, put}) => {
      put('a', 'one')
      const stale = found(streams, 'a')
      put('a', 'other')
      expect(codeOf(() => stale.open())).to.equal('disk_changed')
      rmSync(join(root, 'a'))
      expect(codeOf(() => stale.open())).to.equal('disk_changed')
    }))

  it('notices that it is rewritten, cut or extended', () =>
    withWorld(({root, streams, put}) => {
      for (const change of [
        () => put('a', 'two'),
        () => truncateSync(join(root, 'a'), 1),
        () => truncateSync(join(root, 'a'), 10),
      ]) {
        put('a', 'one')
        utimesSync(join(root, 'a'), 1, 1)
        const file = found(streams, 'a').open()
        expect(file.isUnchanged()).to.equal(true)
        change()
        expect(file.isUnchanged()).to.equal(false)
        file.release()
      }
    }))

  it('notices a rewriting whose time was put back', () =>
    withWorld(({root, streams, put}) => {
      put('a', 'one')
      utimesSync(join(root, 'a'), 1, 1)
      const file = found(streams, 'a').open()
      // The change time goes in steps of the kernel's tick.
      const {ctimeNs} = lstatSync(join(root, 'a'), {bigint: true})
      do {
        put('a', 'two')
        utimesSync(join(root, 'a'), 1, 1)
      } while (lstatSync(join(root, 'a'), {bigint: true}).ctimeNs === ctimeNs)
      expect(file.isUnchanged()).to.equal(false)
      const again = found(streams, 'a').open()
      expect(again.fd).not.to.equal(file.fd)
      file.release()
      again.release()
    }))

  it('stays as it is for its readers when another takes its place, or its name goes', () =>
    withWorld(({root, elsewhere, streams, put}) => {
      put('a', 'one')
      linkSync(join(root, 'a'), join(elsewhere, 'kept'))
      const file = found(streams, 'a').open()
      put('b', 'two')
      renameSync(join(root, 'b'), join(root, 'a'))
      expect(file.isUnchanged()).to.equal(true)
      rmSync(join(elsewhere, 'kept'))
      expect(file.isUnchanged()).to.equal(true)
      const next = found(streams, 'a').open()
      expect(next.fd).not.to.equal(file.fd)
      file.release()
      next.release()
    }))
})
