/**
 * Makes the tree of an archive in memory, entry by entry, with the rules of dir/tree-writer.ts: the same things are
 * refused in the same words, the last entry of a name wins, and links are resolved as the root's own.
 */
import {archiveBounds} from '../../limits.ts'
import {displayName} from '../archive/entry.ts'
import {splitPath} from '../archive/names.ts'
import {leavingLink, type LinkRule, type Member, refuse} from '../archive/policy.ts'
import type {Warn} from '../warnings.ts'
import {encodeDevice, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG} from './format.ts'
import {keptAttributes} from './kernel-attributes.ts'
import {ErofsTree, NONE, ROOT} from './tree.ts'
import {isWhiteout, readWhiteout, WHITEOUT_DEVICE} from './whiteouts.ts'
import {LEAVES_TREE, Paths, type Refuse} from './paths.ts'

export type TreeBuilderOptions = {
  linkRule: LinkRule
  depthMax: number
  /** What OCI's whiteout names become: themselves, or what overlayfs understands. */
  whiteouts: 'keep' | 'overlay'
  warn: Warn
}

const fileTypes = {
  file: S_IFREG,
  directory: S_IFDIR,
  symlink: S_IFLNK,
  hardlink: S_IFREG,
  character: S_IFCHR,
  block: S_IFBLK,
  fifo: S_IFIFO,
}

/**
 * The times that ext4 keeps. EROFS would keep others, but what is changed in an overlay is copied to a file system that
 * does not, and tools read years past these wrongly.
 */
const SECONDS_MIN = -(2 ** 31)
const SECONDS_MAX = 2 ** 34 - 2 ** 31 - 1

/** A time as a kernel makes it fit its file system: at the ends it has no fraction. */
function keptTime({seconds, nanoseconds}: Member['mtime']): Member['mtime'] {
  if (seconds > SECONDS_MIN && seconds < SECONDS_MAX) return {seconds, nanoseconds}
  return {seconds: seconds < 0 ? SECONDS_MIN : SECONDS_MAX, nanoseconds: 0}
}

/** The one device of an image made from one archive. */
const DEVICE = 1

export class TreeBuilder {
  readonly tree: ErofsTree
  private readonly options: TreeBuilderOptions
  private readonly paths: Paths
  /** Symbolic links to look at again when the tree is whole; only where links may not leave it. */
  private readonly links: {directory: number; base: string; offset: number}[] = []
  private hasRoot = false

  constructor(options: TreeBuilderOptions) {
    this.options = options
    const mtime = {seconds: 0, nanoseconds: 0}
    this.tree = new ErofsTree({mode: 0o755, uid: 0, gid: 0, mtime, xattrs: []})
    this.paths = new Paths(this.tree, options)
  }

  /** Takes an entry, whose data begins at `position` of the device. */
  add(archived: Member, position: number): void {
    const member = {...archived, mtime: keptTime(archived.mtime)}
    this.paths.mtime = member.mtime
    if (member.path === '') {
      this.setAttributes(ROOT, member)
      this.hasRoot = true
      return
    }
    if (!this.hasRoot && this.tree.childCount(ROOT) === 0) {
      // Until the archive says something else, a directory is as old as what it was made for.
      this.tree.inodes.seconds[ROOT] = member.mtime.seconds
      this.tree.inodes.nanoseconds[ROOT] = member.mtime.nanoseconds
    }
    if (this.options.whiteouts === 'overlay' && this.takeWhiteout(member)) return
    this.make(member, position)
  }

  /** Looks at links again, now that all are there: they may combine to lead out (CVE-2026-26960). Nothing is added after. */
  seal(): void {
    for (const {directory, base, offset} of this.links) {
      const path = this.paths.pathOf(directory, base)
      const leaving = leavingLink(path, offset)
      const harmless = new Error('the link leads to nothing')
      try {
        this.paths.walk(path, {create: false}, (rule) =>
          rule === LEAVES_TREE ? leaving : harmless,
        )
      } catch (error) {
        if (error !== harmless) throw error
      }
    }
    this.tree.close()
  }

  private make(member: Member, position: number): void {
    const {parent, base} = splitPath(member.path)
    const refusal = this.refuse(member)
    const directory = this.paths.walk(parent, {create: true}, refusal)
    if (directory === undefined) throw refusal('has a parent that is not there')
    switch (member.kind) {
      case 'file': {
        const inode = this.addInode(member)
        this.tree.inodes.size[inode] = member.sizeBytes
        if (member.segments !== undefined) this.tree.segments.set(inode, member.segments)
        if (member.storedBytes > 0) this.tree.setData(inode, DEVICE, position)
        this.put(directory, base, inode, member)
        return
      }
      case 'directory':
        this.makeDirectory(directory, base, member)
        return
      case 'symlink': {
        const inode = this.addInode({...member, mode: 0o777})
        this.tree.setText(inode, member.linkTarget)
        this.put(directory, base, inode, member)
        if (this.options.linkRule === 'refuse-leaving') {
          this.links.push({directory, base, offset: member.offset})
        }
        return
      }
      case 'hardlink':
        this.makeHardLink(directory, base, member)
        return
      case 'character':
      case 'block':
      case 'fifo':
        this.makeNode(directory, base, member)
        return
    }
  }

