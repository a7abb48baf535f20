/** The chunked form as objects of a bucket. */
import {createHash} from 'node:crypto'
import {buffer as readWhole} from 'node:stream/consumers'
import {chunkBounds} from '../chunk-map.ts'
import type {Digest} from '../digest.ts'
import {fail, ImgstoreError} from '../errors.ts'
import type {Settings} from '../settings.ts'
import {openBucket, type Bucket} from '../sources/bucket.ts'
import {sourceOptionsOf} from '../sources/options.ts'
import {parseBucketAddress} from './bucket-address.ts'
import {headerProblems, type ChunkReader, type SeenChunk} from './chunk-reader.ts'
import {withRetries} from './retries.ts'

/** Opens `s3://bucket/prefix` of a manifest, or the manifest's own address. */
export function openBucketReader(
  address: string,
  settings: Settings,
  signal: AbortSignal,
): ChunkReader {
  const {bucket: name, prefix} = parseBucketAddress(address)
  const base = prefix.replace(/(^|\/)manifest\.json$/, '')
  const start = base === '' ? '' : `${base}/`
  const options = {...sourceOptionsOf(settings), maxAttempts: settings.maxAttempts}
  const bucket = openBucket(name, options, signal)
  const keyOf = (chunk: string): string => `${start}chunks/${chunk}`
  return {
    place: bucket.addressOf(start),
    async manifest() {
      const found = await bucket.get(`${start}manifest.json`)
      if (found === undefined)
        throw fail('disk_not_found', {place: bucket.addressOf(start), what: 'no manifest.json'})
      const problems = headerProblems(found)
      if (found.sizeBytes <= chunkBounds.manifestBytesMax)
        return {bytes: await readWhole(found.body), problems}
      found.body.destroy()
      return {bytes: new Uint8Array(chunkBounds.manifestBytesMax + 1), problems}
    },
    async look(chunk) {
      const head = await bucket.head(keyOf(chunk))
      if (head === undefined) return undefined
      return {sizeBytes: head.sizeBytes, readBytes: 0, problems: headerProblems(head)}
    },
    read: (chunk, sizeBytes) =>
      withRetries(settings, signal, () => readObject(bucket, keyOf(chunk), sizeBytes)),
    list: () => listNames(bucket, `${start}chunks/`),
    close: () => {
      bucket.close()
    },
  }
}

async function readObject(
  bucket: Bucket,
  key: string,
  sizeBytes: number,
): Promise<SeenChunk | undefined> {
  const found = await bucket.get(key)
  if (found === undefined) return undefined
  const problems = headerProblems(found)
  if (found.sizeBytes !== sizeBytes) {
    found.body.destroy()
    return {sizeBytes: found.sizeBytes, readBytes: 0, problems}
  }
  const hash = createHash('sha256')
  let readBytes = 0
  try {
    for await (const piece of found.body as AsyncIterable<Buffer>) {
      hash.update(piece)
      readBytes += piece.length
    }
  } catch (error) {
    const url = bucket.addressOf(key)
    const details = {url, receivedBytes: readBytes, expectedBytes: sizeBytes}
    throw fail('source_incomplete', details, {cause: error})
  }
  return {sizeBytes: readBytes, readBytes, problems, digest: hash.digest('hex') as Digest}
}

async function listNames(bucket: Bucket, prefix: string): Promise<readonly string[]> {
  try {
    return [...(await bucket.list(prefix)).keys()].map((key) => key.slice(prefix.length))
  } catch (error) {
    // Who may read need not be allowed to list.
    if (error instanceof ImgstoreError && error.details['status'] === 403) return []
    throw error
  }
}
