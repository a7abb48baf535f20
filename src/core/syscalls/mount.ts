/**
 * The mounting system calls, typed. Everything is synchronous: a mount is made inside a short database
 * transaction. Failures are Node-shaped system errors (`code`, `errno`, `syscall`).
 */
import {type Call, certain, lastErrno} from './errno.ts'
import {libc, systemError} from './libc.ts'

// Flags of mount(2), umount2(2) and the mount API of Linux 5.2; values from <linux/mount.h>.
export const MS_RDONLY = 0x1
export const MS_NOSUID = 0x2
export const MS_NODEV = 0x4
export const MS_NOEXEC = 0x8
export const MS_REMOUNT = 0x20
export const MS_BIND = 0x1000
export const MS_MOVE = 0x2000
export const MS_REC = 0x4000
export const MS_PRIVATE = 0x40000
export const MS_SLAVE = 0x80000
export const MNT_DETACH = 0x2
export const UMOUNT_NOFOLLOW = 0x8
export const MOUNT_ATTR_RDONLY = 0x1
export const MOUNT_ATTR_NOSUID = 0x2
export const MOUNT_ATTR_NODEV = 0x4
export const MOUNT_ATTR_NOEXEC = 0x8

const FSOPEN_CLOEXEC = 0x1
const FSCONFIG_SET_FLAG = 0
const FSCONFIG_SET_STRING = 1
const FSCONFIG_SET_FD = 5
const FSCONFIG_CMD_CREATE = 6
const FSMOUNT_CLOEXEC = 0x1
const MOVE_MOUNT_F_EMPTY_PATH = 0x4
const MOVE_MOUNT_T_EMPTY_PATH = 0x40
const SYSLOG_ACTION_READ_ALL = 3

// These numbers are the same on every architecture: calls added since Linux 5.1 share one numbering.
const SYS_move_mount = 429
const SYS_fsopen = 430
const SYS_fsconfig = 431
const SYS_fsmount = 432

type Calls = {
  mount: Call
  umount2: Call
  syscall: (number: number, ...typedArguments: unknown[]) => number
  read: (fd: number, buffer: Buffer, sizeBytes: number) => number
  klogctl: (type: number, buffer: Buffer, sizeBytes: number) => number
  errno: () => number
}

let bound: Calls | undefined

function calls(): Calls {
  if (bound === undefined) {
    const {koffi, lib} = libc()
    const errno = (): number => koffi.errno()
    bound = {
      mount: certain(
        lib.func(
          'int mount(const char *, const char *, const char *, unsigned long, const char *)',
        ),
        errno,
      ),
      umount2: certain(lib.func('int umount2(const char *, int)'), errno),
      syscall: lib.func('long syscall(long, ...)') as Calls['syscall'],
      read: lib.func('long read(int, _Out_ uint8_t *, size_t)') as Calls['read'],
      klogctl: lib.func('int klogctl(int, _Out_ uint8_t *, int)') as Calls['klogctl'],
      errno,
    }
  }
  return bound
}

// A path with a NUL would be cut short by C without a word, and then name something else.
function refuseNul(...texts: (string | null)[]): void {
  for (const text of texts) {
    if (text?.includes('\0')) throw new TypeError('a mount argument holds a NUL character')
  }
}

/**
 * mount(2).
 *
 * Errors: a system error; host_lacks when koffi cannot load.
 */
export function mount(
  source: string,
  target: string,
  type: string | null,
  flags: number,
  data: string | null,
): void {
  refuseNul(source, target, type, data)
  const c = calls()
  if (c.mount(source, target, type, flags, data) !== 0)
    throw systemError('mount', lastErrno(), target)
}

/**
 * umount2(2).
 *
 * Errors: a system error (EBUSY in use, EINVAL no mount point); host_lacks when koffi cannot load.
 */
export function umount2(target: string, flags: number): void {
  refuseNul(target)
  const c = calls()
  if (c.umount2(target, flags) !== 0) throw systemError('umount2', lastErrno(), target)
}

/** Opens a file system of `type` to be configured; the descriptor is the caller's to close. */
export function fsopen(type: string): number {
  const c = calls()
  const fd = c.syscall(SYS_fsopen, 'const char *', type, 'unsigned int', FSOPEN_CLOEXEC)
  if (fd < 0) throw systemError('fsopen', c.errno(), type)
  return fd
}

/** Sets one parameter of an fsopen descriptor: a string of at most 255 bytes, an open file, or a bare flag. */
export function fsconfigSet(
  fd: number,
  key: string,
  value: {text: string} | {fd: number} | 'flag',
): void {
  const [command, text, aux] =
    value === 'flag'
      ? [FSCONFIG_SET_FLAG, null, 0]
      : 'fd' in value
        ? [FSCONFIG_SET_FD, null, value.fd]
        : [FSCONFIG_SET_STRING, value.text, 0]
  refuseNul(key, text)
  fsconfig(fd, command, key, text, aux)
}

/** Makes the configured file system. */
export function fsconfigCreate(fd: number): void {
  fsconfig(fd, FSCONFIG_CMD_CREATE, null, null, 0)
}

function fsconfig(
  fd: number,
  command: number,
  key: string | null,
  value: string | null,
  aux: number,
): void {
  const c = calls()
  const result = c.syscall(
    SYS_fsconfig,
    ...['int', fd, 'unsigned int', command],
    ...['const char *', key, 'const char *', value, 'int', aux],
  )
  if (result < 0) throw systemError('fsconfig', c.errno(), key ?? undefined)
}

/** A detached mount of a created file system, as a descriptor; closing it before `moveMount` undoes it. */
export function fsmount(fd: number, attributes: number): number {
  const c = calls()
  const mountFd = c.syscall(
    SYS_fsmount,
    ...['int', fd, 'unsigned int', FSMOUNT_CLOEXEC, 'unsigned int', attributes],
  )
  if (mountFd < 0) throw systemError('fsmount', c.errno())
  return mountFd
}

/** Attaches a detached mount to the directory that is open as `targetFd`; no path is resolved. */
export function moveMount(mountFd: number, targetFd: number): void {
  const c = calls()
  const result = c.syscall(
    SYS_move_mount,
    ...['int', mountFd, 'const char *', '', 'int', targetFd, 'const char *', ''],
    ...['unsigned int', MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH],
  )
  if (result < 0) throw systemError('move_mount', c.errno())
}

/** What the kernel wrote about an fsopen descriptor: lines like `e overlay: No changes allowed in …`. */
export function fsContextLog(fd: number): string[] {
  const c = calls()
  const lines: string[] = []
  const buffer = Buffer.alloc(1024)
  for (;;) {
    const length = c.read(fd, buffer, buffer.length)
    if (length <= 0) return lines
    lines.push(buffer.toString('utf8', 0, length).trim())
  }
}

/** The end of the kernel's log, oldest line first; nothing where it may not be read. */
export function kernelLogLines(): string[] {
  const c = calls()
  const buffer = Buffer.alloc(16 * 1024)
  const length = c.klogctl(SYSLOG_ACTION_READ_ALL, buffer, buffer.length)
  return length <= 0 ? [] : buffer.toString('utf8', 0, length).trim().split('\n')
}
