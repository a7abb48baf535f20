/** The built program as its users run it, in a place of its own, and no trace of it afterwards. */
import {spawn, spawnSync, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'

/** The program under test; another build may be named, so that two builds can be tried side by side. */
export const program = process.env['IMGSTORE_TEST_PROGRAM'] ?? resolve('bin/imgstore')

export type Ran = {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export type Running = {
  child: ChildProcess
  pid: number
  /** What it printed so far. */
  out: {stdout: string; stderr: string}
  exited: Promise<Ran>
  isOver: boolean
  kill(signal: NodeJS.Signals): void
}

export type StartOptions = {
  env?: Record<string, string>
  cwd?: string
  /** Another program than imgstore. */
  command?: string
}

/** A directory with a store, and the processes that were started on it. */
export class Scene {
  readonly dir: string
  readonly store: string
  readonly db: string
  /** For every process started here. */
  readonly env: Record<string, string> = {}
  readonly #groups = new Set<number>()
  #isClosed = false

  /** `subdir` names a directory between the temporary one and the store. */
  constructor(subdir = '') {
    this.dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    const home = join(this.dir, subdir)
    mkdirSync(home, {recursive: true})
    this.store = join(home, 'store')
    this.db = join(home, 'store.db')
    open.add(this)
  }

  /** Starts the program in a process group of its own, with none of the host's settings. */
  start(args: readonly string[], o: StartOptions = {}): Running {
    // The body of a test that ran out of time goes on behind mocha's back.
    if (this.#isClosed) throw new Error('the scene is over')
    const inherited = ['PATH', 'TMPDIR', 'NODE_V8_COVERAGE'].flatMap((name) => {
      const value = process.env[name]
      return value === undefined ? [] : [[name, value] as const]
    })
    const child = spawn(o.command ?? program, args, {
      cwd: o.cwd ?? this.dir,
      env: {
        ...Object.fromEntries(inherited),
        HOME: this.dir,
        LANG: 'C.UTF-8',
        IMGSTORE_STORE_PATH: this.store,
        IMGSTORE_DB_PATH: this.db,
        IMGSTORE_BACKEND: process.env['IMGSTORE_TEST_BACKEND'] ?? 'dir',
        ...this.env,
        ...o.env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    const pid = child.pid ?? 0
    this.#groups.add(pid)
    const out = {stdout: '', stderr: ''}
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out.stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (out.stderr += text))
    const running: Running = {
      child,
      pid,
      out,
      isOver: false,
      exited: once(child, 'close').then(([code, signal]) => {
        running.isOver = true
        // Its number may be another's soon, when nobody of the group is left.
        if (!isAlive(pid)) this.#groups.delete(pid)
        return {code: code as number | null, signal: signal as NodeJS.Signals | null, ...out}
      }),
      kill: (signal) => {
        if (!running.isOver) process.kill(pid, signal)
      },
    }
    return running
  }

  /** Runs the program to its end. */
  async run(args: readonly string[], o: StartOptions = {}): Promise<Ran> {
    return await this.start(args, o).exited
  }

  /** Runs a command that must do well, and gives what it printed. */
  async ok(args: readonly string[], o: StartOptions = {}): Promise<string> {
    const ran = await this.run(args, o)
    if (ran.code !== 0)
      throw new Error(
        `${args.join(' ')}: exit ${ran.code ?? ran.signal}\n${ran.stdout}${ran.stderr}`,
      )
    return ran.stdout
  }

  /** Runs a command with --json, and gives its result. */
  async json<T = Record<string, unknown>>(args: readonly string[]): Promise<T> {
    return JSON.parse(await this.ok([...args, '--json'])) as T
  }

  /** Processes of this scene, their children included, that still live. */
  processes(): number[] {
    return readdirSync('/proc').flatMap((name) => {
      if (!/^\d+$/.test(name)) return []
      const stat = processStat(name)
      return stat && this.#groups.has(stat.group) && stat.state !== 'Z' ? [Number(name)] : []
    })
  }

  /** Waits a moment for processes that are just ending, and gives those that are left. */
  async processesLeft(): Promise<number[]> {
    for (let i = 0; i < 40 && this.processes().length > 0; i++) await sleep(50)
    return this.processes()
  }

  mounts(): string[] {
    return mountsBelow(this.dir).map((entry) => entry.mountPoint)
  }

  /** Ends every process, unmounts everything, removes every file: also when a test failed or ran out of time. */
  close(): void {
    open.delete(this)
    this.#isClosed = true
    for (const group of this.#groups) killGroup(group)
    for (const point of this.mounts().reverse()) {
      if (spawnSync('umount', [point]).status !== 0) spawnSync('umount', ['--lazy', point])
    }
    if (this.mounts().length > 0) throw new Error(`still mounted: ${this.mounts().join(', ')}`)
    rmSync(this.dir, {recursive: true, force: true, maxRetries: 5})
  }
}

function processStat(pid: string): {state: string; group: number} | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return {state: fields[0] ?? '', group: Number(fields[2])}
  } catch {
    return undefined
  }
}

/** Whether anybody of a group is left. */
function isAlive(group: number): boolean {
  try {
    process.kill(-group, 0)
    return true
  } catch {
    return false
  }
}

function killGroup(group: number): void {
  try {
    process.kill(-group, 'SIGKILL')
  } catch {
    // Nobody of it is left.
  }
}

const open = new Set<Scene>()
process.once('exit', () => {
  for (const scene of open) scene.close()
})

/** Call first in a `describe`: gives its tests scenes, and takes them away after each of them. */
export function useScenes(): (subdir?: string) => Scene {
  const made: Scene[] = []
  afterEach('takes the scene away', () => {
    for (const scene of made.splice(0)) scene.close()
  })
  return (subdir) => {
    const scene = new Scene(subdir)
    made.push(scene)
    return scene
  }
}

/** Resolves once `look` gives something; fails after a long while, saying what was waited for. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 30_000,
): Promise<T> {
  const end = performance.now() + timeoutMs
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false) return found
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`)
    await sleep(40)
  }
}
