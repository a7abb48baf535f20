/**
 * How fast is an archive made into a root filesystem, against GNU tar and umoci?
 *
 * Prints one line of JSON for each comparison; every ratio is ours divided by the peer's, medians of interleaved
 * rounds, wall and CPU (user + system of all processes). Ours includes both Node processes and their start, and the
 * final sync; GNU tar is followed by `sync -f`. Needs root, debootstrap (its archive is cached) and, for the layer, umoci.
 *
 *     node bench/unpack.ts [ROUNDS] [DIRECTORY]
 *
 * Is the time linear in the entries, and how much memory do they take? A million files against 100,000, for both
 * backends; a ratio of 10 is linear. Takes minutes and 6 GiB, so it runs only when asked:
 *
 *     node bench/unpack.ts million [DIRECTORY]
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {
  copyFileSync,
  createReadStream,
  createWriteStream,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {createZstdCompress} from 'node:zlib'
import {rootfsArchive} from '../test/support/rootfs-archive.ts'
import {type Cost, measure, ratios} from './support/costs.ts'
import {buildUnpacker, takePeakMiB, type Unpacker, writeManyFiles} from './support/unpacker.ts'

type Contender = {name: string; command: (target: string) => string[]}

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
    const [mine = [], theirs = []] = [costs[ours.name], costs[peer.name]]
    const line = {bench: 'unpack', ...what, peer: peer.name, rounds, ...ratios(mine, theirs)}
    console.log(JSON.stringify({...line, peak_rss_mib: takePeakMiB()}))
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
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

/** Every file counted once in each backend, then ten times as many. */
function compareCounts(unpacker: Unpacker, base: string): void {
  const work = mkdtempSync(join(base, 'imgstore-bench-'))
  const runs = {
    dir: (blob: string, target: string) => {
      mkdirSync(target, {mode: 0o700})
      return measure(unpacker.extract(blob, target))
    },
    erofs: (blob: string, target: string) => measure(unpacker.index(blob, target)),
  }
  try {
    const [few, many] = [100_000, 1_000_000] as const
    for (const count of [few, many]) writeManyFiles(join(work, `${count}.tar`), count)
    for (const [backend, run] of Object.entries(runs)) {
      const costs: Record<number, Cost[]> = {[few]: [], [many]: []}
      const peaks: Record<number, number> = {}
      for (const [count, rounds] of [
        [few, 3],
        [many, 1],
      ] as const) {
        for (let at = 0; at < rounds; at++) {
          const target = join(work, 'target')
          costs[count]?.push(run(join(work, `${count}.tar`), target))
          rmSync(target, {recursive: true, force: true})
        }
        peaks[count] = takePeakMiB()
      }
      const line = {
        bench: 'unpack',
        question: `${many} files against ${few}`,
        backend,
        ...ratios(costs[many] ?? [], costs[few] ?? []),
        peak_rss_mib: peaks[many],
        peer_peak_rss_mib: peaks[few],
      }
      console.log(JSON.stringify(line))
    }
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
}

async function compareSpeed(unpacker: Unpacker, rounds: number, base: string): Promise<void> {
  const blob = rootfsArchive('developer')
  const work = mkdtempSync(join(tmpdir(), 'imgstore-bench-'))
  try {
    const plain = join(work, 'rootfs.tar')
    copyFileSync(blob, plain)
    const size = {size_bytes: statSync(plain).size}
    const ours = (path: string): Contender => ({
      name: 'imgstore',
      command: (target) => unpacker.extract(path, target),
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
      writeManyFiles(many, count)
      const what = {archive: `${count} small files`, size_bytes: statSync(many).size}
      compare(what, ours(many), tar(many), Math.min(rounds, 3), base)
    }
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
}

const [what = '5', base = tmpdir()] = process.argv.slice(2)
const unpacker = await buildUnpacker()
if (what === 'million') compareCounts(unpacker, base)
else await compareSpeed(unpacker, Number(what), base)
