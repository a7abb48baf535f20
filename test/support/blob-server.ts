/** An HTTP server on loopback that serves bytes by path, and misbehaves as it is told to. */
import {once} from 'node:events'
import {createServer, type IncomingMessage, type Server, type ServerResponse} from 'node:http'
import type {AddressInfo} from 'node:net'
import {setTimeout as sleep} from 'node:timers/promises'

/** How one request is answered; without any of these, rightly. */
export type Answer = {
  /** This status and no content. */
  status?: number
  headers?: Record<string, string>
  /** These bytes instead of the right ones. */
  body?: Buffer
  /** Closes the connection after so many bytes of the answer. */
  cutAfterBytes?: number
  /** Sends so many bytes and then nothing, for ever. */
  stallAfterBytes?: number
  isRangeIgnored?: boolean
  bytesPerSecond?: number
}

export type Served = {path: string; range: string | undefined; status: number; sentBytes: number}

export class BlobServer {
  readonly requests: Served[] = []
  readonly #server: Server
  readonly #files = new Map<string, {bytes: Buffer; answer: (nth: number) => Answer}>()

  constructor(server: Server) {
    this.#server = server
    server.on('request', (request, response) => {
      this.#handle(request, response).catch(() => response.destroy())
    })
  }

  /** Serves `bytes` at `path`; `answer` decides about the nth request for it, from 0. Returns the URL. */
  put(path: string, bytes: Buffer, answer: Answer | ((nth: number) => Answer) = {}): string {
    this.#files.set(path, {bytes, answer: typeof answer === 'function' ? answer : () => answer})
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${path}`
  }

  /** The requests for one path. */
  of(path: string): Served[] {
    return this.requests.filter((request) => request.path === path)
  }

  sentBytes(path: string): number {
    return this.of(path).reduce((sum, request) => sum + request.sentBytes, 0)
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? ''
    const file = this.#files.get(path)
    const nth = this.of(path).length
    const answer: Answer = file ? file.answer(nth) : {status: 404}
    const {range} = request.headers
    const served: Served = {path, range, status: answer.status ?? 200, sentBytes: 0}
    this.requests.push(served)
    if (answer.status !== undefined) {
      response.writeHead(answer.status, {'content-length': 0, ...answer.headers}).end()
      return
    }
    const whole = answer.body ?? file?.bytes ?? Buffer.alloc(0)
    const start = answer.isRangeIgnored ? 0 : Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1] ?? 0)
    if (start > 0) served.status = 206
    const part = whole.subarray(start)
    response.writeHead(served.status, {
      'content-type': 'application/x-tar',
      'content-length': part.length,
      ...(answer.isRangeIgnored ? {} : {'accept-ranges': 'bytes', etag: '"one"'}),
      ...(start > 0 ? {'content-range': `bytes ${start}-${whole.length - 1}/${whole.length}`} : {}),
      ...answer.headers,
    })
    await this.#send(response, part, answer, served)
  }

  async #send(
    response: ServerResponse,
    part: Buffer,
    answer: Answer,
    served: Served,
  ): Promise<void> {
    const {cutAfterBytes, stallAfterBytes, bytesPerSecond} = answer
    const end = Math.min(part.length, cutAfterBytes ?? stallAfterBytes ?? part.length)
    // Fifty pieces a second of a slow answer, else large ones.
    const piece = bytesPerSecond === undefined ? 1 << 20 : Math.max(1, bytesPerSecond / 50)
    for (let at = 0; at < end && !response.destroyed; at += piece) {
      const chunk = part.subarray(at, Math.min(at + piece, end))
      served.sentBytes += chunk.length
      if (!response.write(chunk)) await drained(response)
      if (bytesPerSecond !== undefined) await sleep(20)
    }
    if (stallAfterBytes !== undefined) return
    if (cutAfterBytes !== undefined && end < part.length) {
      // What was written must reach the client before the line is cut.
      await sleep(50)
      response.destroy()
    } else response.end()
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

/** Resolves when more can be written, or nobody listens any more. */
async function drained(response: ServerResponse): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.on('drain', done).on('close', done)
  })
}

/** Call first in a `describe`: gives its tests servers, and closes them after each of them. */
export function useServers(): () => Promise<BlobServer> {
  const made: BlobServer[] = []
  afterEach('closes the server', async () => {
    for (const server of made.splice(0)) await server.close()
  })
  return async () => {
    const server = createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const blobs = new BlobServer(server)
    made.push(blobs)
    return blobs
  }
}
