/** How values look on a terminal and in JSON: text from outside made harmless, sizes, times, tables. */

// Control characters, soft hyphen, zero-width and bidirectional marks: what could move a cursor or hide text.
const unprintable =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g

/** Text from outside, fit for one line of a terminal: whatever could steer the terminal is shown as an escape. */
export function printable(text: string): string {
  return text.replaceAll(unprintable, (c) => {
    if (c === '\n') return '\\n'
    if (c === '\t') return '\\t'
    return `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}

const byteUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const

/** A size in binary units with three or four digits: `512 B`, `41.2 MiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1023.95 && unit < byteUnits.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? String(Math.round(value)) : value.toFixed(1)} ${byteUnits[unit] ?? ''}`
}

/** A length of time in its two largest units: `850 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function formatDuration(ms: number): string {
  const value = Math.max(0, ms)
  if (value < 999.5) return `${Math.round(value)} ms`
  if (value < 9950) return `${(value / 1000).toFixed(1)} s`
  const seconds = Math.round(value / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return pair(seconds, 60, 'min', 's')
  const minutes = Math.round(seconds / 60)
  if (minutes < 24 * 60) return pair(minutes, 60, 'h', 'min')
  return pair(Math.round(minutes / 60), 24, 'd', 'h')
}

function pair(value: number, base: number, large: string, small: string): string {
  const rest = value % base
  return `${Math.floor(value / base)} ${large}${rest === 0 ? '' : ` ${rest} ${small}`}`
}

/** How long ago a moment was, in one unit: `just now`, `5 min ago`, `3 d ago`. */
export function formatAge(at: number, now: number): string {
  const seconds = Math.round((now - at) / 1000)
  if (seconds < 2) return 'just now'
  if (seconds < 60) return `${seconds} s ago`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`
  return `${Math.floor(seconds / 86_400)} d ago`
}

/** A moment in UTC, to the second. */
export function formatTime(at: number): string {
  return `${new Date(at).toISOString().slice(0, 19).replace('T', ' ')}Z`
}

/** A count with its noun: `1 file`, `12,345 files`. */
export function formatCount(count: number, noun: string, plural = `${noun}s`): string {
  return `${count.toLocaleString('en-US')} ${count === 1 ? noun : plural}`
}

/** Columns that printable text takes; its wide characters are so rare here that they count as one. */
function width(text: string): number {
  return Array.from(text).length
}

/**
 * Rows under a header, in columns as wide as their widest cell; two spaces between, none at the end of a line.
 *
 * Shape: every row has as many cells as the header; cells are already printable. Columns named in `right` are
 * aligned to the right.
 */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly string[] = [],
): string[] {
  const all = [header, ...rows]
  const widths = header.map((_, column) => Math.max(...all.map((row) => width(row[column] ?? ''))))
  return all.map((row) =>
    row
      .map((cell, column) => {
        const gap = ' '.repeat(Math.max(0, (widths[column] ?? 0) - width(cell)))
        return right.includes(header[column] ?? '') ? gap + cell : cell + gap
      })
      .join('  ')
      .trimEnd(),
  )
}

/** Lines cut to the width of a terminal, with an ellipsis; whole when the width is unknown (a pipe, a file). */
export function fit(lines: readonly string[], columns: number | undefined): string[] {
  if (columns === undefined || columns < 1) return [...lines]
  return lines.map((line) =>
    width(line) <= columns
      ? line
      : `${Array.from(line)
          .slice(0, columns - 1)
          .join('')}…`,
  )
}

/** Lines of `label  value`, the values in one column. */
export function labelled(pairs: readonly (readonly [label: string, value: string])[]): string[] {
  const width = Math.max(0, ...pairs.map(([label]) => label.length))
  return pairs.map(([label, value]) => `  ${label.padEnd(width)}  ${value}`)
}

/** A bar of `width` cells, filled to `ratio` (0 to 1). */
export function bar(ratio: number, width: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, ratio)) * width)
  return '█'.repeat(filled) + '░'.repeat(width - filled)
}

/**
 * A value as it leaves the program: keys in snake case, moments (keys `at`, `…At`) as ISO 8601 text in UTC.
 *
 * Guarantees: keys that are no camel case identifiers (states, paths) stay as they are.
 */
export function toJson(value: unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => toJson(item))
  if (typeof value !== 'object' || value === null) return value
  const result: Record<string, unknown> = {}
  for (const [key, inner] of Object.entries(value)) {
    const isMoment = key === 'at' || /[a-z]At$/.test(key)
    result[snakeCase(key)] =
      isMoment && typeof inner === 'number' && isDate(inner)
        ? new Date(inner).toISOString()
        : toJson(inner)
  }
  return result
}

function isDate(ms: number): boolean {
  return Number.isFinite(ms) && Math.abs(ms) <= 8.64e15
}

function snakeCase(key: string): string {
  if (!/^[a-z][a-zA-Z0-9]*$/.test(key)) return key
  return key.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)
}
