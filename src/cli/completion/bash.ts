import {nextWords, placeFlags, topicsOf, type CommandModel, type ValueKind} from './model.ts'

/** A completion script for bash, without bash-completion. */
export function bashScript(bin: string, models: readonly CommandModel[]): string {
  const topics = topicsOf(models)
  const words = (list: readonly string[]): string => `'${list.join(' ')}'`
  const lines = [
    `# Completion of ${bin} for bash: source <(${bin} completion bash)`,
    `_${bin}() {`,
    '  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} first=2 n=0 i',
    '  COMPREPLY=()',
    "  # bash takes '=' for a word of its own.",
    '  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi',
    `  if ((COMP_CWORD == 1)); then _${bin}_words ${words(nextWords(models, []).map((n) => n.word))}; return; fi`,
    '  case $command in',
    ...topics.map(
      (topic) =>
        `    ${topic}) if ((COMP_CWORD == 2)); then _${bin}_words ${words(nextWords(models, [topic]).map((n) => n.word))}; return; fi; command="$command \${COMP_WORDS[2]}"; first=3 ;;`,
    ),
    '  esac',
    "  # After '--' comes another program's business.",
    '  for ((i = first; i < COMP_CWORD; i++)); do',
    `    if [[ \${COMP_WORDS[i]} == -- ]]; then _${bin}_files; return; fi`,
    '  done',
    '  # Which flag, if any, the word belongs to; and which argument it is.',
    '  case "$command:$prev" in',
    ...models.flatMap((model) => valueCases(bin, model)),
    '  esac',
    '  for ((i = first; i < COMP_CWORD; i++)); do',
    '    case "$command:${COMP_WORDS[i]}" in',
    ...models.flatMap((model) => {
      const taking = model.flags.filter((flag) => flag.value).flatMap((flag) => flag.names)
      if (taking.length === 0) return []
      return [
        `      ${taking.map((name) => caseWord(model, name)).join('|')}) if [[ \${COMP_WORDS[i+1]} == = ]]; then ((i += 2)); else ((i++)); fi ;;`,
      ]
    }),
    '      *:-*) ;;',
    '      *) ((n++)) ;;',
    '    esac',
    '  done',
    '  if [[ $cur == -* ]]; then',
    '    case $command in',
    ...models.map(
      (model) =>
        `      ${commandWord(model)}) _${bin}_words ${words(model.flags.flatMap((flag) => flag.names.filter((n) => n.startsWith('--'))))} ;;`,
    ),
    '    esac',
    '    return',
    '  fi',
    '  case "$command:$n" in',
    ...models.flatMap((model) =>
      model.args.flatMap((kind, index) => {
        const action = actionOf(bin, kind)
        return action === undefined ? [] : [`    ${caseWord(model, String(index))}) ${action} ;;`]
      }),
    ),
    '  esac',
    '}',
    `_${bin}_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }`,
    `_${bin}_files() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); }`,
    '# The literal meaning of a word as it was typed. Fails for what a shell would have to expand: nothing is run here.',
    `_${bin}_literal() {`,
    '  local word=$1',
    "  if [[ $word == *['$`']* ]]; then return 1; fi",
    '  if [[ $word =~ ^\\\'([^\\\']*)\\\'$ || $word =~ ^\\"([^\\"\\\\]*)\\"$ ]]; then REPLY=${BASH_REMATCH[1]}; return; fi',
    `  if [[ $word == *['"*?[{<>|&;()']* || $word == *"'"* || $word == *'\\\\'* ]]; then return 1; fi`,
    '  word=${word//\\\\/}',
    "  if [[ $word == '~/'* ]]; then word=$HOME/${word:2}; elif [[ $word == '~'* ]]; then return 1; fi",
    '  REPLY=$word',
    '}',
    '# The flags typed so far that say where images are; fails when their values cannot be told.',
    `_${bin}_where() {`,
    '  local i flag',
    '  where=()',
    '  for ((i = 1; i < COMP_CWORD; i++)); do',
    '    flag=${COMP_WORDS[i]}',
    '    case $flag in',
    '      --) break ;;',
    `      ${placeFlags.join('|')})`,
    '        ((i++))',
    '        if [[ ${COMP_WORDS[i]} == = ]]; then ((i++)); fi',
    '        # bash cuts a word at colons.',
    `        if ((i >= COMP_CWORD)) || [[ \${COMP_WORDS[i+1]} == :* ]] || ! _${bin}_literal "\${COMP_WORDS[i]}"; then return 1; fi`,
    '        where+=("$flag=$REPLY") ;;',
    `      ${placeFlags.map((flag) => `${flag}=*`).join('|')})`,
    `        if ! _${bin}_literal "\${flag#*=}"; then return 1; fi`,
    '        where+=("${flag%%=*}=$REPLY") ;;',
    '    esac',
    '  done',
    '}',
    "# Names come from a database that may be anybody's. They never pass through compgen -W, which would run a",
    '# command substitution in them.',
    `_${bin}_names() {`,
    '  local name REPLY; local -a where',
    `  _${bin}_where || return 0`,
    '  while IFS= read -r name; do',
    '    if [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ && $name == "$cur"* ]]; then COMPREPLY+=("$name"); fi',
    `  done < <(${bin} "$@" "\${where[@]}" --quiet 2>/dev/null)`,
    '}',
    `complete -F _${bin} ${bin}`,
  ]
  return `${lines.join('\n')}\n`
}

function valueCases(bin: string, model: CommandModel): string[] {
  return model.flags.flatMap((flag) => {
    if (!flag.value) return []
    const action = actionOf(bin, flag.value) ?? ':'
    return [`    ${flag.names.map((n) => caseWord(model, n)).join('|')}) ${action}; return ;;`]
  })
}

function commandWord(model: CommandModel): string {
  return `'${model.words.join(' ')}'`
}

function caseWord(model: CommandModel, rest: string): string {
  return `'${model.words.join(' ')}:${rest}'`
}

function actionOf(bin: string, kind: ValueKind): string | undefined {
  switch (kind.kind) {
    case 'choice':
      return `_${bin}_words '${kind.choices.join(' ')}'`
    case 'file':
      return `_${bin}_files`
    case 'image':
      return `_${bin}_names list`
    case 'run':
      return `_${bin}_names runs list`
    case 'other':
      return undefined
  }
}
