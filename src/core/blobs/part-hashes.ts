/**
 * The hashes of parts that this process has put down, so that taking one up again does not cost a pass over it: a
 * download of 100 GB that is cut a hundred times would otherwise read 5 TB.
 *
 * A hash holds only for the very file as it was left. Whoever else writes to it, or puts another in its place, changes
 * its times, its size or its number, and the part is read again.
 */
import type {Hash} from 'node:crypto'
import type {FileHandle} from 'node:fs/promises'

/** Downloads at once are few; a hash is some hundred bytes. */
const keptMax = 64

type Kept = {hash: Hash; identity: string; sizeBytes: number}

export class PartHashes {
  readonly #kept = new Map<string, Kept>()

  /** Keeps the hash of the open part at `path`, which has `sizeBytes` bytes and is not written any more. */
  async keep(path: string, file: FileHandle, hash: Hash, sizeBytes: number): Promise<void> {
    this.#kept.delete(path)
    const found = await identify(file).catch(() => undefined)
    if (found?.size !== sizeBytes) return
    this.#kept.set(path, {hash, identity: found.identity, sizeBytes})
    const [oldest] = this.#kept.keys()
    if (this.#kept.size > keptMax && oldest !== undefined) this.#kept.delete(oldest)
  }

  /** Gives away the hash for the open part at `path`, if it is still the file that was put down. */
  async take(path: string, file: FileHandle): Promise<{hash: Hash; sizeBytes: number} | undefined> {
    const kept = this.#kept.get(path)
    if (!kept) return undefined
    this.#kept.delete(path)
    const {identity} = await identify(file)
    return identity === kept.identity ? {hash: kept.hash, sizeBytes: kept.sizeBytes} : undefined
  }
}

async function identify(file: FileHandle): Promise<{identity: string; size: number}> {
  const {dev, ino, size, mtimeNs, ctimeNs} = await file.stat({bigint: true})
  return {identity: [dev, ino, size, mtimeNs, ctimeNs].join(' '), size: Number(size)}
}
