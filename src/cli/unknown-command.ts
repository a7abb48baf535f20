/**
 * oclif's hook for words that are no command: one message, the nearest command that there is, exit 2. But `help`, before the
 * name of a command or topic or alone, is another way to ask for --help.
 *
 * The built program loads this file beside its bundle, and only then; so it imports nothing heavy.
 */
import type {Interfaces} from '@oclif/core'
import {errorToJson, fail, quote} from '../core/errors.ts'
import {plainJson} from '../core/log.ts'

type Host = {config: Interfaces.Config; exit(code: number): never}

/** Called by oclif with what was typed; `id` is its beginning, joined by colons. */
export default async function unknownCommand(
  this: Host,
  {id, argv}: {id: string; argv: readonly string[]},
): Promise<void> {
  const {bin, commandIDs, topics} = this.config
  const commands = commandIDs.map((command) => command.replaceAll(':', ' '))
  const words = [...id.split(':'), ...argv]
  const isHelp = words[0] === 'help'
  const typed = isHelp ? words.slice(1).filter((word) => !word.startsWith('-')) : words
  const about =
    commands.find((command) => startsWith(typed, command)) ??
    ['', ...topics.map(({name}) => name)].find((name) => name === typed.join(' '))
  if (isHelp && about !== undefined) {
    await showHelp(this.config, about)
    return
  }
  const topic = topics.find(({name}) => name === typed[0])?.name
  const {reason, hint} = answerTo(typed, {bin, commands, topic})
  const error = fail('wrong_usage', {reason})
  const end = words.indexOf('--')
  if (words.slice(0, end < 0 ? undefined : end).includes('--json')) {
    const json = {error: {...errorToJson(error), hint}}
    process.stdout.write(`${plainJson(JSON.stringify(json, null, 2))}\n`)
  } else {
    process.stderr.write(`Error: ${error.message}\nTry: ${hint}\n`)
  }
  this.exit(error.exit)
}

/** As main.run of oclif does for --help. */
async function showHelp(config: Interfaces.Config, about: string): Promise<void> {
  const {loadHelpClass} = await import('@oclif/core')
  const Help = await loadHelpClass(config)
  await new Help(config, config.pjson.oclif.helpOptions).showHelp(about.split(' ').filter(Boolean))
}

type Known = {bin: string; commands: readonly string[]; topic: string | undefined}

function answerTo(typed: readonly string[], known: Known): {reason: string; hint: string} {
  const {bin, commands, topic} = known
  const [first = ''] = typed
  if (first.startsWith('-')) {
    const reason = `flags come after the command, and ${quote(first)} is before it`
    return {reason, hint: `${bin} --help`}
  }
  const reason = `there is no command ${quote(typed.slice(0, topic ? 2 : 1).join(' '))}`
  const candidates = commands.filter((command) => !topic || command.startsWith(`${topic} `))
  const nearest = nearestOf(typed, candidates)
  const help = topic ? `${bin} ${topic} --help` : `${bin} --help`
  return {reason, hint: nearest === undefined ? help : `${bin} ${nearest}, or ${help}`}
}

function startsWith(words: readonly string[], name: string): boolean {
  return name.split(' ').every((word, index) => words[index] === word)
}

/** The command that is fewest letters away from the beginning of what was typed, if that is near. */
function nearestOf(typed: readonly string[], commands: readonly string[]): string | undefined {
  const ranked = commands
    .map((command) => {
      const wanted = command.split(' ')
      const last = wanted.at(-1) ?? ''
      // Of a topic's commands the first word is right already.
      const word = (typed[wanted.length - 1] ?? '').toLowerCase()
      return {command, letters: last.length, distance: editDistance(word, last)}
    })
    .toSorted((a, b) => a.distance - b.distance)
  const [best] = ranked
  // A third of the letters may be wrong: with more the words have nothing to do with each other.
  return best && best.distance <= Math.max(1, Math.floor(best.letters / 3))
    ? best.command
    : undefined
}

/** How many letters must be put in, taken out, changed or swapped with their neighbour to make `b` of `a`. */
export function editDistance(a: string, b: string): number {
  // Nobody types such a command, and the work grows with both lengths.
  if (a.length > 64) return a.length
  let before: number[] = []
  let last = Array.from({length: b.length + 1}, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let least = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, (before[j - 2] ?? 0) + 1)
      row.push(least)
    }
    before = last
    last = row
  }
  return last[b.length] ?? 0
}
