/** Real file systems of their own, small or failing, and no trace of them afterwards. */
import {execFileSync, spawnSync} from 'node:child_process'
import {mkdtempSync, rmdirSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'

/** Call first in a `describe`: mounts small file systems in memory, and takes them away after each test. */
export function useSmallDisks(): (options: string) => string {
  const made: string[] = []
  afterEach('takes the small disks away', () => {
    for (const dir of made.splice(0)) {
      if (spawnSync('umount', [dir]).status !== 0) spawnSync('umount', ['--lazy', dir])
      rmdirSync(dir)
    }
  })
  return (options) => {
    const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    made.push(dir)
    mountMemory(dir, options)
    return dir
  }
}

export function mountMemory(dir: string, options: string): void {
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', dir])
}

/** Gives a file system in memory other options, such as a larger `size`. */
export function remount(dir: string, options: string): void {
  execFileSync('mount', ['-o', `remount,${options}`, dir])
}
