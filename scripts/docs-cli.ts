/** docs/cli.md from oclif's manifest: the same words as `--help`, on one page. */

type Flag = {
  name: string
  char?: string
  type: 'option' | 'boolean'
  description?: string
  summary?: string
  helpValue?: string
  options?: string[]
  default?: string | number | boolean
  required?: boolean
  hidden?: boolean
  helpGroup?: string
  multiple?: boolean
  allowNo?: boolean
}
type Arg = {name: string; description?: string; required?: boolean; hidden?: boolean}
type Example = string | {command?: string; description?: string}
type Command = {
  id: string
  summary?: string
  description?: string
  hidden?: boolean
  aliases?: string[]
  args: Record<string, Arg>
  flags: Record<string, Flag>
  examples?: Example[]
  strict?: boolean
}
export type Manifest = {commands: Record<string, Command>}

/** All commands by name: usage, arguments, flags, examples. Flags that every command has stand once, at the end. */
export function renderCommands(manifest: Manifest): string {
  const commands = Object.values(manifest.commands)
    .filter((command) => !command.hidden)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
  const common = commonFlags(commands)
  const list = commands.map((command) => {
    const name = spaced(command.id)
    return `- [\`imgstore ${name}\`](#imgstore-${name.replaceAll(' ', '-')}): ${firstLine(command)}\n`
  })
  return `# Commands

${list.join('')}
${commands.map((command) => renderCommand(command, common)).join('\n')}
## Flags of every command

${[...common.values()].map(renderFlag).join('')}
Exit codes: [errors.md](errors.md). Settings behind the flags: [settings.md](settings.md).
`
}

function commonFlags(commands: Command[]): Map<string, Flag> {
  const [first, ...rest] = commands
  if (!first) return new Map()
  const isCommon = (flag: Flag): boolean =>
    !flag.hidden && rest.every((command) => flagText(command.flags[flag.name]) === flagText(flag))
  return new Map(
    Object.values(first.flags)
      .filter(isCommon)
      .map((flag) => [flag.name, flag]),
  )
}

function flagText(flag: Flag | undefined): string {
  return flag ? renderFlag(flag) : ''
}

function renderCommand(command: Command, common: Map<string, Flag>): string {
  const args = Object.values(command.args).filter((arg) => !arg.hidden)
  const flags = Object.values(command.flags).filter(
    (flag) => !flag.hidden && !common.has(flag.name),
  )
  const usage = [
    'imgstore',
    spaced(command.id),
    ...args.map((arg) => (arg.required ? arg.name.toUpperCase() : `[${arg.name.toUpperCase()}]`)),
    flags.length > 0 || common.size > 0 ? '[flags]' : '',
  ]
  const parts = [
    `## imgstore ${spaced(command.id)}\n`,
    `${describe(command)}\n`,
    `\`\`\`\n${usage.filter(Boolean).join(' ')}\n\`\`\`\n`,
  ]
  if (args.length > 0)
    parts.push(
      args.map((arg) => `- \`${arg.name.toUpperCase()}\`: ${arg.description ?? ''}\n`).join(''),
    )
  if (flags.length > 0) parts.push(flags.map(renderFlag).join(''))
  if (command.examples?.length) {
    const lines = command.examples.map((example) => renderExample(example, command))
    parts.push(`\`\`\`sh\n${lines.join('\n')}\n\`\`\`\n`)
  }
  return parts.join('\n')
}

function renderFlag(flag: Flag): string {
  const names = [flag.char ? `-${flag.char}` : '', `--${flag.allowNo ? '[no-]' : ''}${flag.name}`]
  const value =
    flag.type === 'option'
      ? ` ${(flag.helpValue ?? flag.options?.join('|') ?? flag.name.toUpperCase()).replaceAll(/^<|>$/g, '')}`
      : ''
  const extra = [
    flag.required ? 'required' : '',
    flag.multiple ? 'may be repeated' : '',
    flag.default !== undefined && flag.default !== false ? `default: ${String(flag.default)}` : '',
  ].filter(Boolean)
  const text = flag.summary ?? flag.description ?? ''
  return `- \`${names.filter(Boolean).join(', ')}${value}\`: ${text}${extra.length > 0 ? ` (${extra.join('; ')})` : ''}\n`
}

function renderExample(example: Example, of: Command): string {
  const [command, description] =
    typeof example === 'string'
      ? [example, undefined]
      : [example.command ?? '', example.description]
  const filled = command
    .replaceAll('<%= config.bin %>', 'imgstore')
    .replaceAll('<%= command.id %>', spaced(of.id))
  return description ? `# ${description}\n${filled}` : filled
}

function describe(command: Command): string {
  const {summary, description} = command
  return [summary, description].filter((text) => text !== undefined && text !== '').join('\n\n')
}

function firstLine(command: Command): string {
  return (command.summary ?? command.description ?? '').split('\n')[0] ?? ''
}

function spaced(id: string): string {
  return id.replaceAll(':', ' ')
}
