import {
  settingKeys,
  settingTable,
  type SettingKey,
  shownValue,
  type SettingSpec,
  type Settings,
} from '../core/settings.ts'

/** What a running worker is built on: changing it takes a restart. */
const workerFixed: ReadonlySet<SettingKey> = new Set<SettingKey>([
  'store',
  'db',
  'node',
  'listen',
  'logFormat',
  'leaseMs',
  'pollMs',
  'failpoints',
  'notifySocket',
  'watchdogUsec',
])

export type SettingChange = {setting: SettingKey; from: string; to: string}

/**
 * What a reload makes of new settings: those that hold from now on (fixed ones keep their old value), what changed,
 * and what would have changed had the process been restarted. Only settings of `command` are looked at, and without one
 * those that belong to none. Secrets are shown as `***`.
 */
export function mergeSettings(
  old: Settings,
  next: Settings,
  o: {fixed: ReadonlySet<SettingKey>; command?: string} = {fixed: workerFixed},
): {settings: Settings; changed: SettingChange[]; needRestart: SettingChange[]} {
  const merged: Record<string, unknown> = {...next}
  const changed: SettingChange[] = []
  const needRestart: SettingChange[] = []
  for (const key of settingKeys) {
    const spec: SettingSpec = settingTable[key]
    if (spec.command !== o.command || isSame(old[key], next[key])) continue
    const change = {setting: key, from: shown(key, old[key]), to: shown(key, next[key])}
    if (o.fixed.has(key)) {
      merged[key] = old[key]
      needRestart.push(change)
    } else {
      changed.push(change)
    }
  }
  return {settings: Object.freeze(merged) as Settings, changed, needRestart}
}

function isSame(a: unknown, b: unknown): boolean {
  return a === b || (Array.isArray(a) && Array.isArray(b) && a.join(',') === b.join(','))
}

function shown(key: SettingKey, value: Settings[SettingKey]): string {
  return shownValue(settingTable[key], value)
}
