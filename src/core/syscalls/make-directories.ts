/**
 * Directories with their parents. Node's own way (`recursive`) calls every failure that it does not expect ENOENT: a disk
 * that is broken or over its quota would look as if something were missing.
 */
import {mkdirSync, statSync} from 'node:fs'
import {dirname} from 'node:path'

/** Makes a directory and what is missing above it; gives the topmost that was made. Throws what the system said. */
export function makeDirectories(path: string, mode?: number): string | undefined {
  try {
    mkdirSync(path, mode)
    return path
  } catch (error) {
    const {code} = error as NodeJS.ErrnoException
    if (code === 'ENOENT' && dirname(path) !== path) {
      const first = makeDirectories(dirname(path), mode)
      return makeDirectories(path, mode) === undefined ? first : (first ?? path)
    }
    if (code === 'EEXIST' && statSync(path).isDirectory()) return undefined
    throw error
  }
}
