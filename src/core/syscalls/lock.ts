/** One writer of a place at a time, however writers end. */
import {closeSync, fstatSync, openSync, rmSync, statSync} from 'node:fs'
import {fromSystemError, systemCode} from '../errors.ts'
import {tryLock} from './exclusive.ts'

export type Lock = {
  /** Gives the place free, and removes the file. */
  release(): void
}

/**
 * Takes the lock that a file of this name stands for; undefined when another process has it. A process that dies gives
 * it free.
 *
 * Errors: permission_denied, no_space, io_failed; host_lacks when koffi cannot load.
 */
export function acquireLock(path: string): Lock | undefined {
  try {
    for (;;) {
      const fd = openSync(path, 'a', 0o644)
      let isOurs = false
      try {
        if (!tryLock(fd)) return undefined
        // Whoever had it before us may have removed the file since we opened it: then we hold a lock on nothing.
        isOurs = isSameFile(fd, path)
        if (isOurs) return {release: () => releaseLock(fd, path)}
      } finally {
        if (!isOurs) closeSync(fd)
      }
    }
  } catch (error) {
    throw fromSystemError(error, path, 'lock')
  }
}

/** Whether a process holds the lock of that name now. Makes and removes nothing. Errors: as acquireLock. */
export function isLocked(path: string): boolean {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw fromSystemError(error, path, 'read')
  }
  try {
    return !tryLock(fd, {isShared: true})
  } finally {
    closeSync(fd)
  }
}

function isSameFile(fd: number, path: string): boolean {
  try {
    const [opened, named] = [fstatSync(fd, {bigint: true}), statSync(path, {bigint: true})]
    return opened.ino === named.ino && opened.dev === named.dev
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw error
  }
}

function releaseLock(fd: number, path: string): void {
  // Removed while it is held: nobody else can hold a file of this name.
  rmSync(path, {force: true})
  closeSync(fd)
}
