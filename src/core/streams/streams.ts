/**
 * What is served, as it is at this moment: the images of a directory, by its catalog or bare, and the store's own disks.
 *
 * Nothing is remembered that a stat could contradict, so that a change is seen by the next request.
 */
import {accessSync, readdirSync, realpathSync} from 'node:fs'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import type {CatalogEntry} from '../image-catalog.ts'
import type {Logger} from '../log.ts'
import {isChunkName, isStreamId} from '../stream-ids.ts'
import type {
  FoundChunked,
  FoundImage,
  StoreDisk,
  StreamImage,
  StreamProblem,
  Streams,
} from '../stream.ts'
import {CatalogFile, type ValidCatalog} from './catalog.ts'
import {describeDirectory, describeDisk, describeEntry} from './describe.ts'
import {Files, isAbsent, type AbsentFile, type KnownFile} from './files.ts'
import {Notices} from './notices.ts'

const manifestName = 'manifest.json'
const defaultOpenMax = 256
/** A file that is replaced over and over while it is being opened is given up on. */
const openTriesMax = 3

export type StreamsOptions = {
  /** Must exist. Canonicalised once: a link that is turned elsewhere later is not followed. */
  imagesRoot: string
  /** Without a catalog nothing is served. */
  requireManifest: boolean
  /** The store's own disk images; asked at each request, so it must be cheap. */
  disks?: () => readonly StoreDisk[]
  log: Logger
  /** Descriptors kept open for images and chunks, and as many for the store's disks. Default 256. */
  openMax?: number
}

/**
 * Opens the service.
 *
 * Guarantees: needs no database; writes nothing. Each problem is logged once, until it changes or goes away.
 * Errors: io_failed, permission_denied; host_lacks (no /proc, by which opened files are checked).
 */
export function openStreams(options: StreamsOptions): Streams {
  try {
    accessSync('/proc/self/fd')
  } catch (error) {
    const need = 'check that an opened image is where it should be'
    throw fail('host_lacks', {what: '/proc/self/fd', need}, {cause: error})
  }
  try {
    const root = realpathSync.native(options.imagesRoot)
    readdirSync(root)
    return new OpenStreams(options, root)
  } catch (error) {
    throw fromSystemError(error, options.imagesRoot, 'read')
  }
}

/** The catalog, or undefined where the bare directory is served. */
type Source = ValidCatalog | undefined

/** What was collected for a list. */
type Listing = {images: StreamImage[]; problems: StreamProblem[]}

class OpenStreams implements Streams {
  /** Ends without a slash, so that it is empty for `/`. */
  readonly #root: string
  readonly #requireManifest: boolean
  readonly #disks: () => readonly StoreDisk[]
  readonly #catalog: CatalogFile
  readonly #files: Files
  readonly #diskFiles: Files
  readonly #notices: Notices

  constructor(options: StreamsOptions, root: string) {
    const openMax = options.openMax ?? defaultOpenMax
    this.#root = root === '/' ? '' : root
    this.#requireManifest = options.requireManifest
    this.#disks = options.disks ?? (() => [])
    this.#catalog = new CatalogFile(`${this.#root}/${manifestName}`, options.log)
    this.#files = new Files({root, openMax})
    this.#diskFiles = new Files({root: undefined, openMax})
    this.#notices = new Notices(options.log)
  }

  list(): {images: readonly StreamImage[]; problems: readonly StreamProblem[]} {
    const source = this.#source()
    const listing: Listing = {images: [], problems: []}
    if (source) this.#listCatalog(source, listing)
    else this.#listDirectory(listing)
    this.#listDisks(source, listing)
    this.#notices.tell(listing.problems)
    return listing
  }

  find(id: string): FoundImage | undefined {
    // The door has checked names; what becomes part of a path is checked here once more.
    if (!isStreamId(id)) return undefined
    const source = this.#source()
    const entry = source?.byId.get(id)
    if (entry) {
      const path = `${this.#root}/${entry.file}`
      const describe = (file: KnownFile): StreamImage => describeEntry(entry, file)
      return this.#found(this.#files, path, id, this.#files.look(path), describe)
    }
    if (source) return source.named.has(id) ? undefined : this.#findDisk(id)
    const path = `${this.#root}/${id}`
    const file = this.#files.look(path)
    if (isAbsent(file) && !file.error) return this.#findDisk(id)
    return this.#found(this.#files, path, id, file, (known) => describeDirectory(id, known))
  }

  openChunked(
    id: string,
    version: string | undefined,
    name: string | undefined,
  ): FoundChunked | undefined {
    if (!isStreamId(id) || !isStreamId(version ?? id) || !isChunkName(name ?? '0.bin'))
      return undefined
    const entry = this.#chunkedEntry(id)
    if (!entry) return undefined
    const directory = this.#chunkedDirectory(id, version ?? entry.chunkedVersion)
    const path = name === undefined ? `${directory}/${manifestName}` : `${directory}/chunks/${name}`
    for (let tries = 0; tries < openTriesMax; tries++) {
      const file = this.#files.look(path)
      if (isAbsent(file)) {
        if (file.error) throw file.error
        return {isPublic: entry.isPublic, file: undefined}
      }
      const opened = this.#files.open(path, file, file)
      if (opened) return {isPublic: entry.isPublic, file: opened}
    }
    throw fail('disk_changed', {id})
  }

