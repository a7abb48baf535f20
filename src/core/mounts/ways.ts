/**
 * Three ways to the same overlay, the best one first. Each takes the directories as open files; exported
 * one by one so that each is tested on every kernel, not only where it is needed.
 */
import {closeSync} from 'node:fs'
import {systemCode} from '../errors.ts'
import {
  fsconfigCreate,
  fsconfigSet,
  fsContextLog,
  fsmount,
  fsopen,
  mount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  moveMount,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
} from '../syscalls/mount.ts'
import {KernelSays} from './mount-errors.ts'
import {fitsOnePage, overlayOptions, safeOptions, type OverlaySpec} from './overlay.ts'
import {runProgram} from './programs.ts'

/** The directories of a spec, opened; descriptors are the caller's to close. */
export type OpenDirs = {lower: number; upper: number; work: number; target: number}

/**
 * The best way, since Linux 6.13: directories are given as open files, so nothing is escaped, no length
 * is limited, and the mount table shows their paths. False where the kernel cannot do it.
 */
export function mountByDescriptors(spec: OverlaySpec, dirs: OpenDirs): boolean {
  const opened: number[] = []
  try {
    try {
      opened.push(fsopen('overlay'))
    } catch {
      return false
    }
    const fs = opened[0] as number
    try {
      fsconfigSet(fs, 'lowerdir+', {fd: dirs.lower})
    } catch {
      return false
    }
    try {
      fsconfigSet(fs, 'upperdir', {fd: dirs.upper})
      fsconfigSet(fs, 'workdir', {fd: dirs.work})
      fsconfigSet(fs, 'source', {text: spec.source})
      fsconfigCreate(fs)
    } catch (error) {
      throw new KernelSays(fsContextLog(fs), error)
    }
    const attributes = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | (spec.noexec ? MOUNT_ATTR_NOEXEC : 0)
    const mountFd = fsmount(fs, attributes)
    opened.push(mountFd)
    moveMount(mountFd, dirs.target)
    return true
  } finally {
    for (const fd of opened) closeSync(fd)
  }
}

/**
 * mount(2) with an option text. Paths that do not fit one page go as /proc/self/fd/N, which the kernel
 * follows to the open directory; so do odd paths where escaping is broken (6.5 to 6.7: commas).
 */
export function mountByText(spec: OverlaySpec, dirs: OpenDirs): void {
  const target = `/proc/self/fd/${dirs.target}`
  const text = overlayOptions(spec)
  const byNumber = overlayOptions(fdPaths(dirs.lower, dirs.upper, dirs.work))
  try {
    mount(spec.source, target, 'overlay', mountFlags(spec), fitsOnePage(text) ? text : byNumber)
  } catch (error) {
    const code = systemCode(error)
    if (!text.includes('\\') || (code !== 'EINVAL' && code !== 'ENOENT')) throw error
    mount(spec.source, target, 'overlay', mountFlags(spec), byNumber)
  }
}

function fdPaths(lower: number, upper: number, work: number): OverlayPaths {
  const path = (fd: number): string => `/proc/self/fd/${fd}`
  return {lowerDir: path(lower), upperDir: path(upper), workDir: path(work)}
}
type OverlayPaths = Pick<OverlaySpec, 'lowerDir' | 'upperDir' | 'workDir'>

/** mount(8): its option text has quotes and escapes of its own, so only plain paths go as text. */
export function mountByProgram(spec: OverlaySpec, dirs: OpenDirs): void {
  const all = [spec.lowerDir, spec.upperDir, spec.workDir]
  // mount(8) since 2.39 hands each option over by fsconfig(2), which takes 255 bytes.
  const arePlain = all.every((path) => /^[\w./ -]{1,255}$/.test(path))
  const paths = arePlain ? spec : fdPaths(3, 4, 5)
  runProgram(
    'mount',
    [
      '-i',
      '-t',
      'overlay',
      '-o',
      `${safeOptions(spec).join(',')},${overlayOptions(paths)}`,
      spec.source,
      spec.mountPoint,
    ],
    [dirs.lower, dirs.upper, dirs.work],
  )
}

/** The flags of mount(2) that every image gets. */
export function mountFlags(spec: OverlaySpec): number {
  return MS_NODEV | MS_NOSUID | (spec.noexec ? MS_NOEXEC : 0)
}
