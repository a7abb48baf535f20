/**
 * The one way into the tree. A directory is reached only from the held descriptor of the root, component by
 * component, never through a symbolic link that the kernel follows: links are read and resolved here, as the
 * root's own. What is kept between entries are descriptors, not paths found safe: a descriptor goes on naming
 * its directory whatever another process does to names, so there is nothing to win by swapping one.
 */
import {archiveBounds} from '../../limits.ts'
import {systemCode} from '../../errors.ts'
import {depthOf, splitPath} from '../archive/names.ts'
import type {LinkRule} from '../archive/policy.ts'
import {closeQuietly, type DirCalls, O_DIRECTORY, O_NOFOLLOW, O_RDONLY} from './calls.ts'

const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW

// Descriptors held at a time: enough for the branches an archive moves between, far below the usual limit of 1024.
const HELD_MAX = 256
/** As many links as the kernel itself passes through in one path. */
const HOPS_MAX = 40

/** The rule that a walk breaks when it would leave the tree. */
export const LEAVES_TREE = 'passes through a symbolic link out of the tree'

export type Directory = {path: string; fd: number}

export type WalkOptions = {
  /** Make directories that are missing. */
  create: boolean
  /** Resolve symbolic links on the way; without it one is an error. */
  follow: boolean
  /** A directory opened before that must stay open. */
  keep?: Directory
}

/** Throws the refusal of the entry at work; `rule` completes "entry X …". */
export type Refuse = (rule: string, flag?: string) => Error

export class HeldDirectories {
  private readonly calls: DirCalls
  private readonly root: Directory
  private readonly linkRule: LinkRule
  private readonly depthMax: number
  private readonly createdMax: number
  private created = 0
  private readonly onCreate: (path: string) => void
  /** By path; in the order of use, the oldest first. Only directories that still have this name are in it. */
  private readonly held = new Map<string, number>()
  private latest: Directory

  constructor(
    calls: DirCalls,
    rootFd: number,
    options: {
      linkRule: LinkRule
      depthMax: number
      createdMax: number
      onCreate: (path: string) => void
    },
  ) {
    this.calls = calls
    this.root = {path: '', fd: rootFd}
    this.latest = this.root
    this.linkRule = options.linkRule
    this.depthMax = options.depthMax
    this.createdMax = options.createdMax
    this.onCreate = options.onCreate
  }

  /**
   * The directory that `path` leads to, and the path it really has. Its descriptor stays open until the next call, and
   * through that one too if it is its `keep`.
   *
   * Errors: what `refuse` makes; system errors.
   */
  open(path: string, options: WalkOptions, refuse: Refuse): Directory {
    if (path === '') return this.root
    if (path === this.latest.path) return this.latest
    const found = this.use(path)
    const directory = found ?? this.walk(path, options, refuse)
    this.latest = directory
    return directory
  }

  /** What `open` would give for the same path as last time, without anything to prepare. */
  openedLast(path: string): Directory | undefined {
    return path === this.latest.path ? this.latest : undefined
  }

  /** Must be told of every directory that is removed, so that its descriptor is not taken for what has its name next. */
  forget(path: string): void {
    const fd = this.held.get(path)
    if (fd === undefined) return
    this.held.delete(path)
    closeQuietly(fd)
    if (this.latest.path === path) this.latest = this.root
  }

  close(): void {
    for (const fd of this.held.values()) closeQuietly(fd)
    this.held.clear()
    this.latest = this.root
  }

  private use(path: string): Directory | undefined {
    const fd = this.held.get(path)
    if (fd === undefined) return undefined
    this.held.delete(path)
    this.held.set(path, fd)
    return {path, fd}
  }

