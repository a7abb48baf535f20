/**
 * A file tree in memory, compact: inodes, and the names that lead to them. Knows nothing about archives or policy.
 * Inodes and names are numbers; the root is inode 0. Names and texts are byte strings.
 */
import {randomInt} from 'node:crypto'
import {assert} from '../../assert.ts'
import type {Segment, Xattr} from '../archive/entry.ts'
import {grown, nextCapacity, Texts} from './columns.ts'
import {S_IFDIR, S_IFMT, S_IFREG} from './format.ts'
import {XattrSets} from './xattrs.ts'

export const ROOT = 0
/** No name. */
export const NONE = 0

export type InodeAttributes = {
  /** With the type bits. */
  mode: number
  uid: number
  gid: number
  mtime: {seconds: number; nanoseconds: number}
  xattrs: readonly Xattr[]
}

const firstInodes = 1024
const firstNames = 1024

function makeInodes(rows: number) {
  return {
    mode: new Uint16Array(rows),
    uid: new Uint32Array(rows),
    gid: new Uint32Array(rows),
    seconds: new Float64Array(rows),
    nanoseconds: new Uint32Array(rows),
    links: new Uint32Array(rows),
    xattrs: new Uint32Array(rows),
    /** A file's size, a link's text length, a directory's number of children. */
    size: new Float64Array(rows),
    /** A file's place in its device, a link's text, a device's number, a directory's newest name. */
    value: new Float64Array(rows),
    /** A file's device, counted from 1; 0 while it has no data. */
    device: new Uint16Array(rows),
    /** A directory's name. */
    name: new Uint32Array(rows),
  }
}

function makeNames(rows: number) {
  return {
    at: new Float64Array(rows),
    length: new Uint8Array(rows),
    directory: new Uint32Array(rows),
    inode: new Uint32Array(rows),
    /** The name made before it in the same directory. */
    next: new Uint32Array(rows),
    /** 1 where the name was removed. */
    isGone: new Uint8Array(rows),
  }
}

export class ErofsTree {
  inodes = makeInodes(firstInodes)
  names = makeNames(firstNames)
  inodeCount = 0
  /** Names given so far and one more, because 0 is none. */
  nameCount = 1
  readonly texts = new Texts()
  readonly xattrs = new XattrSets()
  /** Of sparse files: what is data; its bytes stand one behind the other at the file's place. */
  readonly segments = new Map<number, readonly Segment[]>()
  /** Names by directory and text: open addressing, at most half full. */
  private slots = new Uint32Array(4 * firstNames)

  constructor(root: InodeAttributes) {
    this.addInode({...root, mode: (root.mode & ~S_IFMT) | S_IFDIR})
    this.inodes.links[ROOT] = 2
  }

  addInode(attributes: InodeAttributes): number {
    const inode = this.inodeCount++
    if (inode >= this.inodes.mode.length) {
      this.inodes = grown(this.inodes, nextCapacity(this.inodes.mode.length))
    }
    this.setAttributes(inode, attributes)
    return inode
  }

  setAttributes(inode: number, {mode, uid, gid, mtime, xattrs}: InodeAttributes): void {
    const {inodes} = this
    inodes.mode[inode] = mode
    inodes.uid[inode] = uid
    inodes.gid[inode] = gid
    inodes.seconds[inode] = mtime.seconds
    inodes.nanoseconds[inode] = mtime.nanoseconds
    inodes.xattrs[inode] = xattrs.length === 0 ? 0 : this.xattrs.add(xattrs)
  }

  /** Says where a file's bytes are: `position` of device `device`, counted from 1. */
  setData(inode: number, device: number, position: number): void {
    this.inodes.device[inode] = device
    this.inodes.value[inode] = position
  }

  setText(inode: number, text: string): void {
    this.inodes.value[inode] = this.texts.add(text)
    this.inodes.size[inode] = text.length
  }

  textOf(inode: number): string {
    return this.texts.get(this.inodes.value[inode] ?? 0, this.inodes.size[inode] ?? 0)
  }

  isDirectory(inode: number): boolean {
    return this.typeOf(inode) === S_IFDIR
  }

  typeOf(inode: number): number {
    return (this.inodes.mode[inode] ?? 0) & S_IFMT
  }

  isFile(inode: number): boolean {
    return this.typeOf(inode) === S_IFREG
  }

  /** The inode that a name leads to. */
  inodeOf(name: number): number {
    return this.names.inode[name] ?? 0
  }

  /** The directory that a directory is in; the root is in itself. */
  parentOf(directory: number): number {
    return this.names.directory[this.inodes.name[directory] ?? NONE] ?? ROOT
  }

  nameText(name: number): string {
    return this.texts.get(this.names.at[name] ?? 0, this.names.length[name] ?? 0)
  }

  /** The order of two names by their bytes, as a sort wants it. */
  compareNames(one: number, other: number): number {
    const {at, length} = this.names
    return this.texts.compare(at[one] ?? 0, length[one] ?? 0, at[other] ?? 0, length[other] ?? 0)
  }

  childCount(directory: number): number {
    return this.inodes.size[directory] ?? 0
  }

