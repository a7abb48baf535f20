/**
 * Where trees are written for measuring. On a disk that is an ext4 of its own: ext4 passes over inodes that were deleted
 * in the last minutes, one by one at each new file, so after a large deletion in the same file system (the round
 * before, somebody's tests) that search is nine tenths of the time of every program measured.
 */
import {execFileSync} from 'node:child_process'
import {mkdirSync, mkdtempSync, rmSync, statfsSync} from 'node:fs'
import {join} from 'node:path'

const TMPFS_MAGIC = 0x01021994

export type Place = {
  dir: string
  /** What the trees are written to: `tmpfs`, or an ext4 in a file. */
  kind: 'tmpfs' | 'ext4'
  /** Takes it away with all that is in it. */
  end(): void
}

/** An empty directory in memory where `base` is, else the root of a new ext4 in a file of `base`. */
export function makePlace(base: string): Place {
  const work = mkdtempSync(join(base, 'imgstore-bench-'))
  if (statfsSync(base).type === TMPFS_MAGIC) {
    return {dir: work, kind: 'tmpfs', end: () => rmSync(work, {recursive: true, force: true})}
  }
  const image = join(work, 'ext4')
  const dir = join(work, 'mount')
  const run = (program: string, ...args: string[]): string =>
    execFileSync(program, args, {encoding: 'utf8'}).trim()
  let device: string | undefined
  const end = (): void => {
    if (device !== undefined) {
      run('umount', dir)
      run('losetup', '--detach', device)
    }
    rmSync(work, {recursive: true, force: true})
  }
  try {
    mkdirSync(dir)
    run('truncate', '--size', '16G', image)
    // Everything is written now, not by the kernel in the midst of the rounds.
    const eager = 'lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0'
    run('mkfs.ext4', '-q', '-F', '-i', '16384', '-E', eager, image)
    const found = run('losetup', '--find', '--show', '--direct-io=on', image)
    try {
      run('mount', found, dir)
    } catch (error) {
      run('losetup', '--detach', found)
      throw error
    }
    device = found
    run('sync', '-f', dir)
    return {dir, kind: 'ext4', end}
  } catch (error) {
    end()
    throw error
  }
}
