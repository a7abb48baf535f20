/** What must hold for every archive, however damaged: a fault is thrown as an error that says so. */
import {ImgstoreError} from '../../../src/core/errors.ts'
import {archiveBounds, profiles, profileLimits} from '../../../src/core/limits.ts'
import {sniff} from '../../../src/core/unpack/archive/format.ts'
import {ArchiveParser} from '../../../src/core/unpack/archive/parser.ts'
import {leavesTree} from '../../../src/core/unpack/archive/names.ts'
import {type Member, Policy} from '../../../src/core/unpack/archive/policy.ts'
import {ZstdFrames} from '../../../src/core/unpack/archive/zstd-frames.ts'
import type {Profile} from '../../../src/core/limits.ts'
import {type FuzzCase, fuzzCase} from './cases.ts'
import {Random} from './random.ts'

/** The codes that an archive by itself may end with; any other blames the host for what the archive did. */
export const archiveFaults = new Set([
  'bad_archive',
  'unsafe_archive',
  'source_not_image',
  'compression_unsupported',
])

export class FuzzFault extends Error {}

function must(condition: boolean, what: string): void {
  if (!condition) throw new FuzzFault(what)
}

/** `done`, or the code of the refusal. Throws what is neither. */
export function outcomeOf(error: unknown): string {
  if (error instanceof ImgstoreError && archiveFaults.has(error.code)) {
    must(error.message.length < 4000, 'the message of a refusal is too long')
    must(!hasRawControl(error.message), 'the message of a refusal has a raw control character')
    return error.code
  }
  throw error
}

function hasRawControl(text: string): boolean {
  return /\p{Cc}|[\u202a-\u202e\u2066-\u2069]/u.test(text)
}

/**
 * Puts case number `seed` through the parser and the policy of one profile, once whole and now and then cut anywhere;
 * returns what came of it. Throws when anything is wrong that is not a refusal.
 */
export function checkInProcess(seed: number): string {
  const one = fuzzCase(seed)
  const random = new Random(seed ^ 0x5bd1e995)
  const profile = random.pick(profiles)
  if (one.kind === 'framing') return checkFraming(one, random)
  const whole = judge(one.bytes, profile, [])
  if (random.oneIn(8)) {
    const cuts = Array.from({length: 1 + random.below(6)}, () => random.below(one.bytes.length + 1))
    const cut = judge(one.bytes, profile, cuts)
    must(cut === whole, `cut into pieces it gives ${cut}, whole ${whole}`)
  }
  return whole.slice(0, whole.indexOf(':'))
}

/** Everything that the parser and the policy made of the bytes, as one text. */
function judge(bytes: Buffer, profile: Profile, cuts: number[]): string {
  const said: string[] = []
  let wanted = 0
  let isOpen = false
  const policy = new Policy(profile, profileLimits[profile], {warn: () => undefined})
  const parser = new ArchiveParser({
    begin: (begun) => {
      must(!isOpen, 'an entry begins inside another')
      const member = policy.admit(begun)
      checkMember(member, profile)
      said.push(`${member.kind} ${member.path} ${member.sizeBytes} ${member.linkTarget}`)
      wanted = member.storedBytes
      isOpen = member.kind === 'file'
      return isOpen
    },
    write: (_, start, end) => {
      must(isOpen && end > start, 'data comes outside an entry')
      wanted -= end - start
    },
    finish: () => {
      must(isOpen && wanted === 0, 'an entry ends before its data')
      isOpen = false
    },
    warn: () => undefined,
  })
  let outcome = 'done'
  try {
    let from = 0
    for (const cut of [...cuts].sort((a, b) => a - b)) {
      parser.push(Buffer.from(bytes.subarray(from, cut)))
      from = cut
    }
    parser.push(bytes.subarray(from))
    parser.end()
    must(!isOpen, 'the archive ends inside an entry')
  } catch (error) {
    outcome = outcomeOf(error)
    said.push((error as Error).message)
  }
  return `${outcome}:${said.join('|')}`
}

