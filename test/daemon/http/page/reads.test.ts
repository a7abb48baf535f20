import {expect} from 'chai'
import fc from 'fast-check'
import {
  checkManifest,
  chunkUrl,
  judge,
  makePicker,
  rangeRequests,
  type Manifest,
} from '../../../../src/daemon/http/page/ui/reads.js'

const GiB = 2 ** 30

function manifestJson(totalSize: number, chunkSize: number): Record<string, unknown> {
  const chunkCount = Math.ceil(totalSize / chunkSize)
  return {
    schema: 'aero.chunked-disk-image.v1',
    imageId: 'disk',
    version: 'r1',
    mimeType: 'application/octet-stream',
    totalSize,
    chunkSize,
    chunkCount,
    chunkIndexWidth: 8,
    chunks: Array.from({length: chunkCount}, (_, index) => ({
      size: Math.min(chunkSize, totalSize - index * chunkSize),
      sha256: String(index % 10).repeat(64),
    })),
  }
}

function checked(json: unknown): Manifest {
  const manifest = checkManifest(json)
  if (typeof manifest === 'string') throw new Error(manifest)
  return manifest
}

describe('chunk manifest in the page', () => {
  it('takes what the format allows', () => {
    const json = manifestJson(10 * 512, 4096)
    expect(checked(json)).to.deep.include({chunkSize: 4096, chunkCount: 2, chunkIndexWidth: 8})
    expect(checked(json).digests).to.deep.equal(['0'.repeat(64), '1'.repeat(64)])
    expect(checked({...json, chunks: undefined}).digests).to.equal(undefined)
    expect(
      checked({...json, chunks: [{}, {sha256: ` ${'AB'.repeat(32)} `}]}).digests,
    ).to.deep.equal([undefined, 'ab'.repeat(32)])
  })

  const wrong: [string, unknown][] = [
    ['no object', null],
    ['another schema', {schema: 'v2'}],
    ['a size as text', {totalSize: '5120'}],
    ['a size of no sectors', {totalSize: 5121}],
    ['a size past what numbers hold', {totalSize: 2 ** 60}],
    ['an empty disk', {totalSize: 0}],
    ['a chunk past 64 MiB', {chunkSize: 65 * 2 ** 20, chunkCount: 1}],
    ['a count that does not fit', {chunkCount: 3}],
    ['too narrow an index', {chunkIndexWidth: 0}],
    ['too wide an index', {chunkIndexWidth: 33}],
    ['chunks missing', {chunks: [{}]}],
    ['a chunk that is no object', {chunks: [{}, null]}],
    ['a chunk of another size', {chunks: [{size: 4096}, {size: 4096}]}],
    ['a digest that is none', {chunks: [{sha256: 'abc'}, {}]}],
    ['a digest that is a number', {chunks: [{sha256: 5}, {}]}],
  ]
  for (const [name, change] of wrong)
    it(`refuses ${name}`, () => {
      const json = change === null ? null : {...manifestJson(5120, 4096), ...(change as object)}
      expect(checkManifest(json)).to.be.a('string')
    })

  it('never throws, whatever the JSON', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (value, chunks) => {
        checkManifest(value)
        checkManifest({...manifestJson(5120, 4096), chunks})
      }),
    )
  })

  it('finds a chunk beside the manifest and keeps its query', () => {
    const manifest = checked(manifestJson(5120, 4096))
    expect(chunkUrl('http://host/a/chunked/manifest.json?lease=x', manifest, 1)).to.equal(
      'http://host/a/chunked/chunks/00000001.bin?lease=x',
    )
  })
})

