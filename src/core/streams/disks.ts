/** What a person does with disk images as files: publish, verify and list them. */
import {existsSync} from 'node:fs'
import {readdir} from 'node:fs/promises'
import {basename, join} from 'node:path'
import {systemClock} from '../clock.ts'
import {chunkBounds} from '../chunk-map.ts'
import {fail, fromSystemError, printable, systemCode} from '../errors.ts'
import {formatRfc3339} from '../http-date.ts'
import type {Logger} from '../log.ts'
import {isUrl} from '../setting-values.ts'
import type {Settings} from '../settings.ts'
import {sourceOptionsOf} from '../sources/options.ts'
import type {StoreDisk, StreamImage, StreamProblem} from '../stream.ts'
import {isStreamId, streamIdRule} from '../stream-ids.ts'
import {parseBucketAddress, type BucketAddress} from './bucket-address.ts'
import type {ChunkTarget} from './chunk-target.ts'
import {chunkedDir, openLocalTarget} from './local-target.ts'
import {publishDisk, type PublishReport, type PublishRequest, type VersionWish} from './publish.ts'
import {openStreams} from './streams.ts'
import {verifyChunked, type VerifyChunkedReport, type VerifyChunkedOptions} from './verify.ts'

export type {PublishReport} from './publish.ts'
export type {VerifyChunkedReport, ChunkedProblem} from './verify.ts'

export type PublishOptions = {
  /** A path, or the name of a disk image of the store. */
  disk: string
  imagesRoot: string
  /** `s3://bucket/prefix`, instead of the images root. */
  to?: string
  id?: string
  /** `sha256` makes it of the image's digest. */
  version?: string
  chunkSize: number
  concurrency?: number
  isForced: boolean
  hasMeta: boolean
  isLatest: boolean
  signal: AbortSignal
  onProgress?: PublishRequest['onProgress']
}

/** A file with a disk image, and the id that it goes by when nobody says another. */
export type ResolvedDisk = {path: string; id: string}

export type DiskDeps = {
  /** The disk images of the store that are ACTIVE. */
  shown?: () => readonly StoreDisk[]
}

/** One image as the server lists it; `versions` are those of its chunked form, the flat layout as ''. */
export type ListedDisk = Omit<StreamImage, 'modifiedNs'> & {
  /** RFC 3339 in UTC; absent when unknown. */
  lastModified?: string
  versions: readonly string[]
}

export type DiskList = {
  images: readonly ListedDisk[]
  /** Images that exist in chunks alone, and are served so. */
  chunkedOnly: readonly {id: string; versions: readonly string[]}[]
  problems: readonly StreamProblem[]
}

export type ListOptions = {imagesRoot: string; log: Logger}

export type Disks = {
  list(options: ListOptions): Promise<DiskList>
  publish(options: PublishOptions): Promise<PublishReport>
  verify(options: VerifyChunkedOptions): Promise<VerifyChunkedReport>
}

export function openDisks(settings: Settings, deps: DiskDeps = {}): Disks {
  return {
    list: (options) => listDisks(options, deps),
    publish: (options) => publish(options, settings, deps),
    verify: (options) => verifyChunked(options, settings),
  }
}

/**
 * The file that a person means: a path has a slash in it or exists; anything else is a name in the store.
 *
 * Errors: wrong_usage for an address; disk_not_found, and those of the store.
 */
export function resolveDisk(nameOrFile: string, deps: DiskDeps): ResolvedDisk {
  if (isUrl(nameOrFile)) {
    const reason =
      'it takes a file of this host or the name of an image, and was given an address; `imgstore fetch --kind disk` brings what is there into the store'
    throw fail('wrong_usage', {reason})
  }
  if (nameOrFile.includes('/') || existsSync(nameOrFile))
    return {path: nameOrFile, id: basename(nameOrFile)}
  const found = deps.shown?.().find(({name}) => name === nameOrFile)
  if (found !== undefined) return {path: found.path, id: found.id}
  const what = 'no file, and no disk image of the store that is ACTIVE'
  throw fail('disk_not_found', {place: nameOrFile, what})
}

/**
 * The images of a directory and of the store as `imgstore serve` would list them.
 *
 * Errors: disk_not_found (no such directory), catalog_invalid, permission_denied, io_failed.
 */
