/**
 * `npm run docs`: writes the documents that are made from tables in the code, so that they cannot disagree with it.
 * With --check it writes nothing and fails when one is stale.
 */
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {dirname} from 'node:path'
import {sql} from 'kysely'
import {openDatabase} from '../src/core/db/open.ts'
import {errorTable, exitCodes} from '../src/core/errors.ts'
import {formatValue} from '../src/core/setting-values.ts'
import {expectation, settingTable, type SettingSpec} from '../src/core/settings.ts'
import {renderCommands, type Manifest} from './docs-cli.ts'

const notice = (from: string): string => `<!-- Made by \`npm run docs\` from ${from}. -->\n\n`

const documents: Record<string, () => string | Promise<string>> = {
  'docs/errors.md': renderErrors,
  'docs/settings.md': renderSettings,
  'docs/cli.md': () =>
    notice('the commands in src/commands') +
    renderCommands(JSON.parse(readFileSync('oclif.manifest.json', 'utf8')) as Manifest),
  'docs/formats/schema.sql': renderSchema,
}

const isCheck = process.argv.includes('--check')
for (const [path, render] of Object.entries(documents)) {
  const text = `${(await render()).trimEnd()}\n`
  if (text === readIfThere(path)) continue
  if (isCheck) {
    console.error(`${path} is stale`)
    process.exitCode = 1
  } else {
    mkdirSync(dirname(path), {recursive: true})
    writeFileSync(path, text)
    console.log(`wrote ${path}`)
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |\n`
  return line(head) + line(head.map(() => '---')) + rows.map(line).join('')
}

function renderErrors(): string {
  const exits = Object.entries(exitCodes).map(([exit, meaning]) => [exit, meaning])
  const rows = Object.entries(errorTable).map(([code, row]) => [
    `\`${code}\``,
    row.hint,
    row.fault,
    {
      never: 'no',
      backoff: 'yes, after a wait',
      wait: 'it waits',
      after_fix: 'once the host is mended',
    }[row.retry],
    String(row.exit),
    String(row.http),
    row.grpc,
  ])
  return `${notice('src/core/errors.ts')}# Errors

Every failure has a code, a message, a hint about what to do next, and a number on each door. With \`--json\` a
command that fails prints \`{"error": {"code", "message", "hint", "details"}}\` to standard output.

## Exit codes

They are only ever added to.

${table(['exit', 'meaning'], exits)}
## Codes

"Tried again" says what the state machine does by itself when a step fails this way.

${table(['code', 'what to do', 'whose fault', 'tried again', 'exit', 'HTTP', 'gRPC'], rows)}`
}

function renderSettings(): string {
  const specs: [string, SettingSpec][] = Object.entries(settingTable)
  const rows = specs
    .filter(([, spec]) => !spec.isHidden)
    .map(([key, spec]) => [
      `\`${key}\``,
      spec.flag ? `\`--${spec.flag}\`` : '',
      [...(spec.env ?? []), ...(spec.lenientEnv ?? [])].map((name) => `\`${name}\``).join(' '),
      spec.default === undefined ? '' : `\`${formatValue(spec, spec.default)}\``,
      expectation(spec),
      spec.doc,
    ])
  return `${notice('src/core/settings.ts')}# Settings

A value is taken from the first place that has it: the flag, the environment, the config file (\`config.json\` in the
user's config directory, or \`--config FILE\`; its keys are those of the first column), the default. Sizes are written
\`4096\`, \`100MiB\`, \`1.5G\`; durations \`500ms\`, \`30s\`, \`5m\`, \`2h\`. \`imgstore doctor --settings\` prints every value
and where it came from.

${table(['key', 'flag', 'environment', 'default', 'values', 'meaning'], rows)}`
}

/** The database after all migrations, as SQLite keeps it, one column to a line. */
async function renderSchema(): Promise<string> {
  const database = await openDatabase(':memory:')
  try {
    const objects = await sql<{sql: string}>`
      select sql from sqlite_master where sql is not null and name not like 'sqlite_%'
      order by tbl_name, type = 'table' desc, name`.execute(database.db)
    const head =
      '-- Made by `npm run docs`: the schema of the database after all of migrations/.\n\n'
    return head + objects.rows.map((row) => `${oneColumnPerLine(row.sql)};\n`).join('\n')
  } finally {
    await database.close()
  }
}

/** Breaks a `create table (…)` at its outer commas; leaves other statements as they are. */
function oneColumnPerLine(statement: string): string {
  const text = statement.replaceAll(/\s+/g, ' ').trim()
  const open = text.indexOf('(')
  if (!/^create table/i.test(text) || open < 0) return text
  let depth = 0
  let quoted = ''
  let broken = text.slice(0, open)
  for (const c of text.slice(open)) {
    if (quoted) quoted = c === quoted ? '' : quoted
    else if (c === '"' || c === "'") quoted = c
    else if (c === '(') depth++
    else if (c === ')') depth--
    if (!quoted && c === ')' && depth === 0) broken += '\n'
    broken += c
    if (!quoted && depth === 1 && (c === ',' || (c === '(' && broken.endsWith('('))))
      broken += '\n '
  }
  return broken.replaceAll(/\n +/g, '\n  ').replaceAll(/ +\n/g, '\n')
}
