/**
 * What the streaming surface serves, in the words that its service and its door share.
 *
 * An image here is a disk image: one file of bytes under an id, read by Range or, when it was published so, in chunks.
 */

import type {Digest} from './digest.ts'

/** What a client may compare a copy with. `modifiedNs` is nanoseconds since the epoch, absent when unknown (before 1970). */
export type Validators = {etag: string; modifiedNs: bigint | undefined}

/** One image as the list shows it. */
export type StreamImage = Validators & {
  id: string
  name: string
  description?: string
  /** Bytes; at most 2^53-1. */
  size: number
  isPublic: boolean
  recommendedChunkSize?: number
  /** SHA-256 of the whole image in lower-case hex, where it is known. */
  sha256?: string
  /** Where it was found: the catalog, the bare directory, or the store's own disks. */
  origin: 'catalog' | 'directory' | 'store'
}

/**
 * An entry that is left out of the list, and why. `entry`: the catalog says something about it that cannot be, so that
 * the catalog is to be mended (readiness is refused); `file`: only its file is missing or unfit.
 */
export type StreamProblem = {id: string; reason: string; kind: 'entry' | 'file'}

/** A disk image of the store, as `openStreams` is told of it. Its ETag is made of the digest. */
export type StoreDisk = {
  /** A stream id (`isStreamId`). */
  id: string
  name: string
  description?: string
  isPublic: boolean
  /** Absolute; a regular file that nobody rewrites. */
  path: string
  /** Bytes; a file with another size is a problem and is not served. */
  size: number
  sha256: Digest
  recommendedChunkSize?: number
}

/**
 * An opened regular file that was found inside the root after opening. The descriptor is shared and counted: whoever
 * got it calls `release` exactly once and never closes it.
 */
export type OpenedFile = Validators & {
  readonly fd: number
  /** Bytes; at most 2^53-1. */
  readonly size: number
  /**
   * Whether the file still has the bytes it was opened with, as far as its size and times tell; false means: promise
   * nothing more of it. A file that was only replaced by another stays as it was for those who have it open.
   */
  isUnchanged(): boolean
  release(): void
}

/**
 * An image found by id; the descriptor opens on demand, so that HEAD and 304 touch no file content. What is opened is
 * the version that was found, or else the error disk_changed.
 *
 * Errors of `open`: disk_changed, io_failed, permission_denied.
 */
export type FoundImage = StreamImage & {open(): OpenedFile}

/**
 * The flag of an entry that decides who may read its chunks and how they may be cached, also where `file` is undefined
 * because there is no such file.
 */
export type FoundChunked = {isPublic: boolean; file: OpenedFile | undefined}

/**
 * The service that the door talks to. All of it is synchronous: a cached lookup is two or three system calls, far
 * cheaper than a turn through the thread pool.
 */
export type Streams = {
  /**
   * Every image, in catalog order (bytewise by name without one), and what was left out.
   *
   * Errors: catalog_invalid, io_failed, permission_denied.
   */
  list(): {images: readonly StreamImage[]; problems: readonly StreamProblem[]}
  /**
   * The image with this valid id as it is now, or undefined (unknown, missing, not a regular file, outside the root).
   *
   * Errors: catalog_invalid, io_failed, permission_denied.
   */
  find(id: string): FoundImage | undefined
  /**
   * A manifest (`name` undefined) or one chunk of the chunked form of an image, opened. `version` undefined means the
   * catalog's version of the image or else the flat layout. Undefined where nothing has this id.
   *
   * Errors: catalog_invalid, io_failed, permission_denied.
   */
  openChunked(
    id: string,
    version: string | undefined,
    name: string | undefined,
  ): FoundChunked | undefined
  /** Versions of the chunked form that exist for an image (the flat layout as ''), for the page and `disk list`. */
  versions(id: string): readonly string[]
  close(): void
}
