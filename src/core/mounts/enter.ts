/** Runs a program of an image in the image's tree, away from the host: its own mounts, processes, IPC and host name. */
import {spawn, type ChildProcess} from 'node:child_process'
import {randomBytes} from 'node:crypto'
import {closeSync, constants, openSync} from 'node:fs'
import type {Duplex} from 'node:stream'
import {fileURLToPath} from 'node:url'
import {fail, fromSystemError, quote, type ImgstoreError} from '../errors.ts'
import {tryLibc} from '../syscalls/libc.ts'
import {removeControlGroups} from './cgroups.ts'
import {
  baseEnv,
  hostnameOf,
  type EnterDriver,
  type EnterPlan,
  type EnterReport,
} from './enter-plan.ts'
import {findProgram, programEnv} from './programs.ts'

export type RunOptions = {
  /** The active tree. */
  rootDir: string
  /** The program and its parameters; a name without a slash is looked for in the PATH of `env`. */
  command: string[]
  /** The image's name; becomes the host name. */
  name: string
  /** Absolute, inside the image. */
  cwd?: string
  /** Added to a clean PATH, HOME, TERM and LANG. */
  env?: Record<string, string>
  /** `uid`, `uid:gid`, `name` or `name:group` of the image; root if not given. */
  user?: string
  /** Default: none. The image's own /etc/resolv.conf is used as it is. */
  network?: 'host' | 'none'
  /** `auto` takes runc where it is installed, else unshare. */
  driver: 'auto' | EnterDriver
  /** Aborting asks the program to end (SIGTERM, if no signal was forwarded), and after `graceMs` kills it. */
  signal?: AbortSignal
  /** `inherit`: the terminal or files of this process. `pipe`: no input, and the output is in the result. */
  stdio: 'inherit' | 'pipe'
  graceMs?: number
}

export type RunResult = {
  /** The program's own, or 128 + N when signal N ended it. */
  exitCode: number
  /** The signal that ended the program, where that is known (not with runc). */
  signal?: string
  /** With `pipe`: what the program wrote, cut off at `runOutputBytesMax` each. */
  stdout?: string
  stderr?: string
}

export const runOutputBytesMax = 1024 * 1024

// Long enough for a database to close, shorter than the ten seconds that a service manager's patience has left.
const defaultGraceMs = 5000

// Never the parent's own affair: its end, its children, its windows, its stops.
const forwarded: NodeJS.Signals[] = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2']

/**
 * Runs a program in an image and waits for its end.
 *
 * Shape: needs root, util-linux's unshare and koffi. While it runs and shares the terminal, this process does
 * not die of Ctrl-C and the like: they are the program's, and its exit status comes back.
 * Guarantees: nothing of the program outlives this process, however it ends; no mount appears on the host; the
 * program cannot reach the host's files by any link in the image; the tree cannot be unmounted meanwhile.
 * Errors: command_failed (no such program, or the image is unfit), host_lacks, interrupted (killed after an abort; one that ended by itself gives its exit code).
 */
export async function runInRoot(options: RunOptions): Promise<RunResult> {
  const {unshare, runc} = findPrograms(options.driver)
  const plan = makePlan(options, runc)
  // Keeps the mount busy: else it could be unmounted and mounted again below a running program.
  const held = holdRoot(options.rootDir)
  try {
    if (options.signal?.aborted === true) throw interrupted(options.command)
    return await runPlan(plan, unshare, options)
  } finally {
    closeSync(held)
  }
}

