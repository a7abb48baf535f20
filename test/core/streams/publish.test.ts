import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {parseChunkManifest} from '../../../src/core/chunk-map.ts'
import {armFailpoint, disarmFailpoints} from '../../../src/core/failpoint.ts'
import {
  joinChunks,
  makeDisk,
  namesBelow,
  publish,
  randomBytesOf,
  readManifest,
  sha256,
  verify,
} from '../../support/disk-images.ts'
import {rejection} from '../../support/source-options.ts'

describe('publishing a disk image to a directory', () => {
  let dir = ''
  let root = ''
  let disk = ''
  const content = randomBytesOf(9000)
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    root = join(dir, 'images')
    disk = join(dir, 'debian.img')
    makeDisk(disk, 40_448, [{at: 10_000, bytes: content}])
  })
  afterEach(() => {
    disarmFailpoints()
    rmSync(dir, {recursive: true})
  })
  const at = (...parts: string[]): string => join(root, 'chunked', 'debian.img', ...parts)

  it('writes chunks, a manifest and meta.json, and nothing else', async () => {
    const report = await publish(disk, root, {version: 'r1'})
    expect(report).to.deep.include({
      id: 'debian.img',
      version: 'r1',
      place: at('r1'),
      outcome: 'published',
      totalSize: 40_448,
      chunkSize: 4096,
      chunkCount: 10,
      zeroChunks: 7,
      writtenChunks: 10,
      keptChunks: 0,
    })
    expect(namesBelow(root)).to.deep.equal([
      'chunked',
      'chunked/debian.img',
      'chunked/debian.img/r1',
      'chunked/debian.img/r1/chunks',
      'chunked/debian.img/r1/manifest.json',
      'chunked/debian.img/r1/meta.json',
    ])
    expect(joinChunks(at('r1')).equals(readFileSync(disk))).to.equal(true)
    const bytes = readFileSync(at('r1', 'manifest.json'))
    const parsed = parseChunkManifest(bytes, {needsImageId: true})
    expect(parsed).to.have.property('manifest')
    const manifest = readManifest(at('r1'))
    expect(manifest.chunks?.[9]).to.deep.equal({size: 3584, sha256: sha256(Buffer.alloc(3584))})
    expect(manifest).to.include({imageId: 'debian.img', version: 'r1', chunkIndexWidth: 8})
    const meta = JSON.parse(readFileSync(at('r1', 'meta.json'), 'utf8')) as Record<string, unknown>
    expect(Object.keys(meta)).to.deep.equal([
      'createdAt',
      'originalFilename',
      'totalSize',
      'chunkSize',
      'chunkCount',
      'checksumAlgorithm',
    ])
    expect(meta['originalFilename']).to.equal('debian.img')
    expect(await verify(at('r1'))).to.include({problemCount: 0, checkedChunks: 10})
  })

  it('keeps chunks of zeros as holes', async () => {
    makeDisk(disk, 2 ** 22)
    await publish(disk, root, {version: 'r1', chunkSize: 2 ** 20})
    for (const name of readdirSync(at('r1', 'chunks'))) {
      const {size, blocks} = statSync(at('r1', 'chunks', name))
      expect(size).to.equal(2 ** 20)
      expect(blocks).to.be.at.most(8)
    }
  })

  it('makes a version of the digest of the whole, in one pass and in two', async () => {
    const whole = sha256(readFileSync(disk))
    const report = await publish(disk, root, {version: 'sha256'})
    expect(report).to.include({version: `sha256-${whole}`, sha256: whole, outcome: 'published'})
    expect(readManifest(at(`sha256-${whole}`)).version).to.equal(`sha256-${whole}`)
    expect(await publish(disk, root, {version: 'sha256'})).to.include({outcome: 'unchanged'})
    makeDisk(disk, 8192)
    const second = await publish(disk, root, {version: 'sha256'})
    expect(second).to.include({outcome: 'published', sha256: sha256(Buffer.alloc(8192))})
    expect(readdirSync(at())).to.have.length(2)
  })

  it('has a flat layout without a version, whose version changes with the content', async () => {
    const report = await publish(disk, root, {isLatest: true, hasMeta: false})
    expect(readdirSync(at()).toSorted()).to.deep.equal(['chunks', 'latest.json', 'manifest.json'])
    expect(report.version).to.match(/^chunks-sha256-[0-9a-f]{64}$/)
    expect(await verify(at())).to.have.property('problemCount', 0)
    expect(await publish(disk, root)).to.include({outcome: 'unchanged', version: report.version})
    await publish(disk, root, {version: 'r1'})
    expect(await verify(at())).to.have.property('problemCount', 0)
    expect(await verify(at('r1'))).to.have.property('problemCount', 0)
    makeDisk(disk, 8192)
    const other = await publish(disk, root, {isForced: true})
    expect(other.outcome).to.equal('replaced')
    expect(other.version).to.not.equal(report.version)
    expect(await verify(at())).to.include({problemCount: 0, checkedChunks: 2})
    expect(namesBelow(at()).filter((name) => name.includes('~'))).to.deep.equal([])
  })

  it('points latest.json to a version when told to', async () => {
    await publish(disk, root, {version: 'r1', isLatest: true})
    expect(JSON.parse(readFileSync(at('latest.json'), 'utf8'))).to.deep.equal({
      schema: 'aero.chunked-disk-image.latest.v1',
      imageId: 'debian.img',
      version: 'r1',
      manifestKey: 'chunked/debian.img/r1/manifest.json',
    })
    await publish(disk, root, {version: 'r2'})
    expect(readFileSync(at('latest.json'), 'utf8')).to.contain('"r1"')
    await publish(disk, root, {version: 'r2', isLatest: true})
    expect(readFileSync(at('latest.json'), 'utf8')).to.contain('"r2"')
  })

  it('checks what is there, touches nothing of it, and mends what is damaged', async () => {
    await publish(disk, root, {version: 'r1'})
    const before = statSync(at('r1', 'manifest.json')).mtimeMs
    const chunk = at('r1', 'chunks', '00000003.bin')
    const {ino} = statSync(chunk)
    expect(await publish(disk, root, {version: 'r1'})).to.include({
      outcome: 'unchanged',
      writtenChunks: 0,
      keptChunks: 10,
    })
    expect(statSync(chunk).ino).to.equal(ino)
    const bytes = readFileSync(chunk)
    writeFileSync(chunk, Buffer.alloc(bytes.length, 9))
    rmSync(at('r1', 'chunks', '00000004.bin'))
    truncateSync(at('r1', 'chunks', '00000005.bin'), 1)
    rmSync(at('r1', 'chunks', '00000006.bin'))
    symlinkSync(disk, at('r1', 'chunks', '00000006.bin'))
    rmSync(at('r1', 'chunks', '00000007.bin'))
    mkdirSync(at('r1', 'chunks', '00000007.bin'))
    expect(await publish(disk, root, {version: 'r1'})).to.include({
      outcome: 'mended',
      writtenChunks: 5,
    })
    expect(readFileSync(chunk).equals(bytes)).to.equal(true)
    expect(statSync(at('r1', 'manifest.json')).mtimeMs).to.equal(before)
    expect(await verify(at('r1'))).to.have.property('problemCount', 0)
    expect(statSync(disk).size).to.equal(40_448)
  })

  it('refuses another disk under the same version, and leaves the first one whole', async () => {
    await publish(disk, root, {version: 'r1'})
    const before = joinChunks(at('r1'))
    const refusals: [string, () => Promise<unknown>][] = [
      [
        'its chunkSize is 4096, not 8192',
        () => publish(disk, root, {version: 'r1', chunkSize: 8192}),
      ],
      [
        'chunk 2 differs',
        () => {
          makeDisk(disk, 40_448, [{at: 10_000, bytes: Buffer.alloc(9000, 1)}])
          return publish(disk, root, {version: 'r1', concurrency: 1})
        },
      ],
      [
        'its totalSize is 40448, not 512',
        () => {
          makeDisk(disk, 512)
          return publish(disk, root, {version: 'r1'})
        },
      ],
    ]
    for (const [difference, act] of refusals) {
      const error = await rejection(act())
      expect(error).to.include({code: 'disk_taken', exit: 11})
      expect(String(error)).to.contain(difference)
    }
    expect(joinChunks(at('r1')).equals(before)).to.equal(true)
    expect(await publish(disk, root, {version: 'r1', isForced: true})).to.include({
      outcome: 'replaced',
    })
    expect(joinChunks(at('r1')).equals(Buffer.alloc(512))).to.equal(true)
    expect(readdirSync(at())).to.deep.equal(['r1'])
  })

  it('refuses to write over an invalid manifest and over chunks without one, unless forced', async () => {
    mkdirSync(at('r1', 'chunks'), {recursive: true})
    mkdirSync(at('r2'), {recursive: true})
    writeFileSync(at('r2', 'manifest.json'), '{}')
    for (const version of ['r1', 'r2']) {
      expect(await rejection(publish(disk, root, {version}))).to.include({code: 'disk_taken'})
      await publish(disk, root, {version, isForced: true})
      expect(await verify(at(version))).to.have.property('problemCount', 0)
    }
  })

  for (const version of ['r1', undefined, 'sha256']) {
    const layout = version ?? 'no version'
    for (const name of [
      'streams.chunk_written',
      'streams.chunks_synced',
      'streams.staged',
      'streams.chunks_shown',
      version === undefined ? 'streams.flat_shown' : 'streams.shown',
    ]) {
      it(`goes on with ${layout} after it was cut off at ${name}`, async () => {
        if (name === 'streams.chunks_shown' && version !== undefined) return
        const wish = version === undefined ? {} : {version}
        armFailpoint(name, 'throw', name === 'streams.chunk_written' ? 4 : 0)
        await rejection(publish(disk, root, {...wish, concurrency: 2}))
        disarmFailpoints()
        const shown = existsSync(at('manifest.json')) || readdirSync(at()).some(isShown)
        expect(shown).to.equal(name.endsWith('shown') && name !== 'streams.chunks_shown')
        const report = await publish(disk, root, wish)
        expect(report.outcome).to.equal(shown ? 'unchanged' : 'published')
        if (name === 'streams.chunk_written') expect(report.keptChunks).to.be.at.least(4)
        else expect(report.writtenChunks).to.equal(0)
        expect(await verify(report.place)).to.have.property('problemCount', 0)
        expect(joinChunks(report.place).equals(readFileSync(disk))).to.equal(true)
      })
    }
  }
  const isShown = (name: string): boolean =>
    !name.includes('~') && existsSync(at(name, 'manifest.json'))

  it('shows no manifest beside foreign chunks when a flat one is replaced and cut off', async () => {
    for (const name of ['streams.manifest_retired', 'streams.chunks_shown']) {
      rmSync(root, {recursive: true, force: true})
      makeDisk(disk, 40_448, [{at: 10_000, bytes: content}])
      await publish(disk, root)
      makeDisk(disk, 20_480, [{at: 0, bytes: content}])
      armFailpoint(name, 'throw')
      await rejection(publish(disk, root, {isForced: true}))
      disarmFailpoints()
      expect(existsSync(at('manifest.json')), name).to.equal(false)
      await publish(disk, root, {isForced: true})
      expect(await verify(at()), name).to.include({problemCount: 0, checkedChunks: 5})
      expect(joinChunks(at()).equals(readFileSync(disk))).to.equal(true)
      expect(readdirSync(at()).toSorted()).to.deep.equal(['chunks', 'manifest.json', 'meta.json'])
    }
  })

  it('trusts no chunk of an earlier attempt for its size, and drops those of another cut', async () => {
    armFailpoint('streams.staged', 'throw')
    await rejection(publish(disk, root, {version: 'r1', chunkSize: 512}))
    disarmFailpoints()
    const staged = at('r1~publishing', 'chunks', '00000020.bin')
    expect(statSync(staged).size).to.equal(512)
    writeFileSync(at('r1~publishing', 'chunks', '00000000.bin'), Buffer.alloc(4096, 5))
    const report = await publish(disk, root, {version: 'r1'})
    expect(report).to.include({outcome: 'published', writtenChunks: 10})
    expect(await verify(at('r1'))).to.have.property('problemCount', 0)
  })

  it('publishes nothing of a file that changes meanwhile', async () => {
    armFailpoint('streams.chunk_written', () => {
      writeFileSync(disk, Buffer.alloc(40_448, 3))
    })
    const error = await rejection(publish(disk, root, {version: 'r1', concurrency: 1}))
    expect(error).to.include({code: 'file_changed', exit: 11})
    disarmFailpoints()
    expect(existsSync(at('r1'))).to.equal(false)
    await publish(disk, root, {version: 'r1'})
    expect(joinChunks(at('r1')).equals(Buffer.alloc(40_448, 3))).to.equal(true)
  })

  it('ends at a signal, and goes on from there', async () => {
    const controller = new AbortController()
    let steps = 0
    const attempt = publish(disk, root, {
      version: 'r1',
      concurrency: 1,
      signal: controller.signal,
      onProgress: () => {
        if (++steps === 3) controller.abort()
      },
    })
    expect(await rejection(attempt)).to.include({code: 'interrupted', exit: 130})
    expect(await publish(disk, root, {version: 'r1'})).to.include({keptChunks: 3})
  })

  it('lets one of two publishers work, and tells the other', async () => {
    const both = await Promise.allSettled([
      publish(disk, root, {version: 'r1'}),
      publish(disk, root, {version: 'r1'}),
    ])
    expect(both.map(({status}) => status).toSorted()).to.deep.equal(['fulfilled', 'rejected'])
    const lost = both.find((one) => one.status === 'rejected')
    expect(lost?.reason).to.include({code: 'disk_busy', exit: 11})
    expect(await verify(at('r1'))).to.have.property('problemCount', 0)
  })

  it('refuses ids, versions and chunk sizes that the format does not have', async () => {
    for (const [changes, code] of [
      [{id: 'a/b'}, 'wrong_usage'],
      [{id: '..'}, 'wrong_usage'],
      [{version: ''}, 'wrong_usage'],
      [{version: 'a b'}, 'wrong_usage'],
      [{version: 'chunks'}, 'wrong_usage'],
      [{version: 'manifest.json'}, 'wrong_usage'],
      [{chunkSize: 1000}, 'invalid_setting'],
      [{chunkSize: 0}, 'invalid_setting'],
      [{chunkSize: 2 ** 27}, 'invalid_setting'],
      [{to: 'http://bucket/x', version: 'r1'}, 'invalid_source'],
      [{to: 's3://bucket/a//b', version: 'r1'}, 'invalid_source'],
    ] as const) {
      const error = await rejection(publish(disk, root, changes))
      expect(error, JSON.stringify(changes)).to.include({code, exit: 2})
    }
    makeDisk(disk, 2 ** 38)
    const many = await rejection(publish(disk, root, {version: 'r1', chunkSize: 512}))
    expect(many).to.include({code: 'wrong_usage'})
    expect(String(many)).to.contain('500000 are allowed')
    expect(existsSync(root)).to.equal(false)
  })

  it('gives back every image that it was given, however it is cut', async () => {
    const disks = fc.record({
      sectors: fc.integer({min: 1, max: 40}),
      chunkSectors: fc.integer({min: 1, max: 20}),
      concurrency: fc.integer({min: 1, max: 5}),
      filled: fc.array(fc.integer({min: 0, max: 39}), {maxLength: 6}),
      version: fc.constantFrom('r1', 'sha256', undefined),
    })
    await fc.assert(
      fc.asyncProperty(disks, async ({sectors, chunkSectors, concurrency, filled, version}) => {
        rmSync(root, {recursive: true, force: true})
        const bytes = Buffer.alloc(sectors * 512)
        for (const sector of filled.filter((at) => at < sectors))
          bytes.fill(sector + 1, sector * 512, sector * 512 + 512)
        writeFileSync(disk, bytes)
        const report = await publish(disk, root, {
          chunkSize: chunkSectors * 512,
          concurrency,
          ...(version === undefined ? {} : {version}),
        })
        expect(joinChunks(report.place).equals(bytes)).to.equal(true)
        expect(await verify(report.place)).to.have.property('problemCount', 0)
        if (version === 'sha256') expect(report.sha256).to.equal(sha256(bytes))
      }),
      {numRuns: 25},
    )
  })
})
