/**
 * Opens files under a directory that others write to, without being led out of it.
 *
 * The danger: between a check of a path and its opening, somebody may put a symbolic link, a FIFO or a device in its
 * place. So nothing is concluded from a path. It is opened as a mere reference first (O_PATH, which has no effect on
 * what it finds, not even on a device); kind and place of *that* are checked, and what is read is the very inode behind
 * the reference. Later lookups compare the path's inode, size and times with those that were checked.
 */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readlinkSync,
  statSync,
  type BigIntStats,
} from 'node:fs'
import {fromSystemError, systemCode, type ImgstoreError} from '../errors.ts'
import {defaultEtag} from '../etag.ts'
import type {OpenedFile, Validators} from '../stream.ts'
import {isSameFile} from './same-file.ts'

/** Not among Node's constants; the same on every architecture that Node 24 has Linux builds for. */
const O_PATH = 0x20_0000
const readFlags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY
const bigint = {bigint: true} as const
const bigintOrNothing = {bigint: true, throwIfNoEntry: false} as const

/** Paths whose check is remembered; past that the oldest are checked again. */
const knownMax = 65_536
/** A removed image gives its space back when its descriptor is closed: after once to twice this. */
const defaultIdleCheckMs = 10_000

/** A regular file at a permitted place, as it was when it was last looked at. */
export type KnownFile = Validators & {
  readonly size: number
  /** What it is recognised by. */
  readonly stats: BigIntStats
}

/** Why there is no such file; with an error where that is trouble rather than an answer. */
export type AbsentFile = {
  readonly reason: string
  readonly isMissing?: true
  readonly error?: ImgstoreError
}

export function isAbsent(file: KnownFile | AbsentFile): file is AbsentFile {
  return 'reason' in file
}

const missing: AbsentFile = {reason: 'the file is missing', isMissing: true}
const notRegular: AbsentFile = {reason: 'it is not a regular file'}
const outside: AbsentFile = {reason: 'it is outside the images directory'}
const tooLarge: AbsentFile = {reason: 'it is larger than 2^53-1 bytes'}

/** One open descriptor, shared by all who read that version of that path. */
type Handle = {
  readonly fd: number
  readonly known: KnownFile
  users: number
  /** No longer found by its path: closed by the last user. */
  isRetired: boolean
  wasUsed: boolean
}

export type FilesOptions = {
  /** Canonical; files elsewhere are absent. Undefined: anywhere. */
  root: string | undefined
  /** Descriptors kept open for files that nobody reads at the moment, and those in use. */
  openMax: number
  /** How often what nobody used meanwhile is closed. Default 10 s. */
  idleCheckMs?: number
}

