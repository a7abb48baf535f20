import {spawn, spawnSync} from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import {release} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import {findMounts, mountsBelow, readMountTable} from '../../src/core/mounts/mount-table.ts'
import {mountOverlay, mountOverlaySync, unmountSync} from '../../src/core/mounts/mount.ts'
import type {OverlaySpec} from '../../src/core/mounts/overlay.ts'
import {
  mountByDescriptors,
  mountByProgram,
  mountByText,
  type OpenDirs,
} from '../../src/core/mounts/ways.ts'
import {mount, MS_NODEV, MS_NOSUID, umount2} from '../../src/core/syscalls/mount.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

/** Directories of one image below `base`, with a file in the lower one. */
function makeSpec(base: string, more: Partial<OverlaySpec> = {}): OverlaySpec {
  const spec = {
    lowerDir: join(base, 'images/one/rootfs'),
    upperDir: join(base, 'overlays/one/upper'),
    workDir: join(base, 'overlays/one/work'),
    mountPoint: join(base, 'active/one'),
    noexec: false,
    source: 'imgstore:one',
    ...more,
  }
  for (const dir of [spec.lowerDir, spec.upperDir, spec.workDir, spec.mountPoint])
    mkdirSync(dir, {recursive: true})
  writeFileSync(join(spec.lowerDir, 'hello'), 'from below')
  return spec
}

/** Runs `body` in a temporary directory; afterwards nothing may be mounted below it (and what is, is taken away). */
async function withMountDir(body: (dir: string) => Promise<void> | void): Promise<void> {
  await withTempDir(async (dir) => {
    try {
      await body(dir)
      expect(mountsBelow(dir), 'mounts left behind').to.deep.equal([])
    } finally {
      for (const left of mountsBelow(dir).reverse()) umount2(left.mountPoint, 2)
    }
  })
}

