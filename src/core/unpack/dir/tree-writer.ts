/**
 * Makes the tree of an archive below one directory. Everything is made exclusively and never through a link;
 * attributes are set on descriptors; directories get theirs last, because each file in them changes their times.
 */
import {chmodSync, fchmodSync, fchownSync, fstatSync} from 'node:fs'
import {fromSystemError, systemCode} from '../../errors.ts'
import {archiveBounds} from '../../limits.ts'
import {displayName} from '../archive/entry.ts'
import {splitPath} from '../archive/names.ts'
import {leavingLink, type LinkRule, type Member, refuse} from '../archive/policy.ts'
import {
  closeQuietly,
  type DirCalls,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_PATH,
  O_WRONLY,
} from './calls.ts'
import {
  AttributeSetter,
  type DirectoryAttributes,
  impliedDirectory,
  type Warn,
} from './attributes.ts'
import {FileWriter} from './file-writer.ts'
import {type Directory, HeldDirectories, LEAVES_TREE, type Refuse} from './held-directories.ts'

const CREATING = {create: true, follow: true}
const NEW_FILE = O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY
const S_IFMT = 0o170000
const S_IFIFO = 0o010000
const S_IFCHR = 0o020000
const S_IFDIR = 0o040000
const S_IFBLK = 0o060000
const S_IFLNK = 0o120000

export type TreeWriterOptions = {
  calls: DirCalls
  rootFd: number
  /** For messages only. */
  rootPath: string
  linkRule: LinkRule
  depthMax: number
  /** Directories made because a path needs them and no entry came before. */
  impliedMax: number
  warn: Warn
}

export class TreeWriter {
  private readonly calls: DirCalls
  private readonly rootPath: string
  private readonly linkRule: LinkRule
  private readonly warn: Warn
  private readonly directories: HeldDirectories
  private readonly attributes = new Map<string, DirectoryAttributes>()
  /** Links to look at again when the tree is whole; only where links may not leave it. */
  private readonly links: {path: string; name: string; offset: number}[] = []

  private readonly setter: AttributeSetter
  private readonly file: FileWriter
  /** The entry at work. */
  private member: Member | undefined

  constructor(options: TreeWriterOptions) {
    this.calls = options.calls
    this.rootPath = options.rootPath
    this.linkRule = options.linkRule
    this.warn = options.warn
    this.file = new FileWriter(options.calls)
    this.setter = new AttributeSetter(options.calls, options.warn)
    this.directories = new HeldDirectories(options.calls, options.rootFd, {
      linkRule: options.linkRule,
      depthMax: options.depthMax,
      createdMax: options.impliedMax,
      onCreate: (path) => this.attributes.set(path, impliedDirectory),
    })
    this.attributes.set('', impliedDirectory)
    // A default ACL would be inherited by everything and change its modes.
    try {
      this.calls.more?.fremovexattr(options.rootFd, 'system.posix_acl_default')
    } catch {
      // There was none, or there is no such thing here.
    }
  }

  /** Makes an entry; a file's bytes come by `write`, then `finish`. Returns whether they are wanted. */
  begin(member: Member): boolean {
    this.member = member
    try {
      return this.make(member)
    } catch (error) {
      throw this.coded(error, member)
    }
  }

  write(chunk: Buffer, start: number, end: number): void {
    const member = this.member
    if (member === undefined) return
    try {
      this.file.write(chunk, start, end)
    } catch (error) {
      throw this.coded(error, member)
    }
  }

  finish(): void {
    const member = this.member
    if (member === undefined || !this.file.isOpen) return
    try {
      this.finishFile(member)
    } catch (error) {
      throw this.coded(error, member)
    }
    this.member = undefined
  }

  /** Gives directories their attributes, checks links, and makes everything durable. */
  seal(): void {
    for (const link of this.links) this.checkLink(link)
    // Children before parents: a parent may become closed even to us.
    const paths = [...this.attributes.keys()].sort().reverse()
    for (const path of paths) {
      const attributes = this.attributes.get(path)
      if (attributes === undefined) continue
      try {
        this.sealDirectory(path, attributes)
      } catch (error) {
        throw this.coded(error, {path, offset: attributes.offset})
      }
    }
  }

  /** Closes what is open; the tree is as complete as it is. */
  close(): void {
    this.file.abandon()
    this.directories.close()
  }

