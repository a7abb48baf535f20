/** A real Debian, unpacked with profile `image`, must equal what GNU tar makes of the same archive. */
import {execFileSync} from 'node:child_process'
import {chmodSync, closeSync, mkdirSync, openSync, readSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {createGzip, createZstdCompress} from 'node:zlib'
import {createReadStream, createWriteStream} from 'node:fs'
import {pipeline} from 'node:stream/promises'
import {expect} from 'chai'
import {resolveLimits} from '../../src/core/limits.ts'
import {unpack, type UnpackResult} from '../../src/core/unpack/unpack.ts'
import {requires} from '../support/requires.ts'
import {rootfsArchive} from '../support/rootfs-archive.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {listTree, treeDifferences} from '../support/tree-listing.ts'

describe('a Debian root filesystem', function () {
  requires('root', 'program:debootstrap')
  this.timeout(600_000)

  let blob = ''
  before(() => {
    blob = rootfsArchive()
  })

  const unpackInto = async (blobPath: string, targetDir: string): Promise<UnpackResult> => {
    mkdirSync(targetDir, {mode: 0o700})
    return unpack({blobPath, targetDir, profile: 'image', limits: resolveLimits('image', {})})
  }

  const options = {xattrs: true, blocks: true}
  const byTar = (dir: string): Map<string, string> => {
    const root = join(dir, 'theirs')
    mkdirSync(root)
    const args = ['--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf', blob, '-C', root]
    execFileSync('tar', args)
    return listTree(root, options)
  }

  it('comes out as GNU tar makes it, plain, gzip and zstd', () =>
    withTempDir(async (dir) => {
      const expected = byTar(dir)
      const gzip = join(dir, 'blob.gz')
      const zstd = join(dir, 'blob.zst')
      await pipeline(createReadStream(blob), createGzip({level: 1}), createWriteStream(gzip))
      await pipeline(createReadStream(blob), createZstdCompress(), createWriteStream(zstd))
      for (const [format, path] of [
        ['tar', blob],
        ['gzip', gzip],
        ['zstd', zstd],
      ] as const) {
        const root = join(dir, format)
        const result = await unpackInto(path, root)
        expect(result).to.deep.include({format, warnings: [], warningsTotal: 0})
        expect(result.entries).to.be.greaterThan(5000)
        const actual = listTree(root, options)
        expect(treeDifferences(actual, expected), format).to.deep.equal([])
      }
      // What makes this archive a test: each kind that other unpackers lose must be in it.
      const lines = [...expected.values()]
      expect(lines.some((line) => line.includes('security.capability='))).to.equal(true)
      expect(lines.some((line) => line.includes(' -> /'))).to.equal(true)
      expect(lines.some((line) => line.includes(' same as '))).to.equal(true)
      expect(lines.some((line) => line.includes(' device '))).to.equal(true)
      expect(lines.some((line) => /^10[4-7]/.test(line))).to.equal(true)
    }))

  it('runs its own programs', () =>
    withTempDir(async (dir) => {
      const root = join(dir, 'root')
      await unpackInto(blob, root)
      const list = execFileSync('chroot', [root, '/usr/bin/dpkg', '-l'], {encoding: 'utf8'})
      expect(list).to.match(/^ii\s+base-files/m)
    }))

  it('is refused by profile strict with the flag that allows it', () =>
    withTempDir(async (dir) => {
      const root = join(dir, 'root')
      mkdirSync(root, {mode: 0o700})
      let failure: unknown
      try {
        const limits = resolveLimits('strict', {})
        await unpack({blobPath: blob, targetDir: root, profile: 'strict', limits})
      } catch (error) {
        failure = error
      }
      expect(failure).to.have.property('code', 'unsafe_archive')
      expect(failure)
        .to.have.property('message')
        .that.matches(/--profile image allows it/)
    }))

  it('is refused when a byte of it is cut away', () =>
    withTempDir(async (dir) => {
      const head = Buffer.alloc(50 << 20)
      const fd = openSync(blob, 'r')
      const count = readSync(fd, head, 0, head.length, 0)
      closeSync(fd)
      const cut = join(dir, 'cut.tar')
      writeFileSync(cut, head.subarray(0, count - 1))
      let failure: unknown
      try {
        await unpackInto(cut, join(dir, 'root'))
      } catch (error) {
        failure = error
      }
      expect(failure).to.have.property('code', 'bad_archive')
      chmodSync(join(dir, 'root'), 0o700)
    }))
})
