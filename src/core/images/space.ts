/**
 * The reserve of free space: what is left for the database, for trees that are being finished, and for other programs.
 * New work that would go below it is not begun; it waits, and is looked at again, until there is room.
 */
import {statfs} from 'node:fs/promises'
import {fail, fromSystemError} from '../errors.ts'
import type {RunId} from '../ids.ts'
import {GiB} from '../limits.ts'
import type {Settings} from '../settings.ts'

/** Without a setting: this share of the file system, at most so many bytes. */
const reserveShare = 0.05
const reserveBytesMax = GiB

/** Space in the file system of the store. `totalBytes` is 0 where that cannot be told. */
export type Space = {freeBytes: number; totalBytes: number; reserveBytes: number}

export async function spaceOf(
  path: string,
  settings: Pick<Settings, 'spaceReserveBytes'>,
): Promise<Space> {
  const found = await statfs(path)
  const totalBytes = found.blocks * found.bsize
  const reserveBytes =
    settings.spaceReserveBytes ?? Math.min(reserveBytesMax, Math.floor(totalBytes * reserveShare))
  return {freeBytes: found.bavail * found.bsize, totalBytes, reserveBytes}
}

export type RoomRequest = {
  run: RunId
  /** Bytes that the work will write, as far as that is known before. */
  comingBytes: number
  /** Bytes that must be there side by side when the work is done, with those it is made of. */
  heldBytes: number
}

/** Lets work begin while there is room for it and for what other work of this process was let to write. */
export class SpaceGate {
  readonly #path: string
  readonly #settings: () => Pick<Settings, 'spaceReserveBytes'>
  readonly #coming = new Map<RunId, number>()
  /** What was found out about work that was then not let in: its source need not be asked again. */
  readonly #refused = new Map<RunId, RoomRequest>()

  constructor(path: string, settings: () => Pick<Settings, 'spaceReserveBytes'>) {
    this.#path = path
    this.#settings = settings
  }

  /**
   * Notes what a run is going to write; `leave` forgets it.
   *
   * Errors: space_low when there is no room now; no_space when there never can be; io_failed.
   */
  async enter(request: RoomRequest): Promise<void> {
    const {run, comingBytes, heldBytes} = request
    let space: Space
    try {
      space = await spaceOf(this.#path, this.#settings())
    } catch (error) {
      throw fromSystemError(error, this.#path, 'read')
    }
    const {freeBytes, totalBytes, reserveBytes} = space
    // Some file systems say of everything that it is 0.
    if (totalBytes === 0) return
    if (comingBytes > 0 && heldBytes + reserveBytes > totalBytes) {
      const reason = `it takes ${heldBytes} bytes beside the reserve of ${reserveBytes}, the whole file system has ${totalBytes}`
      throw fail('no_space', {path: this.#path, reason})
    }
    let promisedBytes = 0
    for (const [other, bytes] of this.#coming) if (other !== run) promisedBytes += bytes
    const neededBytes = comingBytes + promisedBytes
    if (freeBytes < neededBytes + reserveBytes) {
      this.#refused.set(run, request)
      throw fail('space_low', {path: this.#path, freeBytes, neededBytes, reserveBytes})
    }
    this.#refused.delete(run)
    this.#coming.set(run, comingBytes)
  }

  /** The room that a run asked for in vain before. */
  wanted(run: RunId): RoomRequest | undefined {
    return this.#refused.get(run)
  }

  /** So many bytes are still to come for a run that was let in. */
  left(run: RunId, comingBytes: number): void {
    if (this.#coming.has(run)) this.#coming.set(run, Math.max(0, comingBytes))
  }

  leave(run: RunId): void {
    this.#coming.delete(run)
  }
}
