/**
 * Brings the bytes of one blob from a source into the store.
 *
 * The danger: servers lie. They answer 200 to a range, give other bytes under the right header (Ceph's radosgw with
 * dbstore does), cut, encode, change the file between two requests. The blob's digest makes a wrong blob impossible;
 * what is left to do here is to lose as little as possible. Three rules do it:
 * - A range is asked for from a little before the end of the part, and what comes must repeat the bytes already there.
 * - An answer that is no use is asked for again a few times before the part is given up for a whole new download.
 * - When the digest is wrong at the end and the bytes came in more than one answer, all is fetched once more at a stretch.
 */
import type {BlobStore, PartWriter, PlainNote} from '../blobs/blob-store.ts'
import {systemClock} from '../clock.ts'
import type {Digest} from '../digest.ts'
import {asPassing, fail, ImgstoreError} from '../errors.ts'
import {KiB, MiB} from '../limits.ts'
import {redact} from '../log.ts'
import type {OpenedSource, Source} from '../sources/source.ts'
import {decodeBody, isDecodable} from './content-encoding.ts'
import type {PlainMaker} from './plain-maker.ts'
import {looksLikeHtml} from './sniff.ts'

export type DownloadProgress = {receivedBytes: number; totalBytes?: number}

export type DownloadOptions = {
  source: Source
  blobs: BlobStore
  digest: Digest
  /** The source's address: a part is resumed with the validator of the same address only. */
  url: string
  /** True when another worker may still be writing this blob's part. */
  isTakeover: boolean
  signal: AbortSignal
  /** Outside of runs: in a part of its own, which is gone when this was in vain. */
  isPrivate?: boolean
  maxBlobBytes: number
  onProgress: (progress: DownloadProgress) => void
  /** Asked once the source said how many bytes are to come; rejects when there is no room for them now. */
  admit?: (room: {comingBytes: number; totalBytes: number}) => Promise<void>
  /** Follows the part and makes the plain tar of a compressed blob. Its failures are not the download's. */
  plainMaker?: PlainMaker
}

export type DownloadResult = {
  sizeBytes: number
  /** Bytes that came over the line in this attempt. */
  downloadedBytes: number
  /** Bytes that an earlier attempt had left. */
  resumedFromBytes: number
  /** The plain tar that was made meanwhile, if one was. */
  plain?: PlainNote
}

/** Bytes asked for a second time at a resume, to see that the range is the right one. */
const overlapBytes = 16 * KiB
/** A partial answer smaller than this ends the attempt, so that a server cannot keep us asking for ever. */
const usefulPartBytes = 64 * KiB
/** Digest mismatches after a resume, over all attempts, before the checksum itself is held to be wrong. */
const mismatchesMax = 3

/** How often an encoded answer is asked for again before it is taken as it is. */
const encodedAsksMax = 3

/**
 * How often an answer that does not help is asked for again before the part is given up. A server that has never
 * continued this part probably cannot; one that has is only having a bad time.
 */
function patienceFor(partBytes: number, hasContinued: boolean): number {
  if (partBytes < MiB) return hasContinued ? 3 : 0
  return hasContinued ? 20 : 4
}

/** How long to wait before the same question is put again: not at all at first, then up to a second. */
function pauseBefore(ask: number): number {
  return Math.min(1000, Math.max(0, ask - 3) * 100)
}

/**
 * Makes one attempt to download a blob, going on from where an earlier one stopped.
 *
 * Guarantees: the blob appears only whole, durable and with the right digest; after an error that is worth another
 * attempt (`retry` is `backoff` or `wait`) and after an abort the part is kept, after any other it is gone.
 * Errors: those of `Source` and `admit`; digest_mismatch, source_not_image, source_too_large, no_space, io_failed, blob_busy;
 * the signal's reason.
 */
export async function downloadBlob(options: DownloadOptions): Promise<DownloadResult> {
  const {blobs, digest, isTakeover, signal, plainMaker, isPrivate = false} = options
  const makeRoom = async (): Promise<boolean> =>
    (await plainMaker?.drop({isForGood: true})) ?? false
  const writer = await blobs.beginPart(digest, {isTakeover, signal, isPrivate, makeRoom})
  const resumedFromBytes = writer.sizeBytes
  const download = new Download(options, writer)
  try {
    const {sizeBytes} = await download.run()
    const plain = await plainMaker?.adopt(sizeBytes, signal)
    return {
      sizeBytes,
      downloadedBytes: download.downloadedBytes,
      resumedFromBytes,
      ...(plain === undefined ? {} : {plain}),
    }
  } catch (error) {
    await plainMaker?.drop({isForGood: true})
    const isWorthKeeping =
      !isPrivate &&
      (signal.aborted ||
        !(error instanceof ImgstoreError) ||
        error.retry === 'backoff' ||
        error.retry === 'wait')
    await (isWorthKeeping ? writer.abandon() : writer.discard())
    throw error
  }
}

