/** Command-line flags made from the settings table, so that a name, a range or a default is written once. */
import {Args, Flags, type Interfaces} from '@oclif/core'
import {fail} from '../core/errors.ts'
import {formatValue, parseDuration} from '../core/setting-values.ts'
import {
  expectation,
  settingKeys,
  settingTable,
  type SettingKey,
  type SettingOrigins,
  type Settings,
  type SettingSpec,
} from '../core/settings.ts'
import type {Backend} from '../core/image.ts'
import type {LimitOverrides, Profile, UnpackLimits} from '../core/limits.ts'

type SettingFlag = Interfaces.OptionFlag<string | undefined> | Interfaces.BooleanFlag<boolean>

/** Flags of these settings, in this order. Their values are read by `settingValues` and checked by the table. */
export function settingFlags(
  keys: readonly SettingKey[],
  helpGroup?: string,
): Record<string, SettingFlag> {
  return Object.fromEntries(keys.map((key) => settingFlag(key, helpGroup)))
}

function settingFlag(key: SettingKey, helpGroup?: string): [string, SettingFlag] {
  const spec: SettingSpec = settingTable[key]
  const name = spec.flag
  if (name === undefined || (spec.isSecret && key !== 'metricsAuthToken'))
    throw new TypeError(`setting ${key} has no flag`)
  const common = {description: describe(spec), ...(helpGroup === undefined ? {} : {helpGroup})}
  if (spec.kind === 'flag') {
    // An absent boolean is undefined, whatever its type says; `settingValues` leaves it out.
    const flag = Flags.boolean({...common, allowNo: true})
    return [name, flag]
  }
  if (spec.kind === 'choice') {
    const options = [...spec.choices]
    return [name, Flags.string({...common, options, hidden: spec.isHidden === true})]
  }
  if (spec.kind === 'list') {
    const flag = Flags.string({...common, helpValue: '<value>...', multiple: true})
    // Its value is a list, whatever this type says; `settingValues` takes it for one.
    return [name, flag as unknown as Interfaces.OptionFlag<string | undefined>]
  }
  const isHidden = spec.isHidden === true
  return [name, Flags.string({...common, helpValue: helpValues[spec.kind], hidden: isHidden})]
}

const helpValues = {
  path: '<path>',
  text: '<text>',
  count: '<number>',
  bytes: '<size>',
  duration: '<time>',
  address: '<ip:port>',
} as const

/** The help text of a flag: what it means, what it may be, what it is without the flag. */
function describe(spec: SettingSpec): string {
  const notes: string[] = []
  if ('min' in spec) notes.push(expectation(spec))
  if (spec.default !== undefined && spec.kind !== 'flag')
    notes.push(`default ${formatValue(spec, spec.default)}`)
  const env = spec.env?.[0]
  if (env !== undefined) notes.push(env)
  return notes.length === 0 ? spec.doc : `${spec.doc} (${notes.join('; ')})`
}

/** The settings among the parsed flags of a command, by their key. A flag of that command alone hides a general one. */
export function settingValues(
  flags: Readonly<Record<string, unknown>>,
  command?: string,
): Partial<Record<SettingKey, string | boolean | readonly string[]>> {
  const values: Partial<Record<SettingKey, string | boolean | readonly string[]>> = {}
  const specs = settingKeys.map((key): [SettingKey, SettingSpec] => [key, settingTable[key]])
  const own = new Set(
    specs.flatMap(([, spec]) => (spec.command === command && command ? [spec.flag] : [])),
  )
  for (const [key, spec] of specs) {
    if (spec.flag === undefined || (spec.command ?? command) !== command) continue
    if (spec.command === undefined && own.has(spec.flag)) continue
    const value = flags[spec.flag]
    if (typeof value === 'string' || typeof value === 'boolean') values[key] = value
    else if (Array.isArray(value)) values[key] = value.map(String)
  }
  return values
}

