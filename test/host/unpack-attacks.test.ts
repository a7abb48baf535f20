/** What an attacker, or a full disk, can do around the extractor while it runs; and what only root can see. */
import {execFileSync, spawn} from 'node:child_process'
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import {resolveLimits} from '../../src/core/limits.ts'
import {lgetxattr, llistxattr, lsetxattr} from '../../src/core/syscalls/files.ts'
import {unpack} from '../../src/core/unpack/unpack.ts'
import {requires} from '../support/requires.ts'
import {archive, device, directory, fifo, file, pax, symlink} from '../support/tar-builder.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {withUnpacked} from '../support/unpack-case.ts'

const limits = resolveLimits('image', {})

/** A default ACL that gives user 1000 everything: version 2, then tag, permissions and id of each entry (acl(5)). */
const defaultAcl = Buffer.concat(
  [
    [0x01, 7, 0xffffffff],
    [0x02, 7, 1000],
    [0x04, 5, 0xffffffff],
    [0x10, 7, 0xffffffff],
    [0x20, 5, 0xffffffff],
  ].reduce(
    (parts, [tag = 0, permissions = 0, id = 0]) => {
      const part = Buffer.alloc(8)
      part.writeUInt16LE(tag, 0)
      part.writeUInt16LE(permissions, 2)
      part.writeUInt32LE(id, 4)
      return [...parts, part]
    },
    [Buffer.from([2, 0, 0, 0])],
  ),
)

