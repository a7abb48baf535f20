/** Owners and extended attributes: what a host cannot keep becomes a warning, not a failure. */
import {statfsSync} from 'node:fs'
import {systemCode} from '../../errors.ts'
import {archiveBounds} from '../../limits.ts'
import {displayName, type Xattr} from '../archive/entry.ts'
import type {Member} from '../archive/policy.ts'
import {type DirCalls, heldPath} from './calls.ts'

export type Warn = (code: string, entry: string, message: string) => void

/** What a directory gets at the end; an undefined time stays as it is. */
export type DirectoryAttributes = Pick<Member, 'mode' | 'owner' | 'xattrs' | 'offset'> & {
  mtime: Member['mtime'] | undefined
}

/** A directory that no entry describes. */
export const impliedDirectory: DirectoryAttributes = {
  mode: 0o755,
  owner: undefined,
  xattrs: [],
  offset: 0,
  mtime: undefined,
}

/** The file system, the user or the namespace cannot hold the attribute; the file itself is right. */
const harmlessXattrErrors = new Set(['EOPNOTSUPP', 'EPERM', 'EACCES', 'E2BIG', 'EINVAL'])

type MoreCalls = NonNullable<DirCalls['more']>

export class AttributeSetter {
  private readonly more: MoreCalls | undefined
  private readonly warn: Warn
  private readonly isRoot = process.getuid?.() === 0
  private hasWarnedOfOwner = false

  constructor(calls: DirCalls, warn: Warn) {
    this.more = calls.more
    this.warn = warn
  }

  /** Runs `set` where owners are kept and it would change anything; returns whether it did. */
  chown(owner: Member['owner'], set: (uid: number, gid: number) => void): boolean {
    if (owner === undefined) return false
    if (!this.isRoot) {
      this.warnOfOwner('owners are kept only by root')
      return false
    }
    // What root makes is root's: the tree's root directory was made so (extract.ts).
    if (owner.uid === 0 && owner.gid === 0) return false
    try {
      set(owner.uid, owner.gid)
      return true
    } catch (error) {
      // In a user namespace not every owner exists.
      if (systemCode(error) !== 'EPERM' && systemCode(error) !== 'EINVAL') throw error
      this.warnOfOwner('some owners do not exist in this user namespace')
      return false
    }
  }

  /** Of an open file or directory. */
  setXattrs(member: {path: string; xattrs: readonly Xattr[]}, fd: number): void {
    for (const xattr of member.xattrs) {
      const self = `/proc/self/fd/${fd}`
      this.tryXattr(member.path, xattr, self, (more) => more.fsetxattr(fd, xattr.name, xattr.value))
    }
  }

  /** Of what cannot be opened: a symbolic link itself, a device. */
  setXattrsAt(member: Member, dirFd: number, base: string): void {
    for (const xattr of member.xattrs) {
      const path = heldPath(dirFd, base)
      this.tryXattr(member.path, xattr, heldPath(dirFd, '.'), (more) =>
        more.lsetxattr(path, xattr.name, xattr.value),
      )
    }
  }

  private tryXattr(
    path: string,
    xattr: Xattr,
    place: string,
    set: (more: MoreCalls) => void,
  ): void {
    const name = displayName(xattr.name)
    const entry = displayName(path)
    if (this.more === undefined) {
      this.warn('xattr_skipped', entry, `${name}: this host lacks koffi to set it`)
      return
    }
    try {
      set(this.more)
    } catch (error) {
      const code = systemCode(error)
      // ext4 keeps the attributes of a file in one block, and says so when they do not fit.
      const isTooLarge = code === 'ENOSPC' && hasSpace(place)
      if (code === undefined || !(isTooLarge || harmlessXattrErrors.has(code))) throw error
      this.warn('xattr_skipped', entry, `${name}: ${code}`)
    }
  }

  private warnOfOwner(message: string): void {
    if (this.hasWarnedOfOwner) return
    this.hasWarnedOfOwner = true
    this.warn('owner_dropped', '', message)
  }
}

/** Whether the file system of `place` has room for any attribute, so that a lack of space is not the disk's. */
function hasSpace(place: string): boolean {
  const {bavail, bsize} = statfsSync(place)
  return bavail * bsize > 16 * archiveBounds.xattrValueBytesMax
}