const sourceKeys = [
  'maxBlobBytes',
  'stallTimeoutMs',
  'totalTimeoutMs',
  'allowFile',
  'caFile',
  's3Endpoint',
  's3Region',
  's3PathStyle',
  's3Anonymous',
] as const
export const unpackKeys = [
  'profile',
  'backend',
  'maxFiles',
  'maxFileBytes',
  'maxTotalBytes',
  'maxRatio',
  'maxDepth',
] as const

/**
 * Flags that hold for work done by this very process. A worker that takes the image over goes by its own settings:
 * a certificate given here does not reach it.
 */
export const hereFlags = settingFlags(
  ['maxAttempts', 'retryWaitMs', ...sourceKeys, 'mountDriver', 'spaceReserveBytes'],
  'WORK',
)

/** Flags of commands that talk to servers and buckets by themselves, without a run. */
export const networkFlags = settingFlags(
  [
    'maxAttempts',
    'retryWaitMs',
    'stallTimeoutMs',
    'caFile',
    's3Endpoint',
    's3Region',
    's3PathStyle',
    's3Anonymous',
  ],
  'NETWORK',
)

/** Flags that are kept with the image, whoever unpacks it. */
export const unpackFlags = settingFlags(unpackKeys, 'UNPACKING')

/** The unpacking wishes for an image, out of the settings that `isWanted` by their origin. */
export function unpackWishes(
  settings: Settings,
  origins: SettingOrigins,
  isWanted: (origin: string) => boolean,
): {profile?: Profile; backend?: Backend; limits?: LimitOverrides} {
  const isTaken = (key: SettingKey): boolean =>
    settings[key] !== undefined && isWanted(origins[key])
  const given = Object.entries(limitKeys).flatMap(([limit, key]) =>
    isTaken(key) ? [[limit, settings[key]] as const] : [],
  )
  return {
    ...(isTaken('profile') ? {profile: settings.profile} : {}),
    ...(isTaken('backend') ? {backend: settings.backend} : {}),
    ...(given.length > 0 ? {limits: Object.fromEntries(given)} : {}),
  }
}

const limitKeys = {
  filesMax: 'maxFiles',
  fileBytesMax: 'maxFileBytes',
  totalBytesMax: 'maxTotalBytes',
  ratioMax: 'maxRatio',
  depthMax: 'maxDepth',
} as const satisfies Record<keyof UnpackLimits, SettingKey>

/** Whether a setting was given on the command line of this process. */
export function isFromFlag(origin: string): boolean {
  return origin.startsWith('flag ')
}

/** Flags of commands that can wait for an image. `wait` is theirs, as its default differs. */
export const timeoutFlag = {
  timeout: Flags.string({
    description: 'Longest time to wait for the result (such as 90s or 10m).',
    helpValue: '<time>',
  }),
}

/**
 * The value of a duration flag that is no setting.
 *
 * Errors: invalid_setting.
 */
export function durationMs(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const value = parseDuration(text)
  if (value !== undefined && Number.isSafeInteger(value)) return value
  const from = `flag --${flag}`
  throw fail('invalid_setting', {
    setting: flag,
    value: text,
    from,
    expected: 'a duration (such as 30s)',
  })
}

/**
 * The value of a count flag that is no setting.
 *
 * Errors: invalid_setting.
 */
export function count(flag: string, text: string, max: number): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (value >= 1 && value <= max) return value
  const from = `flag --${flag}`
  throw fail('invalid_setting', {
    setting: flag,
    value: text,
    from,
    expected: `a whole number from 1 to ${max}`,
  })
}

/** The argument that names an image. oclif would take a missing one from standard input, which is never meant. */
export const nameArg = Args.string({
  description: 'Name of the image.',
  required: true,
  ignoreStdin: true,
})

export const optionalNameArg = Args.string({
  description: 'Name of the image; without it, all images.',
  ignoreStdin: true,
})
