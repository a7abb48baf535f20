/** A small S3 server on loopback: GET of one object, path style, that really checks signatures (SigV4). */
import {createHash, createHmac, timingSafeEqual} from 'node:crypto'
import {once} from 'node:events'
import {createServer, type IncomingMessage, type ServerResponse} from 'node:http'
import type {AddressInfo} from 'node:net'

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const hmac = (key: string | Buffer, text: string): Buffer =>
  createHmac('sha256', key).update(text).digest()

export type FakeS3Options = {
  accessKeyId: string
  secretAccessKey: string
  region: string
  /** Lets anybody read. */
  isPublic?: boolean
}

export class FakeS3 {
  /** By `bucket/key`. */
  readonly objects = new Map<string, Buffer>()
  readonly requests: {url: string; headers: IncomingMessage['headers']}[] = []
  /** Statuses for the next requests, before anything else is looked at. */
  readonly statuses: {status: number; code: string; headers?: Record<string, string>}[] = []
  readonly #options: FakeS3Options
  readonly #server = createServer((request, response) => this.#answer(request, response))

  private constructor(options: FakeS3Options) {
    this.#options = options
  }

  static async start(options: FakeS3Options): Promise<FakeS3> {
    const made = new FakeS3(options)
    made.#server.listen(0, '127.0.0.1')
    await once(made.#server, 'listening')
    return made
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    this.#server.close()
    this.#server.closeAllConnections()
    await once(this.#server, 'close')
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://fake')
    this.requests.push({url: request.url ?? '', headers: request.headers})
    const refuse = (status: number, code: string, headers: Record<string, string> = {}): void => {
      response.writeHead(status, {'content-type': 'application/xml', ...headers})
      response.end(
        `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>no</Message></Error>`,
      )
    }
    const planned = this.statuses.shift()
    if (planned) {
      refuse(planned.status, planned.code, planned.headers)
      return
    }
    const problem = this.#checkSignature(request, url)
    if (problem !== undefined) {
      refuse(403, problem)
      return
    }
    const object = this.objects.get(decodeURIComponent(url.pathname.slice(1)))
    if (!object) {
      refuse(404, 'NoSuchKey')
      return
    }
    const etag = `"${createHash('md5').update(object).digest('hex')}"`
    const match = request.headers['if-match']
    if (match !== undefined && match !== etag) {
      refuse(412, 'PreconditionFailed')
      return
    }
    const asked = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1]
    const start = Number(asked ?? 0)
    if (asked !== undefined && start >= object.length) {
      refuse(416, 'InvalidRange', {'content-range': `bytes */${object.length}`})
      return
    }
    const range = {'content-range': `bytes ${start}-${object.length - 1}/${object.length}`}
    const headers = {etag, 'content-length': object.length - start, ...(asked ? range : {})}
    response.writeHead(asked ? 206 : 200, headers)
    response.end(object.subarray(start))
  }

  /** The S3 error code, or undefined when the request may pass. Source: AWS Signature Version 4, "header-based auth". */
  #checkSignature(request: IncomingMessage, url: URL): string | undefined {
    const {accessKeyId, secretAccessKey, region, isPublic} = this.#options
    const {authorization} = request.headers
    if (authorization === undefined) return isPublic ? undefined : 'AccessDenied'
    const match =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
        authorization,
      )
    if (!match) return 'AuthorizationHeaderMalformed'
    const [, key = '', day = '', scopeRegion = '', signedNames = '', signature = ''] = match
    if (key !== accessKeyId) return 'InvalidAccessKeyId'
    if (scopeRegion !== region) return 'AuthorizationHeaderMalformed'
    const header = (name: string): string => String(request.headers[name] ?? '').trim()
    const query = [...url.searchParams]
      .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`)
      .sort()
      .join('&')
    const canonical = [
      request.method,
      url.pathname,
      query,
      ...signedNames.split(';').map((name) => `${name}:${header(name)}`),
      '',
      signedNames,
      header('x-amz-content-sha256'),
    ].join('\n')
    const scope = `${day}/${region}/s3/aws4_request`
    const toSign = ['AWS4-HMAC-SHA256', header('x-amz-date'), scope, sha256(canonical)].join('\n')
    const dayKey = hmac(`AWS4${secretAccessKey}`, day)
    const signingKey = hmac(hmac(hmac(dayKey, region), 's3'), 'aws4_request')
    const expected = hmac(signingKey, toSign)
    return timingSafeEqual(expected, Buffer.from(signature, 'hex'))
      ? undefined
      : 'SignatureDoesNotMatch'
  }
}