class Download {
  downloadedBytes = 0
  readonly #options: DownloadOptions
  readonly #writer: PartWriter
  readonly #shownUrl: string
  /** Whether the bytes in the part came in more than one answer. */
  #isMixed: boolean
  #mismatches: number
  /** Answers in a row that did not help. */
  #unhelpful = 0
  /** Mirrors behind one name often have validators of their own; after a refusal the range is asked for without. */
  #isValidatorTrusted = true
  #contentType: string | undefined
  /** The encoding of the answer in the part, how many encoded ones there were, and whether to undo it. */
  #encoding: string | undefined
  #encodedAsks = 0
  #isDecoding = false

  constructor(options: DownloadOptions, writer: PartWriter) {
    this.#options = options
    this.#writer = writer
    this.#shownUrl = redact(options.url)
    this.#isMixed = writer.sizeBytes > 0
    this.#mismatches = writer.note?.mismatches ?? 0
  }

  async run(): Promise<{sizeBytes: number}> {
    const writer = this.#writer
    this.#checkSize(writer.sizeBytes)
    if (this.#isMixed && writer.digest() === this.#options.digest) return writer.commit()
    while (true) {
      if (!(await this.#ask())) continue
      if (writer.digest() === this.#options.digest) return this.#commit()
      if (isDecodable(this.#encoding) && !this.#isDecoding) {
        // Servers that store compressed files often call that an encoding, so the bytes as they came were tried first.
        this.#isDecoding = true
      } else if (!this.#isMixed || this.#mismatches >= mismatchesMax) {
        return this.#refuse()
      } else {
        this.#mismatches++
      }
      await this.#restart()
    }
  }

  async #commit(): Promise<{sizeBytes: number}> {
    await this.#options.plainMaker?.settled()
    return await this.#writer.commit()
  }

  /** Forgets the part, and first what was made of it. */
  async #restart(): Promise<void> {
    await this.#options.plainMaker?.drop({isForGood: false})
    await this.#writer.restart()
  }

  /** Opens the source once and takes what helps; true when the part has all the bytes that the source has. */
  async #ask(): Promise<boolean> {
    const {source, signal} = this.#options
    const {sizeBytes, note} = this.#writer
    const startByte = sizeBytes > overlapBytes ? sizeBytes - overlapBytes : 0
    const isSameSource = note?.url === this.#shownUrl && this.#isValidatorTrusted
    const validator = isSameSource ? note.validator : undefined
    const opened = await source
      .open({
        startByte,
        ...(startByte > 0 && validator !== undefined ? {validator} : {}),
        signal,
      })
      .catch((error: unknown) => {
        throw this.#afterRefusal(error)
      })
    try {
      if (opened.totalBytes !== undefined) {
        this.#checkSize(opened.totalBytes)
        const comingBytes = Math.max(0, opened.totalBytes - sizeBytes)
        await this.#options.admit?.({comingBytes, totalBytes: opened.totalBytes})
      }
      const isEncodedWhole = opened.contentEncoding !== undefined && opened.answer === 'whole'
      // With a part in hand it is as unhelpful as any other answer that begins anew.
      if (isEncodedWhole && startByte === 0) {
        if (this.#encodedAsks++ < encodedAsksMax) return false
      } else if (!this.#isHelpful(opened, startByte)) {
        this.#isValidatorTrusted = false
        if (await this.#isWorthAsking()) return false
        if (startByte === 0 && opened.answer !== 'whole') {
          const reason = 'it sent a part of the content when asked for all of it'
          throw fail('source_unavailable', {url: this.#shownUrl, reason})
        }
        // A part that nobody can continue is given up: the next question is for everything.
        if (opened.answer !== 'whole') {
          await this.#restart()
          return false
        }
      }
      return await this.#take(opened)
    } finally {
      await opened.close()
    }
  }

  /**
   * Who has given a good piece of the blob and now redirects in a circle or shows a strange certificate is in trouble
   * more likely than of another mind: it is asked again like one that is down. A status that says no is believed.
   */
  #afterRefusal(error: unknown): unknown {
    const {sizeBytes, note} = this.#writer
    const hasGiven = sizeBytes > overlapBytes && note?.url === this.#shownUrl
    if (!hasGiven || !(error instanceof ImgstoreError)) return error
    const isStrange =
      error.code === 'redirect_refused' ||
      (error.code === 'source_refused' && error.details['status'] === undefined)
    return isStrange ? asPassing(error) : error
  }

  /** Whether an answer brings the part forward without losing what is there. */
  #isHelpful(opened: OpenedSource, startByte: number): boolean {
    if (startByte === 0) return opened.answer === 'whole'
    const {note} = this.#writer
    const knownBytes = note?.url === this.#shownUrl ? note.totalBytes : undefined
    const isSameSize =
      knownBytes === undefined ||
      opened.totalBytes === undefined ||
      knownBytes === opened.totalBytes
    return opened.answer === 'range' && opened.startByte === startByte && isSameSize
  }

  async #take(opened: OpenedSource): Promise<boolean> {
    const writer = this.#writer
    if (opened.answer === 'whole') {
      await this.#restart()
      this.#isMixed = false
    } else {
      this.#isMixed = true
    }
    this.#contentType = opened.contentType
    this.#encoding = opened.contentEncoding
    const {validator, startByte, contentEncoding} = opened
    const isDecoded = this.#isDecoding && isDecodable(contentEncoding)
    const body = isDecoded ? decodeBody(opened.body, contentEncoding, this.#shownUrl) : opened.body
    const totalBytes = isDecoded ? undefined : opened.totalBytes
    // The note belongs to the answer that the first bytes came in; a later one may not speak the truth.
    if (writer.note?.url !== this.#shownUrl) {
      await writer.saveNote({
        url: this.#shownUrl,
        ...(validator === undefined ? {} : {validator}),
        ...(totalBytes === undefined ? {} : {totalBytes}),
        ...(this.#mismatches === 0 ? {} : {mismatches: this.#mismatches}),
      })
    }
    const startedAtBytes = writer.sizeBytes
    const repeated = await writer.read(startByte, startedAtBytes - startByte)
    if (!(await this.#receive(body, totalBytes, repeated))) return false
    if (totalBytes === undefined || writer.sizeBytes === totalBytes) return true
    if (writer.sizeBytes > totalBytes) {
      // The part was longer than the whole: its bytes cannot be right.
      await this.#restart()
      return false
    }
    if (writer.sizeBytes - startedAtBytes >= usefulPartBytes) return false
    throw fail('source_incomplete', {
      url: this.#shownUrl,
      receivedBytes: writer.sizeBytes,
      expectedBytes: totalBytes,
    })
  }

  /** Reads the body into the part; false when it does not begin with the bytes that are already there. */
  async #receive(
    body: AsyncIterable<readonly Buffer[]>,
    totalBytes: number | undefined,
    repeated: Buffer,
  ): Promise<boolean> {
    const {signal, onProgress, plainMaker} = this.#options
    const writer = this.#writer
    let toCompare = repeated
    for await (const batch of body) {
      signal.throwIfAborted()
      const fresh: Buffer[] = []
      for (const chunk of batch) {
        this.downloadedBytes += chunk.length
        const known = toCompare.subarray(0, chunk.length)
        if (!known.equals(chunk.subarray(0, known.length))) return await this.#giveUpRange()
        toCompare = toCompare.subarray(known.length)
        if (chunk.length > known.length) fresh.push(chunk.subarray(known.length))
      }
      if (fresh.length === 0) continue
      if (repeated.length > 0 && toCompare.length === 0) await this.#noteContinued()
      this.#checkSize(fresh.reduce((sum, chunk) => sum + chunk.length, writer.sizeBytes))
      await writer.append(fresh)
      plainMaker?.grown(writer, totalBytes)
      onProgress({
        receivedBytes: writer.sizeBytes,
        ...(totalBytes === undefined ? {} : {totalBytes}),
      })
    }
    return toCompare.length === 0 || (await this.#giveUpRange())
  }

  async #giveUpRange(): Promise<false> {
    if (!(await this.#isWorthAsking())) await this.#restart()
    return false
  }

  /** Counts an answer that did not help; true, after a pause, when the question is put again. */
  async #isWorthAsking(): Promise<boolean> {
    const {sizeBytes, note} = this.#writer
    this.#unhelpful++
    if (this.#unhelpful > patienceFor(sizeBytes, note?.hasContinued === true)) return false
    const {signal} = this.#options
    const pauseMs = pauseBefore(this.#unhelpful)
    if (pauseMs > 0) await systemClock.sleep(pauseMs, signal)
    signal.throwIfAborted()
    return true
  }

  /** Remembers, here and for later attempts, that the source can continue the part. */
  async #noteContinued(): Promise<void> {
    this.#unhelpful = 0
    const {note} = this.#writer
    if (note && note.hasContinued !== true) {
      await this.#writer.saveNote({...note, hasContinued: true})
    }
  }

  #checkSize(sizeBytes: number): void {
    const {maxBlobBytes} = this.#options
    if (sizeBytes > maxBlobBytes) {
      throw fail('source_too_large', {url: this.#shownUrl, sizeBytes, limitBytes: maxBlobBytes})
    }
  }

  /** The bytes are complete and wrong. Errors: source_not_image for a web page, else digest_mismatch. */
  async #refuse(): Promise<never> {
    const head = await this.#writer.read(0, 1024)
    if (looksLikeHtml(head, this.#contentType)) {
      throw fail('source_not_image', {what: `an HTML page of ${this.#writer.sizeBytes} bytes`})
    }
    await this.#writer.commit()
    throw fail('internal', {reason: 'bytes with the wrong digest were committed'})
  }
}
