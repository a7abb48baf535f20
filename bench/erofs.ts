/**
 * How fast is an archive indexed, mounted, walked and read, against hashing it, mkfs.erofs and GNU tar?
 *
 * Prints lines of JSON; ratios are ours divided by the peer's, medians of interleaved rounds. Indexing counts both
 * Node processes and their start, and the final sync; GNU tar is followed by `sync -f`. Walks and reads begin with
 * empty caches. Needs root, debootstrap and apt's network the first time.
 *
 *     node bench/erofs.ts [ROUNDS] [ARCHIVE.tar]
 */
import {
  lstatSync,
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
import {mountErofsSync} from '../src/core/mounts/erofs.ts'
import {unmountSync} from '../src/core/mounts/mount.ts'
import {erofsTool} from '../test/support/erofs-tools.ts'
import {rootfsArchive} from '../test/support/rootfs-archive.ts'
import {archive, file} from '../test/support/tar-builder.ts'
import {type Cost, measure, median, ratios, round} from './support/costs.ts'
import {buildUnpacker, takePeakMiB} from './support/unpacker.ts'

type Contender = {name: string; command: (round: number) => string[]}

/** One line for each peer; the first contender is ours. */
function compare(what: Record<string, unknown>, contenders: Contender[], rounds: number): void {
  const costs = contenders.map((): Cost[] => [])
  for (let at = 0; at < rounds; at++) {
    for (const [index, {command}] of contenders.entries()) costs[index]?.push(measure(command(at)))
  }
  const [ours = [], ...others] = costs
  const peak = takePeakMiB()
  for (const [index, theirs] of others.entries()) {
    const name = contenders[index + 1]?.name
    const line = {question: 'index an archive', ...what, peer: name, ...ratios(ours, theirs)}
    console.log(JSON.stringify({...line, peak_rss_mib: peak}))
  }
}

/** Looks at every file below `root`, and reads them if asked; returns how many there are. */
function walk(root: string, options: {read: boolean}): number {
  let count = 0
  const visit = (dir: string): void => {
    for (const entry of readdirSync(dir, {withFileTypes: true})) {
      const path = join(dir, entry.name)
      count++
      lstatSync(path)
      if (entry.isDirectory()) visit(path)
      else if (options.read && entry.isFile()) readFileSync(path)
    }
  }
  visit(root)
  return count
}

function timed(body: () => void): number {
  const startMs = performance.now()
  body()
  return performance.now() - startMs
}

function compareReading(imagePath: string, blob: string, tree: string, rounds: number): void {
  const mountPoint = join(tree, '..', 'mount')
  mkdirSync(mountPoint, {recursive: true})
  const mounts: number[] = []
  const times: Record<string, number[]> = {}
  let entries = 0
  for (let at = 0; at < rounds; at++) {
    for (const read of [false, true]) {
      for (const [name, root] of [
        ['ours', mountPoint],
        ['peer', tree],
      ] as const) {
        writeFileSync('/proc/sys/vm/drop_caches', '3')
        const spec = {imagePath, devicePaths: [blob], mountPoint}
        if (name === 'ours') mounts.push(timed(() => mountErofsSync(spec)))
        const ms = timed(() => (entries = walk(root, {read})))
        if (name === 'ours') unmountSync(mountPoint)
        ;(times[`${name} ${read}`] ??= []).push(ms)
      }
    }
  }
  console.log(JSON.stringify({question: 'mount an index', wall_ms: round(median(mounts))}))
  for (const read of [false, true]) {
    const [ours, peer] = [median(times[`ours ${read}`] ?? []), median(times[`peer ${read}`] ?? [])]
    const line = {
      question: read ? 'read every file, cold' : 'walk a tree, cold',
      entries,
      peer: 'the extracted tree',
      wall_ratio: round(ours / peer, 3),
      wall_ms: round(ours, 0),
      peer_wall_ms: round(peer, 0),
    }
    console.log(JSON.stringify(line))
  }
}

function makeOneDirectory(path: string, count: number): void {
  const parts: Buffer[] = []
  for (let i = 0; i < count; i++) parts.push(file(`d/file-${i}`, `contents of file ${i}\n`))
  writeFileSync(path, archive(...parts))
}

async function main(rounds: number, blob: string): Promise<void> {
  const unpacker = await buildUnpacker()
  const mkfs = erofsTool('mkfs.erofs')
  const work = mkdtempSync(join(tmpdir(), 'imgstore-bench-'))
  try {
    const ours = (path: string, imagePath: string): Contender => ({
      name: 'imgstore',
      command: () => unpacker.index(path, imagePath),
    })
    const peer = (path: string): Contender => ({
      name: 'mkfs.erofs --tar=i',
      command: () => [mkfs, '--tar=i', '--quiet', join(work, 'mkfs.erofs'), path],
    })
    const image = join(work, 'rootfs.erofs')
    // Read once, so that no contender is the one that fetches it from the disk.
    measure(['sha256sum', blob])
    const contenders: Contender[] = [
      ours(blob, image),
      {name: 'sha256sum', command: () => ['sha256sum', blob]},
      peer(blob),
      {
        name: 'GNU tar -x',
        command: (at) => {
          const target = join(work, `tree-${at}`)
          mkdirSync(target)
          const script =
            'tar --numeric-owner --xattrs --xattrs-include=\'*\' -xpf "$0" -C "$1" && sync -f "$1"'
          return ['sh', '-c', script, blob, target]
        },
      },
    ]
    compare({archive: 'rootfs', size_bytes: statSync(blob).size}, contenders, rounds)
    console.log(
      JSON.stringify({
        question: 'size of an index',
        size_bytes: statSync(image).size,
        peer: 'mkfs.erofs',
        peer_size_bytes: statSync(join(work, 'mkfs.erofs')).size,
      }),
    )
    compareReading(image, blob, join(work, 'tree-0'), rounds)
    for (const count of [20_000, 100_000]) {
      const many = join(work, `many-${count}.tar`)
      makeOneDirectory(many, count)
      const what = {archive: `${count} files in one directory`, size_bytes: statSync(many).size}
      // It takes time by the square of the directory's size: one round of the larger will do.
      const few = count > 50_000 ? 1 : Math.min(rounds, 3)
      compare(what, [ours(many, join(work, 'many.erofs')), peer(many)], few)
    }
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
}

const [roundsText = '5', blob = rootfsArchive('developer')] = process.argv.slice(2)
await main(Number(roundsText), blob)
