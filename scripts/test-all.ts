/**
 * `npm run test:all`: every test suite, one after another, and then one line with the sum of all of them:
 * `N passed, N failed`. As root a skipped test counts as failed, because there is nothing root lacks that
 * --install does not bring. What a suite leaves behind (a process, a mount, a temporary file) counts as failed too.
 *
 *   --check      `npm run check` first, each of its steps counted like a test
 *   --install    first install the Debian packages that the tests need (root)
 */
import {spawn, spawnSync} from 'node:child_process'
import {chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout} from 'node:timers/promises'

/** What a suite says of itself: scripts/counting-reporter.mjs. */
type Counts = {passed: number; failed: string[]; skipped: string[]}

const suites = ['test', 'test:host', 'test:crash', 'test:faults', 'test:e2e']
if (process.argv.includes('--check')) suites.unshift('check')
const suiteTimeoutMs = 25 * 60_000
const isRoot = process.getuid?.() === 0

if (process.argv.includes('--install')) {
  const done = spawnSync('bash', ['scripts/install-apt-packages.sh'], {stdio: 'inherit'})
  if (done.status !== 0) process.exit(1)
}

let passed = 0
const failed: string[] = []
for (const suite of suites) await countSuite(suite)
for (const line of failed) console.log(`failed: ${line}`)
console.log(`${passed} passed, ${failed.length} failed`)
process.exitCode = failed.length > 0 || passed === 0 ? 1 : 0

/** Runs one suite and adds what it says, and what it leaves, to the sums. */
async function countSuite(suite: string): Promise<void> {
  console.log(`\n── ${suite}`)
  // Everything a suite makes for a while goes into a directory of its own, so that leftovers are seen.
  const tempDir = mkdtempSync('/tmp/isci-')
  // Some tests work as nobody.
  chmodSync(tempDir, 0o755)
  const countsFile = join(tempDir, '.counts')
  const mountsBefore = mountPoints()
  const filesBefore = strayFiles()
  try {
    const env = {...process.env, TMPDIR: tempDir, IMGSTORE_TEST_COUNTS: countsFile}
    const exit = await runSuite(suite, env)
    const counts = readCounts(countsFile)
    passed += counts.passed
    for (const title of counts.failed) failed.push(`${suite}: ${title}`)
    if (isRoot) for (const title of counts.skipped) failed.push(`${suite}: skipped: ${title}`)
    if (counts.passed + counts.failed.length + counts.skipped.length === 0)
      failed.push(`${suite}: nothing ran`)
    else if (exit !== 0 && counts.failed.length === 0) failed.push(`${suite}: ended with ${exit}`)

    if (strayProcesses(tempDir).length > 0) await setTimeout(1000) // some are just ending
    for (const left of endStrayProcesses(tempDir)) failed.push(`${suite}: left process ${left}`)
    for (const mount of mountPoints())
      if (!mountsBefore.has(mount)) failed.push(`${suite}: left the mount ${mount}`)
    for (const file of strayFiles())
      if (!filesBefore.has(file)) failed.push(`${suite}: left ${file}`)
    for (const file of readdirSync(tempDir))
      if (file.startsWith('imgstore')) failed.push(`${suite}: left ${join(tempDir, file)}`)
  } finally {
    const isMounted = [...mountPoints()].some((mount) => mount.startsWith(tempDir))
    if (!isMounted) rmSync(tempDir, {recursive: true, force: true})
  }
}

/** Runs an npm script to its end and gives its exit code, or the word for how it ended. */
function runSuite(suite: string, env: NodeJS.ProcessEnv): Promise<number | string> {
  const reporter = ['--', '--reporter', 'scripts/counting-reporter.mjs']
  if (!process.stdout.isTTY) reporter.push('--no-color')
  const args = ['run', '--silent', suite, ...(suite === 'check' ? [] : reporter)]
  const child = spawn('npm', args, {
    stdio: ['ignore', 'inherit', 'inherit'],
    env,
    detached: true,
  })
  return new Promise((resolve, reject) => {
    const timer = globalThis.setTimeout(() => {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
      failed.push(`${suite}: not done after ${suiteTimeoutMs / 60_000} minutes`)
    }, suiteTimeoutMs)
    child.on('error', reject)
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      resolve(code ?? signal ?? 'nothing')
    })
  })
}

function readCounts(file: string): Counts {
  const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : []
  const all = lines.map((line) => JSON.parse(line) as Counts)
  return {
    passed: all.reduce((sum, {passed}) => sum + passed, 0),
    failed: all.flatMap(({failed}) => failed),
    skipped: all.flatMap(({skipped}) => skipped),
  }
}

type Stray = {pid: number; command: string}

/** The processes that still carry this suite's environment. */
function strayProcesses(tempDir: string): Stray[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return pids.flatMap((pid) => {
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`TMPDIR=${tempDir}\0`)) return []
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
      return [{pid: Number(pid), command}]
    } catch {
      return [] // gone meanwhile, or another user's
    }
  })
}

/** Ends what a suite left running, and names it. */
function endStrayProcesses(tempDir: string): string[] {
  return strayProcesses(tempDir).map(({pid, command}) => {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended by itself just now; it was left all the same.
    }
    return command
  })
}

/** Mount points in places where tests mount; the rest of the host may change as it likes. */
function mountPoints(): Set<string> {
  const points = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
  return new Set(points.filter((point) => /^\/(tmp|var\/tmp|mnt)\/|imgstore/.test(point)))
}

function strayFiles(): Set<string> {
  const places = ['/tmp', '/var/tmp', '/dev/shm']
  return new Set(
    places
      .filter((place) => existsSync(place))
      .flatMap((place) =>
        readdirSync(place)
          .filter((name) => name.startsWith('imgstore'))
          .map((name) => join(place, name)),
      ),
  )
}
