import {expect} from 'chai'
import {gzipSync, zstdCompressSync} from 'node:zlib'
import type {LimitOverrides, Profile} from '../../../src/core/limits.ts'
import {archive, directory, file, hardlink, symlink} from '../../support/tar-builder.ts'
import {withUnpacked} from '../../support/unpack-case.ts'

async function refusal(
  bytes: Buffer,
  limits: LimitOverrides,
  profile: Profile = 'image',
): Promise<Record<string, unknown> | undefined> {
  let details: Record<string, unknown> | undefined
  await withUnpacked({bytes, limits, profile}, ({error}) => {
    details = error && {code: error.code, ...error.details}
  })
  return details
}

describe('the limits of an archive', () => {
  const three = archive(file('a', '12345'), file('b', '1234567890'), directory('c'))

  it('take an archive that is exactly as large as they say', async () => {
    expect(
      await refusal(three, {filesMax: 3, fileBytesMax: 10, totalBytesMax: 15, depthMax: 1}),
    ).to.equal(undefined)
  })

  it('name the entry, its place, the rule and the flag for one entry too many', async () => {
    expect(await refusal(three, {filesMax: 2})).to.deep.equal({
      code: 'unsafe_archive',
      entry: 'c',
      offset: 2048,
      rule: 'is one more than 2 entries',
      flag: '--max-files',
    })
  })

  it('count directories and links as entries', async () => {
    const bytes = archive(directory('d'), symlink('s', 'd'), file('f'), hardlink('h', 'f'))
    expect(await refusal(bytes, {filesMax: 3})).to.deep.include({flag: '--max-files', entry: 'h'})
  })

  it('refuse a file that is too large before they read it', async () => {
    expect(await refusal(three, {fileBytesMax: 9})).to.deep.equal({
      code: 'unsafe_archive',
      entry: 'b',
      offset: 1024,
      rule: 'is larger than 9 bytes',
      flag: '--max-file-size',
    })
  })

  it('refuse files that are too large together', async () => {
    expect(await refusal(three, {totalBytesMax: 14})).to.deep.include({
      entry: 'b',
      flag: '--max-total-size',
    })
  })

  it('refuse a path that is too deep, also one made through a link', async () => {
    expect(await refusal(archive(file('a/b/c')), {depthMax: 2})).to.deep.include({
      flag: '--max-depth',
    })
    const through = archive(directory('a/b'), symlink('l', 'a/b'), file('l/c/d'))
    expect(await refusal(through, {depthMax: 3})).to.equal(undefined)
    expect(
      await refusal(archive(directory('a/b'), symlink('l', 'a/b'), file('l/c/d/e')), {depthMax: 3}),
    ).to.deep.include({flag: '--max-depth'})
  })

  it('of strict allow 10,000 entries', async () => {
    const many = archive(...Array.from({length: 10_001}, (_, i) => directory(`d${i}`)))
    expect(await refusal(many, {}, 'strict')).to.deep.include({
      entry: 'd10000',
      flag: '--max-files',
    })
  })

  for (const [format, compress] of [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ] as const) {
    it(`refuse a ${format} bomb, also one of zeros after the end`, async () => {
      const zeros = Buffer.alloc(100 << 20)
      for (const plain of [
        archive(file('zeros', zeros)),
        Buffer.concat([archive(file('a')), zeros]),
      ]) {
        expect(await refusal(compress(plain), {ratioMax: 100})).to.deep.include({
          code: 'unsafe_archive',
          flag: '--max-ratio',
        })
      }
    })
  }

  it('let a small archive be as compressible as it likes', async () => {
    const bytes = gzipSync(archive(file('zeros', Buffer.alloc(32 << 20))))
    expect(await refusal(bytes, {ratioMax: 10})).to.equal(undefined)
  })
})
