/**
 * How fast are disk images served, beside nginx and Caddy?
 *
 * One server process each (nginx with one worker), the same files in memory, loopback, the same client, rounds
 * interleaved; medians. Cases: ranges of 8 MiB, 1 MiB, 64 KiB and 4 KiB at random places of a 1 GiB image over keep-alive
 * connections, and whole chunk files. `--tls` measures HTTPS and HTTP/2 instead, by h2load.
 * Prints one line of JSON for each case, number of connections and server; a table for people goes to stderr.
 *
 *   node bench/streaming.ts [--quick] [--tls] [--discard] [--rounds N] [--seconds S] [--case WORD] [--connections 1,16,64]
 *                           [--servers nginx,caddy,imgstore,imgstore-plain,imgstore-log] [--congestion cubic]
 *
 * All run in a network namespace with Linux's default congestion control (needs root), `--congestion host` where they are.
 *
 * Needs the built program (`npm run build`) and: apt-get install gcc libc6-dev nginx-light caddy nghttp2-client openssl
 * Targets, against nginx: processor time per GiB at most 1.3 at 8 MiB and 0.8 at 1 MiB with throughput at least 1.0
 * (plain sender: 2.5 and 1.5); requests a second at least 0.7 at 64 KiB and 0.5 at 4 KiB (stretch 0.75); ahead of Caddy in
 * small ranges, level in large ones; memory under 150 MiB.
 */
import {parseArgs} from 'node:util'
import {GiB, KiB, MiB} from '../src/core/limits.ts'
import {congestionControl, enterOwnNetwork} from './support/own-network.ts'
import {
  load,
  loadSecurely,
  makeClient,
  type Load,
  type Question,
  type SecureProtocol,
} from './support/streaming-load.ts'
import {
  peakMiB,
  resetPeaks,
  startPeer,
  type Peer,
  type PeerName,
} from './support/streaming-peers.ts'
import {imageBytes, makeCertificate, makeSite} from './support/streaming-site.ts'

const {values: flags} = parseArgs({
  options: {
    quick: {type: 'boolean', default: false},
    tls: {type: 'boolean', default: false},
    discard: {type: 'boolean', default: false},
    rounds: {type: 'string'},
    seconds: {type: 'string'},
    case: {type: 'string', multiple: true},
    connections: {type: 'string'},
    servers: {type: 'string'},
    congestion: {type: 'string', default: 'cubic'},
  },
})
enterOwnNetwork(flags.congestion)
const rounds = Number(flags.rounds ?? (flags.quick ? 1 : 3))
const seconds = Number(flags.seconds ?? (flags.quick ? 0.5 : 1))
const connections = (flags.connections ?? (flags.quick ? '16' : '1,16,64')).split(',').map(Number)
const servers = (
  flags.servers ?? (flags.tls ? 'nginx,caddy,imgstore' : 'nginx,caddy,imgstore-plain,imgstore')
)
  .split(',')
  .map((name) => name as PeerName)

type Case = {name: string; length: number; count: number; chunks?: string}

const range = (name: string, length: number): Case => ({name, length, count: imageBytes / length})
const allCases: Case[] = [
  range('range 8 MiB', 8 * MiB),
  range('range 1 MiB', MiB),
  range('range 64 KiB', 64 * KiB),
  range('range 4 KiB', 4 * KiB),
  {name: 'chunk 4 MiB', length: 4 * MiB, count: 64, chunks: '4m'},
  {name: 'chunk 1 MiB', length: MiB, count: 256, chunks: '1m'},
]
const words = flags.case ?? []
const cases = allCases.filter(
  ({name, chunks}) =>
    (words.length === 0 || words.some((word) => name.includes(word))) &&
    !(flags.tls && chunks !== undefined),
)

function questionOf(one: Case, peer: Peer, connectionCount: number): Question {
  const isOurs = peer.name.startsWith('imgstore')
  const image = isOurs ? '/v1/images/disk' : one.chunks === undefined ? '/disk' : '/chunked/disk'
  const chunk = `${isOurs ? '/chunked' : ''}/${one.chunks ?? ''}/chunks/%08u.bin`
  return {
    path: one.chunks === undefined ? image : `${image}${chunk}`,
    length: one.length,
    count: one.count,
    status: one.chunks === undefined ? 206 : 200,
    connections: connectionCount,
    seconds,
    warmupSeconds: flags.quick ? 0.2 : 0.3,
    read: flags.discard ? 'discard' : 'copy',
  }
}

type Figures = {
  gib_per_s: number
  requests_per_s: number
  cpu_s_per_gib: number
  cpu_us_per_request: number
  p50_ms: number
  p99_ms: number
  peak_mib: number
}

