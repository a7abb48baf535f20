/**
 * Mounts and unmounts overlays. The danger here: a path that the kernel, mount(8) or a C string reads as
 * something else than the directory meant. So directories are opened first and handed over as open files
 * wherever the kernel takes those; text is used only where it says the same.
 */
import {closeSync, constants, openSync, statfsSync} from 'node:fs'
import {fail, systemCode, type ImgstoreError} from '../errors.ts'
import {tryLibc} from '../syscalls/libc.ts'
import {
  MNT_DETACH,
  mount,
  MS_BIND,
  MS_REMOUNT,
  umount2,
  UMOUNT_NOFOLLOW,
} from '../syscalls/mount.ts'
import {mountByFuse} from './fuse.ts'
import {explain, kernelSaid, logEnd, mapError, reasonOf} from './mount-errors.ts'
import {findMounts, mountsBelow, tablePath} from './mount-table.ts'
import {runProgram} from './programs.ts'
import {mountByDescriptors, mountByProgram, mountByText, mountFlags, type OpenDirs} from './ways.ts'
import {safeOptions, type OverlaySpec} from './overlay.ts'

export type {OverlaySpec} from './overlay.ts'

/** Who makes the overlay: the kernel, or the program fuse-overlayfs. */
export type OverlayDriver = 'kernel' | 'fuse'

/**
 * Mounts an image's overlay, by system calls where koffi loads, else by mount(8).
 *
 * Shape: all four directories exist; any path will do. Synchronous: made for a short database transaction.
 * Guarantees: nodev and nosuid always; never read-only without a word; no symbolic link is followed at the
 * last component of a directory; after an error nothing is mounted.
 * Errors: host_cannot_mount (not allowed, no overlayfs, unfit file system), no_space, mount_failed with the
 * kernel's reason, also when something is mounted there already.
 */
export function mountOverlaySync(spec: OverlaySpec): void {
  refuseSecondMount(spec)
  const logBefore = logEnd()
  withOpenDirs(spec, (dirs) => {
    try {
      if (tryLibc() instanceof Error) mountByProgram(spec, dirs)
      else if (!mountByDescriptors(spec, dirs)) mountByText(spec, dirs)
    } catch (error) {
      throw explain(error, spec.mountPoint, logBefore)
    }
  })
  checkMounted(spec, logBefore)
}

/**
 * Mounts an image's overlay with the driver that was chosen.
 *
 * Errors: as mountOverlaySync; host_lacks when fuse-overlayfs is chosen and not installed.
 */
export async function mountOverlay(
  spec: OverlaySpec,
  options: {driver: OverlayDriver},
): Promise<void> {
  if (options.driver === 'kernel') {
    mountOverlaySync(spec)
    return
  }

  refuseSecondMount(spec)
  await mountByFuse(spec)
  // fuse-overlayfs asks for suid and dev by itself; what the kernel made of it all is set right here.
  try {
    if (!hasFlags(spec))
      mount('none', spec.mountPoint, null, MS_REMOUNT | MS_BIND | mountFlags(spec), null)
  } catch (error) {
    unmountSync(spec.mountPoint, {lazy: true})
    throw mapError(error, spec.mountPoint, reasonOf(error))
  }
  checkMounted(spec, undefined)
}

/**
 * Unmounts what is on top at a mount point; not mounted, or no such directory, is no error.
 *
 * Shape: `lazy` takes the mount out of sight at once and lets the kernel end it when its last user is gone.
 * Errors: mount_busy; host_cannot_mount (not allowed); mount_failed.
 */
