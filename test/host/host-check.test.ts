import {execFileSync} from 'node:child_process'
import {mkdirSync, readdirSync, rmSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {expect} from 'chai'
import {checkMountHost} from '../../src/core/mounts/host-check.ts'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {mountOverlaySync, unmountSync} from '../../src/core/mounts/mount.ts'
import {resolveSettings} from '../../src/core/settings.ts'
import {openStore} from '../../src/core/store.ts'
import {mount, MS_NODEV, MS_NOSUID, MS_RDONLY} from '../../src/core/syscalls/mount.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

describe('the check of a host that can mount', function () {
  requires('root')
  this.timeout(30_000)

  it('proves it by a trial mount and leaves nothing behind', () =>
    withTempDir(async (dir) => {
      const check = await checkMountHost(join(dir, 'a, store: é'))
      expect(check.canMount).to.deep.equal({ok: true})
      const failed = check.items.filter((item) => !item.ok)
      expect(failed).to.deep.equal([])
      expect(check.items.map((item) => item.name)).to.deep.equal([
        ...['mount', 'root', 'overlayfs', 'system calls', 'file system of the store'],
        ...['mount namespace', 'unshare', 'runc', 'fuse-overlayfs', 'xz', 'bzip2'],
      ])
      expect(mountsBelow(dir)).to.deep.equal([])
      expect(readdirSync(join(dir, 'a, store: é/staging'))).to.deep.equal([])
    }))

  it('is not misled by a cleanup that takes its trial away', () =>
    withTempDir(async (dir) => {
      const staging = join(dir, 'staging')
      const checking = checkMountHost(dir, {refresh: true})
      // The trial is mounted by now, and is looked at next.
      const [name = ''] = readdirSync(staging)
      unmountSync(join(staging, name, 'mount'))
      rmSync(join(staging, name), {recursive: true})
      expect((await checking).canMount).to.deep.equal({ok: true})
      expect(readdirSync(staging)).to.deep.equal([])
    }))

  it('says why a store cannot be used: it is on an overlay, or read-only', () =>
    withTempDir(async (dir) => {
      const [lowerDir, upperDir, workDir, mountPoint] = ['l', 'u', 'w', 'm'].map((name) => {
        mkdirSync(join(dir, name))
        return join(dir, name)
      }) as [string, string, string, string]
      mountOverlaySync({lowerDir, upperDir, workDir, mountPoint, noexec: true, source: 'x'})
      try {
        const check = await checkMountHost(mountPoint)
        expect(check.canMount.ok).to.equal(false)
        expect('reason' in check.canMount && check.canMount.reason).to.include('put the store on')
        const item = check.items.find((found) => found.name === 'file system of the store')
        expect(item).to.include({ok: false})
        expect(item?.detail).to.equal(`overlay, mounted at ${mountPoint}`)
      } finally {
        unmountSync(mountPoint)
      }
      mount('ro', mountPoint, 'tmpfs', MS_NODEV | MS_NOSUID | MS_RDONLY, null)
      try {
        const cached = await checkMountHost(mountPoint)
        expect('reason' in cached.canMount && cached.canMount.reason).to.include('put the store on')
        const fresh = await checkMountHost(mountPoint, {refresh: true})
        expect('reason' in fresh.canMount && fresh.canMount.reason).to.include('cannot write')
      } finally {
        unmountSync(mountPoint)
      }
    }))

  it('tells whether its mounts are those of the first process', () =>
    withTempDir((dir) => {
      const file = resolve('src/core/mounts/host-check.ts')
      const program = `const {checkMountHost} = await import(process.argv[1])
        const {items} = await checkMountHost(process.argv[2])
        console.log(items.find(({name}) => name === 'mount namespace').detail)`
      const look = (by: string, ...more: string[]): string => {
        const words = [...more, '-e', program, file, dir]
        return execFileSync(by, words, {encoding: 'utf8'})
      }
      expect(look(process.execPath)).to.equal("the same as the first process's\n")
      expect(look('unshare', '--mount', process.execPath)).to.match(/^one of its own: /)
    }))

  it('tries fuse-overlayfs when that is the driver', () =>
    withTempDir(async (dir) => {
      const check = await checkMountHost(dir, {driver: 'fuse'})
      const program = check.items.find((item) => item.name === 'fuse-overlayfs')
      expect(check.canMount.ok).to.equal(program?.ok)
      expect(mountsBelow(dir)).to.deep.equal([])
    }))
})

describe('the doctor of a store that cannot be written', function () {
  requires('root')

  it('fails, and says what to do', () =>
    withTempDir(async (dir) => {
      const storeDir = join(dir, 'store')
      mkdirSync(storeDir)
      mount('ro', storeDir, 'tmpfs', MS_NODEV | MS_NOSUID | MS_RDONLY, null)
      try {
        const resolved = resolveSettings({
          flags: {store: storeDir},
          env: {},
          dataDir: dir,
          cwd: dir,
        })
        const store = await openStore({...resolved, role: 'command', access: 'read'})
        const {isOk, checks} = await store.maintenance.doctor()
        await store.close()
        const found = checks.find(({name}) => name === 'store')
        expect(found).to.include({status: 'fail'})
        expect(found?.hint).to.include('--store')
        expect(isOk).to.equal(false)
      } finally {
        unmountSync(storeDir)
      }
    }))
})
