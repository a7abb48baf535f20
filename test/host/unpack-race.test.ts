/**
 * Another process swaps the directories of a staging tree for links to the outside, atomically and as fast as it can,
 * while the tree is made, linked in, and given its modes and times. Nothing outside may be touched by that.
 */
import {spawn} from 'node:child_process'
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {errorTable, ImgstoreError} from '../../src/core/errors.ts'
import {profiles, resolveLimits} from '../../src/core/limits.ts'
import {unpack} from '../../src/core/unpack/unpack.ts'
import {requires} from '../support/requires.ts'
import {archive, directory, file, hardlink, pax, symlink} from '../support/tar-builder.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {listTree} from '../support/tree-listing.ts'

/**
 * Exchanges (renameat2 with RENAME_EXCHANGE) leave no moment without the name, so that no walk fails for want of it. A
 * directory that appears in the middle of its exchanges ends as a link, so the parent is opened without following: by
 * its path the swapper itself would exchange names outside.
 */
const swapper = `
import ctypes, os, signal, sys
root, outside = sys.argv[1:3]
renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
swaps = 0
def end(*_):
    print(swaps, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
os.chdir(root)
print('ready', flush=True)
# The directory must be empty when unpacking begins.
while not os.path.isdir('a'): pass
names = [b'a', b'a/sub', b'a/sub/deep', b'b', b'closed']

def parent_of(name):
    fd = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
    for part in name.split(b'/')[:-1]:
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        except OSError:
            os.close(fd)
            return None
        os.close(fd)
        fd = below
    return fd

while True:
    for name in names:
        parent = parent_of(name)
        if parent is None: continue
        other = name.replace(b'/', b'-') + b'.swap'
        try:
            os.symlink(os.path.join(os.fsencode(outside), name), other)
        except OSError:
            pass
        for _ in range(6):
            if renameat2(parent, os.path.basename(name), -100, other, 2) == 0: swaps += 1
        os.close(parent)
        try:
            if os.path.islink(other): os.unlink(other)
        except OSError:
            pass
`

const rounds = 2

function makeArchive(count: number): Buffer {
  const parts: Buffer[] = [directory('a'), directory('a/sub'), directory('b', {mode: 0o700})]
  for (let i = 0; i < count; i++) {
    parts.push(
      file(`a/f${i}`, 'x'),
      directory('a/sub/deep', {mode: 0o711, mtime: i}),
      file(`a/sub/deep/g${i}`, 'y', {mode: 0o600}),
      hardlink(`b/h${i}`, `a/sub/deep/g${i}`),
      pax([['SCHILY.xattr.user.race', 'x']]),
      file(`b/x${i}`, 'z'),
      symlink(`a/l${i % 7}`, 'sub'),
      file(`a/sub/f${i}`, 'again'),
    )
    // What is outside has this name too: to replace or link it would show.
    if (i % 10 === 0) parts.push(file('a/target', 'new'), hardlink(`b/t${i}`, 'a/target'))
  }
  parts.push(directory('closed', {mode: 0o500}), directory('a', {mode: 0o2775, mtime: 7}))
  return archive(...parts)
}

/** Runs the swapper beside `body`; returns how often it has swapped. */
async function whileSwapping(
  root: string,
  outside: string,
  body: () => Promise<void>,
): Promise<number> {
  const child = spawn('python3', ['-c', swapper, root, outside], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let said = ''
  const ready = new Promise<void>((resolve) => {
    child.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString()
      if (said.includes('ready')) resolve()
    })
  })
  const ended = new Promise((resolve) => child.once('close', resolve))
  try {
    await Promise.race([ready, ended])
    await body()
  } finally {
    child.kill('SIGTERM')
    await ended
  }
  return Number(said.split('\n')[1])
}

describe('unpacking while directories are swapped for links', function () {
  requires('root', 'program:python3')
  this.timeout(120_000)

  for (const profile of profiles) {
    it(`touches nothing outside (${profile})`, () =>
      withTempDir(async (dir) => {
        const outside = join(dir, 'outside')
        mkdirSync(join(outside, 'a/sub/deep'), {recursive: true})
        for (const path of ['b', 'closed']) mkdirSync(join(outside, path))
        for (const path of ['a/target', 'a/f1', 'a/sub/f2', 'a/sub/deep/g3', 'b/x4']) {
          writeFileSync(join(outside, path), 'canary', {mode: 0o640})
        }
        const before = [...listTree(outside, {xattrs: true})]
        const blobPath = join(dir, 'blob')
        writeFileSync(blobPath, makeArchive(900))
        let swaps = 0
        for (let round = 0; round < rounds; round++) {
          const targetDir = join(dir, `root${round}`)
          mkdirSync(targetDir, {mode: 0o700})
          swaps += await whileSwapping(targetDir, outside, async () => {
            const limits = resolveLimits(profile, {})
            try {
              await unpack({blobPath, targetDir, profile, limits})
            } catch (error) {
              // It may notice and give up, or go on in the directories it holds; it may not crash.
              if (!(error instanceof ImgstoreError)) throw error
              expect(Object.keys(errorTable)).to.include(error.code)
              expect(error.code).not.to.be.oneOf(['unpack_failed', 'internal_error'])
            }
          })
          expect([...listTree(outside, {xattrs: true})]).to.deep.equal(before)
        }
        expect(swaps).to.be.greaterThan(100)
      }))
  }
})
