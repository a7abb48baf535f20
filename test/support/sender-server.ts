/** A server of one file that answers every request by the sender under test, and a client that reads raw answers. */
import {once} from 'node:events'
import {closeSync, fstatSync, openSync} from 'node:fs'
import {createServer, type RequestListener, type Server} from 'node:http'
import {connect, type AddressInfo, type Socket} from 'node:net'
import type {SendJob, SendOutcome, Sender} from '../../src/daemon/http/streaming/sender.ts'

/** What became of one answer. */
export type Sent = {outcome: SendOutcome; sentBytes: number}

export type SenderServer = {
  port: number
  server: Server
  /** Every answer that is done, in the order in which they were done. */
  sent: Sent[]
  /** Every job that was begun. */
  jobs: SendJob[]
  /** Resolves when so many answers are done. */
  whenSent(count: number): Promise<void>
  /** Resolves when the condition holds; looked at in every turn of the event loop. */
  close(): Promise<void>
}

export type SenderServerOptions = {
  path: string
  sender: Sender
  /** Headers beside the length. */
  headers?: string[]
  makeServer?: (listener: RequestListener) => Server
}

/** Serves `path`: `GET /START-END` is answered with these bytes, both inclusive. */
export async function serveBySender(o: SenderServerOptions): Promise<SenderServer> {
  const fd = openSync(o.path, 'r')
  const opened = fstatSync(fd, {bigint: true})
  const isUnchanged = (): boolean => {
    const now = fstatSync(fd, {bigint: true})
    return now.size === opened.size && now.mtimeNs === opened.mtimeNs
  }
  const size = Number(opened.size)
  const sent: Sent[] = []
  const jobs: SendJob[] = []
  let onSent: (() => void) | undefined
  const server = (o.makeServer ?? createServer)((request, response) => {
    const [start = 0, end = 0] = (request.url ?? '').slice(1).split('-').map(Number)
    const length = String(end - start + 1)
    const job: SendJob = {
      request,
      response,
      file: {
        fd,
        size,
        etag: '"x"',
        modifiedNs: opened.mtimeNs,
        isUnchanged,
        release: () => undefined,
      },
      start,
      end,
      status: 206,
      headers: [...(o.headers ?? []), 'Content-Length', length],
      sentBytes: 0,
      writingBytes: 0,
      finish(outcome) {
        sent.push({outcome, sentBytes: job.sentBytes})
        onSent?.()
      },
    }
    jobs.push(job)
    o.sender(job)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    server,
    sent,
    jobs,
    whenSent: async (count) => {
      while (sent.length < count) await new Promise<void>((resolve) => (onSent = resolve))
    },
    close: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
      closeSync(fd)
    },
  }
}

export type RawAnswer = {status: number; head: string; body: Buffer}

/** One connection, read answer by answer; nothing is read between two calls. */
export class RawClient {
  readonly socket: Socket
  #held: Buffer = Buffer.alloc(0)

  private constructor(socket: Socket) {
    this.socket = socket
  }

  static async open(port: number): Promise<RawClient> {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => undefined)
    await once(socket, 'connect')
    return new RawClient(socket)
  }

  /** Asks for byte ranges, all in one write, so that those behind the first are pipelined. */
  ask(...ranges: [start: number, end: number][]): void {
    const requests = ranges.map(
      ([start, end]) => `GET /${start}-${end} HTTP/1.1\r\nHost: x\r\n\r\n`,
    )
    this.socket.write(requests.join(''))
  }

  /** The next answer; a connection that ends before it is complete gives what there was of it. */
  async answer(): Promise<RawAnswer> {
    let headEnd: number
    while ((headEnd = this.#held.indexOf('\r\n\r\n')) < 0) {
      if (!(await this.#more())) return {status: 0, head: '', body: Buffer.alloc(0)}
    }
    const head = this.#held.toString('latin1', 0, headEnd)
    const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0)
    // A list, because joining with every packet would copy a large body again and again.
    const parts = [this.#held.subarray(headEnd + 4)]
    let found = parts[0]?.length ?? 0
    while (found < length) {
      this.#held = Buffer.alloc(0)
      const isMore = await this.#more()
      parts.push(this.#held)
      found += this.#held.length
      if (!isMore) break
    }
    const all = Buffer.concat(parts)
    this.#held = all.subarray(length)
    return {status: Number(head.slice(9, 12)), head, body: all.subarray(0, length)}
  }

  async #more(): Promise<boolean> {
    for (;;) {
      const data = this.socket.read() as Buffer | null
      if (data !== null) {
        this.#held = Buffer.concat([this.#held, data])
        return true
      }
      if (this.socket.readableEnded || this.socket.destroyed) return false
      await new Promise<void>((resolve) => {
        const done = (): void => {
          for (const name of ['readable', 'end', 'close']) this.socket.off(name, done)
          resolve()
        }
        for (const name of ['readable', 'end', 'close']) this.socket.on(name, done)
      })
    }
  }
}
