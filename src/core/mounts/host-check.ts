/** What this host has and lacks for mounting images and running programs in them; `imgstore doctor` prints it. */
import {existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {systemCode, toImgstoreError, type ImgstoreError} from '../errors.ts'
import {tryLibc} from '../syscalls/libc.ts'
import {mountOf, parseMountInfo, readMountTable, tablePath} from './mount-table.ts'
import {diskTrouble} from './mount-errors.ts'
import {mountOverlay, unmountSync, type OverlayDriver} from './mount.ts'
import type {OverlaySpec} from './overlay.ts'
import {findProgram} from './programs.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

/** One thing looked at. `ok` is false only for what images need; what is optional says so in its hint. */
export type HostCheckItem = {name: string; ok: boolean; detail: string; hint: string}

export type HostCheck = {
  items: HostCheckItem[]
  /** Proved by mounting an overlay in the store and writing into it. */
  canMount: MountTrial
}

/** `trouble`: the disk failed, so that nothing is known of the host. */
export type MountTrial = {ok: true} | {ok: false; reason: string; trouble?: ImgstoreError}

const CAP_SYS_ADMIN = 21n

// Overlayfs wants of its upper directory: xattrs, file types in directory entries, RENAME_WHITEOUT.
const unfitUpper = new Set([
  ...['overlay', 'nfs', 'nfs4', 'cifs', 'smb3', 'vfat', 'msdos', 'exfat', 'ntfs', 'ntfs3', '9p'],
  ...['fuse', 'fuseblk', 'fuse.sshfs', 'iso9660', 'squashfs', 'erofs', 'ecryptfs'],
])

const checked = new Map<string, Promise<HostCheck>>()

/**
 * Looks at the host, and tries a mount for real in `<storeDir>/staging`.
 *
 * Shape: once per process, store and driver, unless the disk failed; `refresh` looks again. The store's directory
 * exists.
 * Guarantees: nothing is left mounted or on disk.
 * Cost: one mount and unmount, about ten reads of /proc.
 */
export function checkMountHost(
  storeDir: string,
  options: {driver?: OverlayDriver; refresh?: boolean} = {},
): Promise<HostCheck> {
  const driver = options.driver ?? 'kernel'
  const key = `${driver}:${storeDir}`
  let found = options.refresh === true ? undefined : checked.get(key)
  if (found === undefined) {
    found = look(storeDir, driver).then((result) => {
      if (!result.canMount.ok && result.canMount.trouble) checked.delete(key)
      return result
    })
    checked.set(key, found)
  }
  return found
}

async function look(storeDir: string, driver: OverlayDriver): Promise<HostCheck> {
  const canMount = await tryMount(storeDir, driver)
  const items = [
    trialItem(canMount, driver),
    rootItem(),
    overlayItem(canMount.ok && driver === 'kernel'),
    koffiItem(),
    storeItem(storeDir),
    namespaceItem(),
    ...programItems(driver),
  ]
  return {items, canMount}
}

/** A cleanup with no patience may take the trial's directory away under it, which says nothing about the host. */
const trialsMax = 3

async function tryMount(storeDir: string, driver: OverlayDriver): Promise<MountTrial> {
  for (let trial = 1; ; trial++) {
    const {isDisturbed, ...result} = await tryMountOnce(storeDir, driver)
    if (isDisturbed !== true || trial === trialsMax) return result
  }
}

async function tryMountOnce(
  storeDir: string,
  driver: OverlayDriver,
): Promise<MountTrial & {isDisturbed?: boolean}> {
  let dir: string
  try {
    makeDirectories(join(storeDir, 'staging'), 0o700)
    dir = mkdtempSync(join(storeDir, 'staging', 'mount-check-'))
  } catch (error) {
    const reason = `cannot write into the store (${systemCode(error) ?? String(error)})`
    return failedTrial(reason, diskTrouble(error, storeDir))
  }
  const spec: OverlaySpec = {
    lowerDir: join(dir, 'lower'),
    upperDir: join(dir, 'upper'),
    workDir: join(dir, 'work'),
    mountPoint: join(dir, 'mount'),
    noexec: true,
    source: 'imgstore:mount-check',
  }
  const parts = [spec.lowerDir, spec.upperDir, spec.workDir, spec.mountPoint]
  try {
    for (const path of parts) mkdirSync(path)
    writeFileSync(join(spec.lowerDir, 'file'), 'lower')
    await mountOverlay(spec, {driver})
    writeFileSync(join(spec.mountPoint, 'file'), 'upper')
    if (readFileSync(join(spec.upperDir, 'file'), 'utf8') !== 'upper')
      return {
        ok: false,
        reason: 'what was written into a trial mount did not reach its upper directory',
      }
    return {ok: true}
  } catch (error) {
    const known = toImgstoreError(error)
    const {reason} = known.details
    const isDisturbed = !parts.every((path) => existsSync(path))
    const text = typeof reason === 'string' ? reason : known.message
    const trouble = diskTrouble(error, dir)
    return {...failedTrial(text, trouble), ...(trouble ? {} : {isDisturbed})}
  } finally {
    try {
      unmountSync(spec.mountPoint, {lazy: true})
    } finally {
      rmSync(dir, {recursive: true, force: true})
    }
  }
}

function failedTrial(reason: string, trouble: ImgstoreError | undefined): MountTrial {
  return {ok: false, reason, ...(trouble ? {trouble} : {})}
}

function trialItem(canMount: HostCheck['canMount'], driver: OverlayDriver): HostCheckItem {
  const how = driver === 'kernel' ? "the kernel's overlayfs" : 'fuse-overlayfs'
  return {
    name: 'mount',
    ok: canMount.ok,
    detail: canMount.ok ? `a trial mount by ${how} worked` : canMount.reason,
    hint: canMount.ok
      ? ''
      : 'Mend what the lines below warn of; until then images are fetched and unpacked, and stay STORED.',
  }
}

function rootItem(): HostCheckItem {
  const status = readText('/proc/self/status')
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`)
  const ok = ((effective >> CAP_SYS_ADMIN) & 1n) === 1n
  return {
    name: 'root',
    ok,
    detail: `user ${process.geteuid?.() ?? '?'}, ${ok ? 'with' : 'without'} CAP_SYS_ADMIN`,
    hint: ok ? '' : 'Run the worker as root, or in a container with CAP_SYS_ADMIN.',
  }
}

function overlayItem(hasMounted: boolean): HostCheckItem {
  const ok = hasMounted || /^nodev\s+overlay$/m.test(readText('/proc/filesystems'))
  return {
    name: 'overlayfs',
    ok,
    detail: ok ? 'the kernel has it' : 'not in /proc/filesystems',
    hint: ok ? '' : '`modprobe overlay` loads it where the kernel has it as a module.',
  }
}

function koffiItem(): HostCheckItem {
  const libc = tryLibc()
  const ok = !(libc instanceof Error)
  return {
    name: 'system calls',
    ok,
    detail: ok ? 'koffi loads' : `koffi cannot load: ${libc.message}`,
    hint: ok
      ? ''
      : 'Install the package anew on this machine; until then mount(8) makes the mounts, and `imgstore run` does not work.',
  }
}

function storeItem(storeDir: string): HostCheckItem {
  const name = 'file system of the store'
  // Through the staging directory, so that a link as the store's own last component is followed too.
  const entry = mountOf(tablePath(join(storeDir, 'staging')))
  const hint = 'Mount /proc, with this process to be seen in it.'
  if (entry === undefined) return {name, ok: false, detail: 'not in the mount table', hint}
  const isReadOnly = entry.options.includes('ro') || entry.superOptions.includes('ro')
  const ok = !unfitUpper.has(entry.fsType) && !isReadOnly
  return {
    name,
    ok,
    detail: `${entry.fsType}${isReadOnly ? ', read-only' : ''}, mounted at ${entry.mountPoint}`,
    hint: ok
      ? ''
      : 'Put the store on ext4, xfs, btrfs or tmpfs (--store); an overlay cannot keep its changes here.',
  }
}

/** Tells whether our mounts are seen by the rest of the host; a container with its own mounts is no fault. */
function namespaceItem(): HostCheckItem {
  const name = 'mount namespace'
  const isShared = sharesMountsWithFirst()
  if (isShared === undefined) {
    return {name, ok: true, detail: 'unknown: /proc does not show the first process', hint: ''}
  }
  return {
    name,
    ok: true,
    detail: isShared
      ? "the same as the first process's"
      : 'one of its own: mounts made here are seen by this service or shell only. In a unit, take out what makes a namespace (PrivateTmp, ProtectSystem …)',
    hint: '',
  }
}

/** The links in /proc/1/ns may be closed even to root; the table of mounts is open to all, and ids are the kernel's. */
function sharesMountsWithFirst(): boolean | undefined {
  try {
    const ids = new Set(readMountTable().map((entry) => entry.mountId))
    const first = parseMountInfo(readFileSync('/proc/1/mountinfo'))
    return first.length === 0 ? undefined : first.some((entry) => ids.has(entry.mountId))
  } catch {
    return undefined
  }
}

function programItems(driver: OverlayDriver): HostCheckItem[] {
  const wanted = [
    {name: 'unshare', isNeeded: true, use: '`imgstore run` (package util-linux)'},
    {name: 'runc', isNeeded: false, use: '`imgstore run` prefers it where it is installed'},
    {
      name: 'fuse-overlayfs',
      isNeeded: driver === 'fuse',
      use: 'mounts where the kernel refuses overlays, when chosen as the driver',
    },
    {name: 'xz', isNeeded: false, use: 'unpacks archives that it compressed (package xz-utils)'},
    {name: 'bzip2', isNeeded: false, use: 'unpacks archives that it compressed'},
  ]
  return wanted.map(({name, isNeeded, use}) => {
    const path = findProgram(name)
    const detail = path ?? 'not installed'
    const hint = path === undefined ? `${isNeeded ? 'Needed for' : 'Optional:'} ${use}.` : ''
    return {name, ok: path !== undefined || !isNeeded, detail, hint}
  })
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