  private make(member: Member): boolean {
    if (member.path === '') {
      this.attributes.set('', member)
      return false
    }
    const {parent: parentPath, base} = splitPath(member.path)
    const parent =
      this.directories.openedLast(parentPath) ??
      this.directories.open(parentPath, CREATING, this.refuse(member))
    switch (member.kind) {
      case 'file':
        this.createFile(parent, base, member)
        return true
      case 'directory':
        this.makeDirectory(parent, base, member)
        return false
      case 'symlink':
        this.replacing(parent, base, member, () =>
          this.calls.symlinkat(member.linkTarget, parent.fd, base),
        )
        this.setLinkAttributes(parent, base, member)
        if (this.linkRule === 'refuse-leaving') {
          this.links.push({path: join(parent, base), name: member.path, offset: member.offset})
        }
        return false
      case 'hardlink':
        this.makeHardLink(parent, base, member)
        return false
      case 'character':
      case 'block':
      case 'fifo':
        this.makeNode(parent, base, member)
        return false
    }
  }

  private createFile(parent: Directory, base: string, member: Member): void {
    let fd: number
    try {
      fd = this.calls.openat(parent.fd, base, NEW_FILE, member.mode & 0o777)
    } catch (error) {
      this.makeRoom(error, parent, base, member)
      fd = this.calls.openat(parent.fd, base, NEW_FILE, member.mode & 0o777)
    }
    this.file.open(fd, member.segments)
  }

  private finishFile(member: Member): void {
    const fd = this.file.fd
    this.file.setSize(member.sizeBytes)
    const wasChowned = this.setter.chown(member.owner, (uid, gid) => fchownSync(fd, uid, gid))
    // The mode was given at creation; setuid and setgid were not, and a change of owner clears them.
    if (member.mode > 0o777 || wasChowned) fchmodSync(fd, member.mode)
    // After the owner: changing that clears security.capability.
    this.setter.setXattrs(member, fd)
    this.calls.futimens(fd, member.mtime)
    this.file.close()
  }

  private makeDirectory(parent: Directory, base: string, member: Member): void {
    const path = join(parent, base)
    try {
      this.calls.mkdirat(parent.fd, base, 0o700)
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error
      if (this.kindOf(parent, base) !== S_IFDIR) {
        this.calls.unlinkat(parent.fd, base)
        this.calls.mkdirat(parent.fd, base, 0o700)
      }
    }
    this.attributes.set(path, {
      mode: member.mode,
      owner: member.owner,
      xattrs: member.xattrs,
      mtime: member.mtime,
      offset: member.offset,
    })
  }

  private makeHardLink(parent: Directory, base: string, member: Member): void {
    const refusal = this.refuse(member)
    const target = splitPath(member.linkTarget)
    let from: Directory
    let fd: number
    try {
      from = this.directories.open(
        target.parent,
        {create: false, follow: true, keep: parent},
        refusal,
      )
      fd = this.calls.openat(from.fd, target.base, O_PATH | O_NOFOLLOW)
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error
      throw refusal('is a hard link to something that is not in the archive before it')
    }
    try {
      const stats = fstatSync(fd)
      const kind = stats.mode & S_IFMT
      if (kind === S_IFDIR) throw refusal('is a hard link to a directory')
      if (kind === S_IFLNK && this.linkRule === 'refuse-leaving') {
        throw refusal('is a hard link to a symbolic link', '--profile image')
      }
      if (join(from, target.base) === join(parent, base)) {
        throw refusal('is a hard link to itself')
      }
      if (stats.nlink >= archiveBounds.linksPerInodeMax) {
        throw refusal(`is one more than ${archiveBounds.linksPerInodeMax} links to one file`)
      }
    } finally {
      closeQuietly(fd)
    }
    this.replacing(parent, base, member, () =>
      this.calls.linkat(from.fd, target.base, parent.fd, base),
    )
  }

