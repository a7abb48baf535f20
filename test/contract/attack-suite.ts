/**
 * What every unpacker makes of hostile archives (test/support/attacks), whatever it makes of right ones: the same
 * outcome by profile, the same tree, nothing touched beside its staging directory, in bounded time and memory.
 */
import {createHash} from 'node:crypto'
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {
  MiB,
  type Profile,
  profiles,
  resolveLimits,
  type UnpackLimits,
} from '../../src/core/limits.ts'
import type {Attack, AttackOutcome, Want} from '../support/attacks/attack.ts'
import {attackClasses} from '../support/attacks/all.ts'
import {listCanary, makeCanary} from '../support/canary.ts'
import {withTempDir} from '../support/temp-dir.ts'

export type AttackResult =
  | {code: string; message: string}
  /** `tree` as `listTree` makes it, extended attributes included; `warnings` are codes. */
  | {tree: Map<string, string>; warnings: string[]}

/** Unpacks `blobPath`; what it needs to write goes below `stagingDir`, which is empty. Nothing is left behind elsewhere. */
export type RunAttack = (
  blobPath: string,
  profile: Profile,
  limits: UnpackLimits,
  stagingDir: string,
) => Promise<AttackResult>

export type AttackSuiteOptions = {
  only?: (attack: Attack, indexInClass: number) => boolean
  /** Default: all. */
  profiles?: readonly Profile[]
}

const outcomes: Readonly<Record<string, AttackOutcome>> = {
  unsafe_archive: 'unsafe',
  bad_archive: 'bad',
  source_not_image: 'no image',
  compression_unsupported: 'unknown format',
}

const TIME_MS_MAX = 5000
const LARGE_TIME_MS_MAX = 60_000
/** Of this process, over what it had before the case. */
const MEMORY_GROWTH_BYTES_MAX = 200 * MiB

export function attackSuite(
  backendName: string,
  run: RunAttack,
  options: AttackSuiteOptions = {},
): void {
  describe(`hostile archives, by ${backendName}`, function () {
    for (const [className, attacks] of Object.entries(attackClasses)) {
      describe(className, () => {
        for (const attack of attacks.filter(options.only ?? (() => true))) {
          for (const profile of options.profiles ?? profiles) {
            const expected = attack.expect[profile] ?? attack.expect.all ?? 'ok'
            const verb = expected === 'ok' ? 'takes' : 'refuses'
            it(`${verb} ${attack.title} (${profile})`, () =>
              withTempDir((dir) => attempt(dir, run, attack, profile, expected))).timeout(
              attack.isLarge === true ? LARGE_TIME_MS_MAX : TIME_MS_MAX,
            )
          }
        }
      })
    }
  })
}

async function attempt(
  dir: string,
  run: RunAttack,
  attack: Attack,
  profile: Profile,
  expected: AttackOutcome,
): Promise<void> {
  const stagingDir = join(dir, 'img')
  const blobPath = join(dir, 'blob')
  writeFileSync(blobPath, typeof attack.bytes === 'function' ? attack.bytes() : attack.bytes)
  makeCanary(dir)
  mkdirSync(stagingDir, {mode: 0o700})
  const before = listCanary(dir)
  const rssBefore = maxRssBytes()
  const result = await run(
    blobPath,
    profile,
    resolveLimits(profile, attack.limits ?? {}),
    stagingDir,
  )
  expect(maxRssBytes() - rssBefore, 'growth of memory').to.be.below(MEMORY_GROWTH_BYTES_MAX)
  expect(listCanary(dir), 'the canary beside the root').to.deep.equal(before)
  if ('code' in result) {
    expect(outcomes[result.code] ?? result.code, result.message).to.equal(expected)
    if (attack.says) expect(result.message).to.match(attack.says)
    return
  }
  expect('ok').to.equal(expected)
  for (const [path, want] of attack.tree ?? []) checkWant(result.tree, path, want, profile)
  if (attack.warns !== undefined) expect(result.warnings).to.include(attack.warns)
}

const maxRssBytes = (): number => process.resourceUsage().maxRSS * 1024

function checkWant(
  tree: Map<string, string>,
  path: Attack['bytes'] | string,
  want: Want,
  profile: Profile,
): void {
  const shown = String(path)
  const bytes = typeof path === 'string' ? Buffer.from(path, 'utf8') : (path as Buffer)
  const line = tree.get(bytes.toString('latin1'))
  if (want === 'absent') {
    expect(line, shown).to.equal(undefined)
    return
  }
  if (line === undefined) throw new Error(`${shown} is not in the tree`)
  const type = Number.parseInt(line, 8) & 0o170000
  if ('link' in want) {
    expect(type, shown).to.equal(0o120000)
    expect(line, shown).to.include(`-> ${Buffer.from(want.link).toString('latin1')}`)
    return
  }
  if ('sizeBytes' in want) {
    expect(line, shown).to.include(`size ${want.sizeBytes} `)
    return
  }
  expect(type, shown).to.equal('file' in want ? 0o100000 : 0o040000)
  if ('file' in want) {
    expect(line, shown).to.include(createHash('sha256').update(want.file).digest('hex'))
    if (want.links !== undefined) expect(line, shown).to.include(`links ${want.links} `)
  }
  const mode = want.mode?.[profile]
  if (mode !== undefined) expect(Number.parseInt(line, 8) & 0o7777, shown).to.equal(mode)
  if (want.without) expect(line, shown).not.to.match(want.without)
}