  versions(id: string): readonly string[] {
    if (!isStreamId(id) || !this.#chunkedEntry(id)) return []
    const directory = this.#chunkedDirectory(id, undefined)
    let names: string[]
    try {
      names = readdirSync(directory)
    } catch (error) {
      const code = systemCode(error)
      if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') return []
      throw fromSystemError(error, directory, 'read')
    }
    const candidates = [undefined, ...names.filter(isStreamId).sort()]
    return candidates
      .filter((version) => {
        const manifest = `${this.#chunkedDirectory(id, version)}/${manifestName}`
        return !isAbsent(this.#files.look(manifest))
      })
      .map((version) => version ?? '')
  }

  close(): void {
    this.#files.close()
    this.#diskFiles.close()
  }

  #source(): Source {
    const catalog = this.#catalog.current()
    if (catalog?.isValid) return catalog
    const {path} = this.#catalog
    if (catalog) throw fail('catalog_invalid', {path, reason: catalog.reason})
    if (this.#requireManifest)
      throw fail('catalog_invalid', {path, reason: 'it is required, and there is none'})
    return undefined
  }

  #listCatalog(source: ValidCatalog, {images, problems}: Listing): void {
    for (const {id, reason} of source.problems) problems.push({id, reason, kind: 'entry'})
    for (const entry of source.entries) {
      const file = this.#files.look(`${this.#root}/${entry.file}`)
      if (isAbsent(file)) problems.push({id: entry.id, reason: file.reason, kind: 'file'})
      else images.push(describeEntry(entry, file))
    }
  }

  #listDirectory({images, problems}: Listing): void {
    const directory = this.#root === '' ? '/' : this.#root
    let names: string[]
    try {
      names = readdirSync(directory, {withFileTypes: true})
        .filter((found) => found.isFile() && isStreamId(found.name) && found.name !== manifestName)
        .map((found) => found.name)
    } catch (error) {
      throw fromSystemError(error, directory, 'read')
    }
    // Ids are ASCII, so that the order of characters is that of bytes.
    for (const id of names.sort()) {
      const file = this.#files.look(`${this.#root}/${id}`)
      if (!isAbsent(file)) images.push(describeDirectory(id, file))
      // What was removed since the directory was read is not missing to anybody.
      else if (!file.isMissing) problems.push({id, reason: file.reason, kind: 'file'})
    }
  }

  #listDisks(source: Source, {images, problems}: Listing): void {
    const clashes: string[] = []
    for (const disk of this.#disks()) {
      if (this.#isTaken(source, disk.id)) {
        clashes.push(disk.id)
        continue
      }
      const file = this.#lookDisk(disk)
      if (isAbsent(file)) problems.push({id: disk.id, reason: file.reason, kind: 'file'})
      else images.push(describeDisk(disk, file))
    }
    this.#notices.tellClashes(clashes)
  }

  /** Whether the images directory speaks of this id, so that a disk of the store does not: a broken entry does too. */
  #isTaken(source: Source, id: string): boolean {
    if (source) return source.named.has(id)
    const file = this.#files.look(`${this.#root}/${id}`)
    return !isAbsent(file) || file.error !== undefined
  }

  #findDisk(id: string): FoundImage | undefined {
    const disk = this.#diskOf(id)
    if (!disk) return undefined
    const describe = (file: KnownFile): StreamImage => describeDisk(disk, file)
    return this.#found(this.#diskFiles, disk.path, id, this.#lookDisk(disk), describe)
  }

  #diskOf(id: string): StoreDisk | undefined {
    return this.#disks().find((disk) => disk.id === id)
  }

  #lookDisk(disk: StoreDisk): KnownFile | AbsentFile {
    const file = this.#diskFiles.look(disk.path)
    if (isAbsent(file) || file.size === disk.size) return file
    return {reason: `its file has ${file.size} bytes and should have ${disk.size}`}
  }

  #found(
    files: Files,
    path: string,
    id: string,
    file: KnownFile | AbsentFile,
    describe: (file: KnownFile) => StreamImage,
  ): FoundImage | undefined {
    if (isAbsent(file)) {
      if (file.error) throw file.error
      this.#notices.tellOne(id, file.reason)
      return undefined
    }
    this.#notices.isWell(id)
    const image = describe(file)
    const open = (): ReturnType<FoundImage['open']> => {
      const opened = files.open(path, file, image)
      if (!opened) throw fail('disk_changed', {id})
      return opened
    }
    return {...image, open}
  }

  /** What of an image matters for its chunks; the image's own file need not exist. */
  #chunkedEntry(id: string): {isPublic: boolean; chunkedVersion?: string} | undefined {
    const source = this.#source()
    if (!source) return this.#diskOf(id) ?? {isPublic: true}
    const entry: CatalogEntry | undefined = source.byId.get(id)
    return entry ?? (source.named.has(id) ? undefined : this.#diskOf(id))
  }

  #chunkedDirectory(id: string, version: string | undefined): string {
    const flat = `${this.#root}/chunked/${id}`
    return version === undefined ? flat : `${flat}/${version}`
  }
}
