/** Undoing a Content-Encoding that a server applied though it was asked not to. */
import {Readable} from 'node:stream'
import {createBrotliDecompress, createGunzip, createInflate, createZstdDecompress} from 'node:zlib'
import {fail, ImgstoreError} from '../errors.ts'
import {KiB} from '../limits.ts'

// Node's default of 16 KiB doubles the cost of decompression.
const chunkSize = 256 * KiB

const decoders = {
  gzip: () => createGunzip({chunkSize}),
  'x-gzip': () => createGunzip({chunkSize}),
  deflate: () => createInflate({chunkSize}),
  br: () => createBrotliDecompress({chunkSize}),
  zstd: () => createZstdDecompress({chunkSize}),
} as const

type Encoding = keyof typeof decoders

export function isDecodable(encoding: string | undefined): encoding is Encoding {
  return encoding !== undefined && Object.hasOwn(decoders, encoding)
}

/**
 * The decoded bytes of `body`, in batches of one chunk.
 *
 * Errors: those of `body`; source_refused when it is not what the encoding says.
 */
export async function* decodeBody(
  body: AsyncIterable<readonly Buffer[]>,
  encoding: Encoding,
  url: string,
): AsyncGenerator<readonly Buffer[], void, undefined> {
  async function* copies(): AsyncGenerator<Buffer, void, undefined> {
    // A batch's memory is used again by the source, and the decoder may read it later.
    for await (const batch of body) yield Buffer.concat(batch)
  }
  const source = Readable.from(copies(), {objectMode: false})
  const decoder = decoders[encoding]()
  source.on('error', (error) => decoder.destroy(error))
  source.pipe(decoder)
  try {
    for await (const chunk of decoder) yield [chunk as Buffer]
  } catch (error) {
    if (error instanceof ImgstoreError || !isDecoderError(error)) throw error
    const reason = `it says that the content is encoded with ${encoding}, which it is not`
    throw fail('source_refused', {url, reason}, {cause: error})
  } finally {
    decoder.destroy()
    source.destroy()
  }
}

function isDecoderError(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    /^(Z_|ERR_BROTLI|ERR__ERROR|ZSTD_|ERR_ZLIB)/.test(String(error.code))
  )
}