  /** The names of a directory that still are, the newest first. */
  *children(directory: number): Generator<number> {
    for (let name = this.inodes.value[directory] ?? 0; name !== NONE;) {
      if (this.names.isGone[name] === 0) yield name
      name = this.names.next[name] ?? NONE
    }
  }

  /** The name `text` in a directory, or NONE. */
  find(directory: number, text: string): number {
    const name = this.slots[this.slotOf(directory, text)] ?? NONE
    return this.names.isGone[name] === 1 ? NONE : name
  }

  /** Gives an inode a name that nothing has in this directory. */
  addName(directory: number, text: string, inode: number): number {
    if (2 * this.nameCount >= this.slots.length) this.rehash()
    const slot = this.slotOf(directory, text)
    let name = this.slots[slot] ?? NONE
    if (name === NONE) {
      name = this.makeName(directory, text)
      this.slots[slot] = name
    } else {
      assert(this.names.isGone[name] === 1, 'a name is given once in a directory')
      this.names.isGone[name] = 0
    }
    this.inodes.size[directory] = (this.inodes.size[directory] ?? 0) + 1
    this.attach(name, inode)
    return name
  }

  /** Lets a name lead to another inode; what it led to loses a link. */
  replace(name: number, inode: number): void {
    this.detach(name)
    this.attach(name, inode)
  }

  /** Takes a name out of its directory. It keeps its slot, because searches pass over it. */
  remove(name: number): void {
    this.detach(name)
    const directory = this.names.directory[name] ?? 0
    this.names.isGone[name] = 1
    this.inodes.size[directory] = (this.inodes.size[directory] ?? 0) - 1
  }

  /** Ends the making: names can be neither found nor added any more, and the memory for that is given back. */
  close(): void {
    this.slots.buffer.transfer(0)
    this.slots = new Uint32Array(0)
  }

  private makeName(directory: number, text: string): number {
    const name = this.nameCount++
    if (name >= this.names.length.length) {
      this.names = grown(this.names, nextCapacity(this.names.length.length))
    }
    const {names, inodes} = this
    names.at[name] = this.texts.add(text)
    names.length[name] = text.length
    names.directory[name] = directory
    names.next[name] = inodes.value[directory] ?? NONE
    inodes.value[directory] = name
    return name
  }

  private attach(name: number, inode: number): void {
    const {inodes, names} = this
    const directory = names.directory[name] ?? 0
    names.inode[name] = inode
    if (this.isDirectory(inode)) {
      inodes.links[inode] = 2
      inodes.name[inode] = name
      inodes.links[directory] = (inodes.links[directory] ?? 0) + 1
    } else {
      inodes.links[inode] = (inodes.links[inode] ?? 0) + 1
    }
  }

  private detach(name: number): void {
    const {inodes, names} = this
    const inode = names.inode[name] ?? 0
    if (this.isDirectory(inode)) {
      const directory = names.directory[name] ?? 0
      inodes.links[inode] = 0
      inodes.links[directory] = (inodes.links[directory] ?? 0) - 1
    } else {
      inodes.links[inode] = (inodes.links[inode] ?? 0) - 1
    }
  }

  /** Where a name is, or would be. */
  private slotOf(directory: number, text: string): number {
    const {names, slots, texts} = this
    assert(slots.length > 0, 'a closed tree is only read')
    const mask = slots.length - 1
    let hash = firstHash(directory)
    for (let at = 0; at < text.length; at++) {
      hash = Math.imul(hash ^ text.charCodeAt(at), HASH_FACTOR)
    }
    for (let slot = lastHash(hash) & mask; ; slot = (slot + 1) & mask) {
      const name = slots[slot] ?? NONE
      if (name === NONE) return slot
      if (names.directory[name] !== directory) continue
      if (texts.equals(names.at[name] ?? 0, names.length[name] ?? 0, text)) return slot
    }
  }

  private rehash(): void {
    const slotCount = 2 * this.slots.length
    // Made anew from the names; the old ones need not stand in memory meanwhile.
    this.slots.buffer.transfer(0)
    const slots = new Uint32Array(slotCount)
    const mask = slots.length - 1
    const {names, texts} = this
    for (let name = 1; name < this.nameCount; name++) {
      let hash = firstHash(names.directory[name] ?? 0)
      const from = names.at[name] ?? 0
      const end = from + (names.length[name] ?? 0)
      for (let at = from; at < end; at++)
        hash = Math.imul(hash ^ (texts.bytes[at] ?? 0), HASH_FACTOR)
      let slot = lastHash(hash) & mask
      while (slots[slot] !== NONE) slot = (slot + 1) & mask
      slots[slot] = name
    }
    this.slots = slots
  }
}

// FNV-1a, with the high bits mixed into the low ones that choose a slot. Who chooses the names could make them
// collide; so it starts anew in each process.
const HASH_FACTOR = 0x01000193
const seed = randomInt(2 ** 31)

function firstHash(directory: number): number {
  return Math.imul(directory ^ seed, 0x9e3779b1)
}

function lastHash(hash: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  return mixed ^ (mixed >>> 13)
}