export class Files {
  readonly #prefix: Buffer | undefined
  readonly #openMax: number
  readonly #idleCheckMs: number
  readonly #known = new Map<string, KnownFile>()
  /** The least recently used first. */
  readonly #handles = new Map<string, Handle>()
  #idleTimer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(options: FilesOptions) {
    const {root} = options
    if (root !== undefined) this.#prefix = Buffer.from(root.endsWith('/') ? root : `${root}/`)
    this.#openMax = options.openMax
    this.#idleCheckMs = options.idleCheckMs ?? defaultIdleCheckMs
  }

  /**
   * The file at an absolute path, or why there is none.
   *
   * Cost: one stat where nothing changed since the last look.
   */
  look(path: string): KnownFile | AbsentFile {
    let stats: BigIntStats | undefined
    try {
      stats = statSync(path, bigintOrNothing)
    } catch (error) {
      return this.#forget(path, absence(error, path))
    }
    if (!stats) return this.#forget(path, missing)
    const known = this.#known.get(path)
    if (known && isSameFile(known.stats, stats)) return known
    return this.#learn(path, stats)
  }

  /**
   * A shared descriptor of the file that `look` found; undefined when another file is there by now.
   *
   * Guarantees: with the validators given, which may be other than the file's own. Release it once.
   * Errors: io_failed, permission_denied.
   */
  open(path: string, known: KnownFile, validators: Validators): OpenedFile | undefined {
    let handle = this.#handles.get(path)
    if (handle?.known === known) this.#handles.delete(path)
    else {
      if (handle) this.#retire(path, handle)
      handle = this.#openHandle(path, known)
      if (!handle) return undefined
      this.#makeRoom()
    }
    this.#handles.set(path, handle)
    handle.users++
    handle.wasUsed = true
    return new SharedFile(handle, validators, this)
  }

  /** Descriptors that are kept: in use or not. */
  get openCount(): number {
    return this.#handles.size
  }

  /** Closes what nobody reads; the rest goes when it is released. */
  close(): void {
    this.#isClosed = true
    clearInterval(this.#idleTimer)
    for (const [path, handle] of this.#handles) this.#retire(path, handle)
    this.#known.clear()
  }

  /** Called by an opened file, once. */
  released(handle: Handle): void {
    handle.users--
    if (handle.users > 0) return
    if (handle.isRetired) closeSync(handle.fd)
    else this.#watchIdle()
  }

  #forget(path: string, answer: AbsentFile): AbsentFile {
    this.#known.delete(path)
    const handle = this.#handles.get(path)
    if (handle) this.#retire(path, handle)
    return answer
  }

  #learn(path: string, seen: BigIntStats): KnownFile | AbsentFile {
    // What cannot be served is not even referred to: this spares a network file system the question.
    if (!seen.isFile()) return this.#forget(path, notRegular)
    let reference: number
    try {
      reference = this.#openWithRoom(path, O_PATH)
    } catch (error) {
      return this.#forget(path, absence(error, path))
    }
    try {
      const found = this.#inspect(reference)
      if (isAbsent(found)) return this.#forget(path, found)
      if (this.#known.size >= knownMax) {
        const oldest = this.#known.keys().next()
        if (!oldest.done) this.#known.delete(oldest.value)
      }
      this.#known.set(path, found)
      return found
    } finally {
      closeSync(reference)
    }
  }

  /** Kind, place and size of what a descriptor really refers to. */
  #inspect(fd: number): KnownFile | AbsentFile {
    const stats = fstatSync(fd, bigint)
    if (!stats.isFile()) return notRegular
    if (this.#prefix) {
      const place = readlinkSync(`/proc/self/fd/${fd}`, 'buffer')
      if (!place.subarray(0, this.#prefix.length).equals(this.#prefix)) return outside
    }
    if (stats.size > BigInt(Number.MAX_SAFE_INTEGER)) return tooLarge
    const size = Number(stats.size)
    const modifiedNs = stats.mtimeNs < 0n ? undefined : stats.mtimeNs
    return {size, modifiedNs, etag: defaultEtag(size, modifiedNs), stats}
  }

  #openHandle(path: string, known: KnownFile): Handle | undefined {
    let reference: number
    try {
      reference = this.#openWithRoom(path, O_PATH)
    } catch (error) {
      const {error: trouble} = absence(error, path)
      if (trouble) throw trouble
      return undefined
    }
    try {
      const found = this.#inspect(reference)
      if (isAbsent(found) || !isSameFile(found.stats, known.stats)) return undefined
      const fd = this.#openWithRoom(`/proc/self/fd/${reference}`, readFlags)
      return {fd, known, users: 0, isRetired: false, wasUsed: true}
    } catch (error) {
      throw fromSystemError(error, path, 'read')
    } finally {
      closeSync(reference)
    }
  }

  /** Opens; when there are too many descriptors in the process or the system, those that nobody reads are given up. */
  #openWithRoom(path: string, flags: number): number {
    try {
      return openSync(path, flags)
    } catch (error) {
      const code = systemCode(error)
      if (code !== 'EMFILE' && code !== 'ENFILE') throw error
      for (const [idle, handle] of this.#handles) if (handle.users === 0) this.#retire(idle, handle)
      return openSync(path, flags)
    }
  }

  /** Gives up the least recently used, preferably one that nobody reads. */
  #makeRoom(): void {
    if (this.#handles.size < this.#openMax) return
    let chosen: [string, Handle] | undefined
    for (const entry of this.#handles) {
      chosen ??= entry
      if (entry[1].users > 0) continue
      chosen = entry
      break
    }
    if (chosen) this.#retire(...chosen)
  }

  #retire(path: string, handle: Handle): void {
    this.#handles.delete(path)
    handle.isRetired = true
    if (handle.users === 0) closeSync(handle.fd)
  }

  #watchIdle(): void {
    if (this.#idleTimer !== undefined || this.#isClosed) return
    this.#idleTimer = setInterval(() => this.#closeIdle(), this.#idleCheckMs)
    this.#idleTimer.unref()
  }

  #closeIdle(): void {
    for (const [path, handle] of this.#handles) {
      if (handle.users === 0 && !handle.wasUsed) this.#retire(path, handle)
      else handle.wasUsed = false
    }
    if (this.#handles.size > 0) return
    clearInterval(this.#idleTimer)
    this.#idleTimer = undefined
  }
}

class SharedFile implements OpenedFile {
  readonly fd: number
  readonly size: number
  readonly etag: string
  readonly modifiedNs: bigint | undefined
  readonly #handle: Handle
  readonly #owner: Files
  #isReleased = false

  constructor(handle: Handle, validators: Validators, owner: Files) {
    this.fd = handle.fd
    this.size = handle.known.size
    this.etag = validators.etag
    this.modifiedNs = validators.modifiedNs
    this.#handle = handle
    this.#owner = owner
  }

  isUnchanged(): boolean {
    if (this.#isReleased) return false
    const now = fstatSync(this.fd, bigint)
    const then = this.#handle.known.stats
    if (now.size !== then.size || now.mtimeNs !== then.mtimeNs) return false
    // The change time betrays a writer who put the modification time back. It moves as well when a name of the file
    // goes or comes, as when another file is renamed over it: then the count of names differs.
    return now.ctimeNs === then.ctimeNs || now.nlink !== then.nlink
  }

  release(): void {
    if (this.#isReleased) return
    this.#isReleased = true
    this.#owner.released(this.#handle)
  }
}

/** Errors that mean "no such file", each with its own way of not leading there. */
const absentCodes = new Set(['ENOTDIR', 'ELOOP', 'ENAMETOOLONG'])

function absence(error: unknown, path: string): AbsentFile {
  const code = systemCode(error) ?? ''
  if (code === 'ENOENT') return missing
  if (absentCodes.has(code)) return {reason: `${missing.reason} (${code})`}
  // The reason may be shown to clients, who need not know the path.
  return {reason: `it cannot be read (${code})`, error: fromSystemError(error, path, 'read')}
}
