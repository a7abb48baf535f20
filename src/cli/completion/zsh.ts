import {
  nextWords,
  placeFlags,
  quoteWord,
  topicsOf,
  type CommandModel,
  type ValueKind,
} from './model.ts'

/** A completion script for zsh; works sourced, and as a file `_imgstore` in fpath. */
export function zshScript(bin: string, models: readonly CommandModel[]): string {
  const topics = topicsOf(models)
  const lines = [
    `#compdef ${bin}`,
    `# Completion of ${bin} for zsh: source <(${bin} completion zsh)`,
    '# Flags typed so far say where images are. What the shell would have to expand is left alone: nothing is run here.',
    `_${bin}_names() {`,
    '  local -a names where; local i word flag',
    '  for ((i = 2; i < CURRENT; i++)); do',
    '    word=$words[i]',
    '    case $word in',
    '      --) break ;;',
    `      ${placeFlags.join('|')}) flag=$word; ((i++)); word=$words[i]; if ((i >= CURRENT)); then return 1; fi ;;`,
    `      ${placeFlags.map((flag) => `${flag}=*`).join('|')}) flag=\${word%%=*}; word=\${word#*=} ;;`,
    '      *) continue ;;',
    '    esac',
    "    if [[ $word == *['$`']* ]]; then return 1; fi",
    "    if [[ $word == '~/'* ]]; then word=\"${(q)HOME}/${word[3,-1]}\"; elif [[ $word == '~'* ]]; then return 1; fi",
    '    where+=("$flag=${(Q)word}")',
    '  done',
    `  names=(\${(f)"$(${bin} "$@" "\${where[@]}" --quiet 2>/dev/null)"}); compadd -a names`,
    '}',
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
    // With the sign zsh knows a value in the next word and behind the sign.
    const [first = '', second] = flag.names.map((name) =>
      flag.value && name.startsWith('--') ? `${name}=` : name,
    )
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
