/** What every part of the images service works with. */
import type {BlobStore} from '../blobs/blob-store.ts'
import type {Clock} from '../clock.ts'
import type {ImageJournal} from '../db/journal.ts'
import type {Database} from '../db/open.ts'
import type {Digest} from '../digest.ts'
import type {ImgstoreError} from '../errors.ts'
import type {NodeId} from '../ids.ts'
import type {Layout} from '../layout.ts'
import type {Logger} from '../log.ts'
import type {Settings} from '../settings.ts'
import type {Source} from '../sources/contract.ts'
import type {SpaceGate} from './space.ts'
import type {
  Decompression,
  DecompressRequest,
  DiskRequest,
  DiskResult,
  IndexRequest,
  IndexResult,
  UnpackRequest,
  UnpackResult,
} from '../unpack/unpack.ts'

export type ImagesContext = {
  database: Database
  journal: ImageJournal
  blobs: BlobStore
  layout: Layout
  node: NodeId
  clock: Clock
  log: Logger
  settings: () => Settings
  /** Whether there is room for what a step is going to write. */
  space: SpaceGate
  /** Loaded when first used: got and the S3 client are slow to load. */
  openSource: (url: string) => Promise<Source>
  unpack: (request: UnpackRequest) => Promise<UnpackResult>
  indexTar: (request: IndexRequest) => Promise<IndexResult>
  makeDisk: (request: DiskRequest) => Promise<DiskResult>
  decompress: (request: DecompressRequest) => Promise<Decompression>
  /** The plain tars that this process made itself, until they were indexed: what they held when they were adopted. */
  freshPlains: Map<Digest, {sizeBytes: number; mtimeMs: number}>
  /** The same for blobs: what this process has just written and hashed need not be read again to be believed. */
  freshBlobs: Map<Digest, {sizeBytes: number; mtimeMs: number}>
  /** Why the last heartbeat of this process could not be written, until one can: what is read says nothing of that. */
  pulse: {trouble?: ImgstoreError}
  /** Whether this process can mount on this host, proved by a trial mount; asked once. Errors: io_failed, no_space. */
  canMount: () => Promise<{isAble: true} | {isAble: false; reason: string}>
  /** The same for EROFS images whose data is in other files. */
  canMountErofs: () => Promise<{isAble: true} | {isAble: false; reason: string}>
  /** Removes a blob that nothing needs any more; given by the maintenance service. */
  dropBlobIfUnused: (digest: Digest) => Promise<void>
}
