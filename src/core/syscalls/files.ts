/**
 * System calls on files that Node lacks: those relative to a directory descriptor, device nodes, extended
 * attributes, times to the nanosecond, and syncing one file system.
 *
 * Names and link targets are byte strings: each character is one byte, because a file's name on Linux is
 * bytes and need not be UTF-8. Every function throws a Node-shaped system error (`code`, `errno`, `syscall`).
 */
import {type Call, certain, lastErrno} from './errno.ts'
import {libc, systemError, tryLibc} from './libc.ts'

/** A time as the kernel keeps it: whole seconds since the epoch (negative before 1970) and 0 … 999,999,999 more nanoseconds. */
export type FileTime = {seconds: number; nanoseconds: number}

const AT_SYMLINK_NOFOLLOW = 0x100
const AT_REMOVEDIR = 0x200
const UTIME_OMIT = 0x3ffffffe
const XATTR_LIST_BYTES_MAX = 65_536

type Calls = {
  openat: Call
  mkdirat: Call
  unlinkat: Call
  symlinkat: Call
  linkat: Call
  readlinkat: Call
  mknodat: Call
  fchownat: Call
  utimensat: Call
  futimens: Call
  fsetxattr: Call
  lsetxattr: Call
  lgetxattr: Call
  llistxattr: Call
  fremovexattr: Call
  syncfs: Call
  write: Call
  address: (buffer: Buffer) => number
}

let bound: Calls | undefined

function calls(): Calls {
  if (bound !== undefined) return bound
  const {koffi, lib} = libc()
  const errno = (): number => koffi.errno()
  const call = (name: string, result: string, args: string[]): Call =>
    certain(lib.func(name, result, args), errno)
  bound = {
    openat: call('openat', 'int', ['int', 'void *', 'int', 'uint32_t']),
    mkdirat: call('mkdirat', 'int', ['int', 'void *', 'uint32_t']),
    unlinkat: call('unlinkat', 'int', ['int', 'void *', 'int']),
    symlinkat: call('symlinkat', 'int', ['void *', 'int', 'void *']),
    linkat: call('linkat', 'int', ['int', 'void *', 'int', 'void *', 'int']),
    readlinkat: call('readlinkat', 'int64_t', ['int', 'void *', 'void *', 'size_t']),
    mknodat: call('mknodat', 'int', ['int', 'void *', 'uint32_t', 'uint64_t']),
    fchownat: call('fchownat', 'int', ['int', 'void *', 'uint32_t', 'uint32_t', 'int']),
    utimensat: call('utimensat', 'int', ['int', 'void *', 'void *', 'int']),
    futimens: call('futimens', 'int', ['int', 'void *']),
    fsetxattr: call('fsetxattr', 'int', ['int', 'void *', 'void *', 'size_t', 'int']),
    lsetxattr: call('lsetxattr', 'int', ['void *', 'void *', 'void *', 'size_t', 'int']),
    lgetxattr: call('lgetxattr', 'int64_t', ['void *', 'void *', 'void *', 'size_t']),
    llistxattr: call('llistxattr', 'int64_t', ['void *', 'void *', 'size_t']),
    fremovexattr: call('fremovexattr', 'int', ['int', 'void *']),
    syncfs: call('syncfs', 'int', ['int']),
    write: call('write', 'int64_t', ['int', 'uintptr_t', 'size_t']),
    // A user-space address has 47 bits, 56 at most where the kernel is asked for more, which nobody here does.
    address: (buffer) => Number(koffi.address(buffer)),
  }
  return bound
}

/** Whether this host can make these calls at all. */
export function hasFileCalls(): boolean {
  return !(tryLibc() instanceof Error)
}

// Reused for every call, because a fresh buffer for each name would cost more than the call: the calls are
// synchronous and the kernel keeps no pointer after one. PATH_MAX is 4096 with its NUL.
const first = Buffer.alloc(4200)
const second = Buffer.alloc(4200)
const times = Buffer.alloc(32)

function put(buffer: Buffer, bytes: string): Buffer {
  const length = bytes.length
  if (length >= 4096) throw systemError('path', 36, bytes.slice(0, 40))
  // A loop is faster than Buffer's own way for what is as short as names are.
  for (let at = 0; at < length; at++) {
    const byte = bytes.charCodeAt(at) & 0xff
    // A NUL would cut the name short and make another file of it.
    if (byte === 0) throw systemError('path', 22, bytes.slice(0, 40))
    buffer[at] = byte
  }
  buffer[length] = 0
  return buffer
}

function check(result: number, syscall: string, name?: string): number {
  if (result >= 0) return result
  throw systemError(syscall, lastErrno(), name)
}

// struct timespec[2], little-endian: access time (left as it is), modification time. 64 bits as two halves, because
// a BigInt for each call would be garbage.
times.writeUInt32LE(UTIME_OMIT, 8)

function putTimes(mtime: FileTime): Buffer {
  times.writeUInt32LE(mtime.seconds >>> 0, 16)
  times.writeInt32LE(Math.floor(mtime.seconds / 2 ** 32), 20)
  times.writeUInt32LE(mtime.nanoseconds, 24)
  return times
}

/** openat(2); always close-on-exec. Returns the descriptor, which the caller closes. */
export function openat(dirFd: number, name: string, flags: number, mode = 0): number {
  // O_CLOEXEC: no program started later may inherit a descriptor into the tree.
  return check(calls().openat(dirFd, put(first, name), flags | 0o2000000, mode), 'openat', name)
}

/** mkdirat(2). */
export function mkdirat(dirFd: number, name: string, mode: number): void {
  check(calls().mkdirat(dirFd, put(first, name), mode), 'mkdirat', name)
}

