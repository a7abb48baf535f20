/** What the extractor makes, with both sets of calls: through koffi, and plain Node where koffi cannot load. */
import {execFileSync} from 'node:child_process'
import {lstatSync, readdirSync, readFileSync, readlinkSync, statSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {kernelCalls, nodeCalls} from '../../../src/core/unpack/dir/calls.ts'
import {lgetxattr} from '../../../src/core/syscalls/files.ts'
import {
  archive,
  device,
  directory,
  entry,
  fifo,
  file,
  hardlink,
  header,
  longName,
  padded,
  pax,
  symlink,
} from '../../support/tar-builder.ts'
import {withUnpacked} from '../../support/unpack-case.ts'

const isRoot = process.getuid?.() === 0
const modeOf = (path: string): number => lstatSync(path).mode & 0o7777
const mtimeNs = (path: string): bigint => lstatSync(path, {bigint: true}).mtimeNs

for (const [title, calls] of [
  ['through koffi', kernelCalls],
  ['in plain Node', nodeCalls],
] as const) {
  const isFull = calls === kernelCalls

  describe(`the extractor ${title}`, () => {
    const unpacked = (bytes: Buffer, check: (root: string) => void) =>
      withUnpacked({bytes, calls}, ({root, error}) => {
        if (error) throw error
        check(root)
      })

    it('makes files, directories and links with their modes and times', () =>
      unpacked(
        archive(
          directory('./', {mode: 0o751, mtime: 1_000_000_001}),
          directory('bin', {mode: 0o700, mtime: 1_000_000_002}),
          file('bin/run', '#!', {mode: 0o4755, mtime: 1_000_000_003}),
          symlink('sh', '/bin/run', {mtime: 1_000_000_004}),
          hardlink('again', 'bin/run'),
        ),
        (root) => {
          expect(modeOf(root)).to.equal(0o751)
          expect(mtimeNs(root)).to.equal(1_000_000_001_000_000_000n)
          expect(modeOf(join(root, 'bin'))).to.equal(0o700)
          expect(mtimeNs(join(root, 'bin'))).to.equal(1_000_000_002_000_000_000n)
          expect(modeOf(join(root, 'bin/run'))).to.equal(0o4755)
          expect(mtimeNs(join(root, 'bin/run'))).to.equal(1_000_000_003_000_000_000n)
          expect(readlinkSync(join(root, 'sh'))).to.equal('/bin/run')
          expect(mtimeNs(join(root, 'sh'))).to.equal(1_000_000_004_000_000_000n)
          expect(lstatSync(join(root, 'again')).ino).to.equal(lstatSync(join(root, 'bin/run')).ino)
        },
      ))

    it('keeps times before 1970 and fractions of a second', () =>
      unpacked(archive(pax([['mtime', '-86400.25']]), file('a', 'x')), (root) => {
        const off = mtimeNs(join(root, 'a')) - -86_400_250_000_000n
        expect(off).to.equal(0n)
      }))

    it('fills read-only directories and gives them their mode afterwards', () =>
      unpacked(
        archive(
          directory('locked', {mode: 0o555, mtime: 5}),
          directory('locked/deeper', {mode: 0o500, mtime: 6}),
          file('locked/deeper/file', 'x', {mode: 0o400}),
        ),
        (root) => {
          expect(modeOf(join(root, 'locked'))).to.equal(0o555)
          expect(mtimeNs(join(root, 'locked'))).to.equal(5_000_000_000n)
          expect(modeOf(join(root, 'locked/deeper'))).to.equal(0o500)
          expect(mtimeNs(join(root, 'locked/deeper'))).to.equal(6_000_000_000n)
        },
      ))

    it('takes children before their parents', () =>
      unpacked(
        archive(file('a/b/c', 'x'), directory('a/b', {mode: 0o711, mtime: 9}), directory('a')),
        (root) => {
          expect(modeOf(join(root, 'a/b'))).to.equal(0o711)
          expect(mtimeNs(join(root, 'a/b'))).to.equal(9_000_000_000n)
        },
      ))

    it('makes directories that no entry describes with mode 0755, the root too', () =>
      unpacked(archive(file('a/b/c', 'x')), (root) => {
        for (const path of ['', 'a', 'a/b']) expect(modeOf(join(root, path))).to.equal(0o755)
      }))

    it('lets the last of several entries with one name win', () =>
      unpacked(
        archive(
          file('f', 'first'),
          file('f', 'second', {mode: 0o600}),
          directory('d', {mode: 0o700, mtime: 1}),
          file('d/kept', 'x'),
          directory('d', {mode: 0o755, mtime: 2}),
          directory('e'),
          file('e', 'was an empty directory'),
          file('g', 'was a file'),
          directory('g'),
          symlink('l', 'one'),
          symlink('l', 'two'),
        ),
        (root) => {
          expect(readFileSync(join(root, 'f'), 'utf8')).to.equal('second')
          expect(modeOf(join(root, 'f'))).to.equal(0o600)
          expect(modeOf(join(root, 'd'))).to.equal(0o755)
          expect(mtimeNs(join(root, 'd'))).to.equal(2_000_000_000n)
          expect(readdirSync(join(root, 'd'))).to.deep.equal(['kept'])
          expect(lstatSync(join(root, 'e')).isFile()).to.equal(true)
          expect(lstatSync(join(root, 'g')).isDirectory()).to.equal(true)
          expect(readlinkSync(join(root, 'l'))).to.equal('two')
        },
      ))

    it('refuses to replace a directory that is not empty', () =>
      withUnpacked({bytes: archive(file('d/x', 'x'), file('d', 'y')), calls}, ({error}) => {
        expect(error?.message).to.match(
          /entry "d" at byte 1024 would replace a directory that is not/,
        )
      }))

    it('follows links of the archive as the root’s own (usr-merge)', () =>
      unpacked(
        archive(
          directory('usr/lib'),
          symlink('lib', 'usr/lib'),
          symlink('lib64', '/lib'),
          file('lib/one', '1'),
          file('lib64/two', '2'),
          directory('lib/dir', {mode: 0o700, mtime: 3}),
          file('lib64/dir/three', '3'),
          hardlink('four', 'lib64/two'),
        ),
        (root) => {
          expect(readdirSync(join(root, 'usr/lib')).sort()).to.deep.equal(['dir', 'one', 'two'])
          expect(readFileSync(join(root, 'usr/lib/dir/three'), 'utf8')).to.equal('3')
          expect(modeOf(join(root, 'usr/lib/dir'))).to.equal(0o700)
          expect(mtimeNs(join(root, 'usr/lib/dir'))).to.equal(3_000_000_000n)
          expect(readlinkSync(join(root, 'lib'))).to.equal('usr/lib')
          expect(lstatSync(join(root, 'four')).nlink).to.equal(2)
        },
      ))

    it('makes the target of a link that leads to nothing when something is put there', () =>
      unpacked(archive(symlink('lib', 'usr/lib'), file('lib/x', 'x')), (root) => {
        expect(readFileSync(join(root, 'usr/lib/x'), 'utf8')).to.equal('x')
        expect(readlinkSync(join(root, 'lib'))).to.equal('usr/lib')
      }))

    it('keeps the holes of sparse files in every format', () => {
      const size = 1 << 30
      const old = header({
        name: 'old',
        type: 'S',
        magic: 'gnu',
        size: 3,
        patch: [
          {at: 386, bytes: `${(size - 3).toString(8).padStart(11, '0')}\x0000000000003\0`},
          {at: 483, bytes: `${size.toString(8).padStart(11, '0')}\0`},
        ],
      })
      const pairs: [string, string][] = [
        ['GNU.sparse.size', String(size)],
        ['GNU.sparse.numblocks', '3'],
        ['GNU.sparse.offset', '0'],
        ['GNU.sparse.numbytes', '512'],
        ['GNU.sparse.offset', String(size / 2)],
        ['GNU.sparse.numbytes', '2'],
        ['GNU.sparse.offset', String(size)],
        ['GNU.sparse.numbytes', '0'],
      ]
      const map: [string, string][] = [
        ['GNU.sparse.size', String(size)],
        ['GNU.sparse.numblocks', '2'],
        ['GNU.sparse.name', 'map'],
        ['GNU.sparse.map', `0,3,${size},0`],
      ]
      const before: [string, string][] = [
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 'before'],
        ['GNU.sparse.realsize', String(size)],
      ]
      return unpacked(
        archive(
          Buffer.concat([old, padded('xyz')]),
          pax(pairs),
          file('pairs', `${'a'.repeat(512)}bc`),
          pax(map),
          file('GNUSparseFile.1/map', 'abc'),
          pax(before),
          entry({
            name: 'GNUSparseFile.1/before',
            body: Buffer.concat([padded(`2\n${size / 4}\n3\n${size}\n0\n`), Buffer.from('abc')]),
          }),
        ),
        (root) => {
          for (const name of ['old', 'pairs', 'map', 'before']) {
            const stats = statSync(join(root, name))
            expect(stats.size, name).to.equal(size)
            expect(stats.blocks, name).to.be.lessThan(100)
          }
          const at = (name: string, offset: number): string =>
            execFileSync(
              'dd',
              [`if=${join(root, name)}`, 'bs=1', `skip=${offset}`, 'count=3', 'status=none'],
              {encoding: 'latin1'},
            )
          expect(at('old', size - 3)).to.equal('xyz')
          expect(at('pairs', size / 2)).to.equal('bc\0')
          expect(at('map', 0)).to.equal('abc')
          expect(at('before', size / 4)).to.equal('abc')
        },
      )
    })

    it('keeps names that are not UTF-8', () => {
      const name = Buffer.from('caf\xe9/\xff\xfe', 'latin1')
      return unpacked(archive(file(name, 'x'), symlink('link', name)), (root) => {
        const full = Buffer.concat([Buffer.from(`${root}/`), name])
        expect(readFileSync(full, 'utf8')).to.equal('x')
        expect(readlinkSync(join(root, 'link'), 'latin1')).to.equal(name.toString('latin1'))
      })
    })

    it('makes a path of 4,000 bytes and 250 directories', () => {
      const path = `${Array.from({length: 250}, () => 'fifteen-letters').join('/')}/file`
      return unpacked(archive(longName(path), file('x', 'deep', {magic: 'gnu'})), (root) => {
        expect(readFileSync(join(root, path), 'utf8')).to.equal('deep')
      })
    })

    it('goes between more directories than it holds open', () => {
      const parts: Buffer[] = []
      for (let round = 0; round < 2; round++) {
        for (let i = 0; i < 600; i++) parts.push(file(`d${i}/e/f${round}`, `${i}`))
        parts.push(hardlink(`h${round}`, `d${round}/e/f${round}`))
      }
      return unpacked(archive(...parts), (root) => {
        for (const i of [0, 300, 599]) {
          expect(readdirSync(join(root, `d${i}/e`)).sort()).to.deep.equal(['f0', 'f1'])
        }
        expect(lstatSync(join(root, 'h1')).nlink).to.equal(2)
      })
    })

    it('makes FIFOs where it can and says where it cannot', () =>
      withUnpacked(
        {bytes: archive(fifo('pipe', {mode: 0o640, mtime: 7})), calls},
        ({root, result}) => {
          if (isFull) {
            expect(lstatSync(join(root, 'pipe')).isFIFO()).to.equal(true)
            expect(modeOf(join(root, 'pipe'))).to.equal(0o640)
            expect(mtimeNs(join(root, 'pipe'))).to.equal(7_000_000_000n)
          } else {
            expect(result?.warnings.map(({code}) => code)).to.deep.equal(['node_skipped'])
          }
        },
      ))

    it('keeps extended attributes where it can and says where it cannot', () => {
      const bytes = archive(
        pax([['SCHILY.xattr.user.note', 'of a file']]),
        file('f', 'x'),
        pax([['SCHILY.xattr.user.note', 'of a directory']]),
        directory('d'),
      )
      return withUnpacked({bytes, calls}, ({root, result}) => {
        if (isFull) {
          expect(lgetxattr(join(root, 'f'), 'user.note').toString()).to.equal('of a file')
          expect(lgetxattr(join(root, 'd'), 'user.note').toString()).to.equal('of a directory')
          expect(result?.warningsTotal).to.equal(0)
        } else {
          expect(result?.warnings.map(({code}) => code)).to.deep.equal([
            'xattr_skipped',
            'xattr_skipped',
          ])
        }
      })
    })

    if (isRoot) {
      it('keeps owners, and setuid after a change of owner', () =>
        unpacked(
          archive(
            directory('d', {uid: 7, gid: 8, mode: 0o2775}),
            file('d/f', 'x', {uid: 1000, gid: 1001, mode: 0o6755}),
            symlink('l', 'd', {uid: 5, gid: 6}),
          ),
          (root) => {
            expect(lstatSync(join(root, 'd'))).to.deep.include({uid: 7, gid: 8})
            expect(modeOf(join(root, 'd'))).to.equal(0o2775)
            expect(lstatSync(join(root, 'd/f'))).to.deep.include({uid: 1000, gid: 1001})
            expect(modeOf(join(root, 'd/f'))).to.equal(0o6755)
            expect(lstatSync(join(root, 'l'))).to.deep.include({uid: 5, gid: 6})
          },
        ))
    }
  })
}

