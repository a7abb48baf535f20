/**
 * Does anything grow in a worker and a server that run for hours?
 *
 * One worker and one `imgstore serve` live through rounds of mixed load: images of all kinds are fetched, taken up and
 * down, removed, fetched from a server that cuts and refuses, cleaned up and mended by commands beside them, while
 * readers ask for random ranges of the disks. After each round everything is removed, and what should then be the same
 * every time is measured: memory, descriptors, threads and children of both processes, mounts, files and database.
 *
 *   node bench/soak.ts [--minutes 120] [--round-seconds 60] [--seed N]
 *
 * Prints one line of JSON for each round, and one with the line that was fitted to the second half of each figure: its growth
 * in that time, and whether all of it is flat, something grows, or it was too short to tell. SIGINT ends it after the round under
 * way. Exits 1 when something grows. Needs root and the built program (`npm run build`).
 */
import {spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {createServer, type IncomingMessage, type Server, type ServerResponse} from 'node:http'
import type {AddressInfo} from 'node:net'
import {mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {parseArgs} from 'node:util'
import {gzipSync} from 'node:zlib'
import SqliteDatabase from 'better-sqlite3'
import {mountsBelow} from '../src/core/mounts/mount-table.ts'
import {makeImage, randomOf, sha256} from '../test/support/image-maker.ts'
import {fit, type Fit} from './support/fit.ts'

const {values: flags} = parseArgs({
  options: {
    minutes: {type: 'string', default: '120'},
    'round-seconds': {type: 'string', default: '60'},
    seed: {type: 'string', default: '1'},
    // `npm run bench -- --quick` hands this to every program.
    quick: {type: 'boolean', default: false},
  },
})
const totalMs = (flags.quick ? 1 : Number(flags.minutes)) * 60_000
const roundMs = Math.min(Number(flags['round-seconds']) * 1000, totalMs / 6)
const seed = Number(flags.seed)
/**
 * Rounds at the beginning that are not fitted. Under this load memory comes to where it stays in about an hour (caches, the
 * compiler's code, the allocator's arenas, pages of the program that are read for the first time): a line through that is
 * no leak, and a leak does not end with it.
 */
const warmupShare = 0.5
/**
 * From the beginning of one command of a shell to that of its next. The load has to be the same in every round, whatever
 * else the machine does: the database keeps what happened in the last minutes, and so is as large as those were busy.
 */
const paceMs = 300

const dir = mkdtempSync(join(tmpdir(), 'imgstore-soak-'))
const program = resolve('bin/imgstore')
const env = {
  PATH: process.env['PATH'] ?? '',
  HOME: dir,
  IMGSTORE_STORE_PATH: join(dir, 'store'),
  IMGSTORE_DB_PATH: join(dir, 'store.db'),
  IMGSTORE_IMAGES_ROOT: join(dir, 'images'),
  IMGSTORE_RETRY_WAIT: '50ms',
  IMGSTORE_STALE_AFTER: '0',
  // So short that the database must come to a size at which it stays.
  IMGSTORE_KEEP_EVENTS: `${Math.ceil(totalMs / 10_000)}s`,
  IMGSTORE_LOG_LEVEL: 'warn',
}

type Kind = {name: string; bytes: Buffer; digest: string; args: string[]}

function kinds(): Kind[] {
  const disk = Buffer.alloc(16 * 1024 ** 2)
  disk.writeUInt16BE(0x55aa, 510)
  const random = randomOf(seed)
  for (let at = 4096; at < disk.length / 2; at += 4) disk.writeUInt32LE(random() * 2 ** 32, at)
  const archive = (nth: number, files: number) =>
    makeImage(seed + nth, {files, fileBytes: 8192}).bytes
  const made: [string, Buffer, string[]][] = [
    ['dir', archive(1, 200), ['--backend', 'dir']],
    ['dir-gz', gzipSync(archive(2, 100)), ['--backend', 'dir']],
    ['index', archive(3, 200), ['--backend', 'erofs']],
    ['index-gz', gzipSync(archive(4, 100)), ['--backend', 'erofs']],
    ['disk', disk, ['--kind', 'disk']],
    ['disk-gz', gzipSync(disk, {level: 1}), ['--kind', 'disk']],
    ['broken', archive(5, 50), []],
  ]
  return made.map(([name, bytes, args]) => ({name, bytes, args, digest: sha256(bytes)}))
}

/** Serves the kinds by name; now and then it refuses, cuts, or sends something else. */
class Source {
  readonly #server: Server
  readonly #kinds: Map<string, Kind>
  readonly #random = randomOf(seed + 99)

  constructor(all: Kind[]) {
    this.#kinds = new Map(all.map((kind) => [`/${kind.name}`, kind]))
    this.#server = createServer((request, response) => this.#answer(request, response))
  }

  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const kind = this.#kinds.get(request.url ?? '')
    const dice = this.#random()
    if (!kind || dice < 0.05 || (kind.name === 'broken' && dice < 0.6)) {
      response.writeHead(kind ? 503 : 404).end()
      return
    }
    const start = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
    const body = kind.bytes.subarray(start)
    response.writeHead(start > 0 ? 206 : 200, {
      'content-length': body.length,
      'accept-ranges': 'bytes',
      etag: '"one"',
      ...(start > 0
        ? {'content-range': `bytes ${start}-${kind.bytes.length - 1}/${kind.bytes.length}`}
        : {}),
    })
    if (dice > 0.15) response.end(body)
    else
      response.write(body.subarray(0, body.length / 2), () =>
        setTimeout(() => response.destroy(), 20),
      )
  }
}

/** `late` is how many commands there was no time for in their round: the load was then less than it should be. */
const counts = {commands: 0, failed: 0, late: 0, ranges: 0, rangeErrors: 0}
/** Exit codes that a load like this brings about: not there, busy, the source, waited too long. */
const expectedCodes = new Set([0, 1, 3, 10, 11, 12, 13, 18])

async function command(...args: string[]): Promise<{code: number | null; out: string}> {
  const child = spawn(program, args, {cwd: dir, env, stdio: ['ignore', 'pipe', 'pipe']})
  let out = ''
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
  const [code] = (await once(child, 'close')) as [number | null]
  counts.commands++
  if (code !== 0) counts.failed++
  if (code === null || !expectedCodes.has(code))
    throw new Error(`${args.join(' ')} ended with ${code}: ${said}`)
  return {code, out}
}

async function act(all: Kind[], url: string, random: () => number): Promise<void> {
  const kind = all[Math.floor(random() * all.length)] as Kind
  const name = `${kind.name}-${Math.floor(random() * 2)}`
  const dice = random()
  const wait = ['--timeout', '30s']
  if (dice < 0.4)
    await command(
      'fetch',
      name,
      `${url}/${kind.name}`,
      kind.digest,
      ...kind.args,
      '--wait',
      ...wait,
    )
  else if (dice < 0.5) await command('deactivate', name, ...wait)
  else if (dice < 0.6) await command('activate', name, ...wait)
  else if (dice < 0.75) await command('remove', name, ...wait)
  else if (dice < 0.8) await command('retry', name, ...wait)
  else if (dice < 0.85) await command('cleanup')
  else if (dice < 0.9) await command('verify')
  else if (dice < 0.93) await command('doctor', '--repair')
  else if (dice < 0.96) await command('backup', './soak.tar', '--force')
  else await command('status')
}

async function read(served: string, random: () => number): Promise<void> {
  const id = `${random() < 0.5 ? 'disk' : 'disk-gz'}-${Math.floor(random() * 2)}`
  const start = Math.floor(random() * 15 * 1024 ** 2)
  const length = 1 + Math.floor(random() * 1024 ** 2)
  try {
    const answer = await fetch(`${served}/v1/images/${id}`, {
      headers: {range: `bytes=${start}-${start + length - 1}`},
    })
    await answer.arrayBuffer()
    if (answer.status === 206) counts.ranges++
    else await sleep(50)
  } catch {
    counts.rangeErrors++
  }
}

async function round(all: Kind[], url: string, served: string, nth: number): Promise<void> {
  const start = performance.now()
  const end = start + roundMs
  const shell = async (offset: number) => {
    const random = randomOf(seed + nth * 1000 + offset)
    const planned = Math.floor(roundMs / paceMs)
    for (let done = 0; done < planned && !isStopped; done++) {
      const now = performance.now()
      if (now >= end) {
        counts.late += planned - done
        return
      }
      // Who fell behind catches up.
      await sleep(Math.max(0, start + done * paceMs - now))
      await act(all, url, random)
    }
  }
  const reader = async (offset: number) => {
    const random = randomOf(seed + nth * 1000 + offset)
    while (performance.now() < end && !isStopped) await read(served, random)
  }
  await Promise.all([...[1, 2].map(shell), ...[3, 4, 5, 6].map(reader)])
}

/** Takes everything away, so that what is left is the same after each round. */
async function rest(): Promise<void> {
  const {out} = await command('list', '--json')
  const {images} = JSON.parse(out) as {images: {name: string}[]}
  for (const {name} of images) await command('remove', name, '--timeout', '60s')
  await command('cleanup')
  await sleep(3000)
}

type Sample = Record<string, number>

function processFigures(name: string, child: ChildProcess): Sample {
  const pid = String(child.pid)
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const figure = (key: string): number =>
    Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0)
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter(Boolean)
  return {
    [`${name}_rss_kib`]: figure('VmRSS'),
    [`${name}_descriptors`]: readdirSync(`/proc/${pid}/fd`).length,
    [`${name}_threads`]: figure('Threads'),
    [`${name}_children`]: children.length,
  }
}

