/** The catalog file, read again whenever it changed. */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  statSync,
  type BigIntStats,
} from 'node:fs'
import {fromSystemError, systemCode} from '../errors.ts'
import {parseCatalog, type CatalogEntry, type EntryProblem} from '../image-catalog.ts'
import {MiB} from '../limits.ts'
import type {Logger} from '../log.ts'
import {noticeLinesMax} from './notices.ts'
import {isSameFile} from './same-file.ts'

/** Some 800,000 images; a larger one is a mistake that would only take memory. */
const catalogBytesMax = 256 * MiB
/**
 * A file that changed less than this before it was read may change again without its times saying so (their steps are
 * those of the kernel's tick, at most 10 ms; and the clocks of two hosts differ), so it is read once more.
 */
const settledAfterNs = 200_000_000n

export type ValidCatalog = {
  isValid: true
  entries: readonly CatalogEntry[]
  byId: ReadonlyMap<string, CatalogEntry>
  problems: readonly EntryProblem[]
  /** Ids that the catalog speaks of, those of bad entries among them. */
  named: ReadonlySet<string>
}

/** A catalog as it was last read. */
export type LoadedCatalog = ValidCatalog | {isValid: false; reason: string}

type Loaded = {stats: BigIntStats; isSettled: boolean; catalog: LoadedCatalog}

export class CatalogFile {
  readonly path: string
  readonly #log: Logger
  #loaded: Loaded | undefined
  /** What was said last, so that it is said once. */
  #said = ''

  constructor(path: string, log: Logger) {
    this.path = path
    this.#log = log
  }

  /**
   * The catalog as it is now; undefined when there is no such file.
   *
   * Cost: one stat while nothing changes.
   * Errors: io_failed, permission_denied.
   */
  current(): LoadedCatalog | undefined {
    let stats: BigIntStats | undefined
    try {
      stats = statSync(this.path, {bigint: true, throwIfNoEntry: false})
    } catch (error) {
      throw fromSystemError(error, this.path, 'read')
    }
    if (!stats) this.#loaded = undefined
    else if (!this.#loaded?.isSettled || !isSameFile(this.#loaded.stats, stats))
      this.#loaded = this.#load(stats)
    if (!this.#loaded)
      this.#say('absent', () => this.#log.info({catalog: this.path}, 'there is no catalog'))
    return this.#loaded?.catalog
  }

  /** Undefined: it went away meanwhile. */
  #load(seen: BigIntStats): Loaded | undefined {
    if (!seen.isFile())
      return this.#keep(seen, true, {isValid: false, reason: 'it is not a regular file'})
    const startedNs = BigInt(Date.now()) * 1_000_000n
    let fd: number | undefined
    try {
      // Without blocking: a FIFO may have taken its place by now.
      fd = openSync(this.path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
      const before = fstatSync(fd, {bigint: true})
      if (!before.isFile())
        return this.#keep(before, true, {isValid: false, reason: 'it is not a regular file'})
      if (before.size > BigInt(catalogBytesMax)) {
        const reason = `it is longer than ${catalogBytesMax} bytes`
        return this.#keep(before, true, {isValid: false, reason})
      }
      const catalog = parseCatalog(readFileSync(fd))
      const after = fstatSync(fd, {bigint: true})
      const ageNs = startedNs - after.ctimeNs
      const isSettled =
        isSameFile(before, after) && (ageNs > settledAfterNs || ageNs < -settledAfterNs)
      if (!catalog.isValid) return this.#keep(after, isSettled, catalog)
      const byId = new Map(catalog.entries.map((entry) => [entry.id, entry]))
      const named = new Set([...byId.keys(), ...catalog.problems.map(({id}) => id)])
      return this.#keep(after, isSettled, {...catalog, byId, named})
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined
      throw fromSystemError(error, this.path, 'read')
    } finally {
      if (fd !== undefined) closeSync(fd)
    }
  }

  #keep(stats: BigIntStats, isSettled: boolean, catalog: LoadedCatalog): Loaded {
    const catalogPath = {catalog: this.path}
    if (!catalog.isValid) {
      const {reason} = catalog
      this.#say(`invalid ${reason}`, () => {
        this.#log.error({...catalogPath, reason}, 'the catalog is invalid: nothing is served')
      })
      return {stats, isSettled, catalog}
    }
    const {entries, problems} = catalog
    this.#say(`valid ${stats.ino} ${stats.size} ${stats.mtimeNs} ${stats.ctimeNs}`, () => {
      const counts = {images: entries.length, problems: problems.length}
      this.#log.info({...catalogPath, ...counts}, 'catalog read')
      for (const {id, reason} of problems.slice(0, noticeLinesMax))
        this.#log.error({...catalogPath, image_id: id, reason}, 'catalog entry is left out')
    })
    return {stats, isSettled, catalog}
  }

  #say(what: string, say: () => void): void {
    if (this.#said === what) return
    this.#said = what
    say()
  }
}
