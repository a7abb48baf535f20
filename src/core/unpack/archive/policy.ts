/**
 * What an archive may contain: the three profiles and their limits (docs/unpack.md says why). Every entry passes
 * here before anything is made of it; what comes out is exactly what will be made.
 */
import {fail, type ImgstoreError} from '../../errors.ts'
import {archiveBounds, type Profile, type UnpackLimits} from '../../limits.ts'
import {displayName, noXattrs, type Entry, type EntryKind, type Xattr} from './entry.ts'
import {depthOf, leavesTree, normalName} from './names.ts'

/** An entry as it will be made. Paths are normal (names.ts); `''` is the root itself. */
export type Member = {
  kind: EntryKind
  path: string
  /** Of a symbolic link: its text, verbatim. Of a hard link: the path of the file below the root. */
  linkTarget: string
  mode: number
  /** Undefined where the profile drops owners. */
  owner: {uid: number; gid: number} | undefined
  mtime: {seconds: number; nanoseconds: number}
  sizeBytes: number
  storedBytes: number
  segments: Entry['segments']
  device: {major: number; minor: number} | undefined
  xattrs: readonly Xattr[]
  offset: number
}

/** How links behave in each profile, for the walk that resolves parents. */
export type LinkRule = 'in-root' | 'refuse-leaving'

export const linkRules: Record<Profile, LinkRule> = {
  strict: 'refuse-leaving',
  image: 'in-root',
  data: 'refuse-leaving',
}

type Warn = {warn(code: string, entry: string, message: string): void}

export type PolicyTotals = {entries: number; files: number; totalBytes: number}

/** Judges the entries of one archive in order; keeps the counts that the limits are about. */
export class Policy {
  readonly totals: PolicyTotals = {entries: 0, files: 0, totalBytes: 0}
  private readonly profile: Profile
  private readonly limits: UnpackLimits
  private readonly sink: Warn

  constructor(profile: Profile, limits: UnpackLimits, sink: Warn) {
    this.profile = profile
    this.limits = limits
    this.sink = sink
  }

  /**
   * What to make of an entry.
   *
   * Errors: unsafe_archive.
   */
  admit(entry: Entry): Member {
    if (++this.totals.entries > this.limits.filesMax) {
      throw refuse(entry, `is one more than ${this.limits.filesMax} entries`, '--max-files')
    }
    const path = this.path(entry, entry.name)
    if (depthOf(path) > this.limits.depthMax) {
      throw refuse(entry, `is more than ${this.limits.depthMax} directories deep`, '--max-depth')
    }
    if (path === '' && entry.kind !== 'directory') {
      throw refuse(entry, 'would replace the root directory')
    }
    this.checkKind(entry)
    this.checkSizes(entry)
    return {
      kind: entry.kind,
      path,
      linkTarget: this.linkTarget(entry, path),
      mode: this.mode(entry),
      owner: this.profile === 'image' ? {uid: entry.uid, gid: entry.gid} : undefined,
      mtime: {seconds: entry.mtimeSeconds, nanoseconds: entry.mtimeNanoseconds},
      sizeBytes: entry.sizeBytes,
      storedBytes: entry.storedBytes,
      segments: entry.segments,
      device:
        entry.kind === 'character' || entry.kind === 'block'
          ? {major: entry.deviceMajor, minor: entry.deviceMinor}
          : undefined,
      xattrs: this.xattrs(entry),
      offset: entry.offset,
    }
  }

  private path(entry: Entry, name: string): string {
    const read = normalName(name, {allowAbsolute: this.profile === 'image'})
    if (!read.isSafe) {
      throw refuse(entry, read.rule, read.reason === 'absolute' ? '--profile image' : undefined)
    }
    if (read.wasAbsolute) {
      this.sink.warn('absolute_name', displayName(name), 'the leading slash was taken as the root')
    }
    if (hasControlCharacter(read.path)) {
      this.sink.warn('control_characters', displayName(name), 'the name has control characters')
    }
    return read.path
  }

  private checkKind(entry: Entry): void {
    if (entry.kind === 'character' || entry.kind === 'block') {
      if (this.profile !== 'image') throw refuse(entry, 'is a device', '--profile image')
      if (entry.kind === 'character' && entry.deviceMajor === 0 && entry.deviceMinor === 0) {
        // Overlayfs takes a 0:0 device for "deleted below": it would hide files of the mounted image.
        throw refuse(entry, 'is a 0:0 device, which is an overlay whiteout')
      }
    }
    if (entry.kind === 'fifo' && this.profile !== 'image') {
      throw refuse(entry, 'is a FIFO', '--profile image')
    }
  }

  private checkSizes(entry: Entry): void {
    if (entry.kind !== 'file') return
    this.totals.files++
    const {fileBytesMax, totalBytesMax} = this.limits
    if (entry.sizeBytes > fileBytesMax) {
      throw refuse(entry, `is larger than ${fileBytesMax} bytes`, '--max-file-size')
    }
    this.totals.totalBytes += entry.sizeBytes
    if (this.totals.totalBytes > totalBytesMax) {
      throw refuse(
        entry,
        `brings the files to more than ${totalBytesMax} bytes`,
        '--max-total-size',
      )
    }
  }

  private linkTarget(entry: Entry, path: string): string {
    if (entry.kind === 'hardlink') {
      const target = this.path(entry, entry.linkTarget)
      if (target === '') throw refuse(entry, 'is a hard link to the root directory')
      return target
    }
    if (entry.kind !== 'symlink') return ''
    // The kernel's own bound for a link's text: PATH_MAX with its NUL.
    if (entry.linkTarget.length >= archiveBounds.pathBytesMax) {
      throw refuse(entry, `is a link with a target of ${archiveBounds.pathBytesMax} bytes or more`)
    }
    if (entry.linkTarget.includes('\0')) throw refuse(entry, 'is a link with a NUL in its target')
    if (linkRules[this.profile] === 'refuse-leaving' && leavesTree(path, entry.linkTarget)) {
      throw leavingLink(entry.name, entry.offset)
    }
    return entry.linkTarget
  }

  private mode(entry: Entry): number {
    switch (this.profile) {
      case 'strict':
        return entry.kind === 'directory' || (entry.mode & 0o111) !== 0 ? 0o755 : 0o644
      case 'image':
        return entry.mode
      case 'data':
        return entry.mode & 0o777
    }
  }

  private xattrs(entry: Entry): readonly Xattr[] {
    if (entry.xattrs.length === 0 || this.profile !== 'image') return noXattrs
    if (entry.kind === 'hardlink') return noXattrs
    return entry.xattrs.filter((xattr) => {
      if (!/^(trusted|user)\.overlay\./.test(xattr.name)) return true
      // These would tell overlayfs to redirect or hide files of the mounted image.
      this.sink.warn(
        'overlay_xattr_dropped',
        displayName(entry.name),
        `${displayName(xattr.name)} speaks to overlayfs`,
      )
      return false
    })
  }
}

/** The refusal of one entry. */
export function refuse(
  entry: {name: string; offset: number},
  rule: string,
  flag?: string,
): ImgstoreError {
  const details = {entry: displayName(entry.name), offset: entry.offset, rule}
  return fail('unsafe_archive', flag === undefined ? details : {...details, flag})
}

export function leavingLink(name: string, offset: number): ImgstoreError {
  return refuse({name, offset}, 'is a symbolic link out of the tree', '--profile image')
}

function hasControlCharacter(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code < 0x20 || code === 0x7f) return true
  }
  return false
}
