/**
 * How long does a command take from its start to its end?
 *
 * `imgstore status` of a store with one image, against the bare Node that carries it (`node -e 0`), interleaved; and the
 * same without what makes it fast: without cached compiled code, and without the bundle (oclif loading file by file).
 * Prints one line of JSON each; `ratio` is the smallest time over bare Node's smallest, as start-up is best compared on a
 * machine at rest.
 *
 * Target: `imgstore status` at most 3.0 (stretch 1.5).
 */
import {spawnSync} from 'node:child_process'
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'

const rounds = Number(process.argv[2] ?? 25)
const imgstore = resolve('bin/imgstore')
const dir = mkdtempSync(join(tmpdir(), 'imgstore-bench-'))
const env = {
  ...process.env,
  IMGSTORE_STORE_PATH: join(dir, 'store'),
  IMGSTORE_DB_PATH: join(dir, 'store.db'),
}

const unbundled = `import('@oclif/core').then((c) => c.execute({
  dir: '${resolve('.')}', args: ['status']}))`
const commands: Record<string, {argv: string[]; env?: NodeJS.ProcessEnv}> = {
  'node -e 0': {argv: [process.execPath, '-e', '0']},
  'imgstore --version': {argv: [imgstore, '--version']},
  'imgstore status': {argv: [imgstore, 'status']},
  'imgstore status, no compile cache': {
    argv: [imgstore, 'status'],
    env: {NODE_DISABLE_COMPILE_CACHE: '1'},
  },
  'imgstore status, no bundle, no compile cache': {
    argv: [process.execPath, '--input-type=module', '-e', unbundled],
    env: {NODE_DISABLE_COMPILE_CACHE: '1'},
  },
}

function timeOnce({argv, env: more}: {argv: string[]; env?: NodeJS.ProcessEnv}): number {
  const [program = '', ...args] = argv
  const startedMs = performance.now()
  const done = spawnSync(program, args, {env: {...env, ...more}, encoding: 'utf8'})
  const tookMs = performance.now() - startedMs
  if (done.status !== 0) throw new Error(`${argv.join(' ')} failed: ${done.stderr}`)
  return tookMs
}

try {
  const digest = 'ab'.repeat(32)
  timeOnce({argv: [imgstore, 'fetch', 'demo', 'http://127.0.0.1:1/image.tar', digest]})
  const times = new Map(Object.keys(commands).map((name) => [name, [] as number[]]))
  // The first round fills caches and is not counted.
  for (let round = 0; round <= rounds; round++) {
    for (const [name, command] of Object.entries(commands)) {
      const tookMs = timeOnce(command)
      if (round > 0) times.get(name)?.push(tookMs)
    }
  }
  const bareMs = Math.min(...(times.get('node -e 0') ?? []))
  for (const [command, all] of times) {
    const sorted = all.toSorted((a, b) => a - b)
    const [leastMs = 0] = sorted
    const medianMs = sorted[Math.floor(sorted.length / 2)] ?? 0
    console.log(
      JSON.stringify({
        bench: 'start-up',
        command,
        least_ms: Number(leastMs.toFixed(1)),
        median_ms: Number(medianMs.toFixed(1)),
        ratio: Number((leastMs / bareMs).toFixed(2)),
      }),
    )
  }
} finally {
  rmSync(dir, {recursive: true, force: true})
}
