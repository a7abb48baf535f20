/**
 * Do honest clients keep their latency while others misbehave?
 *
 * Sixteen honest connections ask for random ranges, without and with a crowd at the same server: 64 clients that take
 * 16 KiB a second of 8 MiB, and 2,000 connections that never finish a request. nginx beside ours, rounds interleaved.
 * The crowd's slow readers hold as many permits as there are by default, and take enough to keep them; so the cap is
 * higher here (bench/support/streaming-peers.ts).
 * Prints one line of JSON for each server and range: percentiles of the honest clients without and with the crowd, and
 * their ratio.
 *
 *   node bench/slow-clients.ts [--quick] [--rounds N] [--servers nginx,imgstore-plain,imgstore] [--congestion cubic|host]
 *
 * Needs the built program (`npm run build`) and: apt-get install gcc libc6-dev nginx-light
 */
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {join} from 'node:path'
import {parseArgs} from 'node:util'
import {KiB, MiB} from '../src/core/limits.ts'
import {enterOwnNetwork} from './support/own-network.ts'
import {load, makeClient, type Load} from './support/streaming-load.ts'
import {
  peakMiB,
  resetPeaks,
  startPeer,
  type Peer,
  type PeerName,
} from './support/streaming-peers.ts'
import {imageBytes, makeSite} from './support/streaming-site.ts'

const {values: flags} = parseArgs({
  options: {
    quick: {type: 'boolean', default: false},
    rounds: {type: 'string'},
    servers: {type: 'string'},
    congestion: {type: 'string', default: 'cubic'},
  },
})
enterOwnNetwork(flags.congestion)
const rounds = Number(flags.rounds ?? (flags.quick ? 1 : 3))
const seconds = flags.quick ? 1 : 3
const servers = (flags.servers ?? 'nginx,imgstore-plain,imgstore').split(',') as PeerName[]
const lengths = [64 * KiB, MiB]
const slowCount = 64
const halfOpenCount = 2000

function imageOf(peer: Peer): string {
  return peer.name.startsWith('imgstore') ? '/v1/images/disk' : '/disk'
}

async function gather(peer: Peer): Promise<() => Promise<void>> {
  const args = [peer.port, imageOf(peer), 8 * MiB, slowCount, halfOpenCount].map(String)
  const crowd = spawn(process.execPath, [join(import.meta.dirname, 'support/crowd.ts'), ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(crowd, 'exit')
  const left = ended.then(() => Promise.reject(new Error('the crowd did not come together')))
  left.catch(() => undefined)
  await Promise.race([once(crowd.stdout, 'data'), left])
  return async () => {
    crowd.stdin.end()
    await ended
  }
}

type Pair = {alone: Load; crowded: Load; peak: number}

async function measure(client: string, peer: Peer, length: number): Promise<Pair> {
  const question = {
    path: imageOf(peer),
    length,
    count: imageBytes / length,
    status: 206 as const,
    connections: 16,
    seconds,
    warmupSeconds: 0.5,
    read: 'copy' as const,
  }
  const alone = await load(client, peer, question)
  resetPeaks(peer)
  const disperse = await gather(peer)
  try {
    const crowded = await load(client, peer, question)
    return {alone, crowded, peak: peakMiB(peer)}
  } finally {
    await disperse()
  }
}

const median = (values: number[]): number =>
  Number((values.sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN).toPrecision(3))

const site = makeSite()
const peers: Peer[] = []
try {
  const client = makeClient(site.dir)
  for (const name of servers) {
    const peer = await startPeer(name, site)
    if (peer) peers.push(peer)
    else console.error(`${name} is not installed: left out`)
  }
  for (const length of lengths) {
    const pairs = new Map<Peer, Pair[]>(peers.map((peer) => [peer, []]))
    for (let n = 0; n < rounds; n++)
      for (const [peer, found] of pairs) found.push(await measure(client, peer, length))
    for (const [peer, found] of pairs) {
      const figure = (of: (pair: Pair) => number): number => median(found.map(of))
      console.log(
        JSON.stringify({
          bench: 'slow-clients',
          server: peer.name,
          range_kib: length / KiB,
          rounds,
          p50_ms_alone: figure((pair) => pair.alone.p50Us / 1000),
          p50_ms_crowded: figure((pair) => pair.crowded.p50Us / 1000),
          p99_ms_alone: figure((pair) => pair.alone.p99Us / 1000),
          p99_ms_crowded: figure((pair) => pair.crowded.p99Us / 1000),
          p50_ratio: figure((pair) => pair.crowded.p50Us / pair.alone.p50Us),
          p99_ratio: figure((pair) => pair.crowded.p99Us / pair.alone.p99Us),
          requests_per_s_alone: figure((pair) => pair.alone.requests / pair.alone.seconds),
          requests_per_s_crowded: figure((pair) => pair.crowded.requests / pair.crowded.seconds),
          peak_mib: figure((pair) => pair.peak),
        }),
      )
    }
  }
} finally {
  for (const peer of peers) await peer.stop()
  site.remove()
}
