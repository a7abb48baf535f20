/** The level of the log, as the original's `--log-level` and `RUST_LOG` write it. */

/** The target that our lines name. */
export const defaultTarget = 'imgstore::serve'

/** 0 off, 1 error, 2 warn, 3 info, 4 debug, 5 trace. */
export type LogFilter = {readonly rank: number; readonly text: string}

const ranks = new Map([
  ['off', 0],
  ['silent', 0],
  ['error', 1],
  ['warn', 2],
  ['info', 3],
  ['debug', 4],
  ['trace', 5],
])

const targetPattern = /^[\w:-]+$/

/**
 * Reads a filter: levels and `target=level`, separated by commas. A level alone holds for all; one for a target holds
 * when it names this program (`imgstore`, `aero_storage_server`). Undefined for anything else.
 *
 * Shape: `target[span{field=value}]=level` is understood as far as its target; spans select nothing here.
 */
export function parseLogFilter(text: string): LogFilter | undefined {
  const trimmed = text.trim()
  if (trimmed === '') return {rank: 3, text: 'info'}
  if (trimmed.length > 1024) return undefined
  let general: number | undefined
  let own: number | undefined
  for (const directive of splitDirectives(trimmed)) {
    const part = directive.trim()
    if (part === '') continue
    const alone = levelOf(part)
    if (alone !== undefined) {
      general = alone
      continue
    }
    const equals = part.lastIndexOf('=')
    const closed = part.lastIndexOf(']')
    const isLevel = equals > closed
    const rank = isLevel ? levelOf(part.slice(equals + 1)) : 5
    const [name = '', span] = (isLevel ? part.slice(0, equals) : part).split('[', 2)
    if (rank === undefined || (span !== undefined && closed < 0)) return undefined
    if (name !== '' && !targetPattern.test(name)) return undefined
    if (span === undefined && isOwn(name)) own = rank
  }
  // A lone word that is neither a level nor our name is a mistyped level rather than another program's target.
  if (general === undefined && own === undefined && /^\w+$/.test(trimmed)) return undefined
  // Without a general level, only what is named is logged.
  return {rank: own ?? general ?? 0, text: trimmed}
}

function levelOf(text: string): number | undefined {
  const word = text.trim().toLowerCase()
  return ranks.get(word) ?? (/^[0-5]$/.test(word) ? Number(word) : undefined)
}

function isOwn(target: string): boolean {
  return /^(?:imgstore|aero_storage_server)(?:::|$)/.test(target)
}

/** At commas outside of brackets. */
function splitDirectives(text: string): string[] {
  const parts: string[] = []
  let depth = 0
  let from = 0
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '[' || c === '{') depth++
    else if (c === ']' || c === '}') depth--
    else if (c === ',' && depth <= 0) {
      parts.push(text.slice(from, i))
      from = i + 1
    }
  }
  parts.push(text.slice(from))
  return parts
}
