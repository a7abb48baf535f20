/** What a shell needs to know about the commands, taken from their statics (or the manifest made of them). */
import type {Command} from '@oclif/core'

export const shells = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof shells)[number]

/** What the value of a flag or an argument is, as far as a shell can help with it. */
export type ValueKind =
  | {kind: 'choice'; choices: readonly string[]}
  | {kind: 'file'}
  | {kind: 'image'}
  | {kind: 'run'}
  | {kind: 'other'}

export type FlagModel = {
  /** With its dashes: `--store`, `-q`. */
  names: string[]
  description: string
  /** Absent for a flag that takes none. */
  value?: ValueKind
}

export type CommandModel = {
  /** Words a person types: `['runs', 'list']`. */
  words: string[]
  summary: string
  flags: FlagModel[]
  /** In order. */
  args: ValueKind[]
}

/** Every command that is not hidden, with its aliases, by name. */
export function modelOf(commands: readonly Command.Loadable[]): CommandModel[] {
  return commands
    .filter((command) => !command.hidden)
    .map((command) => modelOfOne(command))
    .toSorted((a, b) => (a.words.join(' ') < b.words.join(' ') ? -1 : 1))
}

function modelOfOne(command: Command.Loadable): CommandModel {
  return {
    words: command.id.split(':'),
    summary: firstSentence(command.summary ?? command.description ?? ''),
    flags: Object.entries(command.flags)
      .filter(([, flag]) => !flag.hidden)
      .flatMap(([name, flag]) => flagModels(name, flag)),
    args: Object.entries(command.args).map(([name, arg]) => argKind(command.id, name, arg)),
  }
}

function flagModels(name: string, flag: Command.Flag.Any): FlagModel[] {
  const names = [`--${name}`, ...(flag.char === undefined ? [] : [`-${flag.char}`])]
  const description = firstSentence(flag.summary ?? flag.description ?? '')
  if (flag.type === 'option') return [{names, description, value: flagKind(flag)}]
  const plain: FlagModel = {names, description}
  return flag.allowNo ? [plain, {names: [`--no-${name}`], description}] : [plain]
}

function flagKind(flag: {options?: readonly string[]; helpValue?: string | string[]}): ValueKind {
  if (flag.options) return {kind: 'choice', choices: flag.options}
  return flag.helpValue === '<path>' ? {kind: 'file'} : {kind: 'other'}
}

function argKind(commandId: string, name: string, arg: Command.Arg.Any): ValueKind {
  if (arg.options) return {kind: 'choice', choices: arg.options}
  // The name that fetch takes is a new one.
  if (name === 'name' && commandId !== 'fetch') return {kind: 'image'}
  if (name === 'id' && commandId.startsWith('runs:')) return {kind: 'run'}
  return {kind: 'other'}
}

function firstSentence(text: string): string {
  const line = text.split('\n')[0] ?? ''
  return /^(.*?[^.])\.(\s|$)/.exec(line)?.[1] ?? line
}

/** The words that may follow `words`: subcommands of a topic, or commands at the beginning. */
export function nextWords(
  models: readonly CommandModel[],
  words: readonly string[],
): {word: string; summary: string}[] {
  const next = new Map<string, string>()
  for (const model of models) {
    const word = model.words[words.length]
    if (word === undefined || !words.every((w, i) => model.words[i] === w)) continue
    const isWhole = model.words.length === words.length + 1
    if (isWhole || !next.has(word))
      next.set(word, isWhole ? model.summary : `Commands about ${word}`)
  }
  return [...next].map(([word, summary]) => ({word, summary}))
}

/** The topics: words that only begin a command. */
export function topicsOf(models: readonly CommandModel[]): string[] {
  const firsts = models.filter((m) => m.words.length > 1).map((m) => m.words[0] ?? '')
  return [...new Set(firsts)]
}

/** Flags that say where images are: the names that are offered come from there too. */
export const placeFlags = ['--store', '--db', '--config'] as const

/** A word that every shell here takes literally. */
export function quoteWord(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
