/**
 * Where the chunked form of a disk image is written to, as the publisher sees it.
 *
 * Vocabulary: a target is one place: the directory or key prefix of one version of one image. It is *new* while its
 * chunks are written for a first time or anew, and *mended* when a complete one is there whose chunks are only checked.
 */
import type {Digest} from '../digest.ts'
import type {ReadChunk} from '../disks/raw-disk.ts'
import type {ChunkMap} from '../chunk-map.ts'

export type PutOutcome = 'kept' | 'written'

/** The files beside the chunks, as text. */
export type TargetFiles = {version: string; manifest: string; meta?: string}

export type ChunkTarget = {
  /** For messages. */
  readonly place: string
  /** The manifest that is published there now. Errors: disk_taken when there are chunks without one. */
  existing(): Promise<Uint8Array | undefined>
  /** Makes ready for chunks. Called once, or a second time to write anew what was to be mended. */
  begin(mode: 'new' | 'mend', map: ChunkMap): Promise<void>
  /**
   * Puts one chunk there unless it is there already, with this digest (its bytes are hashed, or the service vouches).
   * Errors: no_space, permission_denied, io_failed; of a bucket those of the network.
   */
  put(index: number, chunk: ReadChunk, digest: Digest): Promise<PutOutcome>
  /**
   * Makes everything durable and visible, the manifest last; a mended target has nothing more to show.
   * Guarantees: at no moment does a manifest stand beside chunks of another disk.
   */
  commit(files: TargetFiles): Promise<void>
  /** Points `latest.json` of the image to a version. */
  putLatest(version: string): Promise<void>
  /** Ends the work. What is not committed stays for the next attempt. */
  close(): Promise<void>
}

export const latestSchema = 'aero.chunked-disk-image.latest.v1'

/**
 * The text of `latest.json`. `manifestKey` is the manifest's path from where images are kept.
 *
 * Source: streaming specification, section 4.5.
 */
export function latestText(imageId: string, version: string, manifestKey: string): string {
  return JSON.stringify({schema: latestSchema, imageId, version, manifestKey})
}
