/**
 * The calls that make a tree, each relative to a held directory descriptor and none following a symbolic link in
 * the last component. Two sets: system calls through koffi, and plain Node through `/proc/self/fd/N/name` for hosts
 * where koffi cannot load (without device nodes, extended attributes and nanoseconds). Names are byte strings.
 */
import {
  closeSync,
  constants,
  futimesSync,
  lchownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import * as files from '../../syscalls/files.ts'
import type {FileTime} from '../../syscalls/files.ts'

export type DirCalls = {
  openat(dirFd: number, name: string, flags: number, mode?: number): number
  mkdirat(dirFd: number, name: string, mode: number): void
  unlinkat(dirFd: number, name: string): void
  rmdirat(dirFd: number, name: string): void
  symlinkat(target: string, dirFd: number, name: string): void
  linkat(oldDirFd: number, oldName: string, dirFd: number, name: string): void
  readlinkat(dirFd: number, name: string): string
  lchownat(dirFd: number, name: string, uid: number, gid: number): void
  /** Writes a part of a chunk where the file's last write ended; returns how much, which can be less. */
  write(fd: number, chunk: Buffer, start: number, length: number): number
  futimens(fd: number, mtime: FileTime): void
  lutimensat(dirFd: number, name: string, mtime: FileTime): void
  /** What plain Node cannot do at all; undefined there. */
  more:
    | Pick<typeof files, 'mknodat' | 'fsetxattr' | 'lsetxattr' | 'fremovexattr' | 'syncfs'>
    | undefined
}

/** The path by which the kernel reaches `name` in a held directory, whatever became of the directory's own name. */
export function heldPath(dirFd: number, name: string): string {
  return `/proc/self/fd/${dirFd}/${name}`
}

/** `heldPath` in the form that Node hands to the kernel byte for byte. */
function nodePath(dirFd: number, name: string): string | Buffer {
  const path = heldPath(dirFd, name)
  for (let i = 0; i < path.length; i++) {
    if (path.charCodeAt(i) > 127) return Buffer.from(path, 'latin1')
  }
  return path
}

/** As Node takes it. A negative number means "now" to Node, so times before 1970 go as a date, to the millisecond. */
function nodeTime({seconds, nanoseconds}: FileTime): number | Date {
  const time = seconds + nanoseconds / 1e9
  return time < 0 ? new Date(Math.floor(time * 1000)) : time
}

export const nodeCalls: DirCalls = {
  openat: (dirFd, name, flags, mode) => openSync(nodePath(dirFd, name), flags, mode),
  mkdirat: (dirFd, name, mode) => {
    mkdirSync(nodePath(dirFd, name), {mode})
  },
  unlinkat: (dirFd, name) => unlinkSync(nodePath(dirFd, name)),
  rmdirat: (dirFd, name) => rmdirSync(nodePath(dirFd, name)),
  symlinkat: (target, dirFd, name) =>
    symlinkSync(Buffer.from(target, 'latin1'), nodePath(dirFd, name)),
  linkat: (oldDirFd, oldName, dirFd, name) =>
    linkSync(nodePath(oldDirFd, oldName), nodePath(dirFd, name)),
  readlinkat: (dirFd, name) => readlinkSync(nodePath(dirFd, name), 'latin1'),
  lchownat: (dirFd, name, uid, gid) => lchownSync(nodePath(dirFd, name), uid, gid),
  write: (fd, chunk, start, length) => writeSync(fd, chunk, start, length),
  futimens: (fd, mtime) => futimesSync(fd, nodeTime(mtime), nodeTime(mtime)),
  lutimensat: (dirFd, name, mtime) =>
    lutimesSync(nodePath(dirFd, name), nodeTime(mtime), nodeTime(mtime)),
  more: undefined,
}

export const kernelCalls: DirCalls = {...files, more: files}

/** The best set that this host can do. */
export function chooseCalls(): DirCalls {
  return files.hasFileCalls() ? kernelCalls : nodeCalls
}

export const {O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_DIRECTORY} = constants
/** Names the file itself without opening it: no FIFO blocks, no device wakes. */
export const O_PATH = 0o10000000

/** Closes a descriptor of ours; a failure here would lose nothing that the final sync does not report. */
export function closeQuietly(fd: number): void {
  try {
    closeSync(fd)
  } catch {
    // EIO at close is reported again by syncfs.
  }
}
