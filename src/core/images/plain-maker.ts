/**
 * Decompressing a blob while it comes, for an image that is going to be indexed.
 *
 * A process of its own follows the part as it grows and writes the plain tar beside it. Nothing that goes wrong here is
 * an error: what was made is thrown away, and UNPACKING decompresses the blob and finds out what is wrong with it. So
 * there is one place that judges archives, and a wrong digest is always told before anything else.
 */
import {statfs} from 'node:fs/promises'
import {dirname} from 'node:path'
import type {BlobStore, PartWriter, PlainNote, PlainWriter} from '../blobs/blob-store.ts'
import type {Digest} from '../digest.ts'
import {toImgstoreError} from '../errors.ts'
import {KiB, MiB, type UnpackLimits} from '../limits.ts'
import type {Logger} from '../log.ts'
import type {Decompression, DecompressRequest} from '../unpack/unpack.ts'
import {isCompressed} from './sniff.ts'

export type PlainMakerOptions = {
  blobs: BlobStore
  digest: Digest
  limits: UnpackLimits
  maxBlobBytes: number
  /** Asked once for a compressed blob: whether a plain tar will be needed. */
  isWanted: () => Promise<boolean>
  decompress: (request: DecompressRequest) => Promise<Decompression>
  log: Logger
}

/** Below this the second process costs more time than it saves. */
export const worthwhileBytes = 4 * MiB
/** What the process must find to tell the format. */
const headBytes = 4 * KiB
/** A full disk must hurt neither the download nor the database: so much stays free beside the bytes to come. */
const reserveBytes = 16 * MiB
const tellEveryBytes = 256 * KiB
const lookEveryMs = 100

type Work = {plain: PlainWriter; decompression: Decompression}

/** One attempt at a plain tar; another one follows when the part begins anew. */
type Attempt = {
  begun: Promise<Work | undefined>
  /** Set once `begun` has resolved with work that has not failed since. */
  work?: Work
  stop: AbortController
  toldBytes: number
}

export class PlainMaker {
  readonly #options: PlainMakerOptions
  #attempt: Attempt | undefined
  #isGivenUp = false
  #lookedAt = 0
  /** Resolves when everything that was thrown away is gone. */
  #ended: Promise<unknown> = Promise.resolve()

  constructor(options: PlainMakerOptions) {
    this.#options = options
  }

  /** The part has grown. Never waits, never throws. */
  grown(part: PartWriter, totalBytes: number | undefined): void {
    const {sizeBytes} = part
    if (this.#isGivenUp) return
    if (this.#attempt === undefined) {
      if (sizeBytes < headBytes || (totalBytes ?? sizeBytes) < worthwhileBytes) return
      const stop = new AbortController()
      const attempt: Attempt = {begun: this.#begin(part, stop.signal), stop, toldBytes: 0}
      this.#attempt = attempt
      void attempt.begun.then((work) => {
        if (work === undefined) return
        attempt.work = work
        this.#tell(attempt, part.sizeBytes)
        work.decompression.result.catch((error: unknown) => this.#failed(attempt, error))
      })
      return
    }
    if (sizeBytes - this.#attempt.toldBytes >= tellEveryBytes) {
      this.#tell(this.#attempt, sizeBytes)
    }
    const leftBytes = totalBytes === undefined ? 0 : totalBytes - sizeBytes
    if (this.#attempt.work) void this.#lookForRoom(this.#attempt, leftBytes)
  }

  /** Resolves when the maker no longer needs the part to be open. */
  async settled(): Promise<void> {
    await this.#attempt?.begun
  }

  /** Throws away what was made, for good or until the part has grown again; true when there was something. */
  async drop(options: {isForGood: boolean}): Promise<boolean> {
    this.#isGivenUp ||= options.isForGood
    const attempt = this.#attempt
    this.#attempt = undefined
    const before = this.#ended
    const ending = attempt === undefined ? Promise.resolve(false) : this.#end(attempt)
    this.#ended = Promise.all([before, ending])
    await before
    return await ending
  }

  /**
   * Waits for the rest to be decompressed, when the part of `sizeBytes` has become the blob, and makes the tar its plain
   * tar. Undefined when there is none; never throws.
   */
  async adopt(sizeBytes: number, signal: AbortSignal): Promise<PlainNote | undefined> {
    // From here on nobody else drops it.
    const attempt = this.#attempt
    this.#attempt = undefined
    this.#isGivenUp = true
    await this.#ended
    const work = await attempt?.begun
    if (!attempt || !work) return undefined
    const stop = (): void => attempt.stop.abort()
    signal.addEventListener('abort', stop, {once: true})
    if (signal.aborted) stop()
    try {
      work.decompression.end(sizeBytes)
      const made = await work.decompression.result
      const {format, ratio} = made
      const note = {sizeBytes: made.sizeBytes, digest: made.digest as Digest, format, ratio}
      await work.plain.adopt(note)
      return note
    } catch (error) {
      this.#note(error)
      await this.#end(attempt)
      return undefined
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }

  async #begin(part: PartWriter, signal: AbortSignal): Promise<Work | undefined> {
    const {blobs, digest, limits, maxBlobBytes, isWanted, decompress} = this.#options
    let plain: PlainWriter | undefined
    try {
      if (!isCompressed(await part.read(0, 4)) || !(await isWanted())) return undefined
      // Its blob was lost, and the tar was not.
      if ((await blobs.notedPlain(digest)) !== undefined) return undefined
      const reader = await part.openReader()
      try {
        plain = await blobs.beginPlain(digest)
        signal.throwIfAborted()
        const request = {blobFd: reader.fd, plainFd: plain.fd, blobBytesMax: maxBlobBytes, limits}
        return {plain, decompression: await decompress({...request, signal})}
      } finally {
        await reader.close()
      }
    } catch (error) {
      if (!signal.aborted) this.#note(error)
      await plain?.discard().catch(() => undefined)
      return undefined
    }
  }

  #tell(attempt: Attempt, sizeBytes: number): void {
    if (!attempt.work) return
    attempt.toldBytes = sizeBytes
    attempt.work.decompression.grown(sizeBytes)
  }

  /** Gives the disk back as soon as the process has given up. */
  #failed(attempt: Attempt, error: unknown): void {
    if (this.#attempt !== attempt || attempt.stop.signal.aborted) return
    this.#note(error)
    void this.drop({isForGood: true})
  }

  async #end(attempt: Attempt): Promise<boolean> {
    attempt.stop.abort()
    const work = await attempt.begun
    if (!work) return false
    await work.decompression.result.catch(() => undefined)
    await work.plain.discard().catch((error: unknown) => this.#note(error))
    return true
  }

  async #lookForRoom(attempt: Attempt, leftBytes: number): Promise<void> {
    const now = performance.now()
    if (now - this.#lookedAt < lookEveryMs) return
    this.#lookedAt = now
    try {
      const {bavail, bsize} = await statfs(
        dirname(this.#options.blobs.pathOf(this.#options.digest)),
      )
      if (bavail * bsize >= leftBytes + reserveBytes || this.#attempt !== attempt) return
      this.#options.log.debug(
        {digest: this.#options.digest},
        'too little space to decompress while it downloads',
      )
      await this.drop({isForGood: true})
    } catch {
      // Whatever it is, the download will meet it.
    }
  }

  #note(error: unknown): void {
    const {code, message} = toImgstoreError(error)
    this.#options.log.debug(
      {digest: this.#options.digest, code, reason: message},
      'not decompressed while it downloads',
    )
  }
}
