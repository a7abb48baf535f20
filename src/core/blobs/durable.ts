/** Making directory changes survive a power cut. */
import {mkdir, open} from 'node:fs/promises'
import {dirname} from 'node:path'
import {fromSystemError, systemCode} from '../errors.ts'

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

/** Makes a directory with its parents, and their names durable; nothing happens when it is there. */
export async function makeDirectory(dir: string): Promise<void> {
  try {
    const first = await mkdir(dir, {recursive: true})
    if (first === undefined) return
    for (let made = dir; made.length >= first.length; made = dirname(made))
      await syncDirectory(dirname(made))
  } catch (error) {
    throw fromSystemError(error, dir, 'make')
  }
}
