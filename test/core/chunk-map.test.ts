import {expect} from 'chai'
import fc from 'fast-check'
import {
  buildChunkManifest,
  chunkBytes,
  chunkName,
  chunkOf,
  parseChunkManifest,
  planChunks,
  type ChunkManifest,
} from '../../src/core/chunk-map.ts'
import {MiB} from '../../src/core/limits.ts'

const digest = 'ab'.repeat(32)
const manifest = {
  schema: 'aero.chunked-disk-image.v1',
  imageId: 'debian12',
  version: 'sha256-9f2c',
  mimeType: 'application/octet-stream',
  totalSize: 10_240,
  chunkSize: 4096,
  chunkCount: 3,
  chunkIndexWidth: 8,
  chunks: [{size: 4096, sha256: digest}, {size: 4096}, {sha256: digest}],
}

const rules = {needsImageId: true}
const parse = (value: unknown, needsImageId = true): ReturnType<typeof parseChunkManifest> =>
  parseChunkManifest(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)), {
    needsImageId,
  })

function reasonOf(changes: object): string {
  const found = parse({...manifest, ...changes})
  if (!('reason' in found)) throw new Error(`taken: ${JSON.stringify(changes)}`)
  return found.reason
}

describe('a chunk manifest', () => {
  it('is read with everything it says', () => {
    expect(parse(manifest)).to.deep.equal({manifest})
    const spelt = {...manifest, chunks: [{}, {}, {sha256: ` ${digest.toUpperCase()}\n`}], extra: 1}
    expect(parse(spelt)).to.deep.equal({
      manifest: {...manifest, chunks: [{}, {}, {sha256: digest}]},
    })
    const {chunks, ...bare} = manifest
    expect(chunks).to.have.length(3)
    expect(parse(bare)).to.deep.equal({manifest: bare})
  })

  it('does without an image id for readers only', () => {
    const {imageId, ...anonymous} = manifest
    expect(imageId).to.equal('debian12')
    expect(parse(anonymous, false)).to.deep.equal({manifest: anonymous})
    expect(parse(anonymous)).to.deep.equal({reason: 'imageId is missing; it must be a string'})
    expect(parse({...manifest, imageId: ' '})).to.deep.equal({reason: 'imageId is blank'})
    expect(parse({...manifest, imageId: 7}, false)).to.have.property('reason')
  })

  it('is refused with the field that breaks a rule', () => {
    expect(reasonOf({totalSize: 10_241})).to.equal(
      'totalSize is 10241; it must be a positive multiple of 512',
    )
    expect(reasonOf({chunks: [{}, {size: 4095}, {}]})).to.equal(
      'chunks[1].size is 4095; it must be 4096',
    )
    for (const [field, values] of Object.entries({
      schema: ['aero.chunked-disk-image.v2', 7, null],
      version: ['', '  ', 7, null],
      mimeType: ['', null],
      totalSize: [0, -512, 513, '10240', 2 ** 53, 10_240.5, true, null],
      chunkSize: [0, 100, 64 * MiB + 512, '4096', null],
      chunkCount: [0, 2, 4, '3', null],
      chunkIndexWidth: [0, 33, -1, '8', null],
      chunks: [null, {}, [], [{}, {}], [{}, {}, {}, {}]],
      'chunks[0]': [],
    }))
      for (const value of values)
        expect(reasonOf({[field]: value}), `${field} ${JSON.stringify(value)}`).to.match(
          new RegExp(`^${field} (is|has)`),
        )
    for (const chunk of [
      null,
      7,
      [],
      {size: 0},
      {size: '2048'},
      {size: 4096},
      {sha256: 'x'},
      {sha256: 7},
    ])
      expect(reasonOf({chunks: [{}, {}, chunk]}), JSON.stringify(chunk)).to.match(/^chunks\[2\]/)
    expect(parse('[]')).to.deep.equal({reason: 'the manifest is not an object'})
    expect(parse('{')).to.have.property('reason').that.includes('not JSON')
    expect(parse(`\ufeff${JSON.stringify(manifest)}`)).to.have.property('reason')
  })

  it('is refused when a number is not written as an integer', () => {
    for (const [whole, odd] of [
      ['10240', '10240.0'],
      ['10240', '1.024e4'],
      [':3', ':3.0'],
    ] as const) {
      const text = JSON.stringify(manifest).replace(whole, odd)
      expect(text).to.include(odd)
      expect(parse(text), odd).to.have.property('reason').that.includes('not an integer')
    }
  })

  it('may have an index exactly as wide as its last chunk needs', () => {
    const many = {
      ...manifest,
      totalSize: 512 * 11,
      chunkSize: 512,
      chunkCount: 11,
      chunks: undefined,
    }
    expect(parse({...many, chunkIndexWidth: 2})).to.have.property('manifest')
    expect(parse({...many, chunkIndexWidth: 1})).to.deep.equal({
      reason: 'chunkIndexWidth is 1; it must be from 2 to 32',
    })
    expect(
      parse({...many, totalSize: 512 * 10, chunkCount: 10, chunkIndexWidth: 1}),
    ).to.have.property('manifest')
  })

  it('has at most 500,000 chunks', () => {
    expect(planChunks(512 * 500_000, 512).chunkCount).to.equal(500_000)
    expect(() => planChunks(512 * 500_001, 512)).to.throw('500001 chunks')
    expect(() => planChunks(512, 64 * MiB + 512)).to.throw('chunkSize')
    expect(() => planChunks(100, 512)).to.throw('totalSize')
  })

  it('is built so that it can be read, with names, sizes and places that fit', () => {
    const sectors = fc.integer({min: 1, max: 3000})
    fc.assert(
      fc.property(sectors, sectors, fc.boolean(), (total, chunk, hasDigests) => {
        const plan = planChunks(total * 512, chunk * 512)
        const built: ChunkManifest = buildChunkManifest({
          imageId: 'a',
          version: 'v',
          totalSize: plan.totalSize,
          chunkSize: plan.chunkSize,
          ...(hasDigests ? {digests: Array<string>(plan.chunkCount).fill(digest)} : {}),
        })
        expect(parseChunkManifest(Buffer.from(JSON.stringify(built)), rules)).to.deep.equal({
          manifest: built,
        })
        let sum = 0
        for (let index = 0; index < plan.chunkCount; index++) {
          const bytes = chunkBytes(plan, index)
          expect(bytes).to.be.within(512, plan.chunkSize)
          expect(chunkOf(plan, sum)).to.deep.equal({index, offset: 0})
          expect(chunkOf(plan, sum + bytes - 1)).to.deep.equal({index, offset: bytes - 1})
          sum += bytes
        }
        expect(sum).to.equal(plan.totalSize)
      }),
    )
    expect(chunkName(manifest, 2)).to.equal('00000002.bin')
    expect(chunkName({chunkIndexWidth: 1}, 0)).to.equal('0.bin')
    expect(() =>
      buildChunkManifest({
        imageId: 'a',
        version: 'v',
        totalSize: 1024,
        chunkSize: 512,
        digests: [digest],
      }),
    ).to.throw('1 digests for 2 chunks')
  })

  it('finds bytes past 4 GiB and near the largest number', () => {
    expect(chunkOf({chunkSize: 4 * MiB}, 24 * 1024 * MiB + 5)).to.deep.equal({
      index: 6144,
      offset: 5,
    })
    expect(chunkOf({chunkSize: 512}, Number.MAX_SAFE_INTEGER)).to.deep.equal({
      index: 2 ** 44 - 1,
      offset: 511,
    })
  })
})
