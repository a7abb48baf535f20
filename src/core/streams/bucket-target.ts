/**
 * The chunked form as objects of an S3 bucket, with the headers that readers need (streaming specification, section 4.5).
 *
 * A bucket has no locks and no renames: what makes a publication visible is its manifest, which is written last and,
 * where the service can, only when there is none.
 */
import {createHash} from 'node:crypto'
import {buffer as readWhole} from 'node:stream/consumers'
import {chunkBounds, chunkBytes, chunkName, type ChunkMap} from '../chunk-map.ts'
import type {Digest} from '../digest.ts'
import type {ReadChunk} from '../disks/raw-disk.ts'
import {fail, ImgstoreError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {Bucket} from '../sources/bucket.ts'
import {latestText, type ChunkTarget, type PutOutcome, type TargetFiles} from './chunk-target.ts'

const immutable = 'public, max-age=31536000, immutable, no-transform'
const shortLived = 'public, max-age=60, no-transform'
const json = 'application/json'

/** `prefix` is that of all images, without a slash at its end; the objects go below `prefix/id/version/`. */
export function openBucketTarget(
  bucket: Bucket,
  place: {prefix: string; id: string; version: string},
): ChunkTarget {
  return new BucketTarget(bucket, place)
}

class BucketTarget implements ChunkTarget {
  readonly place: string
  readonly #bucket: Bucket
  readonly #id: string
  readonly #root: string
  readonly #base: string
  #map: ChunkMap | undefined
  #isReplacing = false
  #isMended = false
  /** Sizes by key; undefined when the service does not let us list, and every object is asked for. */
  #there: Map<string, number> | undefined

  constructor(
    bucket: Bucket,
    {prefix, id, version}: {prefix: string; id: string; version: string},
  ) {
    this.#bucket = bucket
    this.#id = id
    this.#root = `${prefix === '' ? '' : `${prefix}/`}${id}/`
    this.#base = `${this.#root}${version}/`
    this.place = bucket.addressOf(this.#base)
  }

  async existing(): Promise<Uint8Array | undefined> {
    const found = await this.#bucket.get(`${this.#base}manifest.json`)
    this.#isReplacing = found !== undefined
    if (found === undefined) return undefined
    if (found.sizeBytes <= chunkBounds.manifestBytesMax) return await readWhole(found.body)
    found.body.destroy()
    return new Uint8Array()
  }

  async begin(mode: 'new' | 'mend', map: ChunkMap): Promise<void> {
    this.#map = map
    this.#isMended = mode === 'mend'
    this.#there = await this.#list()
    // From here on nobody finds the old one, and nobody can take its manifest for that of the new chunks.
    if (mode === 'new' && this.#isReplacing) await this.#bucket.remove(`${this.#base}manifest.json`)
  }

  async #list(): Promise<Map<string, number> | undefined> {
    try {
      return await this.#bucket.list(`${this.#base}chunks/`)
    } catch (error) {
      // Not everybody who may write may list.
      if (error instanceof ImgstoreError && error.details['status'] === 403) return undefined
      throw error
    }
  }

  async put(index: number, chunk: ReadChunk, digest: Digest): Promise<PutOutcome> {
    const map = this.#map
    if (map === undefined) throw new TypeError('begin was not called')
    const key = `${this.#base}chunks/${chunkName(map, index)}`
    const length = chunkBytes(map, index)
    if (this.#there === undefined || this.#there.get(key) === length) {
      const head = await this.#bucket.head(key)
      const isWhole = head?.sizeBytes === length && head.sha256 === digest
      if (isWhole && head.cacheControl === immutable) return 'kept'
    }
    const bytes = chunk.isZero ? Buffer.alloc(length) : chunk.bytes
    await this.#bucket.put(key, bytes, {
      contentType: 'application/octet-stream',
      cacheControl: immutable,
      sha256: digest,
    })
    failpoint('streams.chunk_sent')
    return 'written'
  }

  async commit(files: TargetFiles): Promise<void> {
    if (this.#isMended) return
    await this.#removeForeign()
    if (files.meta !== undefined) await this.#putText('meta.json', files.meta)
    failpoint('streams.chunks_sent')
    const wasPut = await this.#putText('manifest.json', files.manifest, {isOnlyNew: true})
    if (!wasPut) throw fail('disk_busy', {place: this.place})
    failpoint('streams.manifest_sent')
  }

  /** Chunks of an earlier disk that had more of them. */
  async #removeForeign(): Promise<void> {
    const map = this.#map
    for (const key of this.#there?.keys() ?? []) {
      const name = key.slice(`${this.#base}chunks/`.length)
      const index = Number.parseInt(name, 10)
      const isWanted = map && index < map.chunkCount && chunkName(map, index) === name
      if (!isWanted) await this.#bucket.remove(key)
    }
  }

  async putLatest(version: string): Promise<void> {
    const key = `${this.#root}latest.json`
    const text = latestText(this.#id, version, `${this.#base}manifest.json`)
    await this.#put(key, text, {cacheControl: shortLived})
  }

  #putText(name: string, text: string, options: {isOnlyNew?: boolean} = {}): Promise<boolean> {
    return this.#put(`${this.#base}${name}`, text, {cacheControl: immutable, ...options})
  }

  #put(
    key: string,
    text: string,
    options: {cacheControl: string; isOnlyNew?: boolean},
  ): Promise<boolean> {
    const bytes = Buffer.from(text)
    const sha256 = createHash('sha256').update(bytes).digest('hex') as Digest
    return this.#bucket.put(key, bytes, {contentType: json, sha256, ...options})
  }

  close(): Promise<void> {
    this.#bucket.close()
    return Promise.resolve()
  }
}