  private walk(path: string, options: WalkOptions, refuse: Refuse): Directory {
    let current = this.nearest(path)
    let rest = components(current.path === '' ? path : path.slice(current.path.length + 1))
    let hops = 0
    for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
      if (name === '' || name === '.') continue
      if (name === '..') {
        current = this.parentOf(current, options, refuse)
        continue
      }
      const next = this.step(current, name, options, refuse)
      if (typeof next !== 'string') {
        current = next
        this.trim(current.fd, options.keep?.fd)
        continue
      }
      if (++hops > HOPS_MAX) throw refuse(`passes through more than ${HOPS_MAX} symbolic links`)
      if (next.startsWith('/')) {
        if (this.linkRule === 'refuse-leaving') throw refuse(LEAVES_TREE)
        current = this.root
      }
      // What is left comes after the link's own components; both are kept last first.
      rest = [...rest, ...components(next)]
      if (rest.length > archiveBounds.pathBytesMax) {
        throw refuse('passes through links that make an endless path')
      }
    }
    return current
  }

  /** The deepest directory on the way to `path` that is held. */
  private nearest(path: string): Directory {
    for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
      const found = this.use(path.slice(0, end))
      if (found !== undefined) return found
    }
    return this.root
  }

  private parentOf(directory: Directory, options: WalkOptions, refuse: Refuse): Directory {
    if (directory.path === '') {
      // The root is its own parent, as for a process inside it.
      if (this.linkRule === 'in-root') return this.root
      throw refuse(LEAVES_TREE)
    }
    const {parent} = splitPath(directory.path)
    if (parent === '') return this.root
    // Its path has no links in it, so this walk meets none.
    return this.use(parent) ?? this.walk(parent, {...options, create: false, follow: false}, refuse)
  }

  /** The directory `name` in `parent`, or the target of the symbolic link that is there. */
  private step(
    parent: Directory,
    name: string,
    options: WalkOptions,
    refuse: Refuse,
  ): Directory | string {
    const path = parent.path === '' ? name : `${parent.path}/${name}`
    const found = this.use(path)
    if (found !== undefined) return found
    let fd: number
    try {
      fd = this.calls.openat(parent.fd, name, DIRECTORY)
    } catch (error) {
      switch (systemCode(error)) {
        case 'ENOENT':
          if (!options.create) throw error
          this.make(parent, name, path, refuse)
          fd = this.calls.openat(parent.fd, name, DIRECTORY)
          break
        case 'ENAMETOOLONG':
          // Names of entries were measured before; this one is from the text of a link.
          throw refuse('passes through a symbolic link to a name that is too long')
        case 'ELOOP':
        case 'ENOTDIR':
          return this.readLink(parent, name, options, refuse)
        default:
          throw error
      }
    }
    this.held.set(path, fd)
    return {path, fd}
  }

  private make(parent: Directory, name: string, path: string, refuse: Refuse): void {
    if (depthOf(path) > this.depthMax) {
      throw refuse(`is more than ${this.depthMax} directories deep`, '--max-depth')
    }
    if (path.length > archiveBounds.pathBytesMax) {
      throw refuse(`has a path of more than ${archiveBounds.pathBytesMax} bytes`)
    }
    // One entry can ask for as many directories as a path is deep, so those count too.
    if (++this.created > this.createdMax) {
      const rule = `brings the directories that have no entry to more than ${this.createdMax}`
      throw refuse(rule, '--max-files')
    }
    // Closed to all until the end, when every directory gets its own mode.
    this.calls.mkdirat(parent.fd, name, 0o700)
    this.onCreate(path)
  }

  private readLink(parent: Directory, name: string, options: WalkOptions, refuse: Refuse): string {
    let target: string
    try {
      target = this.calls.readlinkat(parent.fd, name)
    } catch (error) {
      if (systemCode(error) !== 'EINVAL') throw error
      throw refuse('has a parent that is not a directory')
    }
    if (!options.follow) throw refuse('has a parent that was swapped while unpacking')
    return target
  }

  /** Lets the longest unused descriptors go, but never those in use. */
  private trim(inUse: number, kept: number | undefined): void {
    if (this.held.size <= HELD_MAX) return
    for (const [path, fd] of this.held) {
      if (fd === inUse || fd === kept) continue
      this.held.delete(path)
      closeQuietly(fd)
      if (this.held.size <= HELD_MAX) return
    }
  }
}

/** The components of a path, the last one first, so that taking one is cheap. */
function components(path: string): string[] {
  return path.split('/').reverse()
}