describe('the choice of reads', () => {
  it('begins with the start, then the end by suffix, then stays inside', () => {
    fc.assert(
      fc.property(
        fc.integer({min: 1, max: Number.MAX_SAFE_INTEGER}),
        fc.integer({min: 1, max: 8 * 2 ** 20}),
        fc.double({min: 0, max: 1, maxExcluded: true, noNaN: true}),
        (size, readBytes, chance) => {
          const pick = makePicker({size, readBytes, random: () => chance})
          const length = Math.min(size, readBytes)
          expect(pick(0)).to.deep.equal({by: 'range', start: 0, end: length - 1})
          expect(pick(1)).to.deep.include({end: size - 1, isSuffix: true})
          for (const index of [0, 1, 2, 3]) {
            const {start, end} = pick(index)
            expect(start).to.be.at.least(0)
            expect(end).to.be.below(size)
            expect(end - start + 1).to.equal(length)
          }
        },
      ),
    )
  })

  it('reads each chunk once before any twice, and then the other way', () => {
    fc.assert(
      fc.property(
        fc.integer({min: 1, max: 60}),
        fc.infiniteStream(fc.nat(999)),
        (count, chances) => {
          const manifest = checked(manifestJson(count * 512, 512))
          const random = (): number => (chances.next().value ?? 0) / 1000
          const pick = makePicker({size: manifest.totalSize, manifest, readBytes: 1, random})
          const passes = [0, 1].map((pass) =>
            Array.from({length: count}, (_, index) => pick(pass * count + index)),
          )
          for (const reads of passes) {
            const chunks = reads.map(({chunk}) => chunk ?? -1)
            expect(chunks.toSorted((a, b) => a - b)).to.deep.equal([...chunks.keys()])
            for (const {chunk, start, end, sha256} of reads) {
              expect([start, end]).to.deep.equal([(chunk ?? 0) * 512, (chunk ?? 0) * 512 + 511])
              expect(sha256).to.equal(String((chunk ?? 0) % 10).repeat(64))
            }
          }
          const ways = passes.map((reads) => new Map(reads.map(({chunk, by}) => [chunk, by])))
          for (const [chunk, by] of ways[0] ?? []) expect(ways[1]?.get(chunk)).to.not.equal(by)
        },
      ),
    )
  })

  it('reads by chunk only where the image is of another size than its chunked form', () => {
    const manifest = checked(manifestJson(5120, 512))
    const pick = makePicker({size: 700, manifest, readBytes: 1, random: Math.random})
    for (let index = 0; index < 30; index++) expect(pick(index).by).to.equal('chunk')
  })

  it('covers a read with ranges that the server allows', () => {
    fc.assert(
      fc.property(fc.nat(30 * GiB), fc.nat(5000), fc.nat(3000), fc.boolean(), (...drawn) => {
        const [start, more, most, isSuffix] = drawn
        const requests = rangeRequests({by: 'range', start, end: start + more, isSuffix}, most)
        let next = start
        for (const {header, range} of requests) {
          expect(range.start).to.equal(next)
          expect(range.end - range.start).to.be.within(0, Math.max(1, most) - 1)
          expect(header).to.be.oneOf([`bytes=${range.start}-${range.end}`, `bytes=-${more + 1}`])
          next = range.end + 1
        }
        expect(next).to.equal(start + more + 1)
      }),
    )
  })
})

describe('the judgement of an answer', () => {
  const etag = '"a-b-c"'
  const wanted = {range: {start: 10, end: 19}, size: 100, etag}
  const good = {
    etag,
    'content-range': 'bytes 10-19/100',
    'content-length': '10',
    'content-encoding': 'identity',
    'cache-control': 'public, max-age=3600, no-transform',
  }
  const answer = (status: number, headers: Record<string, string>) => ({
    status,
    headers: new Headers(headers),
  })

  it('finds nothing wrong with what a streaming client needs', () => {
    expect(judge(answer(206, good), wanted)).to.equal(undefined)
    expect(judge(answer(200, good), {bytes: 10})).to.equal(undefined)
  })

  const faults: [string, number, Record<string, string>, RegExp][] = [
    ['another version', 200, {etag: '"new"'}, /has changed/],
    ['another version of a range', 206, {etag: '"new"'}, /has changed/],
    ['the whole image', 200, {}, /whole image/],
    ['another range', 206, {'content-range': 'bytes 10-19/101'}, /Content-Range/],
    ['another length', 206, {'content-length': '9'}, /Content-Length/],
    ['a compressed answer', 206, {'content-encoding': 'gzip'}, /compresses/],
    ['an answer that may be transformed', 206, {'cache-control': 'public'}, /no-transform/],
    ['a look-alike of no-transform', 206, {'cache-control': 'x-no-transform'}, /no-transform/],
    ['a missing lease', 401, {}, /lease/],
    ['a missing image', 404, {}, /not found/],
    ['too long a range', 413, {}, /longer/],
    ['a shorter image', 416, {}, /has changed/],
    ['a busy server', 429, {}, /busy/],
    ['anything else', 500, {}, /answer 500/],
  ]
  for (const [name, status, change, expected] of faults)
    it(`names ${name}`, () => {
      expect(judge(answer(status, {...good, ...change}), wanted)).to.match(expected)
    })
})