  private makeNode(parent: Directory, base: string, member: Member): void {
    const more = this.calls.more
    const type = member.kind === 'fifo' ? S_IFIFO : member.kind === 'character' ? S_IFCHR : S_IFBLK
    if (more === undefined) {
      this.warn('node_skipped', displayName(member.path), 'this host lacks koffi to make it')
      return
    }
    try {
      this.replacing(parent, base, member, () =>
        more.mknodat(
          parent.fd,
          base,
          type | (member.mode & 0o777),
          member.device ?? {major: 0, minor: 0},
        ),
      )
    } catch (error) {
      if (systemCode(error) !== 'EPERM') throw error
      this.warn('device_skipped', displayName(member.path), 'making a device is not permitted here')
      return
    }
    const fd = this.calls.openat(parent.fd, base, O_PATH | O_NOFOLLOW)
    try {
      // The descriptor names the node itself, so that neither call can be led elsewhere.
      const self = `/proc/self/fd/${fd}`
      this.setter.chown(member.owner, (uid, gid) => this.calls.lchownat(parent.fd, base, uid, gid))
      if ((fstatSync(fd).mode & S_IFMT) === type) chmodSync(self, member.mode)
    } finally {
      closeQuietly(fd)
    }
    this.setter.setXattrsAt(member, parent.fd, base)
    this.calls.lutimensat(parent.fd, base, member.mtime)
  }

  private setLinkAttributes(parent: Directory, base: string, member: Member): void {
    this.setter.chown(member.owner, (uid, gid) => this.calls.lchownat(parent.fd, base, uid, gid))
    this.setter.setXattrsAt(member, parent.fd, base)
    this.calls.lutimensat(parent.fd, base, member.mtime)
  }

  /** Runs `create`; where something has the name already, removes it first: the last entry of a name wins. */
  private replacing(parent: Directory, base: string, member: Member, create: () => void): void {
    try {
      create()
    } catch (error) {
      this.makeRoom(error, parent, base, member)
      create()
    }
  }

  /** Removes what has a name, when it was that which made `error`; throws the error again otherwise. */
  private makeRoom(error: unknown, parent: Directory, base: string, member: Member): void {
    if (systemCode(error) !== 'EEXIST') throw error
    if (this.kindOf(parent, base) === S_IFDIR) {
      const path = join(parent, base)
      try {
        this.calls.rmdirat(parent.fd, base)
      } catch (error) {
        if (systemCode(error) !== 'ENOTEMPTY' && systemCode(error) !== 'EEXIST') throw error
        throw this.refuse(member)('would replace a directory that is not empty')
      }
      this.directories.forget(path)
      this.attributes.delete(path)
    } else {
      this.calls.unlinkat(parent.fd, base)
    }
  }

  /** The type bits of what has this name. */
  private kindOf(parent: Directory, base: string): number {
    const fd = this.calls.openat(parent.fd, base, O_PATH | O_NOFOLLOW)
    try {
      return fstatSync(fd).mode & S_IFMT
    } finally {
      closeQuietly(fd)
    }
  }

  private sealDirectory(path: string, attributes: DirectoryAttributes): void {
    const {fd} = this.openSealed(path, attributes)
    this.setter.chown(attributes.owner, (uid, gid) => fchownSync(fd, uid, gid))
    fchmodSync(fd, attributes.mode)
    this.setter.setXattrs({path, xattrs: attributes.xattrs}, fd)
    if (attributes.mtime !== undefined) this.calls.futimens(fd, attributes.mtime)
  }

  private openSealed(path: string, attributes: DirectoryAttributes): Directory {
    const refusal = this.refuse({path, offset: attributes.offset})
    return this.directories.open(path, {create: false, follow: false}, refusal)
  }

  /** Follows a link of the finished tree without the root's clamp: links may combine to lead out (CVE-2026-26960). */
  private checkLink(link: {path: string; name: string; offset: number}): void {
    const leaving = leavingLink(link.name, link.offset)
    const harmless = new Error('the link leads to nothing')
    try {
      this.directories.open(link.path, {create: false, follow: true}, (rule) =>
        rule === LEAVES_TREE ? leaving : harmless,
      )
    } catch (error) {
      // Leads to nothing, to a file, or round and round: what it passed on the way stayed inside.
      if (error === harmless || systemCode(error) === 'ENOENT') return
      throw this.coded(error, {path: link.path, offset: link.offset})
    }
  }

  private refuse(member: {path: string; offset: number}): Refuse {
    return (rule, flag) => refuse({name: member.path, offset: member.offset}, rule, flag)
  }

  /** A system error met while making an entry, as a coded one. */
  private coded(error: unknown, member: {path: string; offset: number}): Error {
    if (systemCode(error) === undefined && error instanceof Error) return error
    return fromSystemError(error, `${this.rootPath}/${displayName(member.path)}`, 'write')
  }
}

function join(directory: Directory, base: string): string {
  return directory.path === '' ? base : `${directory.path}/${base}`
}
