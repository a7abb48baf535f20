/** Runs a command as a person would type it: in this process with its output caught, or as a process of its own. */
import {spawn, type ChildProcess, type SpawnOptions} from 'node:child_process'
import {globSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {Config, type Command} from '@oclif/core'
import {captureOutput} from '@oclif/test'

const root = resolve(import.meta.dirname, '../..')
const commandsDir = join(root, 'src/commands')

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

/** Starts a command line as a process of its own, from the sources. */
export function startCommand(words: string[], options: SpawnOptions = {}): ChildProcess {
  const file = join(root, 'test/support/run-command-main.ts')
  return spawn(process.execPath, [file, ...words], {stdio: 'pipe', ...options})
}

/** Waits for a started command; its output is what it wrote from now on. */
export async function finish(child: ChildProcess): Promise<Ran> {
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const exit = await new Promise<number>((done, failed) => {
    child.once('error', failed)
    child.once('close', (code, signal) => done(code ?? (signal === null ? -1 : -2)))
  })
  return {stdout, stderr, exit}
}