async function failureOf(work: Promise<unknown>): Promise<ImgstoreError | undefined> {
  try {
    await work
    return undefined
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
}

describe('unpacking as root', function () {
  requires('root')
  this.timeout(60_000)

  it('makes devices with their numbers, owners and modes', () =>
    withUnpacked(
      {
        bytes: archive(
          device('null', 'character', 1, 3, {mode: 0o666, mtime: 5}),
          device('disk', 'block', 259, 70_000, {mode: 0o660, gid: 6, mtime: 6}),
          fifo('pipe', {mode: 0o2620, uid: 9, mtime: 7}),
        ),
      },
      ({root, error}) => {
        expect(error).to.equal(undefined)
        const disk = lstatSync(join(root, 'disk'))
        expect(disk.isBlockDevice()).to.equal(true)
        expect(disk).to.deep.include({
          rdev: 259 * 256 + (70_000 & 255) + ((70_000 >> 8) << 20),
          gid: 6,
        })
        expect(disk.mode & 0o7777).to.equal(0o660)
        expect(disk.mtimeMs).to.equal(6000)
        expect(lstatSync(join(root, 'null')).rdev).to.equal(0x103)
        const pipe = lstatSync(join(root, 'pipe'))
        expect(pipe.uid).to.equal(9)
        expect(pipe.mode & 0o7777).to.equal(0o2620)
      },
    ))

  it('keeps capabilities after a change of owner, and attributes of every namespace and type', () => {
    const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex')
    return withUnpacked(
      {
        bytes: archive(
          pax([
            ['SCHILY.xattr.security.capability', capability],
            ['SCHILY.xattr.trusted.note', Buffer.from([0, 1, 255])],
            ['SCHILY.xattr.trusted.overlay.opaque', 'y'],
            ['SCHILY.xattr.user.overlay.whiteout', 'y'],
          ]),
          file('f', 'x', {uid: 1000, gid: 1000, mode: 0o755}),
          pax([['SCHILY.xattr.trusted.note', 'link']]),
          symlink('l', 'f'),
          pax([['SCHILY.xattr.trusted.note', 'device']]),
          device('d', 'character', 1, 3),
        ),
      },
      ({root, result}) => {
        const path = join(root, 'f')
        expect(llistxattr(path).sort()).to.deep.equal(['security.capability', 'trusted.note'])
        expect(lgetxattr(path, 'security.capability').equals(capability)).to.equal(true)
        expect(lgetxattr(path, 'trusted.note').toString('hex')).to.equal('0001ff')
        expect(lgetxattr(join(root, 'l'), 'trusted.note').toString()).to.equal('link')
        expect(lgetxattr(join(root, 'd'), 'trusted.note').toString()).to.equal('device')
        expect(result?.warnings.map(({code}) => code)).to.deep.equal([
          'overlay_xattr_dropped',
          'overlay_xattr_dropped',
        ])
      },
    )
  })

  it('does not take on a default ACL or a group from the directory it is given', () =>
    withTempDir(async (dir) => {
      const targetDir = join(dir, 'root')
      mkdirSync(targetDir)
      lsetxattr(targetDir, 'system.posix_acl_default', defaultAcl)
      execFileSync('chgrp', ['100', targetDir])
      execFileSync('chmod', ['g+s', targetDir])
      const blobPath = join(dir, 'blob')
      writeFileSync(blobPath, archive(directory('d'), file('d/f', 'x', {mode: 0o600})))
      await unpack({blobPath, targetDir, profile: 'image', limits})
      for (const [path, mode] of [
        ['', 0o755],
        ['d', 0o755],
        ['d/f', 0o600],
      ] as const) {
        const stats = statSync(join(targetDir, path))
        expect(stats.gid, path).to.equal(0)
        expect(stats.mode & 0o7777, path).to.equal(mode)
        expect(llistxattr(join(targetDir, path)), path).to.deep.equal([])
      }
    }))

  it('says when the disk is full', () =>
    withTempDir(async (dir) => {
      const mount = join(dir, 'small')
      mkdirSync(mount)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m,mode=0755', 'tmpfs', mount])
      try {
        const targetDir = join(mount, 'root')
        mkdirSync(targetDir, {mode: 0o700})
        const blobPath = join(dir, 'blob')
        writeFileSync(blobPath, archive(file('a', 'x'), file('b/c', Buffer.alloc(4 << 20, 1))))
        const error = await failureOf(unpack({blobPath, targetDir, profile: 'image', limits}))
        expect(error?.code).to.equal('no_space')
        expect(error?.message).to.include(join(targetDir, 'b/c'))
        expect(statfsSync(mount).bavail).to.equal(0)
      } finally {
        execFileSync('umount', [mount])
      }
    }))

  it('says when there are no inodes left', () =>
    withTempDir(async (dir) => {
      const mount = join(dir, 'small')
      mkdirSync(mount)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'nr_inodes=50,mode=0755', 'tmpfs', mount])
      try {
        const targetDir = join(mount, 'root')
        mkdirSync(targetDir, {mode: 0o700})
        const blobPath = join(dir, 'blob')
        writeFileSync(blobPath, archive(...Array.from({length: 100}, (_, i) => file(`d${i}/f`))))
        const error = await failureOf(unpack({blobPath, targetDir, profile: 'image', limits}))
        expect(error?.code).to.equal('no_space')
      } finally {
        execFileSync('umount', [mount])
      }
    }))

  it('never writes outside while another process swaps directories for links', () =>
    withTempDir(async (dir) => {
      const outside = join(dir, 'outside')
      mkdirSync(join(outside, 'sub'), {recursive: true})
      const blobPath = join(dir, 'blob')
      const parts: Buffer[] = []
      for (let i = 0; i < 800; i++) {
        parts.push(
          directory('a/sub'),
          file(`a/f${i}`, 'x'),
          file(`a/sub/g${i}`, 'y'),
          file(`b${i % 300}/h`, 'z'),
        )
      }
      writeFileSync(blobPath, archive(...parts))
      const outcomes = new Set<string>()
      for (let round = 0; round < 2; round++) {
        const targetDir = join(dir, `root${round}`)
        mkdirSync(targetDir, {mode: 0o700})
        // Swaps as fast as it can: the directory goes, a link to the outside comes in its place, and back.
        const swapper = spawn(
          'sh',
          [
            '-c',
            'cd "$0"; until [ -d a ]; do :; done; while :; do mv a kept; ln -s "$1" a; rm a; mv kept a; ln -sfn "$1" b7; rm -f b7; done 2>/dev/null',
            targetDir,
            outside,
          ],
          {stdio: 'ignore'},
        )
        const ended = new Promise((resolve) => swapper.once('close', resolve))
        try {
          const error = await failureOf(unpack({blobPath, targetDir, profile: 'image', limits}))
          outcomes.add(error?.code ?? 'done')
        } finally {
          swapper.kill('SIGKILL')
          await ended
        }
        expect(readdirSync(outside)).to.deep.equal(['sub'])
        expect(readdirSync(join(outside, 'sub'))).to.deep.equal([])
      }
      // Either it went on in the directory it holds, or it noticed; both are fine, writing outside is not.
      for (const outcome of outcomes) {
        expect(outcome).to.be.oneOf(['done', 'io_failed', 'unsafe_archive'])
      }
    }))

  it('leaves the links of a refused strict archive harmless to read', () =>
    withTempDir(async (dir) => {
      const targetDir = join(dir, 'root')
      mkdirSync(targetDir, {mode: 0o700})
      writeFileSync(join(dir, 'secret'), 'untouched')
      const blobPath = join(dir, 'blob')
      writeFileSync(blobPath, archive(symlink('s', '../secret'), file('s', 'overwritten')))
      const error = await failureOf(
        unpack({blobPath, targetDir, profile: 'strict', limits: resolveLimits('strict', {})}),
      )
      expect(error?.code).to.equal('unsafe_archive')
      expect(readFileSync(join(dir, 'secret'), 'utf8')).to.equal('untouched')
    }))
})