function caught(body: () => void): ImgstoreError {
  try {
    body()
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

async function rejected(promise: Promise<unknown>): Promise<ImgstoreError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

const hostilePaths = {
  'a comma': 'a,upperdir=,b',
  'a colon': 'a:b::c',
  'a blank': ' a b ',
  'a backslash': 'a\\b\\\\,\\040\\',
  'a line break': 'a\nb',
  'quotes and a hash': `"a'b"#$(id)`,
  'letters outside ASCII': 'é𝄞',
  'a leading dash': '-o',
  '900 bytes': ['x'.repeat(240), 'y'.repeat(240), 'z'.repeat(240), 'w'.repeat(180)].join('/'),
  'all of these at once': `,:\\ \n"é/${'x'.repeat(200)}/${'y,'.repeat(100)}/${'z:'.repeat(100)}`,
}

describe('mounting overlays', function () {
  requires('root')
  this.timeout(30_000)

  for (const [what, path] of Object.entries(hostilePaths)) {
    it(`mounts a store whose path has ${what}, writable, and unmounts it`, () =>
      withMountDir((dir) => {
        const spec = makeSpec(join(dir, path))
        mountOverlaySync(spec)
        expect(readFileSync(join(spec.mountPoint, 'hello'), 'utf8')).to.equal('from below')
        writeFileSync(join(spec.mountPoint, 'new'), 'written')
        const [entry, ...others] = findMounts(spec.mountPoint)
        expect(others).to.deep.equal([])
        expect(entry).to.include({fsType: 'overlay', source: 'imgstore:one'})
        expect(entry?.options).to.include.members(['rw', 'nosuid', 'nodev'])
        expect(entry?.options).to.not.include('noexec')

        unmountSync(spec.mountPoint)
        expect(findMounts(spec.mountPoint)).to.deep.equal([])
        expect(readFileSync(join(spec.upperDir, 'new'), 'utf8')).to.equal('written')
        expect(readdirSync(spec.lowerDir)).to.deep.equal(['hello'])
      }))
  }

  it('shows the directories in the mount table, readable for a person', () =>
    withMountDir((dir) => {
      const spec = makeSpec(join(dir, 'é b'))
      mountOverlaySync(spec)
      const shown = findMounts(spec.mountPoint)[0]?.superOptions.join(' ') ?? ''
      expect(shown).to.include(`upperdir=${spec.upperDir}`).and.include(spec.lowerDir)
      unmountSync(spec.mountPoint)
    }))

  it('sees after a second mount what was written under the first', () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir)
      mountOverlaySync(spec)
      writeFileSync(join(spec.mountPoint, 'kept'), '1')
      unmountSync(spec.mountPoint)
      mountOverlaySync(spec)
      expect(readFileSync(join(spec.mountPoint, 'kept'), 'utf8')).to.equal('1')
      unmountSync(spec.mountPoint)
    }))

  it('refuses to execute programs when told so', () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir, {noexec: true})
      mountOverlaySync(spec)
      expect(findMounts(spec.mountPoint)[0]?.options).to.include('noexec')
      unmountSync(spec.mountPoint)
    }))

  it('refuses a second overlay on the same mount point', () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir)
      mountOverlaySync(spec)
      const error = caught(() => mountOverlaySync(spec))
      expect(error.code).to.equal('mount_failed')
      expect(error.message).to.include('imgstore:one (overlay) is mounted there already')
      unmountSync(spec.mountPoint)
    }))

  it('says that a mount in use is busy, and takes it away lazily when asked', () =>
    withMountDir(async (dir) => {
      const spec = makeSpec(dir)
      mountOverlaySync(spec)
      const user = spawn('sleep', ['60'], {cwd: spec.mountPoint, stdio: 'ignore'})
      try {
        expect(caught(() => unmountSync(spec.mountPoint)).code).to.equal('mount_busy')
        expect(findMounts(spec.mountPoint)).to.have.length(1)
        unmountSync(spec.mountPoint, {lazy: true})
        expect(findMounts(spec.mountPoint)).to.deep.equal([])
      } finally {
        const closed = new Promise((resolve) => user.once('close', resolve))
        user.kill('SIGKILL')
        await closed
      }
    }))

  it('names what is mounted in a mount that it cannot take away', () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir)
      mountOverlaySync(spec)
      const inner = join(spec.mountPoint, 'inner')
      mkdirSync(inner)
      mount('somebody', inner, 'tmpfs', MS_NODEV | MS_NOSUID, 'size=64k')
      const error = caught(() => unmountSync(spec.mountPoint))
      expect(error.code).to.equal('mount_busy')
      expect(error.message).to.include(`${spec.mountPoint} cannot be taken away`)
      expect(error.message).to.include(inner)
      expect(findMounts(spec.mountPoint)).to.have.length(1)
      unmountSync(inner)
      unmountSync(spec.mountPoint)
      expect(findMounts(spec.mountPoint)).to.deep.equal([])
    }))

  it('unmounts what is not mounted, and what does not exist, without an error', () =>
    withMountDir((dir) => {
      unmountSync(dir)
      unmountSync(join(dir, 'nothing/here'))
      expect(readdirSync(dir)).to.deep.equal([])
    }))

  it('does not follow a symbolic link to the mount of somebody else', () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir)
      mountOverlaySync(spec)
      const link = join(dir, 'link')
      symlinkSync(spec.mountPoint, link)
      unmountSync(link)
      expect(findMounts(spec.mountPoint)).to.have.length(1)
      const error = caught(() => mountOverlaySync({...makeSpec(join(dir, 'b')), mountPoint: link}))
      expect(error.code).to.equal('mount_failed')
      unmountSync(spec.mountPoint)
    }))

  it('lists mounts that are stacked on one place, the lowest first', () =>
    withMountDir((dir) => {
      for (const source of ['first', 'second', 'third'])
        mount(source, dir, 'tmpfs', MS_NODEV | MS_NOSUID, 'size=64k')
      expect(findMounts(dir).map((entry) => entry.source)).to.deep.equal([
        'first',
        'second',
        'third',
      ])
      unmountSync(dir)
      expect(findMounts(dir).map((entry) => entry.source)).to.deep.equal(['first', 'second'])
      unmountSync(dir)
      unmountSync(dir)
    }))

  it('says why an overlay cannot keep its changes on another overlay', () =>
    withMountDir((dir) => {
      const outer = makeSpec(join(dir, 'outer'))
      mountOverlaySync(outer)
      const error = caught(() => mountOverlaySync(makeSpec(join(outer.mountPoint, 'inner'))))
      expect(error.code).to.equal('host_cannot_mount')
      expect(error.message).to.include("store's file system cannot hold the changes of an overlay")
      unmountSync(outer.mountPoint)
    }))

  it("gives the kernel's reason for directories that do not fit together", () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir)
      const other = join(dir, 'other')
      mkdirSync(other)
      mount('other', other, 'tmpfs', MS_NODEV | MS_NOSUID, 'size=64k')
      const error = caught(() => mountOverlaySync({...spec, workDir: other}))
      expect(error.code).to.equal('mount_failed')
      expect(error.message).to.include('workdir and upperdir must reside under the same mount')
      expect(findMounts(spec.mountPoint)).to.deep.equal([])
      unmountSync(other)
    }))

  it('names a directory that is missing', () =>
    withMountDir((dir) => {
      const spec = makeSpec(dir)
      const error = caught(() => mountOverlaySync({...spec, upperDir: join(dir, 'gone')}))
      expect(error.code).to.equal('mount_failed')
      expect(error.message).to.include(join(dir, 'gone'))
    }))

  it('says that it is not allowed to, where the process has no right to mount', () =>
    withMountDir((dir) => {
      const module = new URL('../../src/core/mounts/mount.ts', import.meta.url).href
      const code = `
        const {mountOverlaySync} = await import(${JSON.stringify(module)})
        try { mountOverlaySync(${JSON.stringify(makeSpec(dir))}) }
        catch (error) { console.log(error.code, error.message) }`
      const powerless = ['--bounding-set', '-all', process.execPath, '--input-type=module', '-e']
      const {stdout} = spawnSync('setpriv', [...powerless, code], {encoding: 'utf8'})
      expect(stdout).to.match(/^host_cannot_mount this host cannot mount images: not allowed/)
    }))

  it('says that the disk is full instead of mounting read-only', () =>
    withMountDir((dir) => {
      mount('full', dir, 'tmpfs', MS_NODEV | MS_NOSUID, 'size=64k,nr_inodes=12')
      const spec = makeSpec(dir)
      for (let i = 0; statfsSync(dir).ffree > 0; i++) writeFileSync(join(dir, `f${i}`), '')
      const error = caught(() => mountOverlaySync(spec))
      expect(error.code).to.equal('no_space')
      expect(findMounts(spec.mountPoint)).to.deep.equal([])
      unmountSync(dir)
    }))
})

