/** The chunked form as a browser gets it: over HTTP, with the headers that its clients insist on. */
import {createHash} from 'node:crypto'
import {chunkBounds} from '../chunk-map.ts'
import type {Digest} from '../digest.ts'
import {fail, ImgstoreError} from '../errors.ts'
import type {Settings} from '../settings.ts'
import type {SourceOptions} from '../sources/contract.ts'
import {openHttpClient, type HttpAnswer, type HttpClient} from '../sources/http-client.ts'
import {parseSourceUrl} from '../sources/source.ts'
import {redact} from '../log.ts'
import {headerProblems, type ChunkReader, type SeenChunk} from './chunk-reader.ts'
import {withRetries} from './retries.ts'

// As browsers say it: a server that would compress for them must be found out.
const browserHeaders = {'accept-encoding': 'gzip, deflate, br, zstd'}

export type HttpReaderContext = {settings: Settings; options: SourceOptions; signal: AbortSignal}

/**
 * Opens the address of a manifest (its last segment `manifest` or `manifest.json`), or of what it is in.
 *
 * Errors: invalid_source.
 */
export function openHttpReader(address: string, context: HttpReaderContext): ChunkReader {
  const manifestUrl = manifestUrlOf(parseSourceUrl(address, {allowFile: false}))
  const reader = new HttpReader(manifestUrl, context)
  return {
    place: redact(manifestUrl.href),
    manifest: () => reader.manifest(),
    look: (name, sizeBytes) => reader.retrying(() => reader.look(name, sizeBytes)),
    read: (name, sizeBytes) => reader.retrying(() => reader.read(name, sizeBytes)),
    close: () => {
      reader.close()
    },
  }
}

function manifestUrlOf(url: URL): URL {
  if (/\/manifest(\.json)?$/.test(url.pathname)) return url
  const inside = new URL(url)
  inside.pathname = `${url.pathname.replace(/\/+$/, '')}/manifest.json`
  return inside
}

/** A chunk lies beside the manifest; what authorises one is in the query, and authorises the other. Source: section 4.4. */
export function chunkUrlOf(manifestUrl: URL, name: string): URL {
  const url = new URL(`chunks/${name}`, manifestUrl)
  url.search = manifestUrl.search
  return url
}

type Ask = (method: 'GET' | 'HEAD', headers?: Record<string, string>) => Promise<HttpAnswer>

class HttpReader {
  readonly #url: URL
  readonly #context: HttpReaderContext
  readonly #client: HttpClient

  constructor(url: URL, context: HttpReaderContext) {
    this.#url = url
    this.#context = context
    this.#client = openHttpClient(context.options)
  }

  retrying<T>(body: () => Promise<T>): Promise<T> {
    return withRetries(this.#context.settings, this.#context.signal, body)
  }

  close(): void {
    this.#client.close()
  }

  #asker(url: URL): Ask {
    const {signal} = this.#context
    return (method, headers = {}) =>
      this.#client.ask(url, {method, headers: {...browserHeaders, ...headers}, signal})
  }

  manifest(): Promise<{bytes: Uint8Array; problems: string[]}> {
    return this.retrying(async () => {
      const answer = await this.#asker(this.#url)('GET')
      const problems = answerProblems(answer)
      if (isAbsent(answer)) {
        answer.close()
        throw fail('disk_not_found', {place: answer.url, what: 'no manifest'})
      }
      checkSuccess(answer)
      const max = chunkBounds.manifestBytesMax
      const pieces: Buffer[] = []
      try {
        for await (const batch of answer.body(max)) pieces.push(Buffer.concat(batch))
      } catch (error) {
        if (!isTooLarge(error)) throw error
        return {bytes: new Uint8Array(max + 1), problems}
      }
      return {bytes: Buffer.concat(pieces), problems}
    })
  }

  /** As upstream's verifier: HEAD, then one byte by Range, then the whole (streaming specification, section 4.5). */
  async look(name: string, sizeBytes: number): Promise<SeenChunk | undefined> {
    const ask = this.#asker(chunkUrlOf(this.#url, name))
    const head = await ask('HEAD')
    head.close()
    if (isAbsent(head)) return undefined
    const isRefused = [400, 403, 405, 501].includes(head.status)
    if (!isRefused) checkSuccess(head)
    if (!isRefused && head.lengthBytes !== undefined)
      return {sizeBytes: head.lengthBytes, readBytes: 0, problems: answerProblems(head)}
    const first = await ask('GET', {range: 'bytes=0-0'})
    const found = first.status === 206 ? first.rangeTotalBytes : first.lengthBytes
    if (isAbsent(first)) {
      first.close()
      return undefined
    }
    if (first.status !== 416) checkSuccess(first)
    const problems = answerProblems(first)
    first.close()
    if (found !== undefined && first.status !== 416)
      return {sizeBytes: found, readBytes: first.status === 206 ? 1 : 0, problems}
    return await this.read(name, sizeBytes)
  }

  async read(name: string, sizeBytes: number): Promise<SeenChunk | undefined> {
    const answer = await this.#asker(chunkUrlOf(this.#url, name))('GET')
    if (isAbsent(answer)) {
      answer.close()
      return undefined
    }
    checkSuccess(answer)
    const problems = answerProblems(answer)
    const {lengthBytes} = answer
    if (lengthBytes !== undefined && lengthBytes !== sizeBytes) {
      answer.close()
      return {sizeBytes: lengthBytes, readBytes: 0, problems}
    }
    return {...(await hashBody(answer, sizeBytes)), problems}
  }
}

async function hashBody(
  answer: HttpAnswer,
  sizeBytes: number,
): Promise<{sizeBytes: number; readBytes: number; digest?: Digest}> {
  const hash = createHash('sha256')
  let readBytes = 0
  try {
    for await (const batch of answer.body(sizeBytes)) {
      for (const piece of batch) {
        hash.update(piece)
        readBytes += piece.length
      }
    }
  } catch (error) {
    if (!isTooLarge(error)) throw error
    return {sizeBytes: sizeBytes + 1, readBytes}
  }
  const digest = hash.digest('hex') as Digest
  return readBytes === sizeBytes
    ? {sizeBytes: readBytes, readBytes, digest}
    : {sizeBytes: readBytes, readBytes}
}

function isTooLarge(error: unknown): boolean {
  return error instanceof ImgstoreError && error.code === 'source_too_large'
}

function isAbsent({status}: HttpAnswer): boolean {
  return status === 404 || status === 410
}

/** Errors: source_unavailable for what may pass, source_refused for the rest. */
function checkSuccess(answer: HttpAnswer): void {
  if (answer.status >= 200 && answer.status < 300) return
  answer.close()
  throw answer.toError()
}

function answerProblems({headers}: HttpAnswer): string[] {
  return headerProblems({
    contentEncoding: headers['content-encoding'],
    cacheControl: headers['cache-control'],
  })
}