export function unmountSync(mountPoint: string, options: {lazy?: boolean} = {}): void {
  const top = findMounts(mountPoint).at(-1)
  if (top === undefined) return
  try {
    if (tryLibc() instanceof Error) unmountByProgram(mountPoint, options)
    else umount2(mountPoint, UMOUNT_NOFOLLOW | (options.lazy === true ? MNT_DETACH : 0))
  } catch (error) {
    if (systemCode(error) === 'EBUSY') throw busy(mountPoint, error)
    // Who may not call umount(2) may still end a FUSE mount of their own.
    if (systemCode(error) === 'EPERM' && top.fsType.startsWith('fuse.')) {
      runProgram('fusermount3', ['-u', ...(options.lazy === true ? ['-z'] : []), '--', mountPoint])
      return
    }
    // Another process may have unmounted it between the look and the call.
    if (!findMounts(mountPoint).some((entry) => entry.mountId === top.mountId)) return
    throw mapError(error, mountPoint, reasonOf(error))
  }
}

// Two overlays on one upper directory damage it, and the kernel only warns.
function refuseSecondMount(spec: OverlaySpec): void {
  const there = findMounts(spec.mountPoint).at(-1)
  if (there === undefined) return
  const reason = `${there.source} (${there.fsType}) is mounted there already`
  throw fail('mount_failed', {path: spec.mountPoint, reason})
}

function withOpenDirs(spec: OverlaySpec, body: (dirs: OpenDirs) => void): void {
  const opened: number[] = []
  const open = (path: string): number => {
    try {
      const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
      opened.push(fd)
      return fd
    } catch (error) {
      throw mapError(error, spec.mountPoint, reasonOf(error))
    }
  }
  try {
    body({
      lower: open(spec.lowerDir),
      upper: open(spec.upperDir),
      work: open(spec.workDir),
      target: open(spec.mountPoint),
    })
  } finally {
    for (const fd of opened) closeSync(fd)
  }
}

/** No process need be at fault: what somebody mounted inside keeps a mount, too. */
function busy(mountPoint: string, cause: unknown): ImgstoreError {
  const below = mountsBelow(mountPoint).at(-1)?.mountPoint
  return fail('mount_busy', {path: mountPoint, ...(below === undefined ? {} : {below})}, {cause})
}

function unmountByProgram(mountPoint: string, options: {lazy?: boolean}): void {
  // umount(8) cannot be told not to follow a link; the resolved path has none above its last component,
  // and the table has just shown that a mount, not a link, is there.
  const lazy = options.lazy === true ? ['-l'] : []
  const place = tablePath(mountPoint)
  try {
    runProgram('umount', ['-i', ...lazy, place])
  } catch (error) {
    if (/busy/.test(reasonOf(error))) throw busy(mountPoint, error)
    throw error
  }
}

function hasFlags(spec: OverlaySpec): boolean {
  const options = findMounts(spec.mountPoint).at(-1)?.options ?? []
  return safeOptions(spec).every((option) => options.includes(option))
}

/** Looks the new mount up: overlayfs that cannot make its work directory mounts read-only and says OK. */
function checkMounted(spec: OverlaySpec, logBefore: string | undefined): void {
  const made = findMounts(spec.mountPoint).at(-1)
  const problem =
    made === undefined
      ? 'it does not show in the mount table of this process'
      : made.superOptions.includes('ro')
        ? 'the kernel could only mount it read-only'
        : !hasFlags(spec)
          ? `the mount has the options ${made.options.join(',')}, which are not safe`
          : undefined
  if (problem === undefined) return
  const said = kernelSaid(logBefore)
  unmountSync(spec.mountPoint, {lazy: true})
  if (isFull(spec.workDir) || /errno: (28|122)\)/.test(said)) {
    throw fail('no_space', {path: spec.workDir, reason: said === '' ? problem : said})
  }
  throw fail('mount_failed', {
    path: spec.mountPoint,
    reason: said === '' ? problem : `${problem}: ${said}`,
  })
}

function isFull(dir: string): boolean {
  const {bavail, ffree, files} = statfsSync(dir)
  // Some file systems have no inode count at all.
  return bavail === 0 || (files > 0 && ffree === 0)
}
