/** Indexes, mounted by the kernel, must equal what GNU tar makes of the same archives; and tools must find them right. */
import {execFileSync} from 'node:child_process'
import {
  closeSync,
  createReadStream,
  createWriteStream,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import {join} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {createGzip, createZstdCompress} from 'node:zlib'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import {resolveLimits} from '../../src/core/limits.ts'
import {canMountErofs, type ErofsWay, mountErofsSync} from '../../src/core/mounts/erofs.ts'
import {findMounts} from '../../src/core/mounts/mount-table.ts'
import {mountOverlaySync, unmountSync} from '../../src/core/mounts/mount.ts'
import {lsetxattr} from '../../src/core/syscalls/files.ts'
import {type IndexResult, indexTar, trialErofs} from '../../src/core/unpack/unpack.ts'
import {expectSound} from '../support/erofs-tools.ts'
import {requires} from '../support/requires.ts'
import {rootfsArchive} from '../support/rootfs-archive.ts'
import {archive, directory, file, pax, symlink} from '../support/tar-builder.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {listTree, treeDifferences} from '../support/tree-listing.ts'

const limits = {...resolveLimits('image', {})}
const digest = `sha256:${'0'.repeat(64)}`

type Mounted = {mountPoint: string; imagePath: string; devicePath: string; result: IndexResult}

/** Indexes a blob in `dir`, mounts the image, and hands both to `body`. */
async function withIndex<T>(
  dir: string,
  blobPath: string,
  body: (mounted: Mounted) => T,
  options: {way?: ErofsWay; whiteouts?: 'overlay'; name?: string} = {},
): Promise<T> {
  const {name = 'index', way, ...more} = options
  const mountPoint = join(dir, name)
  mkdirSync(mountPoint)
  const imagePath = `${mountPoint}.erofs`
  const plainPath = `${mountPoint}.tar`
  const job = {blobPath, imagePath, plainPath, profile: 'image' as const, limits, digest}
  const result = await indexTar({...job, ...more})
  const devicePath = result.plainBytes === undefined ? blobPath : plainPath
  mountErofsSync({imagePath, devicePaths: [devicePath], mountPoint, ...(way ? {way} : {})})
  try {
    return body({mountPoint, imagePath, devicePath, result})
  } finally {
    unmountSync(mountPoint)
  }
}

const tarExtract = ['tar', '--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf']

/** What GNU tar (or another program) makes of an archive. */
function byTar(dir: string, blob: string, extract = tarExtract): Map<string, string> {
  const root = join(dir, 'tar')
  mkdirSync(root)
  const [program = '', ...args] = extract
  execFileSync(program, [...args, blob, '-C', root])
  return listTree(root, {xattrs: true})
}

const sameAsTar = (dir: string, blob: string, extract?: string[]): Promise<void> =>
  withIndex(dir, blob, ({mountPoint, imagePath, devicePath}) => {
    const actual = listTree(mountPoint, {xattrs: true})
    const expected = byTar(dir, blob, extract)
    if (extract !== undefined) {
      // bsdtar works in the root after it gave it its time.
      const time = / mtime \d+/
      expected.set(
        '',
        (expected.get('') ?? '').replace(time, time.exec(actual.get('') ?? '')?.[0] ?? ''),
      )
    }
    expect(treeDifferences(actual, expected)).to.deep.equal([])
    expectSound(imagePath, devicePath)
  })

const failureOf = (work: () => unknown): ImgstoreError => {
  try {
    work()
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing failed')
}

/** A tree with everything that an archive of its kind can hold. */
function makeSource(dir: string, can: {xattrs?: boolean; sparse?: boolean; long?: boolean}): void {
  mkdirSync(join(dir, 'deep/er'), {recursive: true})
  writeFileSync(join(dir, 'deep/file'), 'x'.repeat(5000), {mode: 0o4755})
  writeFileSync(join(dir, 'deep/empty'), '')
  execFileSync('ln', [join(dir, 'deep/file'), join(dir, 'again')])
  execFileSync('mknod', [join(dir, 'null'), 'c', '1', '3'])
  execFileSync('mknod', [join(dir, 'disk'), 'b', '259', '70000'])
  execFileSync('mkfifo', [join(dir, 'pipe')])
  execFileSync('chown', ['1234:5678', join(dir, 'deep/er')])
  symlinkSync('/deep/file', join(dir, 'absolute'))
  symlinkSync('nowhere', join(dir, 'dangling'))
  if (can.long) {
    symlinkSync('t/'.repeat(2000), join(dir, 'long-link'))
    writeFileSync(join(dir, 'n'.repeat(255)), 'long name')
    execFileSync('chown', ['100000:200000', join(dir, 'n'.repeat(255))])
  }
  if (can.xattrs) {
    for (const name of ['deep', 'deep/file', 'deep/empty', 'deep/er']) {
      lsetxattr(join(dir, name), 'user.shared', Buffer.from('the same everywhere'))
    }
    lsetxattr(join(dir, 'deep/file'), 'user.own', Buffer.alloc(1500, 'o'))
    lsetxattr(join(dir, 'absolute'), 'trusted.link', Buffer.from('of a link'))
    const cap = Buffer.from('0100000200200000000000000000000000000000', 'hex')
    lsetxattr(join(dir, 'deep/file'), 'security.capability', cap)
    lsetxattr(join(dir, 'deep'), `user.${'n'.repeat(240)}`, Buffer.from('x'))
  }
  if (can.sparse) {
    const fd = openSync(join(dir, 'sparse'), 'w')
    for (let at = 0; at < 40; at++) writeSync(fd, `data ${at}`, at * 100_000)
    ftruncateSync(fd, 64 << 20)
    closeSync(fd)
  }
}

describe('an EROFS index', function () {
  requires('root')
  this.timeout(300_000)

  describe('of a Debian root filesystem', () => {
    requires('program:debootstrap')

    it('equals what GNU tar makes, plain, gzip and zstd, and its programs run', () =>
      withTempDir(async (dir) => {
        const blob = rootfsArchive()
        const expected = byTar(dir, blob)
        await pipeline(
          createReadStream(blob),
          createGzip({level: 1}),
          createWriteStream(join(dir, 'gzip')),
        )
        await pipeline(
          createReadStream(blob),
          createZstdCompress(),
          createWriteStream(join(dir, 'zstd')),
        )
        for (const [name, path] of [
          ['tar', blob],
          ['gzip', join(dir, 'gzip')],
          ['zstd', join(dir, 'zstd')],
        ] as const) {
          await withIndex(
            dir,
            path,
            ({mountPoint, imagePath, devicePath, result}) => {
              expect(result).to.deep.include({format: name, warnings: [], warningsTotal: 0})
              const actual = listTree(mountPoint, {xattrs: true})
              expect(treeDifferences(actual, expected), name).to.deep.equal([])
              expectSound(imagePath, devicePath)
              const list = execFileSync('chroot', [mountPoint, '/usr/bin/dpkg', '-l'])
              expect(list.toString()).to.match(/^ii\s+base-files/m)
            },
            {name: `by-${name}`},
          )
        }
        // What makes this archive a test: each kind that others lose must be in it.
        const lines = [...expected.values()]
        for (const kind of ['security.capability=', ' -> /', ' same as ', ' device ']) {
          expect(
            lines.some((line) => line.includes(kind)),
            kind,
          ).to.equal(true)
        }
      }))
  })

  const writers: {
    title: string
    needs: string
    can: Parameters<typeof makeSource>[1]
    command: string[]
    extract?: string[]
  }[] = [
    ...['gnu', 'pax'].map((format) => ({
      title: `GNU tar, ${format}`,
      needs: 'tar',
      can: {long: true, xattrs: format === 'pax', sparse: true},
      command: [
        'tar',
        `--format=${format}`,
        '--sparse',
        ...(format === 'pax' ? ['--xattrs', '--xattrs-include=*'] : []),
        '-cf',
      ],
    })),
    ...['0.0', '0.1', '1.0'].map((version) => ({
      title: `GNU tar, sparse ${version}`,
      needs: 'tar',
      can: {sparse: true},
      command: ['tar', '--format=pax', '--sparse', `--sparse-version=${version}`, '-cf'],
    })),
    // Compared with its own work: GNU tar loses a directory's time where a hard link in it comes late.
    {
      title: 'bsdtar',
      extract: ['bsdtar', '--numeric-owner', '--xattrs', '-xpf'],
      needs: 'bsdtar',
      can: {long: true, xattrs: true, sparse: true},
      command: ['bsdtar', '--format=pax', '--no-fflags', '-cf'],
    },
    {title: 'busybox', needs: 'busybox', can: {}, command: ['busybox', 'tar', '-cf']},
  ]
  for (const {title, needs, can, command, extract} of writers) {
    describe(`of an archive by ${title}`, () => {
      requires(`program:${needs}`)

      it('equals what a tar program makes', () =>
        withTempDir(async (dir) => {
          const source = join(dir, 'source')
          mkdirSync(source)
          makeSource(source, can)
          const [program = '', ...args] = command
          const blob = join(dir, 'blob')
          execFileSync(program, [...args, blob, '.'], {cwd: source})
          await sameAsTar(dir, blob, extract)
        }))
    })
  }

  it('holds a hundred thousand names in one directory', () =>
    withTempDir(async (dir) => {
      const parts: Buffer[] = []
      for (let at = 0; at < 100_000; at++) parts.push(file(`d/${(at * 7919) % 100_000}-name`, ''))
      writeFileSync(join(dir, 'blob'), archive(...parts))
      await withIndex(dir, join(dir, 'blob'), ({mountPoint, imagePath, devicePath}) => {
        expect(readdirSync(join(mountPoint, 'd'))).to.have.length(100_000)
        for (let at = 0; at < 100_000; at += 7) {
          expect(existsSync(join(mountPoint, `d/${at}-name`))).to.equal(true)
        }
        expect(existsSync(join(mountPoint, 'd/absent'))).to.equal(false)
        expectSound(imagePath, devicePath)
      })
    }))

  it('keeps a sparse file of 5 GiB sparse', () =>
    withTempDir(async (dir) => {
      const source = join(dir, 'sparse')
      const fd = openSync(source, 'w')
      const marks = [0, 4096 * 3, 2 ** 31, 2 ** 32 + 8192, 5 * 2 ** 30 - 4096]
      for (const at of marks) writeSync(fd, `mark at ${at}`, at)
      ftruncateSync(fd, 5 * 2 ** 30)
      closeSync(fd)
      execFileSync('tar', [
        '--sparse',
        '--format=pax',
        '-C',
        dir,
        '-cf',
        join(dir, 'blob'),
        'sparse',
      ])
      await withIndex(dir, join(dir, 'blob'), ({mountPoint, imagePath, devicePath, result}) => {
        expect(result.imageBytes + statSync(devicePath).size).to.be.below(4 << 20)
        const path = join(mountPoint, 'sparse')
        expect(statSync(path).size).to.equal(5 * 2 ** 30)
        const mounted = openSync(path, 'r')
        const buffer = Buffer.alloc(4096)
        for (const at of marks) {
          readSync(mounted, buffer, 0, 4096, at)
          expect(buffer.toString('latin1').replace(/\0+$/, '')).to.equal(`mark at ${at}`)
        }
        readSync(mounted, buffer, 0, 4096, 2 ** 32)
        expect(buffer.equals(Buffer.alloc(4096))).to.equal(true)
        closeSync(mounted)
        expectSound(imagePath, devicePath)
      })
    }))

  it('is right where data in a sparse map begins no block', () =>
    withTempDir(async (dir) => {
      const body = Buffer.from('first|second|'.repeat(200))
      const content = Buffer.alloc(10_000)
      body.copy(content, 100, 0, 512)
      body.copy(content, 1000, 512, 1024)
      body.copy(content, 2000, 1024)
      const records: [string, string][] = [
        ['GNU.sparse.size', '10000'],
        ['GNU.sparse.numblocks', '4'],
        ['GNU.sparse.map', `100,512,1000,512,2000,${body.length - 1024},10000,0`],
      ]
      const bytes = archive(pax(records), file('odd', body), file('next', 'x'))
      writeFileSync(join(dir, 'blob'), bytes)
      await withIndex(dir, join(dir, 'blob'), ({mountPoint, imagePath, devicePath}) => {
        expect(readFileSync(join(mountPoint, 'odd')).equals(content)).to.equal(true)
        expect(readFileSync(join(mountPoint, 'next'), 'utf8')).to.equal('x')
        expectSound(imagePath, devicePath)
      })
    }))

  it('lies below an overlay, whose changes go above it', () =>
    withTempDir(async (dir) => {
      const bytes = archive(
        directory('etc', {mode: 0o755}),
        file('etc/hosts', 'below'),
        file('etc/gone', 'x'),
        symlink('link', 'etc/hosts'),
      )
      writeFileSync(join(dir, 'blob'), bytes)
      await withIndex(dir, join(dir, 'blob'), ({mountPoint}) => {
        const place = (name: string): string => join(dir, name)
        for (const name of ['upper', 'work', 'merged']) mkdirSync(place(name))
        const [upperDir, workDir] = [place('upper'), place('work')]
        const spec = {upperDir, workDir, mountPoint: place('merged'), lowerDir: mountPoint}
        mountOverlaySync({...spec, noexec: false, source: 'imgstore:test'})
        try {
          writeFileSync(join(spec.mountPoint, 'link'), 'above')
          execFileSync('rm', [join(spec.mountPoint, 'etc/gone')])
          expect(readFileSync(join(upperDir, 'etc/hosts'), 'utf8')).to.equal('above')
          expect(readFileSync(join(mountPoint, 'etc/hosts'), 'utf8')).to.equal('below')
          expect(existsSync(join(spec.mountPoint, 'etc/gone'))).to.equal(false)
          expect(existsSync(join(mountPoint, 'etc/gone'))).to.equal(true)
        } finally {
          unmountSync(spec.mountPoint)
        }
      })
    }))

  it('hides what its whiteouts name, in an overlay of two', () =>
    withTempDir(async (dir) => {
      const lower = archive(file('a', 'a'), file('b', 'b'), file('d/x', 'x'), file('d/y', 'y'))
      const upper = archive(file('.wh.a'), file('d/.wh..wh..opq'), file('d/z', 'z'))
      writeFileSync(join(dir, 'lower.blob'), lower)
      writeFileSync(join(dir, 'upper.blob'), upper)
      const merged = join(dir, 'merged')
      mkdirSync(merged)
      await withIndex(dir, join(dir, 'lower.blob'), () => undefined, {name: 'probe'})
      const jobs = ['lower', 'upper'].map(async (name) => {
        const imagePath = join(dir, `${name}.erofs`)
        const blobPath = join(dir, `${name}.blob`)
        const job = {blobPath, imagePath, profile: 'image' as const, limits, digest}
        await indexTar({...job, whiteouts: 'overlay'})
        mkdirSync(join(dir, name))
        mountErofsSync({imagePath, devicePaths: [blobPath], mountPoint: join(dir, name)})
      })
      await Promise.all(jobs)
      try {
        const options = `lowerdir=${join(dir, 'upper')}:${join(dir, 'lower')}`
        execFileSync('mount', ['-t', 'overlay', '-o', options, 'test', merged])
        expect(readdirSync(merged).sort()).to.deep.equal(['b', 'd'])
        expect(readdirSync(join(merged, 'd'))).to.deep.equal(['z'])
      } finally {
        unmountSync(merged)
        for (const name of ['lower', 'upper']) unmountSync(join(dir, name))
      }
    }))
})

describe('mounting an EROFS index', function () {
  requires('root')
  this.timeout(60_000)

  const blobOf = (dir: string): string => {
    const path = join(dir, 'blob')
    writeFileSync(path, archive(file('a', 'content of a')))
    return path
  }
  const loops = (): string => execFileSync('losetup', ['-a'], {encoding: 'utf8'})

  for (const way of ['file', 'loop'] as const) {
    it(`is read-only, nodev and nosuid, by ${way}`, () =>
      withTempDir(async (dir) => {
        await withIndex(
          dir,
          blobOf(dir),
          ({mountPoint}) => {
            const [entry] = findMounts(mountPoint)
            expect(entry?.options).to.include.members(['ro', 'nodev', 'nosuid'])
            expect(entry?.fsType).to.equal('erofs')
            expect(entry?.source.startsWith('/dev/loop')).to.equal(way === 'loop')
            expect(readFileSync(join(mountPoint, 'a'), 'utf8')).to.equal('content of a')
            expect(() => writeFileSync(join(mountPoint, 'b'), 'x')).to.throw(/EROFS/)
          },
          {way},
        )
        expect(loops()).not.to.include(dir)
      }))
  }

  it('takes paths with anything in them, and longer than the kernel takes', () =>
    withTempDir(async (dir) => {
      for (const name of ['a,b=c:d\\e "f"\n', join('l'.repeat(200), 'm'.repeat(200))]) {
        const odd = join(dir, name)
        mkdirSync(odd, {recursive: true})
        await withIndex(odd, blobOf(odd), ({mountPoint}) => {
          expect(readFileSync(join(mountPoint, 'a'), 'utf8')).to.equal('content of a')
        })
      }
    }))

  it('says what is wrong, and leaves nothing', () =>
    withTempDir((dir) => {
      const mountPoint = join(dir, 'mount')
      mkdirSync(mountPoint)
      writeFileSync(join(dir, 'noise'), Buffer.alloc(8192, 'noise'))
      const imagePath = join(dir, 'noise')
      for (const way of ['file', 'loop', undefined] as const) {
        const spec = {imagePath, devicePaths: [], mountPoint, ...(way ? {way} : {})}
        expect(failureOf(() => mountErofsSync(spec))).to.include({code: 'mount_failed'})
      }
      const missing = {imagePath: join(dir, 'none'), devicePaths: [], mountPoint}
      expect(failureOf(() => mountErofsSync(missing)).message).to.include('ENOENT')
      expect(findMounts(mountPoint)).to.deep.equal([])
      expect(loops()).not.to.include(dir)
    }))

  it('refuses a changed superblock', () =>
    withTempDir(async (dir) => {
      const {imagePath, devicePath} = await withIndex(dir, blobOf(dir), (mounted) => mounted)
      const image = readFileSync(imagePath)
      image[1024 + 60] = (image[1024 + 60] ?? 0) ^ 1
      writeFileSync(imagePath, image)
      const mountPoint = join(dir, 'index')
      const failure = failureOf(() =>
        mountErofsSync({imagePath, devicePaths: [devicePath], mountPoint}),
      )
      expect(failure).to.include({code: 'mount_failed'})
    }))

  it('refuses a place where something is mounted', () =>
    withTempDir((dir) =>
      withIndex(dir, blobOf(dir), ({mountPoint, imagePath, devicePath}) => {
        const spec = {imagePath, devicePaths: [devicePath], mountPoint}
        expect(failureOf(() => mountErofsSync(spec)).message).to.include('mounted there already')
      }),
    ))

  it('is mounted through loop devices where the kernel does not take the files themselves', () =>
    withTempDir(async (dir) => {
      // As every file system's files are before Linux 6.12, those of a tmpfs still are.
      execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', dir])
      try {
        expect(await canMountErofs(dir, trialErofs())).to.deep.equal({ok: true, how: 'loop'})
        await withIndex(dir, blobOf(dir), ({mountPoint}) => {
          expect(findMounts(mountPoint)[0]?.source).to.match(/^\/dev\/loop/)
          expect(readFileSync(join(mountPoint, 'a'), 'utf8')).to.equal('content of a')
        })
        expect(loops()).not.to.include(dir)
      } finally {
        execFileSync('umount', [dir])
      }
    }))

  it('is proved by a trial that leaves nothing', () =>
    withTempDir(async (dir) => {
      expect(await canMountErofs(dir, trialErofs())).to.deep.equal({ok: true, how: 'file'})
      expect(readdirSync(join(dir, 'staging'))).to.deep.equal([])
      const wrong = {...trialErofs(), content: Buffer.from('other')}
      expect(await canMountErofs(dir, wrong)).to.include({ok: false})
      const {reason} = (await canMountErofs(dir, {...wrong, image: Buffer.alloc(4096)})) as {
        reason: string
      }
      expect(reason).not.to.equal('')
      expect(statfsSync(dir).type).to.not.equal(0)
    }))
})
