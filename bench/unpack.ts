/**
 * How fast is an archive made into a root filesystem, against GNU tar and umoci?
 *
 * Prints one line of JSON for each comparison; every ratio is ours divided by the peer's, medians of interleaved
 * rounds, wall and CPU (user + system of all processes). Ours includes both Node processes and their start, and the
 * final sync; GNU tar is followed by `sync -f`. Needs root, debootstrap (its archive is cached) and, for the layer, umoci.
 *
 *     node bench/unpack.ts [ROUNDS] [DIRECTORY]
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {
  copyFileSync,
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {createZstdCompress} from 'node:zlib'
import {bundleUnpacker} from '../scripts/bundle-unpacker.ts'
import {rootfsArchive} from '../test/support/rootfs-archive.ts'
import {archive, file} from '../test/support/tar-builder.ts'

type Cost = {wallMs: number; cpuMs: number}
type Contender = {name: string; command: (target: string) => string[]}

const home = join(import.meta.dirname, '..')
/** What is measured is what ships: JavaScript, built here, because stripping types at every start costs 0.2 s of CPU. */
const builtDir = join(home, '.cache/bench-unpack')

/** Builds src and a program that does one extraction in a process of its own, as a worker does it. */
async function build(): Promise<string> {
  const tsc = join(home, 'node_modules/.bin/tsc')
  const args = ['-p', join(home, 'tsconfig.json'), '--outDir', builtDir, '--incremental', 'false']
  spawnSync(tsc, args, {stdio: 'ignore'})
  await bundleUnpacker(builtDir)
  const program = join(builtDir, 'one.mjs')
  writeFileSync(program, oneProgram)
  return program
}

const oneProgram = `
import {readFileSync, writeFileSync} from 'node:fs'
import {resolveLimits} from './src/core/limits.js'
import {unpack} from './src/core/unpack/unpack.js'
const [, , blobPath, targetDir, peaks] = process.argv
let peakKiB = 0
setInterval(() => {
  for (const pid of readFileSync('/proc/self/task/' + process.pid + '/children', 'utf8').split(' ')) {
    try {
      const status = pid && readFileSync('/proc/' + pid + '/status', 'utf8')
      peakKiB = Math.max(peakKiB, Number(/VmHWM:\\s+(\\d+)/.exec(status)?.[1] ?? 0))
    } catch {} // It ended between the two reads.
  }
}, 50).unref()
const limits = {...resolveLimits('image', {}), filesMax: 5_000_000}
await unpack({blobPath, targetDir, profile: 'image', limits})
writeFileSync(peaks, peakKiB + '\\n', {flag: 'a'})
`

/** Runs a command to its end; bash's `time` counts all its children. */
function measure(command: string[]): Cost {
  const script = 'TIMEFORMAT="%3R %3U %3S"; time "$@" 3>&2 2>/dev/null'
  const run = spawnSync('bash', ['-c', script, 'bash', ...command], {encoding: 'utf8'})
  if (run.status !== 0) throw new Error(`${command.join(' ')} failed: ${run.stdout} ${run.stderr}`)
  const line = run.stderr.trim().split('\n').at(-1) ?? ''
  const [wall = 0, user = 0, system = 0] = line.split(' ').map((text) => Number(text) * 1000)
  return {wallMs: wall, cpuMs: user + system}
}

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN
const round = (value: number, digits = 2): number => Number(value.toFixed(digits))

/** Runs every contender once a round, each into a new directory; nothing is deleted until the end. */
function compare(
  what: Record<string, unknown>,
  ours: Contender,
  peer: Contender,
  rounds: number,
  base: string,
): void {
  const work = mkdtempSync(join(base, 'imgstore-bench-'))
  const costs: Record<string, Cost[]> = {}
  try {
    for (let at = 0; at < rounds; at++) {
      // The first in a round has the colder cache, so they take turns.
      for (const one of at % 2 === 0 ? [ours, peer] : [peer, ours]) {
        const target = join(work, `${one.name.replaceAll(/\W+/g, '-')}-${at}`)
        mkdirSync(target, {mode: 0o700})
        ;(costs[one.name] ??= []).push(measure(one.command(target)))
      }
    }
    const of = (one: Contender, key: keyof Cost): number =>
      median((costs[one.name] ?? []).map((cost) => cost[key]))
    const line = {
      bench: 'unpack',
      ...what,
      peer: peer.name,
      rounds,
      wall_ratio: round(of(ours, 'wallMs') / of(peer, 'wallMs')),
      cpu_ratio: round(of(ours, 'cpuMs') / of(peer, 'cpuMs')),
      wall_ms: round(of(ours, 'wallMs'), 0),
      cpu_ms: round(of(ours, 'cpuMs'), 0),
      peer_wall_ms: round(of(peer, 'wallMs'), 0),
      peer_cpu_ms: round(of(peer, 'cpuMs'), 0),
      peak_rss_mib: readPeak(),
    }
    console.log(JSON.stringify(line))
  } finally {
    rmSync(work, {recursive: true, force: true})
    rmSync(peakFile, {force: true})
  }
}

