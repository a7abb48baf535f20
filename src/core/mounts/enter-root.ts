/**
 * Makes an image's tree the root of this mount namespace, with its own /proc, /dev and /sys.
 *
 * The danger: the tree is hostile, and another program may be changing it right now. So nothing below it is
 * named by a path: each directory is opened by its one name, links refused, and mounted on as an open file.
 */
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import {systemCode} from '../errors.ts'
import {
  MNT_DETACH,
  mount,
  MS_BIND,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  MS_REMOUNT,
  umount2,
} from '../syscalls/mount.ts'
import {pivotRootHere} from '../syscalls/namespace.ts'
import {deviceNames, maskedProcPaths, readonlyProcPaths} from './enter-plan.ts'

/** The image is made so that a program cannot be run in it. */
export class UnfitImage extends Error {}

const directory = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW

/** The place of an open file as a path that leads to nothing else. */
export function fdPath(fd: number): string {
  return `/proc/self/fd/${fd}`
}

/** Opens a directory right below an open one, made if it is missing; a link or file there is refused. */
function openBelow(parent: number, name: string, shown = `/${name}`): number {
  const path = `${fdPath(parent)}/${name}`
  try {
    mkdirSync(path, 0o755)
  } catch (error) {
    // On a read-only tree it is there or it is not: opening it tells.
    if (systemCode(error) !== 'EEXIST' && systemCode(error) !== 'EROFS') throw error
  }
  try {
    return openSync(path, directory)
  } catch (error) {
    const code = systemCode(error)
    if (code !== 'ELOOP' && code !== 'ENOTDIR' && code !== 'ENOENT') throw error
    throw new UnfitImage(`${shown} of the image is not a directory`, {cause: error})
  }
}

/** Mounts a new file system on a directory below an open one and returns it opened. */
function mountBelow(
  parent: number,
  name: string,
  type: string,
  options: {flags: number; data?: string; shown?: string},
): number {
  const fd = openBelow(parent, name, options.shown)
  try {
    mount(type, fdPath(fd), type, options.flags, options.data ?? null)
  } finally {
    closeSync(fd)
  }
  // Opened again, the name leads to what was just mounted.
  return openSync(`${fdPath(parent)}/${name}`, directory)
}

/**
 * Mounts what a program expects and pivots; afterwards the host's tree is out of reach for good.
 *
 * Shape: the calling process alone is in a mount namespace of its own whose mounts do not propagate out.
 * Errors: UnfitImage; system errors.
 */
export function enterRoot(rootDir: string): void {
  bindRoot(rootDir)
  const root = openSync(rootDir, directory)
  mountProc(root)
  mountDev(root)
  mountSys(root)
  process.chdir(fdPath(root))
  closeSync(root)
  pivotRootHere()
  umount2('.', MNT_DETACH)
  process.chdir('/')
}

/**
 * Refuses an image whose /proc, /dev or /sys is not a directory, as `enterRoot` does.
 *
 * Errors: UnfitImage; system errors.
 */
export function checkRoot(rootDir: string): void {
  const root = openSync(rootDir, directory)
  try {
    for (const name of ['proc', 'dev', 'sys']) closeSync(openBelow(root, name))
  } finally {
    closeSync(root)
  }
}

// pivot_root wants a mount point, and one that nobody else uses; a bind mount keeps the flags of its origin.
function bindRoot(rootDir: string): void {
  const fd = openSync(rootDir, directory)
  try {
    mount(fdPath(fd), fdPath(fd), null, MS_BIND, null)
  } finally {
    closeSync(fd)
  }
  const own = openSync(rootDir, directory)
  try {
    const noexec = mountFlagsOf(own).includes('noexec') ? MS_NOEXEC : 0
    const readonly = mountFlagsOf(own).includes('ro') ? MS_RDONLY : 0
    const flags = MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOSUID | noexec | readonly
    mount('none', fdPath(own), null, flags, null)
  } finally {
    closeSync(own)
  }
}

/** The mount options of the mount that an open file is on. */
function mountFlagsOf(fd: number): string[] {
  const id = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1]
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${id ?? ''} `))
  return line?.split(' ')[5]?.split(',') ?? []
}

function mountProc(root: number): void {
  const flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
  const proc = mountBelow(root, 'proc', 'proc', {flags})
  // Everything below is the kernel's own, so paths are safe from here on.
  for (const name of readonlyProcPaths) {
    const path = `${fdPath(proc)}/${name}`
    if (!exists(path)) continue
    mount(path, path, null, MS_BIND, null)
    mount('none', path, null, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, null)
  }
  for (const name of maskedProcPaths) mask(`${fdPath(proc)}/${name}`)
  closeSync(proc)
}

function mountSys(root: number): void {
  const sys = mountBelow(root, 'sys', 'sysfs', {
    flags: MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
  })
  mask(`${fdPath(sys)}/firmware`)
  closeSync(sys)
}

function mountDev(root: number): void {
  const tmpfs = 'mode=755,size=64k'
  const dev = mountBelow(root, 'dev', 'tmpfs', {
    flags: MS_NOSUID | MS_NOEXEC | MS_NODEV,
    data: tmpfs,
  })
  const path = fdPath(dev)
  for (const name of deviceNames) {
    // The host's node by a bind mount: the directory itself stays nodev, so nodes made in it are dead.
    writeFileSync(`${path}/${name}`, '', {flag: 'wx', mode: 0o666})
    mount(`/dev/${name}`, `${path}/${name}`, null, MS_BIND, null)
  }
  const pts = mountBelow(dev, 'pts', 'devpts', {
    flags: MS_NOSUID | MS_NOEXEC,
    data: 'newinstance,ptmxmode=0666,mode=0620,gid=5',
    shown: '/dev/pts',
  })
  closeSync(pts)
  const shm = mountBelow(dev, 'shm', 'tmpfs', {
    flags: MS_NOSUID | MS_NODEV | MS_NOEXEC,
    data: 'mode=1777,size=64m',
    shown: '/dev/shm',
  })
  closeSync(shm)
  symlinkSync('pts/ptmx', `${path}/ptmx`)
  symlinkSync('/proc/self/fd', `${path}/fd`)
  symlinkSync('/proc/self/fd/0', `${path}/stdin`)
  symlinkSync('/proc/self/fd/1', `${path}/stdout`)
  symlinkSync('/proc/self/fd/2', `${path}/stderr`)
  closeSync(dev)
}

function exists(path: string): boolean {
  return statSync(path, {throwIfNoEntry: false}) !== undefined
}

/** Hides a file of the kernel behind /dev/null and a directory behind an empty one. */
function mask(path: string): void {
  const stat = statSync(path, {throwIfNoEntry: false})
  if (stat === undefined) return
  if (stat.isDirectory()) mount('tmpfs', path, 'tmpfs', MS_RDONLY | MS_NOSUID | MS_NODEV, 'size=4k')
  else mount('/dev/null', path, null, MS_BIND, null)
}
