/** From a blob to the parser: what both unpackers do alike. */
import {closeSync, constants, fstatSync, openSync} from 'node:fs'
import {fail, fromSystemError} from '../errors.ts'
import {archiveBounds} from '../limits.ts'
import {type ArchiveFormat, describe, isTarStart, sniff, SNIFF_BYTES} from './archive/format.ts'
import {BLOCK_BYTES} from './archive/header.ts'
import type {ArchiveParser} from './archive/parser.ts'
import {refuse} from './archive/policy.ts'
import {type Blob, type Consume, readBlob, readFully} from './archive/source.ts'

export type FeedOptions = {
  ratioMax: number
  /** Whether data that nobody wants may be left unread where the blob is the archive itself. */
  canSkip?: boolean
  /** Called with each piece of the uncompressed archive, just before the parser gets it. */
  onBytes?: (chunk: Buffer) => void
  /** Called after each piece, with how much of the blob was read. */
  onChunk?: (readBytes: number) => void
}

/**
 * Feeds the whole blob to the parser, decompressed, and ends it.
 *
 * Errors: what the parser and its sink throw; bad_archive, compression_unsupported, source_not_image, unsafe_archive
 * (the ratio), io_failed.
 */
export async function feedBlob(
  blob: Blob,
  format: ArchiveFormat,
  parser: ArchiveParser,
  options: FeedOptions,
): Promise<void> {
  const take = (chunk: Buffer): void => {
    options.onBytes?.(chunk)
    parser.push(chunk)
  }
  const push =
    format === 'tar'
      ? {consume: take, end: () => undefined}
      : pushDecompressed({
          format,
          ratioMax: options.ratioMax,
          where: () => ({name: parser.current.entry, offset: parser.current.offset}),
          take,
        })
  const skip = (left: number): number => {
    const bytes = Math.min(left, parser.skippableBytes)
    if (bytes > 0) parser.skip(bytes)
    return bytes
  }
  const consume: Consume = (chunk, readBytes) => {
    push.consume(chunk, readBytes)
    options.onChunk?.(readBytes)
  }
  await readBlob(blob, format, consume, options.canSkip === true ? skip : undefined)
  push.end()
  parser.end()
}

export type PushOptions = {
  format: ArchiveFormat
  ratioMax: number
  /** The entry that is being read, for the message. */
  where: () => {name: string; offset: number}
  take: (chunk: Buffer) => void
}

/** Looks at the first decompressed bytes, because anything can be compressed, and holds the ratio. */
export function pushDecompressed({format, ratioMax, where, take}: PushOptions): {
  consume: Consume
  end(): void
  /** The highest ratio that was looked at. */
  ratio(): number
} {
  let outBytes = 0
  let ratio = 0
  let head: Buffer | undefined = Buffer.alloc(0)
  const checkHead = (start: Buffer): void => {
    if (isTarStart(start)) return
    const what = start.length === 0 ? 'nothing at all' : describe(start)
    throw fail('source_not_image', {what: `${what} (compressed with ${format})`})
  }
  return {
    consume: (chunk, readBytes) => {
      outBytes += chunk.length
      if (outBytes > archiveBounds.ratioCheckedFromBytes) {
        ratio = Math.max(ratio, outBytes / readBytes)
        if (outBytes > readBytes * ratioMax) {
          throw refuse(
            where(),
            `makes more than ${ratioMax} bytes of each compressed byte`,
            '--max-ratio',
          )
        }
      }
      if (head === undefined) {
        take(chunk)
        return
      }
      head = Buffer.concat([head, chunk])
      if (head.length < BLOCK_BYTES) return
      checkHead(head)
      take(head)
      head = undefined
    },
    end: () => {
      if (head !== undefined) checkHead(head)
    },
    ratio: () => ratio,
  }
}

export function openBlob(path: string): Blob {
  let fd: number
  try {
    // Not blocking: a FIFO in the blob's place must not hang us.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw fromSystemError(error, path, 'read')
  }
  const stats = fstatSync(fd)
  if (!stats.isFile()) {
    closeSync(fd)
    throw fail('io_failed', {path, reason: 'it is not a regular file'})
  }
  return {fd, path, sizeBytes: stats.size}
}

export function tellFormat(blob: Blob): ArchiveFormat {
  const head = Buffer.alloc(SNIFF_BYTES)
  const sniffed = sniff(head.subarray(0, readFully(blob, head, 0)))
  switch (sniffed.kind) {
    case 'archive':
      return sniffed.format
    case 'unsupported':
      throw fail('compression_unsupported', {
        format: sniffed.format,
        need: 'a program that imgstore does not use',
      })
    case 'other':
      throw fail('source_not_image', {what: sniffed.what})
  }
}
