/**
 * Mounts EROFS images whose files' data is in other files. Since Linux 6.12 the kernel takes the files themselves;
 * before, each needs a loop device. Paths go to the kernel one by one (fsconfig(2)), so that nothing in them is read
 * as an option.
 */
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import {join, resolve} from 'node:path'
import {fail, systemCode, toImgstoreError, type ImgstoreError} from '../errors.ts'
import {attachLoop} from '../syscalls/loop.ts'
import {
  fsconfigCreate,
  fsconfigSet,
  fsContextLog,
  fsmount,
  fsopen,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  moveMount,
} from '../syscalls/mount.ts'
import {diskTrouble, explain, KernelSays, mapError, reasonOf} from './mount-errors.ts'
import {findMounts} from './mount-table.ts'
import {unmountSync} from './mount.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

/** `file`: by the kernel alone; `loop`: through loop devices. */
export type ErofsWay = 'file' | 'loop'

export type ErofsSpec = {
  imagePath: string
  /** The files with the data, in the order of the image's device table. */
  devicePaths: readonly string[]
  mountPoint: string
  /** Default: `file`, and `loop` where the kernel cannot do that. */
  way?: ErofsWay
}

/** fsconfig(2) takes no longer text. */
const TEXT_BYTES_MAX = 255

/** What tells that the kernel wants block devices: before 6.12, or built without file-backed mounts. */
const wantsDevices = new Set(['ENOTBLK', 'EINVAL', 'ENODEV', 'EOPNOTSUPP'])

/**
 * Mounts an image, read-only; returns how. The mount table shows the image's path (or loop device) as the source,
 * because the kernel opens what it shows.
 *
 * Shape: the mount point is an existing directory where nothing is mounted. Synchronous.
 * Guarantees: nodev and nosuid; after an error nothing is mounted and no loop device is left.
 * Errors: host_cannot_mount (not allowed, no EROFS, needs Linux 5.8), mount_failed with the kernel's reason.
 */
export function mountErofsSync(spec: ErofsSpec): ErofsWay {
  const there = findMounts(spec.mountPoint).at(-1)
  if (there !== undefined) {
    const reason = `${there.source} (${there.fsType}) is mounted there already`
    throw fail('mount_failed', {path: spec.mountPoint, reason})
  }
  const way = spec.way ?? 'file'
  try {
    return attempt(spec, way)
  } catch (error) {
    const code = systemCode(error)
    if (spec.way === undefined && code !== undefined && wantsDevices.has(code)) {
      try {
        return attempt(spec, 'loop')
      } catch (second) {
        throw coded(second, spec)
      }
    }
    throw coded(error, spec)
  }
}

function coded(error: unknown, spec: ErofsSpec): Error {
  if (systemCode(error) === 'ENODEV') {
    return fail('host_cannot_mount', {reason: 'the kernel has no EROFS'}, {cause: error})
  }
  return error instanceof KernelSays
    ? explain(error, spec.mountPoint, undefined)
    : mapError(error, spec.mountPoint, reasonOf(error))
}

function attempt(spec: ErofsSpec, way: ErofsWay): ErofsWay {
  // What must stay open until the mount holds it.
  const opened: number[] = []
  const nameOf = (path: string): string => {
    if (way === 'loop') {
      const device = attachLoop(path)
      opened.push(device.fd)
      return device.path
    }
    const absolute = resolve(path)
    if (Buffer.byteLength(absolute) <= TEXT_BYTES_MAX) return absolute
    const fd = openSync(absolute, constants.O_RDONLY)
    opened.push(fd)
    return `/proc/self/fd/${fd}`
  }
  try {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW
    const target = openSync(spec.mountPoint, flags)
    opened.push(target)
    const fs = fsopen('erofs')
    opened.push(fs)
    const mounted = create(fs, nameOf(spec.imagePath), spec.devicePaths.map(nameOf))
    opened.push(mounted)
    moveMount(mounted, target)
    return way
  } finally {
    for (const fd of opened.reverse()) closeSync(fd)
  }
}

/** Configures the file system and makes a detached mount of it. */
function create(fs: number, source: string, devices: string[]): number {
  try {
    fsconfigSet(fs, 'source', {text: source})
    fsconfigSet(fs, 'ro', 'flag')
    for (const device of devices) fsconfigSet(fs, 'device', {text: device})
    fsconfigCreate(fs)
    return fsmount(fs, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID)
  } catch (error) {
    throw new KernelSays(fsContextLog(fs), error)
  }
}

/** A small image to try a mount with; `src/core/unpack` makes it. */
export type ErofsTrial = {image: Buffer; device: Buffer; fileName: string; content: Buffer}

/** `trouble`: the disk failed, so that nothing is known of the host. */
export type ErofsSupport =
  {ok: true; how: ErofsWay} | {ok: false; reason: string; trouble?: ImgstoreError}

/**
 * Whether this host mounts our images, and how; proved by mounting one in `<dir>/staging` and reading a file of it.
 *
 * Guarantees: nothing is left mounted or on disk. Never rejects.
 */
export function canMountErofs(dir: string, trial: ErofsTrial): Promise<ErofsSupport> {
  return new Promise((done) => done(tryMount(dir, trial)))
}

/** A cleanup with no patience may take the trial's directory away under it, which says nothing about the host. */
const trialsMax = 3

function tryMount(dir: string, trial: ErofsTrial): ErofsSupport {
  for (let nth = 1; ; nth++) {
    const {isDisturbed, ...result} = tryMountOnce(dir, trial)
    if (isDisturbed !== true || nth === trialsMax) return result
  }
}

function tryMountOnce(dir: string, trial: ErofsTrial): ErofsSupport & {isDisturbed?: boolean} {
  let work: string
  try {
    makeDirectories(join(dir, 'staging'), 0o700)
    work = mkdtempSync(join(dir, 'staging', 'erofs-check-'))
  } catch (error) {
    const trouble = diskTrouble(error, dir)
    const reason = `cannot write into the store: ${reasonOf(error)}`
    return {ok: false, reason, ...(trouble ? {trouble} : {})}
  }
  const mountPoint = join(work, 'mount')
  try {
    mkdirSync(mountPoint)
    writeFileSync(join(work, 'image'), trial.image)
    writeFileSync(join(work, 'device'), trial.device)
    const paths = {imagePath: join(work, 'image'), devicePaths: [join(work, 'device')]}
    const how = mountErofsSync({...paths, mountPoint})
    const content = readFileSync(join(mountPoint, trial.fileName))
    return content.equals(trial.content)
      ? {ok: true, how}
      : {ok: false, reason: 'a file of a trial image did not have its content'}
  } catch (error) {
    const known = toImgstoreError(error)
    const {reason} = known.details
    const isDisturbed = !['mount', 'image', 'device'].every((name) => existsSync(join(work, name)))
    const trouble = diskTrouble(error, work)
    return {
      ok: false,
      reason: typeof reason === 'string' ? reason : known.message,
      ...(trouble ? {trouble} : {isDisturbed}),
    }
  } finally {
    try {
      unmountSync(mountPoint, {lazy: true})
    } finally {
      rmSync(work, {recursive: true, force: true})
    }
  }
}