describe('the ways to mount an overlay', function () {
  requires('root')
  this.timeout(30_000)

  const ways = {
    'open directories (Linux 6.13)': (spec, dirs) => {
      // Older kernels say that they cannot, and the next way is taken.
      const [major = 0, minor = 0] = release().split('.').map(Number)
      const isNew = major > 6 || (major === 6 && minor >= 13)
      expect(mountByDescriptors(spec, dirs)).to.equal(isNew)
      if (!isNew) mountByText(spec, dirs)
    },
    'mount(2)': mountByText,
    'mount(8), where koffi cannot load': mountByProgram,
  } satisfies Record<string, (spec: OverlaySpec, dirs: OpenDirs) => void>

  const paths = {...hostilePaths, 'more than a page': Array(9).fill('long,'.repeat(40)).join('/')}
  for (const [name, way] of Object.entries(ways)) {
    for (const [what, path] of Object.entries(paths)) {
      it(`${name} takes a path with ${what}`, () =>
        withMountDir((dir) => {
          const spec = makeSpec(join(dir, path), {noexec: true})
          const opened = [spec.lowerDir, spec.upperDir, spec.workDir, spec.mountPoint].map((d) =>
            openSync(d, 'r'),
          )
          const [lower = -1, upper = -1, work = -1, target = -1] = opened
          try {
            way(spec, {lower, upper, work, target})
          } finally {
            for (const fd of opened) closeSync(fd)
          }
          writeFileSync(join(spec.mountPoint, 'new'), 'written')
          expect(readdirSync(spec.upperDir)).to.deep.equal(['new'])
          expect(readdirSync(spec.mountPoint)).to.have.members(['hello', 'new'])
          const entry = findMounts(spec.mountPoint)[0]
          expect(entry?.options).to.include.members(['rw', 'nosuid', 'nodev', 'noexec'])
          expect(entry?.source).to.equal('imgstore:one')
          unmountSync(spec.mountPoint)
        }))
    }
  }
})

describe('mounting overlays with fuse-overlayfs', function () {
  requires('root', 'program:fuse-overlayfs')
  this.timeout(30_000)

  for (const what of ['a comma', 'a backslash', 'a blank', 'a line break'] as const) {
    it(`mounts a store whose path has ${what}, with the same safe options`, () =>
      withMountDir(async (dir) => {
        const path = what === 'a backslash' ? 'a\\b' : hostilePaths[what]
        const spec = makeSpec(join(dir, path), {noexec: true})
        await mountOverlay(spec, {driver: 'fuse'})
        expect(readFileSync(join(spec.mountPoint, 'hello'), 'utf8')).to.equal('from below')
        writeFileSync(join(spec.mountPoint, 'new'), 'written')
        const entry = findMounts(spec.mountPoint).at(-1)
        expect(entry?.fsType).to.equal('fuse.fuse-overlayfs')
        expect(entry?.options).to.include.members(['nosuid', 'nodev', 'noexec'])
        unmountSync(spec.mountPoint)
        expect(readFileSync(join(spec.upperDir, 'new'), 'utf8')).to.equal('written')
      }))
  }

  it('refuses a path with a colon, which the program cannot take', () =>
    withMountDir(async (dir) => {
      const error = await rejected(mountOverlay(makeSpec(join(dir, 'a:b')), {driver: 'fuse'}))
      expect(error.code).to.equal('host_cannot_mount')
      expect(error.message).to.include('colon')
    }))

  it("gives the program's reason when it fails", () =>
    withMountDir(async (dir) => {
      const spec = {...makeSpec(dir), lowerDir: join(dir, 'gone')}
      const error = await rejected(mountOverlay(spec, {driver: 'fuse'}))
      expect(error.code).to.equal('mount_failed')
      expect(error.message).to.include('No such file')
    }))
})

describe('the mount table of this host', () => {
  it('reads every line and finds the root', () => {
    const table = readMountTable()
    expect(findMounts('/', table)).to.have.length.greaterThan(0)
    expect(table.length).to.equal(
      readFileSync('/proc/self/mountinfo', 'utf8').trimEnd().split('\n').length,
    )
  })
})
