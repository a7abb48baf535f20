import {nextWords, placeFlags, topicsOf, type CommandModel, type ValueKind} from './model.ts'

/** A completion script for fish. */
export function fishScript(bin: string, models: readonly CommandModel[]): string {
  const topics = topicsOf(models)
  const lines = [
    `# Completion of ${bin} for fish: ${bin} completion fish | source`,
    '# The words of the command so far, without flags.',
    `function __${bin}_at`,
    "  set -l words (string match -v -- '-*' (commandline -opc)[2..-1])",
    '  set -l head $words[1..(count $argv)]',
    '  test "$head" = "$argv"',
    'end',
    `function __${bin}_begins`,
    '  test (count (commandline -opc)) -eq 1',
    'end',
    `function __${bin}_topic`,
    '  set -l words (commandline -opc)',
    '  test (count $words) -eq 2; and test "$words[2]" = $argv[1]',
    'end',
    '# Flags typed so far say where images are. What fish would have to expand is left alone: nothing is run here.',
    `function __${bin}_names`,
    '  set -l where',
    '  set -l flag',
    '  for word in (commandline -opc)[2..-1]',
    '    if test -z "$flag"',
    '      test "$word" = --; and break',
    `      if contains -- $word ${placeFlags.join(' ')}`,
    '        set flag $word',
    '        continue',
    '      end',
    `      string match -qr '^(?:${placeFlags.join('|')})=' -- $word; or continue`,
    "      set flag (string replace -r '=.*' '' -- $word)",
    "      set word (string replace -r '^[^=]*=' '' -- $word)",
    '    end',
    "    string match -qr '[$()*?{]|^~(?!/)' -- $word; and return",
    '    set -a where $flag=(string replace -r \'^~/\' "$HOME/" -- $word)',
    '    set flag',
    '  end',
    '  test -z "$flag"; or return',
    `  ${bin} $argv $where --quiet 2>/dev/null`,
    'end',
    `complete -c ${bin} -f`,
    ...nextWords(models, []).map(
      (next) =>
        `complete -c ${bin} -n __${bin}_begins -a ${quote(next.word)} -d ${quote(next.summary)}`,
    ),
    ...topics.flatMap((topic) =>
      nextWords(models, [topic]).map(
        (next) =>
          `complete -c ${bin} -n ${quote(`__${bin}_topic ${topic}`)} -a ${quote(next.word)} -d ${quote(next.summary)}`,
      ),
    ),
    ...models.flatMap((model) => commandLines(bin, model)),
  ]
  return `${lines.join('\n')}\n`
}

function commandLines(bin: string, model: CommandModel): string[] {
  const at = `complete -c ${bin} -n ${quote(`__${bin}_at ${model.words.join(' ')}`)}`
  const flags = model.flags.map((flag) => {
    const names = flag.names.map((name) =>
      name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`,
    )
    const value = flag.value ? ` ${takes(flag.value)} ${actionOf(bin, flag.value)}`.trimEnd() : ''
    return `${at} ${names.join(' ')}${value} -d ${quote(flag.description)}`
  })
  // Arguments are offered by kind; fish does not count them.
  const kinds = model.args.filter((kind) => kind.kind !== 'other')
  return [...flags, ...kinds.map((kind) => `${at} ${actionOf(bin, kind)}`)]
}

/** A flag that takes a value: any file, or nothing but what is offered. */
function takes(kind: ValueKind): string {
  return kind.kind === 'file' ? '-r' : '-x'
}

function actionOf(bin: string, kind: ValueKind): string {
  switch (kind.kind) {
    case 'choice':
      return `-a ${quote(kind.choices.join(' '))}`
    case 'file':
      return '-F'
    case 'image':
      return `-a ${quote(`(__${bin}_names list)`)}`
    case 'run':
      return `-a ${quote(`(__${bin}_names runs list)`)}`
    case 'other':
      return ''
  }
}

/** fish knows two escapes inside single quotes. */
function quote(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}
