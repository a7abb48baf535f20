/** The built worker as a child process: its log as it comes, its exit, and no trace of it afterwards. */
import {spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {resolve} from 'node:path'
import {createInterface} from 'node:readline'

export type LogLine = {level: string; time: string; msg: string} & Record<string, unknown>

export type WorkerProcess = {
  child: ChildProcess
  pid: number
  /** Every line of standard error so far, as it came. */
  lines: string[]
  log(): LogLine[]
  /** Resolves with the first line of this message, from the `after`th on; rejects when the worker ends before. */
  waitFor(message: string, after?: number): Promise<LogLine>
  /** Resolves when the process is gone. */
  exited: Promise<{code: number | null; signal: NodeJS.Signals | null}>
}

const running = new Set<ChildProcess>()

/** Starts `bin/imgstore worker …` with a JSON log. */
export function startWorker(
  args: readonly string[],
  o: {env?: Record<string, string>; cwd: string},
): WorkerProcess {
  const child = spawn(resolve('bin/imgstore'), ['worker', '--log-format', 'json', ...args], {
    cwd: o.cwd,
    env: {PATH: process.env['PATH'] ?? '', HOME: o.cwd, ...o.env},
    stdio: ['ignore', 'inherit', 'pipe'],
  })
  running.add(child)
  const lines: string[] = []
  let wake: (() => void) | undefined
  createInterface({input: child.stderr}).on('line', (line) => {
    lines.push(line)
    wake?.()
  })
  const exited = once(child, 'close').then(([code, signal]) => {
    running.delete(child)
    wake?.()
    return {code: code as number | null, signal: signal as NodeJS.Signals | null}
  })
  const log = (): LogLine[] =>
    lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as LogLine)
  return {
    child,
    pid: child.pid ?? 0,
    lines,
    log,
    exited,
    waitFor: async (message, after = 0) => {
      for (;;) {
        const found = log()
          .slice(after)
          .find(({msg}) => msg === message)
        if (found) return found
        if (!running.has(child))
          throw new Error(`the worker ended before "${message}":\n${lines.join('\n')}`)
        await new Promise<void>((resolveWait) => {
          wake = resolveWait
        })
      }
    },
  }
}

/** Ends what a failed test left behind. Call in `afterEach`. */
export async function killWorkers(): Promise<void> {
  const left = [...running].map(async (child) => {
    const gone = once(child, 'close')
    child.kill('SIGKILL')
    await gone
  })
  await Promise.all(left)
}