  private makeDirectory(directory: number, base: string, member: Member): void {
    const {tree} = this
    const name = tree.find(directory, base)
    if (name !== NONE && tree.isDirectory(tree.inodeOf(name))) {
      const inode = tree.inodeOf(name)
      this.setAttributes(inode, member)
      return
    }
    const inode = this.addInode(member)
    if (name === NONE) {
      tree.addName(directory, base, inode)
      return
    }
    const wasWhiteout = isWhiteout(tree, tree.inodeOf(name))
    tree.replace(name, inode)
    if (wasWhiteout) this.paths.makeOpaque(inode)
  }

  private makeHardLink(directory: number, base: string, member: Member): void {
    const {tree} = this
    const refusal = this.refuse(member)
    const target = splitPath(member.linkTarget)
    const from = this.paths.walk(target.parent, {create: false}, refusal)
    const name = from === undefined ? NONE : tree.find(from, target.base)
    const inode = tree.inodeOf(name)
    if (name === NONE || isWhiteout(tree, inode)) {
      throw refusal('is a hard link to something that is not in the archive before it')
    }
    if (tree.isDirectory(inode)) throw refusal('is a hard link to a directory')
    if (tree.typeOf(inode) === S_IFLNK && this.options.linkRule === 'refuse-leaving') {
      throw refusal('is a hard link to a symbolic link', '--profile image')
    }
    if (from === directory && target.base === base) throw refusal('is a hard link to itself')
    if ((tree.inodes.links[inode] ?? 0) >= archiveBounds.linksPerInodeMax) {
      throw refusal(`is one more than ${archiveBounds.linksPerInodeMax} links to one file`)
    }
    this.put(directory, base, inode, member)
  }

  private makeNode(directory: number, base: string, member: Member): void {
    const inode = this.addInode(member)
    if (member.device !== undefined) {
      const number = encodeDevice(member.device.major, member.device.minor)
      if (number === undefined) {
        throw this.refuse(member)('is a device with a number beyond every real device')
      }
      this.tree.inodes.value[inode] = number
    }
    this.put(directory, base, inode, member)
  }

  /** Gives an inode its name; what has it already goes, but for a directory that holds something. */
  private put(directory: number, base: string, inode: number, member: Member): void {
    const {tree} = this
    const name = tree.find(directory, base)
    if (name === NONE) {
      tree.addName(directory, base, inode)
      return
    }
    const old = tree.inodeOf(name)
    if (tree.isDirectory(old)) {
      if (tree.childCount(old) > 0) {
        throw this.refuse(member)('would replace a directory that is not empty')
      }
      this.paths.forget()
    }
    tree.replace(name, inode)
  }

  /** Does what an OCI whiteout says; returns whether the entry was one. */
  private takeWhiteout(member: Member): boolean {
    const found = readWhiteout(member.path)
    if (found === undefined) return false
    const refusal = this.refuse(member)
    switch (found.kind) {
      case 'leftover':
        this.options.warn(
          'aufs_leftover',
          displayName(member.path),
          'what AUFS kept for itself is left out',
        )
        return true
      case 'impossible':
        throw refusal('is a whiteout of something that cannot be')
      case 'opaque':
      case 'remove':
        if (member.kind !== 'file') throw refusal('is a whiteout that is not a file')
    }
    const directory = this.paths.walk(found.parent, {create: true}, refusal)
    if (directory === undefined) return true
    if (found.kind === 'opaque') this.paths.makeOpaque(directory)
    else this.removeBelow(directory, found.base, member)
    return true
  }

  /** Hides what layers below have by this name; what this layer has by it stays, whichever came first. */
  private removeBelow(directory: number, base: string, member: Member): void {
    const {tree} = this
    const name = tree.find(directory, base)
    if (name !== NONE) {
      if (tree.isDirectory(tree.inodeOf(name))) this.paths.makeOpaque(tree.inodeOf(name))
      return
    }
    const {mtime} = member
    const inode = tree.addInode({mode: S_IFCHR, uid: 0, gid: 0, mtime, xattrs: []})
    tree.inodes.value[inode] = WHITEOUT_DEVICE
    tree.addName(directory, base, inode)
  }

  private addInode(member: Member): number {
    return this.tree.addInode(this.attributes(member))
  }

  private setAttributes(inode: number, member: Member): void {
    this.tree.setAttributes(inode, this.attributes(member))
    if (this.paths.isOpaque(inode)) this.paths.makeOpaque(inode)
  }

  private attributes(member: Member): Parameters<ErofsTree['addInode']>[0] {
    const {owner, mtime} = member
    const kept = keptAttributes(member, fileTypes[member.kind] | member.mode, this.options.warn)
    return {...kept, uid: owner?.uid ?? 0, gid: owner?.gid ?? 0, mtime}
  }

  private refuse(member: {path: string; offset: number}): Refuse {
    return (rule, flag) => refuse({name: member.path, offset: member.offset}, rule, flag)
  }
}
