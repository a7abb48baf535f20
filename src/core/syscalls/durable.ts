/** Making files and names survive a power cut; the `…Now` forms are synchronous, for what runs behind the fence. */
import {closeSync, fsyncSync, openSync} from 'node:fs'
import {open} from 'node:fs/promises'
import {dirname} from 'node:path'
import {fromSystemError, systemCode} from '../errors.ts'
import {makeDirectories} from './make-directories.ts'

/** Flushes a directory, so that names made, moved or removed in it stay so. */
export async function syncDirectory(dir: string): Promise<void> {
  try {
    const handle = await open(dir, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    // Some file systems (FUSE, network ones) know no fsync of directories; there is nothing more to do there.
    if (systemCode(error) === 'EINVAL') return
    throw fromSystemError(error, dir, 'sync')
  }
}

/** Flushes a file's bytes. Errors: io_failed. */
export async function syncFile(path: string): Promise<void> {
  try {
    const handle = await open(path, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw fromSystemError(error, path, 'sync')
  }
}

/** Makes a directory with its parents, and their names durable; nothing happens when it is there. */
export async function makeDirectory(dir: string, mode?: number): Promise<void> {
  try {
    const first = makeDirectories(dir, mode)
    if (first === undefined) return
    for (let made = dir; made.length >= first.length; made = dirname(made))
      await syncDirectory(dirname(made))
  } catch (error) {
    throw fromSystemError(error, dir, 'make')
  }
}

/** As syncDirectory. Errors: Node's system errors, for whoever knows what was being done. */
export function syncDirectoryNow(dir: string): void {
  try {
    syncNow(dir, 'r')
  } catch (error) {
    if (systemCode(error) !== 'EINVAL') throw error
  }
}

/** As syncFile. Errors: Node's system errors. */
export function syncFileNow(path: string): void {
  syncNow(path, 'r+')
}

function syncNow(path: string, flags: 'r' | 'r+'): void {
  const fd = openSync(path, flags)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