describe('the profiles', () => {
  const bytes = archive(
    directory('d', {mode: 0o1777, uid: 3}),
    file('run', 'x', {mode: 0o4711, uid: 3, mtime: 77}),
    file('plain', 'x', {mode: 0o600, uid: 3}),
    pax([['SCHILY.xattr.user.a', 'x']]),
    file('attributed', 'x', {mode: 0o640}),
  )
  const own = {uid: process.getuid?.(), gid: process.getgid?.()}

  it('strict keeps 0755 and 0644, and drops owners and attributes', () =>
    withUnpacked({bytes, profile: 'strict'}, ({root}) => {
      expect(modeOf(join(root, 'd'))).to.equal(0o755)
      expect(modeOf(join(root, 'run'))).to.equal(0o755)
      expect(modeOf(join(root, 'plain'))).to.equal(0o644)
      expect(lstatSync(join(root, 'run'))).to.deep.include(own)
      expect(() => lgetxattr(join(root, 'attributed'), 'user.a')).to.throw(/ENODATA/)
    }))

  it('data keeps modes without setuid, setgid and sticky', () =>
    withUnpacked({bytes, profile: 'data'}, ({root}) => {
      expect(modeOf(join(root, 'd'))).to.equal(0o777)
      expect(modeOf(join(root, 'run'))).to.equal(0o711)
      expect(modeOf(join(root, 'plain'))).to.equal(0o600)
      expect(lstatSync(join(root, 'run'))).to.deep.include(own)
    }))

  it('image keeps devices where the host lets it', () =>
    withUnpacked({bytes: archive(device('null', 'character', 1, 3))}, ({root, result}) => {
      if (result?.warnings[0]?.code === 'device_skipped') return
      expect(lstatSync(join(root, 'null')).isCharacterDevice()).to.equal(true)
      expect(lstatSync(join(root, 'null')).rdev).to.equal(0x103)
    }))
})