const peakFile = join(tmpdir(), `imgstore-bench-peak-${process.pid}`)

function readPeak(): number {
  const peaks = existsSync(peakFile) ? readFileSync(peakFile, 'utf8').trim().split('\n') : []
  return round(Math.max(...peaks.map(Number)) / 1024, 0)
}

const tarCommand = (blob: string, target: string, more: string[] = []): string[] => {
  const options = ['--numeric-owner', '--xattrs', "--xattrs-include='*'", ...more].join(' ')
  return ['sh', '-c', `tar ${options} -xpf "$0" -C "$1" && sync -f "$1"`, blob, target]
}

function hasProgram(name: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${name}`]).status === 0
}

/** A gzip layer as umoci wants it: in an OCI layout. Returns the layer's blob. */
function makeLayout(blob: string, layout: string): string {
  const umoci = (...args: string[]): unknown => execFileSync('umoci', args, {stdio: 'ignore'})
  umoci('init', '--layout', layout)
  umoci('new', '--image', `${layout}:x`)
  umoci('raw', 'add-layer', '--image', `${layout}:x`, blob)
  const blobs = join(layout, 'blobs/sha256')
  const bySize = readdirSync(blobs)
    .map((name) => join(blobs, name))
    .toSorted((a, b) => statSync(b).size - statSync(a).size)
  return bySize[0] ?? ''
}

function makeMany(path: string, count: number): void {
  const parts: Buffer[] = []
  for (let i = 0; i < count; i++) {
    parts.push(file(`d${Math.floor(i / 1000)}/file-${i}`, `contents of file ${i}\n`))
  }
  writeFileSync(path, archive(...parts))
}

async function main(rounds: number, base: string): Promise<void> {
  const blob = rootfsArchive('developer')
  const program = await build()
  const work = mkdtempSync(join(tmpdir(), 'imgstore-bench-'))
  try {
    const plain = join(work, 'rootfs.tar')
    copyFileSync(blob, plain)
    const size = {size_bytes: statSync(plain).size}
    const ours = (path: string): Contender => ({
      name: 'imgstore',
      command: (target) => [process.execPath, program, path, target, peakFile],
    })
    const tar = (path: string, more: string[] = []): Contender => ({
      name: 'GNU tar',
      command: (target) => tarCommand(path, target, more),
    })
    compare({archive: 'rootfs, plain', ...size}, ours(plain), tar(plain), rounds, base)

    const zstd = join(work, 'rootfs.tar.zst')
    await pipeline(createReadStream(plain), createZstdCompress(), createWriteStream(zstd))
    if (hasProgram('zstd')) {
      compare({archive: 'rootfs, zstd', ...size}, ours(zstd), tar(zstd, ['--zstd']), rounds, base)
    }
    if (hasProgram('umoci')) {
      const layout = join(work, 'layout')
      const layer = makeLayout(plain, layout)
      const umoci: Contender = {
        name: 'umoci',
        command: (target) => [
          'sh',
          '-c',
          'umoci raw unpack --image "$0:x" "$1/rootfs" && sync -f "$1"',
          layout,
          target,
        ],
      }
      compare({archive: 'rootfs, gzip layer', ...size}, ours(layer), umoci, rounds, base)
      compare({archive: 'rootfs, gzip', ...size}, ours(layer), tar(layer, ['-z']), rounds, base)
    }

    for (const count of [10_000, 100_000]) {
      const many = join(work, `many-${count}.tar`)
      makeMany(many, count)
      const what = {archive: `${count} small files`, size_bytes: statSync(many).size}
      compare(what, ours(many), tar(many), Math.min(rounds, 3), base)
    }
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
}

const [roundsText = '5', base = tmpdir()] = process.argv.slice(2)
await main(Number(roundsText), base)
