/** Walks paths through a tree in memory, links resolved as the root's own, as dir/held-directories.ts does on disk. */
import {archiveBounds} from '../../limits.ts'
import type {LinkRule} from '../archive/policy.ts'
import {S_IFDIR, S_IFLNK} from './format.ts'
import {type ErofsTree, NONE, ROOT} from './tree.ts'
import {isWhiteout, opaque} from './whiteouts.ts'

/** The rule that a walk breaks when it would leave the tree. */
export const LEAVES_TREE = 'passes through a symbolic link out of the tree'

/** As many links as the kernel itself passes through in one path. */
const HOPS_MAX = 40

/** Makes the refusal of the entry at work; `rule` completes "entry X …". */
export type Refuse = (rule: string, flag?: string) => Error

export class Paths {
  /** What directories get that no entry describes. */
  mtime = {seconds: 0, nanoseconds: 0}
  private readonly tree: ErofsTree
  private readonly linkRule: LinkRule
  private readonly depthMax: number
  /** Where the last path without links led: most entries lie beside the one before. */
  private latestPath = ''
  private latest = ROOT
  private readonly opaques = new Set<number>()

  constructor(tree: ErofsTree, options: {linkRule: LinkRule; depthMax: number}) {
    this.tree = tree
    this.linkRule = options.linkRule
    this.depthMax = options.depthMax
  }

  /** The directory that a path leads to; undefined where something is missing and is not to be made. */
  walk(path: string, options: {create: boolean}, refuse: Refuse): number | undefined {
    if (path === '') return ROOT
    if (path === this.latestPath) return this.latest
    let current = ROOT
    let rest = path.split('/').reverse()
    let hops = 0
    for (let part = rest.pop(); part !== undefined; part = rest.pop()) {
      if (part === '' || part === '.') continue
      if (part === '..') {
        current = this.parentOf(current, refuse)
        continue
      }
      const next = this.step(current, part, options, refuse)
      if (typeof next !== 'string') {
        if (next === undefined) return undefined
        current = next
        continue
      }
      if (++hops > HOPS_MAX) throw refuse(`passes through more than ${HOPS_MAX} symbolic links`)
      if (next.startsWith('/')) {
        if (this.linkRule === 'refuse-leaving') throw refuse(LEAVES_TREE)
        current = ROOT
      }
      rest = [...rest, ...next.split('/').reverse()]
      if (rest.length > archiveBounds.pathBytesMax) {
        throw refuse('passes through links that make an endless path')
      }
    }
    if (hops === 0) {
      this.latestPath = path
      this.latest = current
    }
    return current
  }

  /** Must be called when a directory is removed: what was found through it leads elsewhere now. */
  forget(): void {
    this.latestPath = ''
    this.latest = ROOT
  }

  /** The path of a name, without links. */
  pathOf(directory: number, base: string): string {
    const parts = [base]
    for (let at = directory; at !== ROOT; at = this.tree.parentOf(at)) {
      parts.push(this.tree.nameText(this.tree.inodes.name[at] ?? NONE))
    }
    return parts.reverse().join('/')
  }

  /** Whether a directory hides what layers below have in it. */
  isOpaque(inode: number): boolean {
    return this.opaques.has(inode)
  }

  /** Hides what layers below have in a directory. */
  makeOpaque(inode: number): void {
    const {tree} = this
    this.opaques.add(inode)
    tree.inodes.xattrs[inode] = tree.xattrs.withOne(tree.inodes.xattrs[inode] ?? 0, opaque)
  }

  private parentOf(directory: number, refuse: Refuse): number {
    if (directory !== ROOT) return this.tree.parentOf(directory)
    // The root is its own parent, as for a process inside it.
    if (this.linkRule === 'in-root') return ROOT
    throw refuse(LEAVES_TREE)
  }

  private step(
    parent: number,
    part: string,
    options: {create: boolean},
    refuse: Refuse,
  ): number | string | undefined {
    const {tree} = this
    const name = tree.find(parent, part)
    const inode = tree.inodeOf(name)
    const isHidden = name !== NONE && isWhiteout(tree, inode)
    if (name === NONE || isHidden) {
      if (!options.create) return undefined
      const made = this.makeDirectory(parent, part, refuse)
      if (!isHidden) tree.addName(parent, part, made)
      else {
        tree.replace(name, made)
        this.makeOpaque(made)
      }
      return made
    }
    switch (tree.typeOf(inode)) {
      case S_IFDIR:
        return inode
      case S_IFLNK:
        return tree.textOf(inode)
      default:
        throw refuse('has a parent that is not a directory')
    }
  }

  /** A directory that no entry describes (yet). */
  private makeDirectory(parent: number, part: string, refuse: Refuse): number {
    if (part.length > archiveBounds.componentBytesMax) {
      throw refuse(`has a name component of more than ${archiveBounds.componentBytesMax} bytes`)
    }
    let depth = 1
    let bytes = part.length
    for (let at = parent; at !== ROOT; at = this.tree.parentOf(at)) depth++
    if (depth > this.depthMax) {
      throw refuse(`is more than ${this.depthMax} directories deep`, '--max-depth')
    }
    // Only a path past 16 bytes a component can be too long, and most are not.
    if (depth * (archiveBounds.componentBytesMax + 1) > archiveBounds.pathBytesMax) {
      bytes = this.pathOf(parent, part).length
    }
    if (bytes > archiveBounds.pathBytesMax) {
      throw refuse(`has a path of more than ${archiveBounds.pathBytesMax} bytes`)
    }
    const {mtime} = this
    return this.tree.addInode({mode: S_IFDIR | 0o755, uid: 0, gid: 0, mtime, xattrs: []})
  }
}
