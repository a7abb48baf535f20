/**
 * How much CPU and time does a verified download cost?
 *
 * 1 GiB of random bytes over loopback from a server in another process, into a file system in memory, so that the disk
 * says nothing here: imgstore (download-once.ts, its start included) against `curl | tee | sha256sum` and
 * `curl | tee | openssl dgst`, interleaved, medians. CPU is user plus system of the client's processes, the server's
 * is not counted. Every run's result is checked. Prints one line of JSON for each peer.
 *
 * Targets: CPU at most 0.6 of sha256sum's pipe and 0.9 of openssl's.
 */
import {spawn, spawnSync, type ChildProcess} from 'node:child_process'
import {createHash, randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import {createServer} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {GiB, MiB} from '../src/core/limits.ts'

const rounds = Number(process.argv[2] ?? 5)
const sizeBytes = GiB

type Figures = {wall_s: number; cpu_s: number}

function memoryDir(): string {
  const shm = '/dev/shm'
  if (existsSync(shm)) {
    const found = statfsSync(shm)
    if (found.bavail * found.bsize > 3 * sizeBytes) return shm
  }
  return tmpdir()
}

/** Writes the content and returns its digest. */
function makeContent(path: string): string {
  const hash = createHash('sha256')
  writeFileSync(path, '')
  for (let done = 0; done < sizeBytes; done += 16 * MiB) {
    const piece = randomBytes(16 * MiB)
    hash.update(piece)
    appendFileSync(path, piece)
  }
  return hash.digest('hex')
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

const nodeServer = `
const [root, port] = process.argv.slice(1)
const fs = require('node:fs'), path = root + '/content'
require('node:http').createServer((request, response) => {
  response.writeHead(200, {'content-length': fs.statSync(path).size})
  fs.createReadStream(path, {highWaterMark: 1 << 20}).pipe(response)
}).listen(Number(port), '127.0.0.1')`

/** Serves the directory until killed: by nginx where there is one, else by Node. */
function startServer(root: string, port: number): {child: ChildProcess; name: string} {
  if (spawnSync('sh', ['-c', 'command -v nginx']).status !== 0) {
    const child = spawn(process.execPath, ['-e', nodeServer, root, String(port)], {
      stdio: 'inherit',
    })
    return {child, name: 'node'}
  }
  const config = join(root, 'nginx.conf')
  writeFileSync(
    config,
    `${process.getuid?.() === 0 ? 'user root; ' : ''}daemon off; pid ${root}/nginx.pid; error_log ${root}/nginx.log; worker_processes 1; events {}
     http { access_log off; sendfile on; server { listen 127.0.0.1:${port}; root ${root}; } }`,
  )
  const child = spawn('nginx', ['-c', config, '-e', join(root, 'nginx.log')], {stdio: 'inherit'})
  return {child, name: 'nginx'}
}

async function waitForServer(url: string): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    try {
      if ((await fetch(url, {method: 'HEAD'})).ok) return
    } catch {
      // Not up yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('the server did not start')
}

/** Runs a shell command and measures its whole tree; returns what it printed too. */
function measure(command: string): Figures & {output: string} {
  const startedMs = performance.now()
  const done = spawnSync('bash', ['-c', `set -e -o pipefail; ${command}; times >&2`], {
    encoding: 'utf8',
    env: {...process.env, HTTP_PROXY: '', http_proxy: '', LC_ALL: 'C'},
  })
  const wall_s = (performance.now() - startedMs) / 1000
  if (done.status !== 0) throw new Error(`${command}: ${done.stderr}`)
  const last = done.stderr.trim().split('\n').at(-1) ?? ''
  const seconds = [...last.matchAll(/(\d+)m([\d.]+)s/g)].map(
    (m) => Number(m[1]) * 60 + Number(m[2]),
  )
  if (seconds.length !== 2) throw new Error(`no times in: ${done.stderr}`)
  return {wall_s, cpu_s: (seconds[0] ?? 0) + (seconds[1] ?? 0), output: done.stdout}
}

const median = (values: number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN
const round = (value: number): number => Math.round(value * 1000) / 1000

const dir = mkdtempSync(join(memoryDir(), 'imgstore-bench-'))
const root = join(dir, 'www')
const out = join(dir, 'out')
let server: ChildProcess | undefined
try {
  mkdirSync(root)
  const digest = makeContent(join(root, 'content'))
  const port = await freePort()
  const started = startServer(root, port)
  server = started.child
  const url = `http://127.0.0.1:${port}/content`
  await waitForServer(url)
  const client = join(import.meta.dirname, 'support/download-once.ts')
  const peers: Record<string, string> = {
    'curl|tee|sha256sum': `curl -sf ${url} | tee ${out}/file | sha256sum`,
    'curl|tee|openssl': `curl -sf ${url} | tee ${out}/file | openssl dgst -sha256 -r`,
    imgstore: `${process.execPath} ${client} ${url} ${digest} ${out}`,
  }
  const figures: Record<string, Figures[]> = {}
  for (let n = 0; n < rounds; n++) {
    for (const [name, command] of Object.entries(peers)) {
      rmSync(out, {recursive: true, force: true})
      mkdirSync(out)
      const {output, ...found} = measure(command)
      const isRight =
        name === 'imgstore'
          ? readdirSync(join(out, 'blobs')).join() === `${digest}.tar`
          : output.startsWith(digest)
      if (!isRight) throw new Error(`${name} gave a wrong result`)
      ;(figures[name] ??= []).push(found)
    }
  }
  const summary = Object.entries(figures).map(([name, runs]) => ({
    name,
    wall_s: median(runs.map((run) => run.wall_s)),
    cpu_s: median(runs.map((run) => run.cpu_s)),
  }))
  const ours = summary.find(({name}) => name === 'imgstore')
  const common = {bench: 'download', size_bytes: sizeBytes, rounds, server: started.name}
  for (const peer of summary) {
    const ratios =
      ours && peer !== ours
        ? {
            imgstore_cpu_ratio: round(ours.cpu_s / peer.cpu_s),
            imgstore_wall_ratio: round(ours.wall_s / peer.wall_s),
            imgstore_cpu_ratio_target: peer.name.includes('openssl') ? 0.9 : 0.6,
          }
        : {}
    console.log(
      JSON.stringify({
        ...common,
        peer: peer.name,
        wall_s: round(peer.wall_s),
        cpu_s: round(peer.cpu_s),
        ...ratios,
      }),
    )
  }
} finally {
  if (server && server.exitCode === null) {
    server.kill()
    await once(server, 'exit')
  }
  rmSync(dir, {recursive: true, force: true})
}
