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
  usage?: string | string[]
}
export type Manifest = {commands: Record<string, Command>}

/** Flags that several commands have alike, told once: those of every command, and groups that help shows together. */
type Shared = {title: string; flags: Flag[]}

/** All commands by name: usage, arguments, flags, examples. */
export function renderCommands(manifest: Manifest): string {
  const commands = Object.values(manifest.commands)
    .filter((command) => !command.hidden)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
  const shared = sharedFlags(commands)
  const list = commands.map(
    (command) => `- ${link(`imgstore ${spaced(command.id)}`, true)}: ${firstLine(command)}\n`,
  )
  const groups = shared.map(({title, flags}) => `## ${title}\n\n${flags.map(renderFlag).join('')}`)
  return `# Commands

${list.join('')}
${commands.map((command) => renderCommand(command, shared)).join('\n')}
${groups.join('\n')}
Exit codes: [errors.md](errors.md). Settings behind the flags: [settings.md](settings.md).
`
}

function sharedFlags(commands: Command[]): Shared[] {
  const [first] = commands
  if (!first) return []
  // One command may have its own form of a flag, and then shows it.
  const isEverywhere = (flag: Flag): boolean =>
    commands.filter((command) => flagText(command.flags[flag.name]) !== renderFlag(flag)).length <=
    1
  const common = Object.values(first.flags).filter((flag) => !flag.hidden && isEverywhere(flag))
  const groups = new Set(
    commands.flatMap((command) => Object.values(command.flags).map((flag) => flag.helpGroup)),
  )
  const shared = [...groups]
    .filter((group) => group !== undefined && group !== 'GLOBAL')
    .map((group) => ({group, users: commands.filter((c) => groupFlags(c, group).length > 0)}))
    .filter(({group, users}) => {
      const texts = users.map((user) => groupFlags(user, group).map(renderFlag).join(''))
      return users.length > 1 && new Set(texts).size === 1
    })
    .map(({group = '', users}) => ({
      title: `Flags for ${group.toLowerCase()}`,
      flags: groupFlags(users[0], group),
    }))
  return [...shared, {title: 'Flags of every command', flags: common}]
}

function groupFlags(command: Command | undefined, group: string | undefined): Flag[] {
  return Object.values(command?.flags ?? {}).filter((f) => f.helpGroup === group && !f.hidden)
}

function flagText(flag: Flag | undefined): string {
  return flag ? renderFlag(flag) : ''
}

function renderCommand(command: Command, shared: Shared[]): string {
  const args = Object.values(command.args).filter((arg) => !arg.hidden)
  const has = (flag: Flag): boolean => flagText(command.flags[flag.name]) === renderFlag(flag)
  const common = shared.at(-1)?.flags.filter(has) ?? []
  const groups = shared.slice(0, -1).filter(({flags}) => flags.every(has))
  const told = new Set([...common, ...groups.flatMap(({flags}) => flags)].map(({name}) => name))
  const flags = Object.values(command.flags).filter((f) => !f.hidden && !told.has(f.name))
  const parts = [
    `## imgstore ${spaced(command.id)}\n`,
    `${describe(command)}\n`,
    `\`\`\`\n${usageOf(command, args)}\n\`\`\`\n`,
  ]
  const lines = [
    ...args.map((arg) => `- \`${arg.name.toUpperCase()}\`: ${arg.description ?? ''}\n`),
    ...flags.map(renderFlag),
    ...groups.map(({title}) => `- ${link(title)}\n`),
  ]
  if (lines.length > 0) parts.push(lines.join(''))
  if (command.aliases?.length)
    parts.push(`Also: ${command.aliases.map((id) => `\`imgstore ${spaced(id)}\``).join(', ')}\n`)
  if (command.examples?.length) {
    const examples = command.examples.map((example) => renderExample(example, command))
    parts.push(`\`\`\`sh\n${examples.join('\n')}\n\`\`\`\n`)
  }
  return parts.join('\n')
}

function usageOf(command: Command, args: Arg[]): string {
  const own = Array.isArray(command.usage) ? command.usage : [command.usage]
  if (own[0] !== undefined) return own.map((line) => `imgstore ${line ?? ''}`).join('\n')
  const words = args.map((arg) => (arg.required ? `<${arg.name}>` : `[${arg.name}]`))
  return ['imgstore', spaced(command.id), ...words, '[flags]'].join(' ')
}

/** A link to a heading of this page, by the name that Markdown viewers give it. */
function link(title: string, isCode = false): string {
  const anchor = title
    .toLowerCase()
    .replaceAll(/[^\w -]/g, '')
    .replaceAll(' ', '-')
  return `[${isCode ? `\`${title}\`` : title}](#${anchor})`
}

function renderFlag(flag: Flag): string {
  const names = [flag.char ? `-${flag.char}` : '', `--${flag.allowNo ? '[no-]' : ''}${flag.name}`]
  const value =
    flag.type === 'option'
      ? ` ${flag.helpValue ?? flag.options?.join('|') ?? `<${flag.name}>`}`
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
