/**
 * A compressed blob into its plain tar while it is still coming, in this process. Nothing here judges the tar: nobody
 * knows yet whether these are the bytes that were asked for.
 */
import {createHash} from 'node:crypto'
import {fail, fromSystemError} from '../errors.ts'
import {readBlob} from './archive/source.ts'
import {PlainFile} from './erofs/plain-file.ts'
import {pushDecompressed, tellFormat} from './feed.ts'
import type {Growth} from './growth.ts'
import {indexFileBytesMax, type DecompressJob, type DecompressResult} from './protocol.ts'

/** Where the parent puts the two files: it can give no more than descriptors. */
export const blobFd = 4
export const plainFd = 5

/**
 * Reads the blob at descriptor 4 as far as `growth` says, and writes what it decompresses to into descriptor 5.
 *
 * Guarantees: no path is opened; what the reader of whole blobs refuses is refused, and so is what is over the limits.
 * Errors: bad_archive, source_not_image, unsafe_archive, compression_unsupported, no_space, io_failed.
 */
export async function decompress(
  job: DecompressJob,
  options: {growth: Growth; confine: (needs: {canExecute: boolean}) => boolean},
): Promise<DecompressResult> {
  const isConfined = options.confine({canExecute: false})
  const path = 'the blob'
  const {growth} = options
  await growth.reach(0)
  const blob = {fd: blobFd, path, sizeBytes: 0, growth}
  const format = tellFormat(blob)
  if (format !== 'gzip' && format !== 'zstd') {
    throw fail('compression_unsupported', {format, need: 'the whole blob'})
  }
  const {ratioMax} = job.limits
  const bytesMax = indexFileBytesMax(job.limits)
  const plain = new PlainFile(plainFd)
  const hash = createHash('sha256')
  const pusher = pushDecompressed({
    format,
    ratioMax,
    where: () => ({name: '', offset: plain.sizeBytes}),
    take: (chunk) => {
      if (plain.sizeBytes + chunk.length > bytesMax) {
        throw fail('unsafe_archive', {
          entry: '',
          offset: plain.sizeBytes,
          rule: `makes more than ${bytesMax} bytes`,
        })
      }
      writing(() => plain.add(chunk))
      hash.update(chunk)
    },
  })
  await readBlob(blob, format, pusher.consume)
  pusher.end()
  writing(() => plain.end())
  const {sizeBytes} = plain
  return {format, sizeBytes, digest: hash.digest('hex'), ratio: pusher.ratio(), isConfined}
}

function writing(body: () => void): void {
  try {
    body()
  } catch (error) {
    throw fromSystemError(error, 'the plain tar', 'write')
  }
}
