/** A server whose heads are made of what no server should send. */
import {once} from 'node:events'
import {createServer, type AddressInfo, type Server, type Socket} from 'node:net'
import {canary, hostileTexts, hostileUrls} from './hostile.ts'

const statusLines = [
  'HTTP/1.1 200 OK',
  'HTTP/1.1 200 OK',
  'HTTP/1.1 206 Partial Content',
  'HTTP/1.1 302 Found',
  'HTTP/1.1 302 Found',
  'HTTP/1.1 200 \u001b[41;5mOK',
  'HTTP/1.1 404 \u001b]0;x\u0007',
  'HTTP/1.1 403 \u009b31m\u202e',
  'HTTP/1.1 503 \u202e',
  'HTTP/1.1 429 x',
  'HTTP/1.1 416 x',
  'HTTP/1.1 999 x',
  'HTTP/1.1 000 x',
  'HTTP/1.1 -200 x',
  'HTTP/9.9 200 OK',
  'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK',
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: \u001b[41;5m\r\nConnection: upgrade',
  'ICY 200 OK',
  '\u001b[3J',
  '',
]
const numbers = ['0', '5', '100', '-1', '1e9', '99999999999999999999', '5, 5', '0x10', ' ', '٣']
const names = [
  'Location',
  'Location',
  'ETag',
  'Last-Modified',
  'Content-Range',
  'Content-Length',
  'Content-Encoding',
  'Content-Type',
  'Content-Disposition',
  'Transfer-Encoding',
  'Retry-After',
  'Set-Cookie',
  'Connection',
  '__proto__',
  '\u001b[41;5m',
]
const values: Readonly<Record<string, readonly string[]>> = {
  'Content-Length': numbers,
  'Retry-After': [...numbers, 'Fri, 99 Foo 2099', 'Wed, 21 Oct 2099 07:28:00 GMT'],
  'Content-Range': ['bytes 0-99/100', 'bytes 5-4/1', 'bytes */5', 'bytes 0-\u001b[41;5m/1'].concat(
    numbers.map((n) => `bytes ${n}-${n}/${n}`),
  ),
  'Content-Encoding': ['gzip', 'br, gzip', 'identity', 'x\u001b[41;5m', 'deflate', 'zstd'],
  'Content-Type': ['text/html', 'multipart/byteranges; boundary=\u001b[41;5m'],
  'Transfer-Encoding': ['chunked', 'gzip', '\u001b[41;5m'],
  'Content-Disposition': ['attachment; filename="../../evil"', 'attachment; filename=/etc/passwd'],
  ETag: ['"\u001b[41;5m"', 'W/"x"', `"${canary}"`, '"a\u202eb"', `"${'x'.repeat(10_000)}"`],
}

/** Bytes of an answer: a head of odd pieces and some body. */
export function hostileAnswer(random: () => number, port: number): Buffer {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
  const locations = [
    ...hostileUrls,
    ...hostileTexts,
    `http://user:${canary}@127.0.0.1:${port}/other?token=${canary}`,
    `//user:${canary}@127.0.0.1:${port}/`,
    `/\u001b[41;5m?sig=${canary}`,
  ]
  const lines = [pick(statusLines)]
  const count = random() < 0.02 ? 3000 : Math.floor(random() * 6)
  for (let i = 0; i < count; i++) {
    const name = pick(names)
    const known = Object.hasOwn(values, name) ? values[name] : undefined
    const value = pick(known ?? (name === 'Location' ? locations : hostileTexts))
    // A line end within a value is one of the tricks; mostly it is not the one meant.
    lines.push(`${name}: ${random() < 0.9 ? value.replaceAll(/[\r\n]/g, ' ') : value}`)
  }
  const bodies = [
    '',
    'x'.repeat(5),
    `<!DOCTYPE html><script>\u001b[41;5m${canary}</script>`,
    `5\r\nhello\r\n0\r\n\r\n`,
    'ffffffffffffffffff\r\n',
    '\u0000'.repeat(2000),
  ]
  const head = lines.join('\r\n').slice(0, 200_000)
  // Half of them in UTF-8, half of them in Latin-1, as both are met.
  return Buffer.from(`${head}\r\n\r\n${pick(bodies)}`, random() < 0.5 ? 'utf8' : 'latin1')
}

export class HostileServer {
  /** What each connection is answered with. */
  answer: () => Buffer = () => Buffer.alloc(0)
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor() {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('close', () => this.#sockets.delete(socket))
      socket.once('data', () => socket.end(this.answer()))
    })
  }

  static async start(): Promise<HostileServer> {
    const made = new HostileServer()
    made.#server.listen(0, '127.0.0.1')
    await once(made.#server, 'listening')
    return made
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }
}
