/** Runs a command as a person would type it: in this process with its output caught, or as a process of its own. */
import {spawn, type ChildProcess, type SpawnOptions} from 'node:child_process'
import {globSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {Config, type Command} from '@oclif/core'
import {captureOutput} from '@oclif/test'

const root = resolve(import.meta.dirname, '../..')
const commandsDir = join(root, 'src/commands')

/** Where Node keeps what it compiled of our sources: a process then starts in half the time. */
export const compileCache = join(root, '.cache/compile')

export type Ran = {stdout: string; stderr: string; exit: number}

/** Ids of all commands, with spaces, from the files that hold them. */
export function commandIds(): string[] {
  return globSync('**/*.ts', {cwd: commandsDir})
    .map((file) => file.replace(/\.ts$/, '').replaceAll('/', ' '))
    .toSorted()
}

/** The class of a command, made known to oclif as it makes itself. */
export async function loadCommand(id: string): Promise<Command.Class> {
  const file = join(commandsDir, `${id.replaceAll(' ', '/')}.ts`)
  const {default: command} = (await import(file)) as {default: Command.Class}
  command.id = id.replaceAll(' ', ':')
  return command
}

export async function loadConfig(): Promise<Config> {
  const config = await Config.load({root})
  // The user's own settings must not reach a test.
  config.configDir = '/nonexistent'
  config.dataDir = '/nonexistent'
  return config
}

/** Runs a command line (without the program's name) in this process, as in a pipe: nothing here is a terminal. */
export async function runCommand(...words: string[]): Promise<Ran> {
  const {command, rest} = await findCommand(words)
  const config = await loadConfig()
  const isTerminal = process.stdout.isTTY
  process.stdout.isTTY = false
  try {
    const {stdout, stderr, error} = await captureOutput(async () => command.run(rest, config))
    return {stdout, stderr, exit: exitOf(error)}
  } finally {
    process.stdout.isTTY = isTerminal
  }
}

export async function findCommand(
  words: string[],
): Promise<{command: Command.Class; rest: string[]}> {
  const ids = commandIds()
  for (const length of [2, 1]) {
    const id = words.slice(0, length).join(' ')
    if (ids.includes(id)) return {command: await loadCommand(id), rest: words.slice(length)}
  }
  throw new Error(`no command in: ${words.join(' ')}`)
}

function exitOf(error: (Error & {oclif?: {exit?: number | undefined}}) | undefined): number {
  if (error === undefined) return 0
  if (error.oclif?.exit === undefined) throw error
  return error.oclif.exit
}

export type Started = {
  child: ChildProcess
  /** What it has written so far. */
  output: {stdout: string; stderr: string}
  ended: Promise<Ran>
}

/** Starts a command line as a process of its own, from the sources; `by` is a program that starts it for us. */
export function startCommand(
  words: string[],
  {by = [], ...options}: SpawnOptions & {by?: string[]} = {},
): Started {
  const file = join(root, 'test/support/run-command-main.ts')
  const [program = '', ...rest] = [...by, process.execPath, file, ...words]
  const env = {...process.env, NODE_COMPILE_CACHE: compileCache, ...options.env}
  const child = spawn(program, rest, {stdio: 'pipe', ...options, env})
  const output = {stdout: '', stderr: ''}
  child.stdout?.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()))
  child.stderr?.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()))
  const ended = new Promise<Ran>((resolveEnded, rejectEnded) => {
    child.once('error', rejectEnded)
    child.once('close', (code, signal) => {
      if (code === null) rejectEnded(new Error(`ended by ${signal ?? 'nothing'}`))
      else resolveEnded({...output, exit: code})
    })
  })
  return {child, output, ended}
}

/** Waits until `isSo`; what it waits for comes from another process or a server, so it is looked for again and again. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((tick) => setTimeout(tick, 20))
}
