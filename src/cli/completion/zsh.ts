import {nextWords, quoteWord, topicsOf, type CommandModel, type ValueKind} from './model.ts'

/** A completion script for zsh; works sourced, and as a file `_imgstore` in fpath. */
export function zshScript(bin: string, models: readonly CommandModel[]): string {
  const topics = topicsOf(models)
  const lines = [
    `#compdef ${bin}`,
    `# Completion of ${bin} for zsh: source <(${bin} completion zsh)`,
    `_${bin}_names() { local -a names; names=(\${(f)"$(${bin} "$@" --quiet 2>/dev/null)"}); compadd -a names }`,
    `_${bin}() {`,
    '  local -a next',
    '  if ((CURRENT == 2)); then',
    `    next=(${describeWords(models, [])})`,
    '    _describe command next; return',
    '  fi',
    '  local command=$words[2]; integer drop=1',
    '  case $command in',
    ...topics.flatMap((topic) => [
      `    ${topic})`,
      '      if ((CURRENT == 3)); then',
      `        next=(${describeWords(models, [topic])})`,
      '        _describe command next; return',
      '      fi',
      '      command="$command $words[3]"; drop=2 ;;',
    ]),
    '  esac',
    '  # _arguments wants the command as the first word.',
    '  shift $drop words; ((CURRENT -= drop))',
    '  case $command in',
    ...models.flatMap((model) => [
      `    ${quoteWord(model.words.join(' '))})`,
      `      _arguments -s -S ${specs(bin, model).join(' \\\n        ')} ;;`,
    ]),
    '  esac',
    '}',
    `if [[ $funcstack[1] == _${bin} ]]; then _${bin} "$@"; else compdef _${bin} ${bin}; fi`,
  ]
  return `${lines.join('\n')}\n`
}

function describeWords(models: readonly CommandModel[], words: readonly string[]): string {
  return nextWords(models, words)
    .map((next) => quoteWord(`${next.word}:${next.summary}`))
    .join(' ')
}

function specs(bin: string, model: CommandModel): string[] {
  const flags = model.flags.map((flag) => {
    const text = `[${flag.description.replaceAll(/[[\]\\]/g, (c) => `\\${c}`)}]`
    const value = flag.value ? `:value:${actionOf(bin, flag.value)}` : ''
    const [first = '', second] = flag.names
    if (second === undefined) return quoteWord(`${first}${text}${value}`)
    return `'(${flag.names.join(' ')})'{${first},${second}}${quoteWord(text + value)}`
  })
  const args = model.args.map((kind, index) =>
    quoteWord(`${index + 1}:argument:${actionOf(bin, kind)}`),
  )
  return [...flags, ...args, quoteWord('*::argument:_files')]
}

function actionOf(bin: string, kind: ValueKind): string {
  switch (kind.kind) {
    case 'choice':
      return `(${kind.choices.join(' ')})`
    case 'file':
      return '_files'
    case 'image':
      // The space keeps _arguments from adding words of its own.
      return ` _${bin}_names list`
    case 'run':
      return ` _${bin}_names runs list`
    case 'other':
      // Nothing to offer. A message instead would keep zsh from completing the flag that is typed.
      return '()'
  }
}
