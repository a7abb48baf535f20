/** The unpacker as it ships, for measuring: built JavaScript in bundles, run once in a process of its own. */
import {execFileSync} from 'node:child_process'
import {closeSync, existsSync, openSync, readFileSync, rmSync, writeSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {build} from 'esbuild'
import {bundleUnpacker} from '../../scripts/bundle-unpacker.ts'
import {MiB} from '../../src/core/limits.ts'
import {file} from '../../test/support/tar-builder.ts'
import {round} from './costs.ts'

const home = join(import.meta.dirname, '../..')
/** What is measured is what ships: stripping types at every start costs 0.2 s of CPU. */
const builtDir = join(home, '.cache/bench-unpack')

/** Where a run writes the peak memory (KiB) of the process that it starts. */
const peakFile = join(tmpdir(), `imgstore-bench-peak-${process.pid}`)

export type Unpacker = {
  /** Runs the backend `dir`: into an empty directory. */
  extract(blobPath: string, targetDir: string): string[]
  /** Runs the backend `erofs`: writes an image, and its tar if the blob is compressed. */
  index(blobPath: string, imagePath: string): string[]
}

/** Builds src and a program that does one job, as a worker does it. Returns the commands that run it. */
export async function buildUnpacker(): Promise<Unpacker> {
  const tsc = join(home, 'node_modules/.bin/tsc')
  const args = ['-p', join(home, 'tsconfig.json'), '--outDir', builtDir, '--incremental', 'false']
  execFileSync(tsc, args, {stdio: 'inherit'})
  await bundleUnpacker(builtDir)
  // Beside the unpacker's own modules, which look there for the program that they start.
  const roomDir = join(builtDir, 'src/core/unpack')
  const program = join(roomDir, 'one.mjs')
  await build({
    stdin: {contents: oneProgram, resolveDir: roomDir},
    outfile: program,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node24',
    external: ['koffi', 'tar'],
    logLevel: 'warning',
  })
  const command = (kind: string, blobPath: string, target: string): string[] => {
    return [process.execPath, program, kind, blobPath, target, peakFile]
  }
  return {
    extract: (blobPath, targetDir) => command('extract', blobPath, targetDir),
    index: (blobPath, imagePath) => command('index', blobPath, imagePath),
  }
}

const oneProgram = `
import {readFileSync, writeFileSync} from 'node:fs'
import {resolveLimits} from '../limits.js'
import {indexTar, unpack} from './unpack.js'
const [, , kind, blobPath, target, peaks] = process.argv
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
const job = {blobPath, profile: 'image', limits}
if (kind === 'extract') await unpack({...job, targetDir: target})
else {
  const digest = 'sha256:' + '0'.repeat(64)
  await indexTar({...job, imagePath: target, plainPath: target + '.tar', digest})
}
writeFileSync(peaks, peakKiB + '\\n', {flag: 'a'})
`

/** The largest resident memory, in MiB, of the unpacker's process in all runs since it was last asked for. */
export function takePeakMiB(): number {
  const peaks = existsSync(peakFile) ? readFileSync(peakFile, 'utf8').trim().split('\n') : []
  rmSync(peakFile, {force: true})
  return round(Math.max(...peaks.map(Number)) / 1024, 0)
}

/** Writes an archive of small files, a thousand to a directory, piece by piece: it need not fit into memory. */
export function writeManyFiles(path: string, count: number): void {
  const fd = openSync(path, 'w')
  try {
    let parts: Buffer[] = []
    let bytes = 0
    const flush = (): void => {
      writeSync(fd, Buffer.concat(parts))
      parts = []
      bytes = 0
    }
    for (let i = 0; i < count; i++) {
      const entry = file(`d${Math.floor(i / 1000)}/file-${i}`, `contents of file ${i}\n`)
      parts.push(entry)
      bytes += entry.length
      if (bytes >= 4 * MiB) flush()
    }
    parts.push(Buffer.alloc(1024))
    flush()
  } finally {
    closeSync(fd)
  }
}