function holdRoot(rootDir: string): number {
  try {
    return openSync(rootDir, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  } catch (error) {
    throw fromSystemError(error, rootDir, 'open')
  }
}

function findPrograms(driver: RunOptions['driver']): {unshare: string; runc: string | undefined} {
  const need = 'run programs in an image'
  if (process.geteuid?.() !== 0) throw fail('host_lacks', {what: 'root', need})
  const reason = tryLibc()
  if (reason instanceof Error) {
    throw fail('host_lacks', {what: 'koffi (foreign function calls)', need}, {cause: reason})
  }
  const unshare = findProgram('unshare')
  if (unshare === undefined) throw fail('host_lacks', {what: 'unshare (package util-linux)', need})
  const runc = driver === 'unshare' ? undefined : findProgram('runc')
  if (driver === 'runc' && runc === undefined) throw fail('host_lacks', {what: 'runc', need})
  return {unshare, runc}
}

function makePlan(options: RunOptions, runc: string | undefined): EnterPlan {
  const texts = [
    ...options.command,
    ...Object.entries(options.env ?? {}).flat(),
    options.cwd ?? '/',
  ]
  const command = options.command[0] ?? ''
  if (command === '' || texts.some((text) => text.includes('\0'))) {
    throw fail('command_failed', {command, reason: 'it is empty or holds a NUL character'})
  }
  const cwd = options.cwd ?? '/'
  if (!cwd.startsWith('/')) {
    throw fail('command_failed', {command, reason: `the directory ${quote(cwd)} is not absolute`})
  }
  const isTerminal = options.stdio === 'inherit' && process.stdin.isTTY && process.stdout.isTTY
  return {
    rootDir: options.rootDir,
    command: options.command,
    hostname: hostnameOf(options.name),
    cwd,
    env: {...baseEnv(isTerminal), ...options.env},
    user: options.user,
    isTerminal,
    hasHostNetwork: options.network === 'host',
    runc:
      runc === undefined
        ? undefined
        : {program: runc, id: `imgstore-${randomBytes(8).toString('hex')}`},
  }
}

// A program of its own, beside this file as source and as built code; nobody imports it.
function initFile(): string {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  return fileURLToPath(new URL(`enter-init.${extension}`, import.meta.url))
}

function launch(plan: EnterPlan, unshare: string, stdio: RunOptions['stdio']): ChildProcess {
  // Slave: an unmount on the host is seen here too, so a run never keeps a foreign mount alive; nothing goes back.
  const namespaces = ['--mount', '--propagation', 'slave', '--pid', '--fork', '--kill-child']
  // runc makes its own; it needs a /proc that fits the pid namespace.
  const more =
    plan.runc !== undefined
      ? ['--mount-proc']
      : ['--ipc', '--uts', ...(plan.hasHostNetwork ? [] : ['--net'])]
  const own = [process.execPath, '--disable-sigusr1', '--no-warnings', initFile()]
  const streams = stdio === 'inherit' ? 'inherit' : 'pipe'
  return spawn(unshare, [...namespaces, ...more, '--', ...own], {
    env: programEnv,
    cwd: '/',
    stdio: [stdio === 'inherit' ? 'inherit' : 'ignore', streams, streams, 'pipe'],
  })
}

async function runPlan(plan: EnterPlan, unshare: string, options: RunOptions): Promise<RunResult> {
  const child = launch(plan, unshare, options.stdio)
  const line = child.stdio[3] as Duplex
  const stdout = collect(child.stdout)
  const stderr = collect(child.stderr)
  const reports = readReports(line)
  line.write(`${JSON.stringify(plan)}\n`)
  let wasTold = false
  const tell = (signal: NodeJS.Signals): void => {
    wasTold = true
    if (line.writable) line.write(`${signal}\n`)
  }
  const stopForwarding = options.stdio === 'inherit' ? forwardSignals(tell) : (): void => undefined
  let timer: NodeJS.Timeout | undefined
  const abort = (): void => {
    // After all listeners of a signal that both aborts and is forwarded: the program gets it once.
    setImmediate(() => {
      if (!wasTold) tell('SIGTERM')
    })
    // Killing unshare kills the first process of the pid namespace, and so all of it.
    timer = setTimeout(() => child.kill('SIGKILL'), options.graceMs ?? defaultGraceMs)
  }
  options.signal?.addEventListener('abort', abort, {once: true})
  try {
    const code = await ended(child)
    const report = (await reports).at(-1)
    const hasEnded = report !== undefined && 'exitCode' in report
    if (options.signal?.aborted === true && !hasEnded) throw interrupted(plan.command)
    return {
      ...outcome(report, code, plan),
      ...(options.stdio === 'pipe' ? {stdout: stdout(), stderr: stderr()} : {}),
    }
  } finally {
    clearTimeout(timer)
    options.signal?.removeEventListener('abort', abort)
    stopForwarding()
    if (plan.runc !== undefined) removeControlGroups(plan.runc.id, Date.now())
  }
}

function interrupted(command: string[]): ImgstoreError {
  return fail('interrupted', {what: `the program ${quote(command[0] ?? '')}`})
}

function ended(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) =>
      reject(
        fail('host_lacks', {what: 'unshare', need: 'run programs in an image'}, {cause: error}),
      ),
    )
    child.once('close', (code) => resolve(code ?? 137))
  })
}

function outcome(report: EnterReport | undefined, code: number, plan: EnterPlan): RunResult {
  const command = plan.command[0] ?? ''
  if (report === undefined) {
    const reason = `its namespaces could not be made (unshare ended with ${code})`
    throw fail('command_failed', {command, reason})
  }
  if ('exitCode' in report) {
    return {
      exitCode: report.exitCode,
      ...(report.signal === undefined ? {} : {signal: report.signal}),
    }
  }
  // Started, and then the first process was gone without a word: it was killed.
  if ('started' in report) return {exitCode: 137, signal: 'SIGKILL'}
  if (report.problem === 'internal') throw fail('internal', {reason: report.reason})
  throw fail('command_failed', {command, reason: report.reason})
}

async function readReports(line: Duplex): Promise<EnterReport[]> {
  let text = ''
  line.setEncoding('utf8')
  try {
    for await (const chunk of line) text += chunk as string
  } catch {
    // Reset when the other end was killed: what came before counts.
  }
  return text
    .split('\n')
    .filter((entry) => entry !== '')
    .map((entry) => JSON.parse(entry) as EnterReport)
}

function collect(stream: ChildProcess['stdout']): () => string {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  stream?.on('data', (chunk: Buffer) => {
    if (sizeBytes < runOutputBytesMax) chunks.push(chunk)
    sizeBytes += chunk.length
  })
  return () => Buffer.concat(chunks).toString('utf8', 0, runOutputBytesMax)
}

/** Hands this process's signals to the program until the returned function is called. */
function forwardSignals(tell: (signal: NodeJS.Signals) => void): () => void {
  const handler = (signal: NodeJS.Signals): void => {
    // At a terminal the kernel has sent these to the program already, as it is in the foreground with us.
    if (process.stdin.isTTY && (signal === 'SIGINT' || signal === 'SIGQUIT')) return
    tell(signal)
  }
  for (const signal of forwarded) process.on(signal, handler)
  return () => {
    for (const signal of forwarded) process.off(signal, handler)
  }
}
