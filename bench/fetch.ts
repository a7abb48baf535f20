/**
 * How long does an image of 1 GB take from `imgstore fetch` to ACTIVE?
 *
 * A root filesystem with more files, 1 GB of tar on this host, through the built program into a fresh store (backend
 * `erofs`), against `sha256sum` of the same file: start, copy, digest, sync, index, trial mount, mounts, all of it.
 * Interleaved rounds, medians; once into a file system on a disk and once into memory. Where the store is on a disk, a
 * peer that also leaves a durable copy (`cp`, `sync -f`, `sha256sum`) says what the disk takes. Prints lines of JSON, one
 * of them with how long the steps took by the store's own events. Needs root, debootstrap (its archive is cached), and
 * `npm run build`.
 *
 *     node bench/fetch.ts [ROUNDS] [DIRECTORY…]
 *
 * Target: wall at most 1.3 of sha256sum; from ACTIVATING to ACTIVE under 50 ms.
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {randomBytes} from 'node:crypto'
import {
  appendFileSync,
  createReadStream,
  createWriteStream,
  mkdtempSync,
  rmSync,
  statSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {GiB, MiB} from '../src/core/limits.ts'
import {rootfsArchive} from '../test/support/rootfs-archive.ts'
import {file} from '../test/support/tar-builder.ts'
import {type Cost, measure, median, ratios} from './support/costs.ts'

const imgstore = resolve(import.meta.dirname, '../bin/imgstore')

/** Files of random bytes in front of the root filesystem, until it is 1 GiB. */
async function makeArchive(path: string): Promise<void> {
  const rootfs = rootfsArchive('developer')
  const moreBytes = Math.max(0, GiB - statSync(rootfs).size)
  for (let made = 0; made < moreBytes; made += 2 * MiB) {
    appendFileSync(path, file(`./opt/more/file-${made}`, randomBytes(2 * MiB)))
  }
  await pipeline(createReadStream(rootfs), createWriteStream(path, {flags: 'a'}))
}

type Step = {step: string; duration_ms: number}

/** Fetches into a store that is made for it and removed again. */
function fetchOnce(tar: string, digest: string, base: string): {cost: Cost; steps: Step[]} {
  const dir = mkdtempSync(join(base, 'imgstore-bench-'))
  const env = {
    ...process.env,
    IMGSTORE_STORE_PATH: join(dir, 'store'),
    IMGSTORE_DB_PATH: join(dir, 'store.db'),
  }
  const run = (...args: string[]): string => execFileSync(imgstore, args, {env, encoding: 'utf8'})
  try {
    const flags = ['--wait', '--allow-file', '--backend', 'erofs', '--profile', 'image']
    const cost = measure([imgstore, 'fetch', 'demo', `file://${tar}`, digest, ...flags], env)
    const status = run('status', 'demo', '--json')
    if (!status.includes('"ACTIVE"')) throw new Error(`the image is not ACTIVE: ${status}`)
    const {events} = JSON.parse(run('events', '--json')) as {events: Partial<Step>[]}
    const steps = events.filter(
      (event): event is Step => event.step !== undefined && event.duration_ms !== undefined,
    )
    run('remove', 'demo')
    return {cost, steps}
  } finally {
    // An image that is still mounted, after an error, must not be deleted through its mount.
    spawnSync(imgstore, ['remove', 'demo'], {env, stdio: 'ignore'})
    rmSync(dir, {recursive: true, force: true})
  }
}

/** What it takes to have a durable copy that was hashed, without us. */
function copyOnce(tar: string, base: string): Cost {
  const dir = mkdtempSync(join(base, 'imgstore-bench-'))
  try {
    const script = 'cp --reflink=never "$0" "$1/copy" && sha256sum "$1/copy" && sync "$1/copy"'
    return measure(['sh', '-c', script, tar, dir])
  } finally {
    rmSync(dir, {recursive: true, force: true})
  }
}

function compare(rounds: number, base: string, tar: string, digest: string): void {
  const costs: Record<'ours' | 'sum' | 'copy', Cost[]> = {ours: [], sum: [], copy: []}
  const durations: Record<string, number[]> = {}
  // The first round fills caches and is not counted.
  for (let at = 0; at <= rounds; at++) {
    const sum = measure(['sha256sum', tar])
    const {cost, steps} = fetchOnce(tar, digest, base)
    const copy = copyOnce(tar, base)
    if (at === 0) continue
    costs.sum.push(sum)
    costs.ours.push(cost)
    costs.copy.push(copy)
    for (const {step, duration_ms: ms} of steps) (durations[step] ??= []).push(ms)
  }
  const fileSystem = execFileSync('stat', ['-f', '-c', '%T', base], {encoding: 'utf8'}).trim()
  const what = {
    bench: 'fetch',
    size_bytes: statSync(tar).size,
    store_on: fileSystem,
    rounds,
  }
  for (const [peer, theirs] of [
    ['sha256sum', costs.sum],
    ['cp, sha256sum, sync', costs.copy],
  ] as const) {
    console.log(JSON.stringify({...what, peer, ...ratios(costs.ours, theirs)}))
  }
  const steps = Object.fromEntries(
    Object.entries(durations).map(([step, values]) => [`${step}_ms`, median(values)]),
  )
  console.log(JSON.stringify({bench: 'fetch', store_on: fileSystem, ...steps}))
}

async function main(rounds: number, bases: string[]): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'imgstore-bench-'))
  try {
    const tar = join(work, 'image.tar')
    await makeArchive(tar)
    const [digest = ''] = execFileSync('sha256sum', [tar], {encoding: 'utf8'}).split(' ')
    for (const base of bases) compare(rounds, base, tar, digest)
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
}

const [roundsText = '3', ...bases] = process.argv.slice(2)
await main(Number(roundsText), bases.length === 0 ? [tmpdir(), '/dev/shm'] : bases)