/** unlinkat(2) of what is not a directory. */
export function unlinkat(dirFd: number, name: string): void {
  check(calls().unlinkat(dirFd, put(first, name), 0), 'unlinkat', name)
}

/** unlinkat(2) with AT_REMOVEDIR: removes an empty directory. */
export function rmdirat(dirFd: number, name: string): void {
  check(calls().unlinkat(dirFd, put(first, name), AT_REMOVEDIR), 'rmdirat', name)
}

/** symlinkat(2): makes `name`, which points to `target`. */
export function symlinkat(target: string, dirFd: number, name: string): void {
  check(calls().symlinkat(put(second, target), dirFd, put(first, name)), 'symlinkat', name)
}

/** linkat(2) without flags: a symbolic link as `oldName` is linked itself, never followed. */
export function linkat(oldDirFd: number, oldName: string, dirFd: number, name: string): void {
  check(calls().linkat(oldDirFd, put(second, oldName), dirFd, put(first, name), 0), 'linkat', name)
}

/** readlinkat(2): the target as a byte string. */
export function readlinkat(dirFd: number, name: string): string {
  const length = check(
    calls().readlinkat(dirFd, put(first, name), second, 4096),
    'readlinkat',
    name,
  )
  return second.toString('latin1', 0, length)
}

/** mknodat(2). `mode` holds the file type (S_IFCHR, S_IFBLK, S_IFIFO) and the permissions. */
export function mknodat(
  dirFd: number,
  name: string,
  mode: number,
  device: {major: number; minor: number},
): void {
  check(
    calls().mknodat(dirFd, put(first, name), mode, deviceNumber(device.major, device.minor)),
    'mknodat',
    name,
  )
}

/** A device number as the C library's makedev(3) packs it: 32 bits of major, 32 bits of minor. */
export function deviceNumber(major: number, minor: number): bigint {
  const ma = BigInt(major)
  const mi = BigInt(minor)
  return ((ma & 0xfffn) << 8n) | (mi & 0xffn) | ((mi & ~0xffn) << 12n) | ((ma & ~0xfffn) << 32n)
}

/** fchownat(2) that never follows a symbolic link. */
export function lchownat(dirFd: number, name: string, uid: number, gid: number): void {
  check(calls().fchownat(dirFd, put(first, name), uid, gid, AT_SYMLINK_NOFOLLOW), 'fchownat', name)
}

/** futimens(2) of the modification time alone; the access time stays. */
export function futimens(fd: number, mtime: FileTime): void {
  check(calls().futimens(fd, putTimes(mtime)), 'futimens')
}

/** utimensat(2) of the modification time alone; never follows a symbolic link. */
export function lutimensat(dirFd: number, name: string, mtime: FileTime): void {
  check(
    calls().utimensat(dirFd, put(first, name), putTimes(mtime), AT_SYMLINK_NOFOLLOW),
    'utimensat',
    name,
  )
}

/** fsetxattr(2): creates or replaces. */
export function fsetxattr(fd: number, name: string, value: Buffer): void {
  check(calls().fsetxattr(fd, put(first, name), value, value.length, 0), 'fsetxattr', name)
}

/** lsetxattr(2): creates or replaces on `path` itself, also when that is a symbolic link. */
export function lsetxattr(path: string, name: string, value: Buffer): void {
  check(
    calls().lsetxattr(put(second, path), put(first, name), value, value.length, 0),
    'lsetxattr',
    name,
  )
}

/** fremovexattr(2). */
export function fremovexattr(fd: number, name: string): void {
  check(calls().fremovexattr(fd, put(first, name)), 'fremovexattr', name)
}

/** llistxattr(2): the names of the extended attributes of `path` itself. */
export function llistxattr(path: string): string[] {
  const list = Buffer.alloc(XATTR_LIST_BYTES_MAX)
  const length = check(calls().llistxattr(put(second, path), list, list.length), 'llistxattr', path)
  return list
    .toString('latin1', 0, length)
    .split('\0')
    .filter((name) => name !== '')
}

/** lgetxattr(2): one extended attribute of `path` itself. */
export function lgetxattr(path: string, name: string): Buffer {
  const value = Buffer.alloc(XATTR_LIST_BYTES_MAX)
  const length = check(
    calls().lgetxattr(put(second, path), put(first, name), value, value.length),
    'lgetxattr',
    name,
  )
  return value.subarray(0, length)
}

const EINTR = 4
let writtenBuffer: Buffer | undefined
let writtenAddress = 0

/**
 * write(2) of a part of a buffer, at the file's position. Returns how much was written, which can be less.
 *
 * Shape: the buffer's memory is its own for as long as it lives (not resized, not given to another thread).
 */
export function write(fd: number, buffer: Buffer, start: number, length: number): number {
  // Memory beyond the buffer is anything; what is no whole number is refused with it.
  const isInside = start >= 0 && length >= 0 && start + length <= buffer.length
  if (!isInside || !Number.isInteger(start) || !Number.isInteger(length)) {
    throw systemError('write', 14)
  }
  // A chunk of an archive holds hundreds of files. Its address stays true while it is referred to from here, and a
  // view of each part would cost as much as the call.
  if (buffer !== writtenBuffer) {
    writtenAddress = calls().address(buffer)
    writtenBuffer = buffer
  }
  for (;;) {
    const written = calls().write(fd, writtenAddress + start, length)
    if (written >= 0) return written
    if (lastErrno() !== EINTR) throw systemError('write', lastErrno())
  }
}

/** syncfs(2): everything written to the file system of `fd` is durable when it returns. */
export function syncfs(fd: number): void {
  check(calls().syncfs(fd), 'syncfs')
}
