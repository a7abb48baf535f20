/** What the unpacker's two processes say to each other. The child handles hostile bytes, so its words are checked. */
import {errorTable, type ErrorCode, ImgstoreError, fail} from '../errors.ts'
import {GiB, type Profile, type UnpackLimits} from '../limits.ts'
import type {ArchiveFormat} from './archive/format.ts'
import type {UnpackWarning} from './warnings.ts'

export type UnpackJob = {
  blobPath: string
  targetDir: string
  profile: Profile
  limits: UnpackLimits
}

/** An archive to be indexed instead of extracted: `imagePath` holds the tree, its files' data stays in the tar. */
export type IndexJob = {
  blobPath: string
  /** Whether `blobPath` is what the blob decompressed to. */
  isPlain?: boolean
  profile: Profile
  limits: UnpackLimits
  /** Digest of the blob; what the image is named by inside is made from it. */
  digest: string
  imagePath: string
  /** Where the tar of a compressed blob goes, with holes for its zeros; needed for those. */
  plainPath?: string
  /** `overlay` turns OCI whiteouts into what overlayfs understands. Default: `keep`. */
  whiteouts?: 'keep' | 'overlay'
}

/** A disk image to be made raw. */
export type DiskJob = {
  blobPath: string
  /** In a directory of its own. */
  diskPath: string
  limits: Pick<UnpackLimits, 'totalBytesMax' | 'ratioMax'>
}

export type UnpackProgress = {readBytes: number; entries: number}

export type UnpackResult = {
  format: ArchiveFormat
  /** Entries of any kind. */
  entries: number
  /** Regular files. */
  files: number
  /** Their sizes together, holes included. */
  totalBytes: number
  /** Whether the kernel held the unpacker to its directory (Landlock). */
  isConfined: boolean
  /** The first hundred; `warningsTotal` counts all. */
  warnings: UnpackWarning[]
  warningsTotal: number
}

export type IndexResult = UnpackResult & {
  imageBytes: number
  /** Of the tar made from a compressed blob, holes included; absent where the blob is the tar itself. */
  plainBytes?: number
}

export type DiskResult = {
  /** What the blob was, behind its compression. */
  format: 'raw' | 'qcow2' | 'vhd'
  compression?: Exclude<ArchiveFormat, 'tar'>
  /** What a guest sees. */
  sizeBytes: number
  isConfined: boolean
  /** The blob is the raw disk itself; nothing was made. */
  isBlob?: true
  /** SHA-256 of the raw disk in hex; absent where the blob is that. */
  digest?: string
}

/** A blob that is still coming, to be decompressed; the files are descriptors of the process. */
export type DecompressJob = {
  /** The most that the blob can have. */
  blobBytesMax: number
  limits: UnpackLimits
}

export type DecompressResult = {
  format: ArchiveFormat
  /** Of the tar, holes included, and its SHA-256. */
  sizeBytes: number
  digest: string
  /** The highest ratio that the limit was compared with. */
  ratio: number
  isConfined: boolean
}

export type ChildJob =
  | {kind: 'unpack'; job: UnpackJob}
  | {kind: 'index'; job: IndexJob}
  | {kind: 'decompress'; job: DecompressJob}
  | {kind: 'disk'; job: DiskJob}

/** A job, then, while one decompresses, how much there is of the blob. */
export type ParentMessage = ChildJob | {kind: 'grown'; sizeBytes: number; isWhole: boolean}

/** An entry takes at most so much of a tar beside its data, if its extended headers are not long. */
const ENTRY_BYTES_MAX = 4096

/** The largest file that indexing may write: a tar with all the data that is allowed. */
export function indexFileBytesMax(limits: UnpackLimits): number {
  return limits.totalBytesMax + limits.filesMax * ENTRY_BYTES_MAX + GiB
}

/** The name under which an index and a tar are written, until they are whole. */
export function partPath(path: string): string {
  return `${path}.part`
}

export type ChildMessage =
  | {kind: 'progress'; progress: UnpackProgress}
  | {kind: 'done'; result: UnpackResult | IndexResult | DecompressResult | DiskResult}
  | {kind: 'failed'; code: string; details: Record<string, unknown>}

/** The error that a child reported, as it was there. */
export function errorFromChild(message: {
  code: string
  details: Record<string, unknown>
}): ImgstoreError {
  if (!Object.hasOwn(errorTable, message.code)) {
    return fail('unpack_failed', {reason: 'the unpacker reported something unknown'})
  }
  return new ImgstoreError(message.code as ErrorCode, message.details)
}
