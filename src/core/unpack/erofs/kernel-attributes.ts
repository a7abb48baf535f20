/**
 * Attributes as a kernel would take them from an unpacker. Nothing is set here that would be checked, so the checks
 * are ours: what setxattr(2) refuses must not be in an image either, and an ACL changes the mode.
 */
import {displayName, type Xattr} from '../archive/entry.ts'
import type {Warn} from '../warnings.ts'
import {S_IFDIR, S_IFLNK, S_IFMT, S_IFREG} from './format.ts'
import {splitXattrName, XATTR_VALUE_BYTES_MAX} from './xattrs.ts'

/** The attributes of an inode that are kept, and its mode with what an access ACL makes of it. */
export function keptAttributes(
  member: {path: string; xattrs: readonly Xattr[]},
  mode: number,
  warn: Warn,
): {xattrs: readonly Xattr[]; mode: number} {
  if (member.xattrs.length === 0) return {xattrs: member.xattrs, mode}
  let kept = mode
  const xattrs: Xattr[] = []
  for (const xattr of member.xattrs) {
    const judged = judge(xattr, kept)
    if (typeof judged === 'string') {
      warn('xattr_skipped', displayName(member.path), `${displayName(xattr.name)}: ${judged}`)
      continue
    }
    kept = judged.mode
    if (judged.isKept) xattrs.push(xattr)
  }
  return {xattrs, mode: kept}
}

type Judged = {isKept: boolean; mode: number}

/** The errno by which the kernel refuses an attribute, or what it does with it. */
function judge({name, value}: Xattr, mode: number): Judged | string {
  const type = mode & S_IFMT
  const split = splitXattrName(name)
  if (split === undefined) return name.endsWith('.') ? 'EINVAL' : 'EOPNOTSUPP'
  if (value.length > XATTR_VALUE_BYTES_MAX) return 'E2BIG'
  if (name.startsWith('user.') && type !== S_IFREG && type !== S_IFDIR) return 'EPERM'
  switch (name) {
    case 'security.capability':
      return isCapability(value) ? {isKept: true, mode} : 'EINVAL'
    case 'system.posix_acl_access':
    case 'system.posix_acl_default':
      return judgeAcl(name, value, mode)
    default:
      return {isKept: true, mode}
  }
}

/** Revision 2 or 3 of file capabilities, each with its own size (linux/capability.h). */
function isCapability(value: Buffer): boolean {
  const revision = value.length >= 4 ? value.readUInt32LE(0) >>> 24 : 0
  return (revision === 2 && value.length === 20) || (revision === 3 && value.length === 24)
}

const ACL_VERSION = 2
const tags = {userObject: 1, user: 2, groupObject: 4, group: 8, mask: 16, other: 32}

function judgeAcl(name: string, value: Buffer, mode: number): Judged | string {
  const isDefault = name === 'system.posix_acl_default'
  const type = mode & S_IFMT
  if (type === S_IFLNK) return 'EOPNOTSUPP'
  if (value.length < 4) return 'EINVAL'
  if (value.readUInt32LE(0) !== ACL_VERSION) return 'EOPNOTSUPP'
  if ((value.length - 4) % 8 !== 0) return 'EINVAL'
  // An empty list takes an ACL away, and there is none.
  if (value.length === 4) return {isKept: false, mode}
  if (isDefault && type !== S_IFDIR) return 'EACCES'
  const read = readAcl(value)
  if (read === undefined) return 'EINVAL'
  if (isDefault) return {isKept: true, mode}
  return {isKept: read.isMore, mode: (mode & ~0o777) | read.permissions}
}

/** The permissions that an ACL gives, and whether it says more than those; undefined for one that is not valid. */
function readAcl(value: Buffer): {permissions: number; isMore: boolean} | undefined {
  let permissions = 0
  let isMore = false
  let hasMask = false
  let last = 0
  for (let at = 4; at < value.length; at += 8) {
    const tag = value.readUInt16LE(at)
    const permission = value.readUInt16LE(at + 2)
    if (permission > 7 || tag < last) return undefined
    // The owner comes first; users and groups may repeat, the others may not.
    if (last === 0 && tag !== tags.userObject) return undefined
    if (tag === last && tag !== tags.user && tag !== tags.group) return undefined
    last = tag
    switch (tag) {
      case tags.userObject:
        permissions |= permission << 6
        break
      case tags.user:
      case tags.group:
        if (value.readUInt32LE(at + 4) === 0xffff_ffff) return undefined
        isMore = true
        break
      case tags.groupObject:
        permissions |= permission << 3
        break
      case tags.mask:
        permissions = (permissions & ~0o070) | (permission << 3)
        isMore = true
        hasMask = true
        break
      case tags.other:
        permissions |= permission
        break
      default:
        return undefined
    }
  }
  const seen = new Set<number>()
  for (let at = 4; at < value.length; at += 8) seen.add(value.readUInt16LE(at))
  const needs = [tags.userObject, tags.groupObject, tags.other]
  if (!needs.every((tag) => seen.has(tag))) return undefined
  if (!hasMask && (seen.has(tags.user) || seen.has(tags.group))) return undefined
  return {permissions, isMore}
}
