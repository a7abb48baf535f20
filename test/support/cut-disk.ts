/**
 * A disk whose power can be cut at any moment, without a machine: ext4 on a loop device over a file on btrfs, and a
 * clone of that file.
 *
 * Why the clone is what a power cut leaves: FICLONE (what `cp --reflink=always` asks for) holds the file's inode lock
 * alone, waits for direct writes under way and writes out what the file has in the page cache, before it takes over the
 * extents (`btrfs_remap_file_range`). Every write of the loop driver is one call under the same lock. So the clone has
 * each request that the loop device had completed, whole; none that came later; and one that was under way whole or not
 * at all. A flush (what fsync in ext4 ends with) is completed only after all writes before it, so whatever was
 * acknowledged to be durable before the clone began is in it. What ext4 had in its own memory only, and what a program
 * wrote without fsync, is not: as after a cut. Two things of real disks it does not show: a disk that loses writes which
 * it completed but never flushed, and sectors torn in the middle.
 */
import {execFileSync} from 'node:child_process'
import {constants, copyFileSync, mkdirSync, renameSync, truncateSync} from 'node:fs'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import type {Need} from './requires.ts'

export const cutDiskNeeds: Need[] = ['root', 'program:mkfs.btrfs', 'program:mkfs.ext4']

const MiB = 2 ** 20
/** btrfs wants some, clones share what they have in common. */
const outerBytes = 6144 * MiB
const diskBytes = 768 * MiB

export type CutDiskOptions = {
  /** More for mkfs.ext4. */
  format?: readonly string[]
}

export class CutDisk {
  /** Where the disk is mounted. */
  readonly place: string
  readonly #clones: string
  readonly #disk: string
  #clonesMade = 0

  /** Everything below `dir`; whoever takes that away unmounts first what is mounted in it. */
  constructor(dir: string, {format = []}: CutDiskOptions = {}) {
    const memory = join(dir, 'memory')
    this.#clones = join(dir, 'clones')
    this.place = join(dir, 'disk')
    for (const path of [memory, this.#clones, this.place]) mkdirSync(path, {recursive: true})
    // In memory, so that a flush costs little: what is tried here is order, not the disk of this host.
    run('mount', ['-t', 'tmpfs', '-o', `size=${outerBytes + 64 * MiB}`, 'none', memory])
    const outer = join(memory, 'btrfs')
    sparse(outer, outerBytes)
    run('mkfs.btrfs', ['-q', outer])
    run('mount', ['-o', 'loop', outer, this.#clones])
    this.#disk = join(this.#clones, 'disk')
    sparse(this.#disk, diskBytes)
    run('mkfs.ext4', ['-q', '-F', ...format, this.#disk])
  }

  /** Mounts the disk; ext4 replays its journal when it was cut off. `options` are those of mount(8). */
  mount(options = ''): void {
    run('mount', ['-o', options === '' ? 'loop' : `loop,${options}`, this.#disk, this.place])
  }

  unmount(): void {
    run('umount', [this.place])
  }

  /** The disk as it is on the medium at this moment. Returns the clone for `replaceBy`. */
  cut(): string {
    const name = join(this.#clones, `clone-${this.#clonesMade++}`)
    copyFileSync(this.#disk, name, constants.COPYFILE_FICLONE_FORCE)
    return name
  }

  /** From now on the disk is that clone. It must not be mounted. */
  replaceBy(clone: string): void {
    renameSync(clone, this.#disk)
  }
}

function sparse(path: string, sizeBytes: number): void {
  writeFileSync(path, '')
  truncateSync(path, sizeBytes)
}

function run(program: string, args: string[]): void {
  execFileSync(program, args, {stdio: ['ignore', 'ignore', 'pipe']})
}
