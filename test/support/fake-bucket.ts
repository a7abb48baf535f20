/** A small S3 server on loopback whose objects can be written, path style. It believes every signature, and checks what it covers. */
import {createHash} from 'node:crypto'
import {once} from 'node:events'
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import type {AddressInfo} from 'node:net'
import {buffer} from 'node:stream/consumers'
import type {S3Server} from '../contract/s3-suite.ts'

export type FakeObject = {bytes: Buffer; headers: Record<string, string>}

const keptHeaders = /^(content-type|cache-control|content-encoding|x-amz-meta-.*)$/

export class FakeBucket implements S3Server {
  readonly region = 'test-1'
  readonly accessKeyId = 'AKTEST'
  readonly secretAccessKey = 'secret'
  /** By `bucket/key`. */
  readonly objects = new Map<string, FakeObject>()
  readonly buckets = new Set<string>()
  readonly requests: {method: string; key: string; headers: IncomingHttpHeaders}[] = []
  /** A status for a request instead of an answer. */
  refuse: (method: string, key: string) => number | undefined = () => undefined
  readonly #server = createServer((request, response) => {
    void this.#answer(request, response)
  })

  static async start(): Promise<FakeBucket> {
    const made = new FakeBucket()
    made.#server.listen(0, '127.0.0.1')
    await once(made.#server, 'listening')
    return made
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async stop(): Promise<void> {
    this.#server.close()
    this.#server.closeAllConnections()
    await once(this.#server, 'close')
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const {method = '', headers} = request
    const url = new URL(request.url ?? '/', 'http://fake')
    const key = decodeURIComponent(url.pathname.slice(1))
    const body = await buffer(request)
    this.requests.push({method, key, headers})
    const fail = (status: number, code: string): void => {
      response.writeHead(status, {'content-type': 'application/xml'})
      response.end(method === 'HEAD' ? undefined : `<Error><Code>${code}</Code></Error>`)
    }
    const refused = this.refuse(method, key)
    if (refused !== undefined) {
      fail(refused, refused === 403 ? 'AccessDenied' : 'SlowDown')
      return
    }
    const [bucket = ''] = key.split('/')
    const isBucket = !key.includes('/') || key === `${bucket}/`
    if (isBucket && method === 'PUT') {
      this.buckets.add(bucket)
      response.writeHead(200).end()
      return
    }
    if (!this.buckets.has(bucket)) {
      fail(404, 'NoSuchBucket')
      return
    }
    if (isBucket && method === 'GET') this.#list(bucket, url.searchParams, response)
    else if (method === 'PUT') this.#put(key, body, headers, response, fail)
    else if (method === 'DELETE') {
      this.objects.delete(key)
      response.writeHead(204).end()
    } else this.#get(key, method, response, fail)
  }

  #get(
    key: string,
    method: string,
    response: ServerResponse,
    fail: (status: number, code: string) => void,
  ): void {
    const found = this.objects.get(key)
    if (!found) {
      fail(404, 'NoSuchKey')
      return
    }
    response.writeHead(200, {...found.headers, 'content-length': found.bytes.length})
    response.end(method === 'HEAD' ? undefined : found.bytes)
  }

  #put(
    key: string,
    bytes: Buffer,
    headers: IncomingHttpHeaders,
    response: ServerResponse,
    fail: (status: number, code: string) => void,
  ): void {
    const digest = createHash('sha256').update(bytes).digest('hex')
    if (headers['x-amz-content-sha256'] !== digest) fail(400, 'XAmzContentSHA256Mismatch')
    else if (headers['if-none-match'] === '*' && this.objects.has(key))
      fail(412, 'PreconditionFailed')
    else {
      const kept = Object.entries(headers).filter(([name]) => keptHeaders.test(name))
      this.objects.set(key, {bytes, headers: Object.fromEntries(kept) as Record<string, string>})
      response.writeHead(200, {etag: '"x"'}).end()
    }
  }

  /** Pages of three, so that every list has several. */
  #list(bucket: string, query: URLSearchParams, response: ServerResponse): void {
    const start = `${bucket}/${query.get('prefix') ?? ''}`
    const after = query.get('continuation-token') ?? ''
    const keys = [...this.objects.keys()]
      .filter((key) => key.startsWith(start) && key > after)
      .toSorted()
    const page = keys.slice(0, 3)
    const contents = page.map(
      (key) =>
        `<Contents><Key>${key.slice(bucket.length + 1)}</Key><Size>${this.objects.get(key)?.bytes.length ?? 0}</Size></Contents>`,
    )
    const isCut = keys.length > page.length
    const next = isCut ? `<NextContinuationToken>${page.at(-1) ?? ''}</NextContinuationToken>` : ''
    response.writeHead(200, {'content-type': 'application/xml'})
    response.end(
      `<ListBucketResult><IsTruncated>${isCut}</IsTruncated>${next}${contents.join('')}</ListBucketResult>`,
    )
  }
}
