import {spawnSync} from 'node:child_process'
import {copyFileSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {expect} from 'chai'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

const unitFile = fileURLToPath(
  new URL('../../deploy/systemd/imgstore-worker.service', import.meta.url),
)
const unit = readFileSync(unitFile, 'utf8')

/** The values of a setting, in the order in which the unit gives them. */
function values(setting: string): string[] {
  return [...unit.matchAll(new RegExp(`^${setting}=(.*)$`, 'gm'))].map((found) => found[1] ?? '')
}

describe("the worker's unit", function () {
  requires('program:systemd-analyze')
  this.timeout(60_000)

  it('is accepted by systemd without a word', () =>
    withTempDir((dir) => {
      // The same unit with a program that exists here; everything else is as installed.
      const copy = join(dir, 'imgstore-worker.service')
      writeFileSync(copy, unit.replace(/^ExecStart=\S+/m, `ExecStart=${process.execPath}`))
      const verify = spawnSync('systemd-analyze', ['verify', '--man=no', copy], {encoding: 'utf8'})
      // Units of the host may be unsound; only what concerns ours counts.
      const said = `${verify.stdout}${verify.stderr}`.split('\n')
      expect(said.filter((line) => line.includes('imgstore'))).to.deep.equal([])
      expect(verify.status).to.equal(0)
    }))

  it('has an exposure of at most 5.3', () => {
    const security = spawnSync(
      'systemd-analyze',
      ['security', '--offline=true', '--no-pager', '--threshold=53', unitFile],
      {encoding: 'utf8'},
    )
    const level = /Overall exposure level for imgstore-worker\.service: ([\d.]+)/.exec(
      security.stdout,
    )
    expect(Number(level?.[1]), security.stderr).to.be.greaterThan(0).and.at.most(5.3)
    expect(security.status, security.stdout).to.equal(0)
  })

  it('has no setting that would give the worker mounts of its own', () => {
    // Source: exec_needs_mount_namespace() in systemd's src/core/execute.c.
    const forbidden = [
      ...['PrivateTmp', 'PrivateDevices', 'PrivateMounts', 'PrivateIPC', 'PrivateUsers'],
      ...['ProtectSystem', 'ProtectHome', 'ProtectKernelTunables', 'ProtectKernelModules'],
      ...['ProtectKernelLogs', 'ProtectControlGroups', 'ProtectProc', 'ProcSubset'],
      ...['ReadOnlyPaths', 'ReadWritePaths', 'InaccessiblePaths', 'ExecPaths', 'NoExecPaths'],
      ...['TemporaryFileSystem', 'BindPaths', 'BindReadOnlyPaths', 'RootDirectory', 'RootImage'],
      ...['MountImages', 'ExtensionImages', 'MountFlags', 'MountAPIVFS', 'DynamicUser'],
      ...['LogNamespace', 'IPCNamespacePath'],
    ]
    for (const setting of forbidden) expect(values(setting), setting).to.deep.equal([])
  })

  it('is ready and watched by notification, and gives the worker time to end', () => {
    expect(values('Type')).to.deep.equal(['notify'])
    expect(values('NotifyAccess')).to.deep.equal(['all'])
    expect(Number(values('WatchdogSec')[0])).to.be.greaterThan(0)
    expect(Number(values('TimeoutStopSec')[0])).to.be.greaterThan(10)
    expect(values('ExecStart')).to.deep.equal(['/usr/local/bin/imgstore worker'])
    expect(values('Environment')).to.include('IMGSTORE_STORE_PATH=/var/lib/imgstore/store')
  })
})

describe("the rights of the worker's unit", function () {
  requires('root', 'program:setpriv', 'program:busybox')
  this.timeout(60_000)

  it('are enough to mount an overlay and for others to work in it', () =>
    withTempDir((dir) => {
      for (const name of ['lower', 'upper', 'work', 'mount']) mkdirSync(join(dir, name))
      copyFileSync('/bin/busybox', join(dir, 'lower/busybox'))
      const spec = {
        lowerDir: join(dir, 'lower'),
        upperDir: join(dir, 'upper'),
        workDir: join(dir, 'work'),
        mountPoint: join(dir, 'mount'),
        noexec: false,
        source: 'imgstore:unit',
      }
      const module = new URL('../../src/core/mounts/mount.ts', import.meta.url).href
      const mountIt = `(await import(${JSON.stringify(module)})).mountOverlaySync(${JSON.stringify(spec)})`
      const kept = (values('CapabilityBoundingSet')[0] ?? '')
        .split(' ')
        .map((name) => `+${name.replace(/^CAP_/, '').toLowerCase()}`)
      expect(kept).to.include('+sys_admin')
      const setpriv = ['--bounding-set', ['-all', ...kept].join(','), '--no-new-privs']
      const node = [process.execPath, '--input-type=module', '-e', mountIt]
      const mounted = spawnSync('setpriv', [...setpriv, ...node], {encoding: 'utf8'})
      expect(mounted.stderr).to.equal('')
      try {
        // Overlayfs copies up with the rights of the one who mounted it, not of the one who works in it.
        const work = spawnSync(
          'sh',
          ['-ec', 'chown 7:8 busybox; chmod 6755 busybox; mkdir d; mv d e; rmdir e; rm busybox'],
          {cwd: spec.mountPoint, encoding: 'utf8'},
        )
        expect(work.stderr).to.equal('')
      } finally {
        spawnSync('umount', [spec.mountPoint])
      }
      expect(mountsBelow(dir)).to.deep.equal([])
    }))
})
