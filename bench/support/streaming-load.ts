/** The clients of bench/streaming.ts: an own one in C for plain HTTP, and h2load where TLS is spoken. */
import {execFileSync, spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {readFileSync, rmSync} from 'node:fs'
import {join} from 'node:path'
import {cpuSeconds, hasProgram, type Peer} from './streaming-peers.ts'

/** What was seen in the measured time. */
export type Load = {
  seconds: number
  requests: number
  bytes: number
  cpuSeconds: number
  p50Us: number
  p99Us: number
}

export type Question = {
  path: string
  /** Bytes of each answer's body. */
  length: number
  /** How many different ones there are. */
  count: number
  status: 200 | 206
  connections: number
  seconds: number
  warmupSeconds: number
  read: 'copy' | 'discard'
}

/** Compiles the client; its place is given back. */
export function makeClient(dir: string): string {
  if (!hasProgram('cc'))
    throw new Error('the load client needs a C compiler: apt-get install gcc libc6-dev')
  const program = join(dir, 'range-load')
  execFileSync('cc', ['-O2', '-o', program, join(import.meta.dirname, 'range-load.c')], {
    stdio: 'inherit',
  })
  return program
}

/**
 * Runs the C client against a server.
 *
 * Errors: any answer that was not as asked.
 */
export async function load(program: string, peer: Peer, q: Question): Promise<Load> {
  const args = [
    peer.port,
    q.connections,
    q.warmupSeconds,
    q.seconds,
    q.length,
    q.count,
    q.status,
    q.read,
    q.path,
  ]
  const child = spawn(program, [...args, ...peer.pids].map(String), {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.on('data', (data: Buffer) => (text += data.toString()))
  const [status, signal] = (await once(child, 'close')) as [number | null, string | null]
  if (signal !== null) throw new Error(`the client was ended by ${signal}`)
  if (status !== 0) throw new Error(`${peer.name} gave wrong answers for ${q.path}: ${text}`)
  const found = JSON.parse(text) as Record<string, number>
  return {
    seconds: found['seconds'] ?? 0,
    requests: found['requests'] ?? 0,
    bytes: found['bytes'] ?? 0,
    cpuSeconds: found['server_cpu_s'] ?? 0,
    p50Us: found['p50_us'] ?? 0,
    p99Us: found['p99_us'] ?? 0,
  }
}

export type SecureProtocol = 'https' | 'h2'

/** Runs h2load, always with the same range; h2 uses one connection's streams as other clients use connections. */
export function loadSecurely(dir: string, peer: Peer, q: Question, protocol: SecureProtocol): Load {
  const log = join(dir, 'h2load.log')
  // It knows whole seconds only.
  const seconds = Math.ceil(q.seconds)
  const before = cpuSeconds(peer)
  const concurrency =
    protocol === 'h2'
      ? ['-c', String(Math.min(4, q.connections)), '-m', String(Math.ceil(q.connections / 4))]
      : ['--h1', '-c', String(q.connections)]
  // The window of a quick client: with the standard's 64 KiB the round trips are what is measured.
  const window = ['-w', '24', '-W', '26']
  const done = spawnSync(
    'h2load',
    [
      ...concurrency,
      ...window,
      ...['-t', '1', '-D', String(seconds), `--log-file=${log}`],
      ...['-H', `Range: bytes=0-${q.length - 1}`, `https://127.0.0.1:${peer.port}${q.path}`],
    ],
    {encoding: 'utf8'},
  )
  const cpu = cpuSeconds(peer) - before
  if (done.status !== 0) throw new Error(`h2load: ${done.stderr}${done.stdout}`)
  const lines = readFileSync(log, 'latin1').trim().split('\n')
  rmSync(log)
  const rows = lines.map((line) => line.split('\t').map(Number))
  const wrong = rows.find(([, status]) => status !== q.status)
  if (wrong) throw new Error(`${peer.name} answered ${wrong[1]} to h2load`)
  const times = rows.map(([, , us = 0]) => us).sort((a, b) => a - b)
  const at = (part: number): number => times[Math.floor(part * (times.length - 1))] ?? 0
  return {
    seconds,
    requests: rows.length,
    bytes: rows.length * q.length,
    cpuSeconds: cpu,
    p50Us: at(0.5),
    p99Us: at(0.99),
  }
}
