/** The streaming surface over a directory of its own, on loopback, and a client that shows answers as they are on the wire. */
import {once} from 'node:events'
import {mkdirSync, truncateSync, utimesSync, writeFileSync} from 'node:fs'
import {connect, type Socket} from 'node:net'
import {dirname, join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {resolveSettings, type SettingKey, type Settings} from '../../src/core/settings.ts'
import {openStreams} from '../../src/core/store.ts'
import type {StoreDisk} from '../../src/core/stream.ts'
import {makeServeLog} from '../../src/daemon/http/streaming/access-log.ts'
import {logFilterOf} from '../../src/daemon/http/streaming/options.ts'
import {openStreaming, type Streaming} from '../../src/daemon/http/streaming/streaming.ts'
import {withTempDir} from './temp-dir.ts'

export type Flags = Partial<Record<SettingKey, string | number | boolean | readonly string[]>>

export type LogLine = {
  level: string
  fields: Record<string, unknown> & {message: string}
  span?: Record<string, string>
}

export type Answer = {
  status: number
  /** In their order, names as they were sent. */
  headers: [string, string][]
  header(name: string): string | undefined
  body: Buffer
}

export type StreamingScene = {
  dir: string
  images: string
  port: number
  streaming: Streaming
  settings: (flags: Flags) => Settings
  log: LogLine[]
  /** Writes a file below the images directory, with a time of its own. */
  put: (name: string, content: string | Buffer | {hole: number}, modifiedSecs?: number) => string
  get: (path: string, headers?: Record<string, string>) => Promise<Answer>
  head: (path: string, headers?: Record<string, string>) => Promise<Answer>
  ask: (method: string, path: string, headers?: Record<string, string>) => Promise<Answer>
  /** Sends bytes on a connection of its own and reads until the server closes it. */
  raw: (text: string) => Promise<Buffer>
  /** A connection that stays open; it is destroyed at the end. */
  open: () => Promise<Socket>
  metrics: () => Promise<string>
}

/** Which sender the tests of this process use: the whole wire suite runs with each. */
export const senders = ['plain', 'auto'] as const

export function settingsFor(flags: Flags): Settings {
  return resolveSettings({flags, env: {}, dataDir: '/nowhere', cwd: '/nowhere'}).settings
}

export async function withStreaming(
  flags: Flags,
  body: (scene: StreamingScene) => Promise<void>,
  disks: () => readonly StoreDisk[] = () => [],
): Promise<void> {
  await withTempDir(async (dir) => {
    const images = join(dir, 'images')
    mkdirSync(images)
    const log: LogLine[] = []
    const given = {listenAddr: '127.0.0.1:0', imagesRoot: images, ...flags}
    const settings = settingsFor(given)
    const serveLog = makeServeLog({
      filter: logFilterOf(settings),
      write: (line) => log.push(JSON.parse(line) as LogLine),
    })
    const {requireManifest} = settings
    const streams = openStreams({imagesRoot: images, requireManifest, log: serveLog, disks})
    const streaming = await openStreaming({settings, streams, log: serveLog, version: '0.0.0'})
    const sockets: Socket[] = []
    const {port} = streaming
    const open = async (): Promise<Socket> => {
      const socket = connect(port, '127.0.0.1')
      sockets.push(socket)
      socket.on('error', () => undefined)
      await once(socket, 'connect')
      return socket
    }
    const raw = async (text: string): Promise<Buffer> => {
      const socket = await open()
      const all = readAll(socket)
      socket.write(text, 'latin1')
      return await all
    }
    const ask: StreamingScene['ask'] = async (method, path, headers = {}) => {
      const lines = Object.entries({Host: 'test', ...headers})
      const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')
      const socket = await open()
      const whole = readAnswer(socket, method)
      socket.write(`${method} ${path} HTTP/1.1\r\n${head}\r\n`, 'latin1')
      const answer = await whole
      socket.destroy()
      if (!answer) throw new Error(`no answer to ${method} ${path}`)
      return answer
    }
    try {
      await body({
        dir,
        images,
        port,
        streaming,
        log,
        settings: (more) => settingsFor({...given, ...more}),
        put: (name, content, modifiedSecs) => putFile(join(images, name), content, modifiedSecs),
        ask,
        get: (path, headers) => ask('GET', path, headers),
        head: (path, headers) => ask('HEAD', path, headers),
        raw,
        open,
        metrics: async () => (await ask('GET', '/metrics')).body.toString(),
      })
    } finally {
      for (const socket of sockets) socket.destroy()
      await streaming.close(0)
      streams.close()
    }
  })
}

function putFile(
  path: string,
  content: string | Buffer | {hole: number},
  modifiedSecs: number | undefined,
): string {
  mkdirSync(dirname(path), {recursive: true})
  if (typeof content === 'string' || Buffer.isBuffer(content)) {
    writeFileSync(path, content)
  } else {
    writeFileSync(path, '')
    truncateSync(path, content.hole)
  }
  if (modifiedSecs !== undefined) utimesSync(path, modifiedSecs, modifiedSecs)
  return path
}

/** Everything until the other side closes. */
export async function readAll(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  socket.on('error', () => undefined)
  await once(socket, 'close')
  return Buffer.concat(parts)
}

/** The one answer that comes, on a connection that may stay open; undefined when it closes before. */
async function readAnswer(socket: Socket, method: string): Promise<Answer | undefined> {
  const parts: Buffer[] = []
  let isClosed = socket.closed
  for (;;) {
    const [answer] = parseAnswers(Buffer.concat(parts), [method])
    if (isClosed || (answer && isWhole(answer, method))) return answer
    await new Promise<void>((resolve) => {
      const onData = (part: Buffer): void => {
        parts.push(part)
        over()
      }
      const onClose = (): void => {
        isClosed = true
        over()
      }
      const over = (): void => {
        socket.pause()
        socket.off('data', onData)
        socket.off('close', onClose)
        resolve()
      }
      socket.once('data', onData)
      socket.once('close', onClose)
      if (socket.closed) onClose()
      else socket.resume()
    })
  }
}

function isWhole(answer: Answer, method: string): boolean {
  if (method === 'HEAD' || answer.status === 204 || answer.status === 304) return true
  return answer.body.length === Number(answer.header('Content-Length'))
}

/** Splits what came on one connection into answers; `methods` says to which requests, as that decides about bodies. */
export function parseAnswers(bytes: Buffer, methods: readonly string[]): Answer[] {
  const answers: Answer[] = []
  let at = 0
  for (const method of methods) {
    const end = bytes.indexOf('\r\n\r\n', at)
    if (end < 0) break
    const [line = '', ...rest] = bytes.toString('latin1', at, end).split('\r\n')
    const headers = rest.map((text): [string, string] => {
      const colon = text.indexOf(':')
      return [text.slice(0, colon), text.slice(colon + 1).trim()]
    })
    const header = (name: string): string | undefined =>
      headers.find(([found]) => found.toLowerCase() === name.toLowerCase())?.[1]
    const status = Number(line.split(' ')[1])
    const hasBody = method !== 'HEAD' && status !== 204 && status !== 304
    const length = hasBody ? Number(header('Content-Length') ?? bytes.length - end - 4) : 0
    const body = bytes.subarray(end + 4, end + 4 + length)
    answers.push({status, headers, header, body})
    at = end + 4 + length
  }
  if (at < bytes.length && answers.length === methods.length)
    throw new Error(`bytes after the last answer: ${bytes.toString('latin1', at, at + 80)}`)
  return answers
}

/** Resolves when `look` holds; fails after a long while. */
export async function eventually(what: string, look: () => boolean): Promise<void> {
  const end = performance.now() + 10_000
  while (!look()) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`)
    await sleep(10)
  }
}