/** What is used of the database's file: a busy minute leaves free pages in it, which are used before it grows again. */
function databaseBytes(): number {
  const database = new SqliteDatabase(env.IMGSTORE_DB_PATH, {readonly: true})
  const [pages, free, bytes] = ['page_count', 'freelist_count', 'page_size'].map((name) =>
    Number(database.pragma(name, {simple: true})),
  ) as [number, number, number]
  database.close()
  return (pages - free) * bytes
}

function sample(worker: ChildProcess, serve: ChildProcess): Sample {
  return {
    ...processFigures('worker', worker),
    ...processFigures('serve', serve),
    mounts: mountsBelow(dir).length,
    files: readdirSync(join(dir, 'store'), {recursive: true}).length,
    database_kib: databaseBytes() / 1024,
  }
}

function startLong(args: string[]): {child: ChildProcess; said: () => string} {
  // Where it listens is said at the usual level.
  const told = {...env, IMGSTORE_LOG_LEVEL: 'info'}
  const child = spawn(program, args, {cwd: dir, env: told, stdio: ['ignore', 'pipe', 'pipe']})
  let said = ''
  // Only the beginning is of use; the rest must not make this process grow.
  const keep = (text: Buffer): void => {
    if (said.length < 65_536) said += text.toString()
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  return {child, said: () => said}
}

/** Waits until the server says where it listens; a busy machine may take its time. */
async function addressOf(said: () => string): Promise<string> {
  for (let i = 0; i < 1200; i++) {
    const address = /"address":"([^"]+)"/.exec(said())?.[1]
    if (address !== undefined) return `http://${address}`
    await sleep(100)
  }
  throw new Error(`serve did not come up: ${said()}`)
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  await ended
}