function figuresOf(found: Load, peak: number): Figures {
  const gib = found.bytes / GiB
  return {
    gib_per_s: gib / found.seconds,
    requests_per_s: found.requests / found.seconds,
    cpu_s_per_gib: found.cpuSeconds / gib,
    cpu_us_per_request: (found.cpuSeconds * 1e6) / found.requests,
    p50_ms: found.p50Us / 1000,
    p99_ms: found.p99Us / 1000,
    peak_mib: peak,
  }
}

const round3 = (value: number): number => Number(value.toPrecision(3))

function medianFigures(all: Figures[]): Figures {
  const median = (key: keyof Figures): number => {
    const sorted = all.map((one) => one[key]).sort((a, b) => a - b)
    return round3(sorted[sorted.length >> 1] ?? Number.NaN)
  }
  return {
    gib_per_s: median('gib_per_s'),
    requests_per_s: median('requests_per_s'),
    cpu_s_per_gib: median('cpu_s_per_gib'),
    cpu_us_per_request: median('cpu_us_per_request'),
    p50_ms: median('p50_ms'),
    p99_ms: median('p99_ms'),
    peak_mib: median('peak_mib'),
  }
}

/** Ours over the other's: of rates more is better, of the rest less. */
function ratios(ours: Figures, other: Figures | undefined, name: string): Record<string, number> {
  if (!other) return {}
  return {
    [`throughput_to_${name}`]: round3(ours.gib_per_s / other.gib_per_s),
    [`cpu_to_${name}`]: round3(ours.cpu_s_per_gib / other.cpu_s_per_gib),
    [`p99_to_${name}`]: round3(ours.p99_ms / other.p99_ms),
  }
}

function report(label: string, connectionCount: number, found: Map<PeerName, Figures>): void {
  const nginx = found.get('nginx')
  const caddy = found.get('caddy')
  for (const [server, figures] of found) {
    const more = {...ratios(figures, nginx, 'nginx'), ...ratios(figures, caddy, 'caddy')}
    const common = {bench: 'streaming', case: label, connections: connectionCount, server, rounds}
    const network = {congestion: congestionControl()}
    console.log(JSON.stringify({...common, ...network, ...figures, ...more}))
    const f = figures
    const columns = [
      `${label} c${connectionCount}`.padEnd(22),
      server.padEnd(14),
      `${f.gib_per_s} GiB/s`.padStart(12),
      `${f.requests_per_s} req/s`.padStart(14),
      `${f.cpu_s_per_gib} s/GiB`.padStart(13),
      `${f.cpu_us_per_request} us/req`.padStart(14),
      `p50 ${f.p50_ms} p99 ${f.p99_ms} ms`.padStart(24),
      `${f.peak_mib} MiB`.padStart(9),
      nginx ? `x nginx: ${more['throughput_to_nginx']} cpu ${more['cpu_to_nginx']}` : '',
      caddy ? `x caddy: ${more['throughput_to_caddy']} cpu ${more['cpu_to_caddy']}` : '',
    ]
    console.error(columns.join('  '))
  }
}

async function measure(
  label: string,
  connectionCount: number,
  peers: Peer[],
  run: (peer: Peer) => Load | Promise<Load>,
): Promise<void> {
  const found = new Map<PeerName, Figures[]>(peers.map(({name}) => [name, []]))
  for (let n = 0; n < rounds; n++) {
    for (const peer of peers) {
      resetPeaks(peer)
      const loaded = await run(peer)
      found.get(peer.name)?.push(figuresOf(loaded, peakMiB(peer)))
    }
  }
  const medians = new Map([...found].map(([name, all]) => [name, medianFigures(all)]))
  report(label, connectionCount, medians)
}

const site = makeSite()
const peers: Peer[] = []
try {
  const client = makeClient(site.dir)
  const tls = flags.tls ? makeCertificate(site.dir) : undefined
  for (const name of servers) {
    const peer = await startPeer(name, {...site, tls})
    if (peer) peers.push(peer)
    else console.error(`${name} is not installed: left out`)
  }
  for (const one of cases) {
    for (const count of connections) {
      if (!flags.tls) {
        await measure(one.name, count, peers, (peer) =>
          load(client, peer, questionOf(one, peer, count)),
        )
        continue
      }
      for (const protocol of ['https', 'h2'] as SecureProtocol[]) {
        const ask = (peer: Peer): Load =>
          loadSecurely(site.dir, peer, questionOf(one, peer, count), protocol)
        await measure(`${one.name} ${protocol}`, count, peers, ask)
      }
    }
  }
} finally {
  for (const peer of peers) await peer.stop()
  site.remove()
}