/** What the tree writer relies on, said again in other words than the policy's. */
function checkMember(member: Member, profile: Profile): void {
  const {path, kind} = member
  const parts = path === '' ? [] : path.split('/')
  for (const part of parts) {
    must(part !== '' && part !== '.' && part !== '..', `the path ${path} is not normal`)
    must(part.length <= 255 && !part.includes('\0'), `the path ${path} has an impossible part`)
  }
  must(parts.length <= profileLimits[profile].depthMax, 'the path is too deep')
  must(path.length <= archiveBounds.pathBytesMax, 'the path is too long')
  must(path !== '' || kind === 'directory', 'the root is replaced')
  const {sizeBytes, storedBytes, segments, mode, mtime, device} = member
  for (const size of [sizeBytes, storedBytes]) {
    must(Number.isSafeInteger(size) && size >= 0, `the size ${size} is impossible`)
  }
  must(kind === 'file' || storedBytes === 0, `a ${kind} has a body`)
  must(segments !== undefined || sizeBytes === storedBytes, 'sizes differ without a map')
  let end = 0
  let total = 0
  for (const segment of segments ?? []) {
    must(segment.offset >= end && segment.length >= 0, 'the map descends')
    end = segment.offset + segment.length
    total += segment.length
  }
  must(segments === undefined || (end <= sizeBytes && total === storedBytes), 'the map is wrong')
  must(Number.isSafeInteger(mtime.seconds), 'the time is impossible')
  must(mtime.nanoseconds >= 0 && mtime.nanoseconds < 1e9, 'the nanoseconds are impossible')
  must(mode >= 0 && mode <= 0o7777, 'the mode is impossible')
  must(member.linkTarget === '' || kind === 'symlink' || kind === 'hardlink', 'a target too many')
  must(!member.linkTarget.includes('\0'), 'a NUL in a target')
  if (kind === 'hardlink') {
    must(!/(^|\/)\.{0,2}(\/|$)/.test(member.linkTarget), 'the target of a hard link is not normal')
  }
  if (kind === 'character') must(device?.major !== 0 || device.minor !== 0, 'a whiteout')
  if (profile === 'image') return
  must(kind !== 'character' && kind !== 'block' && kind !== 'fifo', `a ${kind} in ${profile}`)
  must(member.owner === undefined && member.xattrs.length === 0, 'an owner or attribute is kept')
  must(mode <= 0o777, 'setuid is kept')
  if (profile === 'strict') must(mode === 0o755 || mode === 0o644, 'the mode is kept')
  if (kind === 'symlink') must(!leavesTree(path, member.linkTarget), 'a link leaves')
}

/** The parts of the decompression that are ours: telling formats and finding the ends of frames. */
function checkFraming({bytes}: FuzzCase, random: Random): string {
  const sniffed = sniff(bytes.subarray(0, 4096))
  if (sniffed.kind !== 'archive' || sniffed.format !== 'zstd') return sniffed.kind
  const parts = (cuts: number[]): string => {
    const frames = new ZstdFrames()
    let from = 0
    let covered = 0
    try {
      for (const cut of [...cuts.sort((a, b) => a - b), bytes.length]) {
        const chunk = bytes.subarray(from, cut)
        let at = 0
        for (const part of frames.split(chunk)) {
          must(part.start === at && part.end > part.start, 'the parts of a chunk leave a gap')
          at = part.end
          covered += part.end - part.start
        }
        must(at === chunk.length, 'the parts of a chunk leave a rest')
        from = cut
      }
    } catch (error) {
      return outcomeOf(error)
    }
    must(covered === bytes.length, 'the parts are not the whole')
    return frames.isBetweenFrames ? 'done' : 'cut'
  }
  const whole = parts([])
  const cut = parts([random.below(bytes.length + 1), random.below(bytes.length + 1)])
  must(cut === whole, `cut into pieces it gives ${cut}, whole ${whole}`)
  return whole
}
