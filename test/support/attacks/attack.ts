/** One hostile (or odd but right) archive as data: its bytes, and what every backend must make of it by profile. */
import type {LimitOverrides, Profile} from '../../../src/core/limits.ts'
import type {Bytes} from '../tar-builder.ts'

/** `bad`: malformed (bad_archive). `unsafe`: against the profile (unsafe_archive). `no image`: not an archive at all. */
export type AttackOutcome = 'ok' | 'unsafe' | 'bad' | 'no image' | 'unknown format'

/** What has a name in the tree. */
export type Want =
  | {file: string; mode?: Partial<Record<Profile, number>>; links?: number; without?: RegExp}
  | {link: string}
  | {directory: true; mode?: Partial<Record<Profile, number>>; without?: RegExp}
  | {sizeBytes: number}
  | 'absent'

export type Attack = {
  title: string
  /** A function where making the bytes takes time or memory. */
  bytes: Buffer | (() => Buffer)
  /** By profile; `all` for those not named. */
  expect: Partial<Record<Profile | 'all', AttackOutcome>>
  /** What the message of a refusal matches. */
  says?: RegExp
  /** What the tree holds, in every profile that accepts. */
  tree?: readonly (readonly [path: Bytes, want: Want])[]
  /** A warning that every accepting profile gives. */
  warns?: string
  limits?: LimitOverrides
  /** It turns on a FIFO or device that is really made. */
  needsNodes?: boolean
  /** Many entries: it may take longer than the others. */
  isLarge?: boolean
}

export function holds(path: Bytes, file: string): readonly [Bytes, Want] {
  return [path, {file}]
}

export function lacks(path: Bytes): readonly [Bytes, Want] {
  return [path, 'absent']
}

export function links(path: Bytes, link: string): readonly [Bytes, Want] {
  return [path, {link}]
}

export const up = '../'.repeat(30)

/** `d/d/…`, so many components. */
export const deep = (count: number): string => Array.from({length: count}, () => 'd').join('/')