async function listDisks({imagesRoot, log}: ListOptions, deps: DiskDeps): Promise<DiskList> {
  if (!existsSync(imagesRoot))
    throw fail('disk_not_found', {place: imagesRoot, what: 'no images directory'})
  const {shown} = deps
  const disks = shown ? {disks: shown} : {}
  const streams = openStreams({imagesRoot, requireManifest: false, log, ...disks})
  try {
    const {images, problems} = streams.list()
    const known = new Set([...images, ...problems].map(({id}) => id))
    const others = (await namesIn(join(imagesRoot, 'chunked'))).filter((id) => !known.has(id))
    const chunkedOnly = others
      .filter((id) => isStreamId(id))
      .map((id) => ({id, versions: streams.versions(id)}))
      .filter(({versions}) => versions.length > 0)
    return {
      images: images.map(({modifiedNs, ...image}) => ({
        ...image,
        ...(modifiedNs === undefined ? {} : {lastModified: formatRfc3339(modifiedNs)}),
        versions: streams.versions(image.id),
      })),
      chunkedOnly,
      problems,
    }
  } finally {
    streams.close()
  }
}

async function namesIn(dir: string): Promise<string[]> {
  try {
    return (await readdir(dir)).toSorted()
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return []
    throw fromSystemError(error, dir, 'read')
  }
}

// Names that an image's directory has for itself.
const reservedVersions = new Set(['chunks', 'manifest.json', 'meta.json', 'latest.json'])

async function publish(
  options: PublishOptions,
  settings: Settings,
  deps: DiskDeps,
): Promise<PublishReport> {
  const disk = resolveDisk(options.disk, deps)
  const id = options.id ?? disk.id
  if (!isStreamId(id)) {
    const given = options.id === undefined ? '; give one with --id' : ''
    throw fail('wrong_usage', {
      // The last piece of an address may hold its token.
      reason: `${printable(id.replace(/[?#].*$/s, '?***'))} cannot be an image id: it must be ${streamIdRule}${given}`,
    })
  }
  const version = versionWish(options.version)
  checkChunkSize(options.chunkSize)
  const {imagesRoot, to} = options
  const address = to === undefined ? undefined : parseBucketAddress(to)
  if (address && version.kind === 'none') {
    const reason = 'a bucket needs --version: what is published there is cached for a year'
    throw fail('wrong_usage', {reason})
  }
  return await publishDisk(
    {
      path: disk.path,
      id,
      version,
      chunkSize: options.chunkSize,
      isForced: options.isForced,
      hasMeta: options.hasMeta,
      isLatest: options.isLatest,
      signal: options.signal,
      ...(options.concurrency === undefined ? {} : {concurrency: options.concurrency}),
      ...(options.onProgress ? {onProgress: options.onProgress} : {}),
    },
    {
      clock: systemClock,
      openTarget: (name) =>
        address
          ? openRemote(address, id, name ?? '', settings, options.signal)
          : openLocalTarget({imagesRoot, id, version: name, kind: version.kind}),
      needsVersionFirst: async () =>
        address !== undefined || (await hasDigestVersion(imagesRoot, id)),
    },
  )
}

function versionWish(text: string | undefined): VersionWish {
  if (text === undefined) return {kind: 'none'}
  if (text === 'sha256') return {kind: 'sha256'}
  if (!isStreamId(text))
    throw fail('wrong_usage', {reason: `${text} cannot be a version: it must be ${streamIdRule}`})
  if (reservedVersions.has(text))
    throw fail('wrong_usage', {
      reason: `${text} cannot be a version: a file of the format has this name`,
    })
  return {kind: 'given', version: text}
}

function checkChunkSize(chunkSize: number): void {
  const {sectorBytes, chunkBytesMax} = chunkBounds
  if (chunkSize > 0 && chunkSize % sectorBytes === 0 && chunkSize <= chunkBytesMax) return
  throw fail('invalid_setting', {
    setting: 'chunkSize',
    value: String(chunkSize),
    from: 'flag --chunk-size',
    expected: `a multiple of ${sectorBytes} bytes up to 64MiB`,
  })
}

/** Whether the image has a version by digest already: then the digest is needed before anything is written. */
async function hasDigestVersion(imagesRoot: string, id: string): Promise<boolean> {
  const names = await namesIn(chunkedDir(imagesRoot, id))
  return names.some((name) => /^sha256-[0-9a-f]{64}$/.test(name))
}

async function openRemote(
  {bucket, prefix}: BucketAddress,
  id: string,
  version: string,
  settings: Settings,
  signal: AbortSignal,
): Promise<ChunkTarget> {
  const [{openBucket}, {openBucketTarget}] = await Promise.all([
    import('../sources/bucket.ts'),
    import('./bucket-target.ts'),
  ])
  const options = {...sourceOptionsOf(settings), maxAttempts: settings.maxAttempts}
  return openBucketTarget(openBucket(bucket, options, signal), {prefix, id, version})
}
