/** How values of settings are written: sizes with binary units, durations with a unit, and back. */
import {isIPv4, isIPv6} from 'node:net'

export type SettingKind =
  | {kind: 'path'; default?: string}
  | {kind: 'text'; default?: string}
  | {kind: 'flag'; default?: boolean}
  | {kind: 'choice'; choices: readonly string[]; default?: string}
  | {kind: 'list'; default?: readonly string[]}
  | {kind: 'address'; default?: string}
  | {kind: 'count' | 'bytes' | 'duration'; default?: number; min: number; max: number}

export type ValueOf<K> = K extends {kind: 'choice'; choices: readonly (infer C)[]}
  ? C
  : K extends {kind: 'path' | 'text' | 'address'}
    ? string
    : K extends {kind: 'flag'}
      ? boolean
      : K extends {kind: 'list'}
        ? readonly string[]
        : number

export type SettingValue = string | number | boolean | readonly string[]

/** The checked value, or undefined when `raw` is not one of this kind or out of bounds. */
export function parseValue(kind: SettingKind, raw: unknown): SettingValue | undefined {
  switch (kind.kind) {
    case 'path':
      // An address that was given in a path's place may hold a password, which messages about files would show.
      return typeof raw === 'string' && isUrl(raw) ? undefined : parseText(raw)
    case 'text':
      return parseText(raw)
    case 'flag':
      return parseFlag(raw)
    case 'list':
      return parseList(raw)
    case 'address':
      return typeof raw === 'string' && isAddress(raw) ? raw : undefined
    case 'choice':
      return typeof raw === 'string' && kind.choices.includes(raw) ? raw : undefined
    case 'count':
      return inBounds(kind, typeof raw === 'number' ? raw : parseCount(raw))
    case 'bytes':
      return inBounds(kind, typeof raw === 'number' ? raw : parseBytes(raw))
    case 'duration':
      return inBounds(kind, typeof raw === 'number' ? raw : parseDuration(raw))
  }
}

function parseText(raw: unknown): string | undefined {
  return typeof raw === 'string' && raw !== '' && !raw.includes('\0') ? raw : undefined
}

/** Whether a word is an address rather than a path of this host, also where its scheme or a slash was forgotten. */
export function isUrl(text: string): boolean {
  return /^\s*(?:[a-z][a-z0-9+.-]*:\/|\/\/[^/]*@|[^/]*:[^/]*@)/i.test(text)
}

function inBounds(kind: {min: number; max: number}, value: number | undefined): number | undefined {
  if (value === undefined || !Number.isSafeInteger(value)) return undefined
  return value >= kind.min && value <= kind.max ? value : undefined
}

function parseFlag(raw: unknown): boolean | undefined {
  if (typeof raw === 'boolean') return raw
  if (typeof raw !== 'string') return undefined
  if (/^\s*(1|true|t|yes|y|on)\s*$/i.test(raw)) return true
  if (/^\s*(0|false|f|no|n|off)\s*$/i.test(raw)) return false
  return undefined
}

/** Several values, each of which may again be several with commas between; empty ones are dropped. */
function parseList(raw: unknown): readonly string[] | undefined {
  const texts: unknown[] = Array.isArray(raw) ? raw : [raw]
  if (!texts.every((text) => typeof text === 'string')) return undefined
  return texts.flatMap((text) => text.split(',').map((part) => part.trim())).filter(Boolean)
}

/** `IP:port`, IPv6 in brackets; no host names, as those may change their meaning while a server runs. */
function isAddress(text: string): boolean {
  const match = /^(?:\[([0-9a-f:.]{2,45})\]|(\d{1,3}(?:\.\d{1,3}){3})):(\d{1,5})$/i.exec(text)
  if (!match || Number(match[3]) > 65_535) return false
  return match[1] === undefined ? isIPv4(match[2] ?? '') : isIPv6(match[1])
}

function parseCount(raw: unknown): number | undefined {
  return typeof raw === 'string' && /^\d{1,16}$/.test(raw) ? Number(raw) : undefined
}

const byteUnits = new Map([
  ['', 1],
  ['b', 1],
  ['k', 1024],
  ['kib', 1024],
  ['kb', 1000],
  ['m', 1024 ** 2],
  ['mib', 1024 ** 2],
  ['mb', 1000 ** 2],
  ['g', 1024 ** 3],
  ['gib', 1024 ** 3],
  ['gb', 1000 ** 3],
  ['t', 1024 ** 4],
  ['tib', 1024 ** 4],
  ['tb', 1000 ** 4],
])

/** A size as a person writes it: `4096`, `100MiB`, `1.5G`; K, M, G, T alone are binary, KB, MB, GB, TB decimal. */
export function parseBytes(raw: unknown): number | undefined {
  // What fits in 64 bits but not in a number means "more than there can be".
  if (typeof raw === 'string' && /^\d{16,20}$/.test(raw.trim())) {
    const value = BigInt(raw.trim())
    if (value > BigInt(Number.MAX_SAFE_INTEGER))
      return value < 2n ** 64n ? Number.MAX_SAFE_INTEGER : undefined
  }
  const match =
    typeof raw === 'string' ? /^(\d{1,16}(?:\.\d{1,6})?)\s*([a-z]*)$/i.exec(raw.trim()) : null
  const unit = match ? byteUnits.get(match[2]?.toLowerCase() ?? '') : undefined
  return match && unit !== undefined ? Math.round(Number(match[1]) * unit) : undefined
}

const durationUnits = new Map([
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['min', 60_000],
  ['h', 3_600_000],
  ['d', 86_400_000],
])

/** A duration in milliseconds from `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number is seconds. */
export function parseDuration(raw: unknown): number | undefined {
  const match =
    typeof raw === 'string' ? /^(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]*)$/i.exec(raw.trim()) : null
  const unit = match ? durationUnits.get(match[2]?.toLowerCase() || 's') : undefined
  return match && unit !== undefined ? Math.round(Number(match[1]) * unit) : undefined
}

/** A value as the docs and `doctor --settings` show it; `parseValue` reads it back. */
export function formatValue(kind: SettingKind, value: SettingValue | undefined): string {
  if (value === undefined) return ''
  if (kind.kind === 'bytes' && typeof value === 'number')
    return formatExact(value, ['B', 'KiB', 'MiB', 'GiB', 'TiB'], [1024, 1024, 1024, 1024])
  if (kind.kind === 'duration' && typeof value === 'number')
    return formatExact(value, ['ms', 's', 'm', 'h'], [1000, 60, 60])
  return String(value)
}

function formatExact(value: number, units: string[], steps: number[]): string {
  let rest = value
  let level = 0
  while (level < steps.length && rest !== 0 && rest % (steps[level] ?? 1) === 0) {
    rest /= steps[level] ?? 1
    level++
  }
  return `${rest}${units[level] ?? ''}`
}