let isStopped = false
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    isStopped = true
  })

const print = (line: object): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

/** With fewer rounds behind the warm-up a line through them says nothing: the collector alone makes steps of 10 %. */
const roundsMin = 20

/** Prints what was fitted. Returns false when something grows. */
function report(samples: {minute: number; figures: Sample}[]): boolean {
  const fitted = samples.slice(Math.floor(samples.length * warmupShare))
  const figures: Record<string, Fit> = {}
  for (const key of Object.keys(fitted[0]?.figures ?? {}))
    figures[key] = fit(fitted.map(({minute, figures: each}) => [minute, each[key] ?? 0]))
  const growing = Object.entries(figures).flatMap(([key, each]) => (each.isFlat ? [] : [key]))
  const minutes = samples.at(-1)?.minute ?? 0
  const isLong = fitted.length >= roundsMin
  const verdict = !isLong ? 'too short to tell' : growing.length === 0 ? 'flat' : 'growing'
  const rounds = samples.length
  print({bench: 'soak', seed, minutes, rounds, ...counts, verdict, growing, figures})
  return verdict !== 'growing'
}

async function main(): Promise<void> {
  const all = kinds()
  const source = new Source(all)
  mkdirSync(env.IMGSTORE_IMAGES_ROOT)
  const url = await source.listen()
  const {child: worker} = startLong(['worker', '--listen', '127.0.0.1:0'])
  const {child: serve, said} = startLong(['serve', '--listen-addr', '127.0.0.1:0'])
  const samples: {minute: number; figures: Sample}[] = []
  const start = performance.now()
  try {
    const served = await addressOf(said)
    for (let nth = 0; performance.now() - start < totalMs && !isStopped; nth++) {
      await round(all, url, served, nth)
      await rest()
      for (const child of [worker, serve])
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error('a long-running process ended')
      const minute = Math.round((performance.now() - start) / 600) / 100
      const figures = sample(worker, serve)
      samples.push({minute, figures})
      print({bench: 'soak', minute, ...figures, ...counts})
    }
    if (!report(samples)) process.exitCode = 1
  } finally {
    await Promise.all([stop(worker), stop(serve)])
    source.close()
  }
}

try {
  await main()
} finally {
  const left = mountsBelow(dir).map((entry) => entry.mountPoint)
  if (left.length > 0) console.error(`still mounted: ${left.join(', ')}`)
  else rmSync(dir, {recursive: true, force: true})
}
