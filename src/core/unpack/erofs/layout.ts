/** Decides where everything of an image goes, before a byte of it is written. */
import {bestChunkBits, copiedBytes, isFlat, joinSegments, type SparseFile} from './chunks.ts'
import {directoryBytes, sortNames} from './directories.ts'
import {
  alignUp,
  BLOCK_BITS,
  BLOCK_BYTES,
  COMPACT_BYTES,
  EXTENDED_BYTES,
  headBytes,
  LAYOUT_CHUNKS,
  LAYOUT_INLINE,
  LAYOUT_PLAIN,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
  SLOT_BYTES,
} from './format.ts'
import type {ErofsOptions} from './options.ts'
import {type ErofsTree, ROOT} from './tree.ts'

/** Addresses have 32 bits, and the last one means a hole. */
const BLOCKS_MAX = 0xffff_fffe

export type Layout = {
  /** Inodes in the order of their places. */
  order: Uint32Array
  /** Each inode's number: its place in slots. */
  numbers: Uint32Array
  /** Of directories. */
  sizes: Uint32Array
  /** The names of a directory, sorted. */
  namesOf(directory: number): Uint32Array
  time: {seconds: number; nanoseconds: number}
  /** Whether every device has its own part of one space of addresses, so that files need no table. */
  isUnified: boolean
  hasChunks: boolean
  /** First block of each device in that space. */
  firstBlocks: number[]
  chunkBits: Map<number, number>
  inodesAt: number
  blocksAt: number
  sharedAt: number
  copiesAt: number
  endBytes: number
}

/** How one inode is written. */
export type Shape = {
  isExtended: boolean
  layout: number
  /** Inode and attributes. */
  headBytes: number
  /** What stands behind them: the end of the data, or a table of chunks. */
  tailBytes: number
  /** Bytes in blocks of the image, up to whole blocks. */
  blockBytes: number
}

/** Lays out a tree. */
export function layOut(tree: ErofsTree, options: ErofsOptions): Layout {
  const walked = walk(tree)
  const time = options.buildTime ?? commonestTime(tree, walked.order)
  const users = new Map<number, number>()
  for (const inode of walked.order) {
    const set = tree.inodes.xattrs[inode] ?? 0
    if (set !== 0) users.set(set, (users.get(set) ?? 0) + 1)
  }
  tree.xattrs.share(users)
  const layout: Layout = {
    ...walked,
    time,
    numbers: new Uint32Array(tree.inodeCount),
    isUnified: true,
    hasChunks: false,
    firstBlocks: [],
    chunkBits: new Map(),
    inodesAt: headBytes(options.devices.length),
    blocksAt: 0,
    sharedAt: 0,
    copiesAt: 0,
    endBytes: 0,
  }
  place(tree, layout)
  const deviceBlocks = options.devices.reduce((sum, device) => sum + device.blocks, 0)
  if (layout.endBytes / BLOCK_BYTES + deviceBlocks > BLOCKS_MAX) {
    layout.isUnified = false
    place(tree, layout)
  }
  let firstBlock = layout.endBytes / BLOCK_BYTES
  for (const device of options.devices) {
    layout.firstBlocks.push(firstBlock)
    firstBlock += device.blocks
  }
  return layout
}

/** Orders inodes: a directory, its children by name, then what is below them. */
function walk(tree: ErofsTree): Pick<Layout, 'order' | 'sizes' | 'namesOf'> {
  const order = new Uint32Array(tree.inodeCount)
  const isSeen = new Uint8Array(tree.inodeCount)
  const sorted = new Uint32Array(tree.nameCount)
  const firstName = new Uint32Array(tree.inodeCount)
  const sizes = new Uint32Array(tree.inodeCount)
  let inodes = 0
  let names = 0
  const see = (inode: number): void => {
    isSeen[inode] = 1
    order[inodes++] = inode
  }
  see(ROOT)
  const waiting = [ROOT]
  for (let directory = waiting.pop(); directory !== undefined; directory = waiting.pop()) {
    const children = sortNames(tree, directory)
    firstName[directory] = names
    sizes[directory] = directoryBytes(tree, children)
    const below: number[] = []
    for (const name of children) {
      sorted[names++] = name
      const inode = tree.inodeOf(name)
      if (isSeen[inode] === 1) continue
      see(inode)
      if (tree.isDirectory(inode)) below.push(inode)
    }
    for (let index = below.length - 1; index >= 0; index--) waiting.push(below[index] ?? ROOT)
  }
  return {
    order: order.subarray(0, inodes),
    sizes,
    namesOf: (directory) => {
      const first = firstName[directory] ?? 0
      return sorted.subarray(first, first + tree.childCount(directory))
    },
  }
}

/** The time that most inodes have; exact among the first thousands of different ones. */
function commonestTime(tree: ErofsTree, order: Uint32Array): Layout['time'] {
  const TIMES_MAX = 4096
  const counts = new Map<number, {inode: number; count: number}>()
  let best = {inode: ROOT, count: 0}
  for (const inode of order) {
    // Not exact to the last nanoseconds, which only makes the count a little wrong.
    const key = (tree.inodes.seconds[inode] ?? 0) * 1e9 + (tree.inodes.nanoseconds[inode] ?? 0)
    let found = counts.get(key)
    if (found === undefined) {
      if (counts.size >= TIMES_MAX) continue
      found = {inode, count: 0}
      counts.set(key, found)
    }
    if (++found.count > best.count) best = found
  }
  return {
    seconds: tree.inodes.seconds[best.inode] ?? 0,
    nanoseconds: tree.inodes.nanoseconds[best.inode] ?? 0,
  }
}

/** Gives every inode its number and every area its place. */
function place(tree: ErofsTree, layout: Layout): void {
  let position = layout.inodesAt
  let blockBytes = 0
  let copyBytes = 0
  layout.hasChunks = false
  layout.chunkBits.clear()
  for (const inode of layout.order) {
    const sparse = chunkedFile(tree, layout, inode)
    if (sparse !== undefined) {
      const bits = bestChunkBits(sparse, layout.isUnified ? 4 : 8)
      layout.hasChunks = true
      layout.chunkBits.set(inode, bits)
      copyBytes += copiedBytes(sparse, 2 ** (bits + BLOCK_BITS))
    }
    const shape = shapeOf(tree, layout, inode)
    position = placeOf(position, shape)
    layout.numbers[inode] = position / SLOT_BYTES
    position = alignUp(endOf(position, shape, layout), SLOT_BYTES)
    blockBytes += shape.blockBytes
  }
  layout.blocksAt = alignUp(position, BLOCK_BYTES)
  layout.sharedAt = layout.blocksAt + blockBytes
  layout.copiesAt = layout.sharedAt + alignUp(tree.xattrs.sharedBytes, BLOCK_BYTES)
  layout.endBytes = layout.copiesAt + copyBytes
}

/** Where an inode may begin: data behind it must not cross the end of a block, and is best in the inode's own. */
export function placeOf(position: number, shape: Shape): number {
  if (shape.layout !== LAYOUT_INLINE) return position
  const left = BLOCK_BYTES - (position % BLOCK_BYTES)
  return shape.headBytes + shape.tailBytes <= left ? position : position + left
}

export function endOf(position: number, shape: Shape, layout: Layout): number {
  if (shape.layout !== LAYOUT_CHUNKS) return position + shape.headBytes + shape.tailBytes
  return tableAt(position, shape, layout) + shape.tailBytes
}

/** Where the table of chunks begins. */
export function tableAt(position: number, shape: Shape, layout: Layout): number {
  return alignUp(position + shape.headBytes, layout.isUnified ? 4 : 8)
}

/** The file behind an inode, if it is written as chunks. */
export function chunkedFile(
  tree: ErofsTree,
  layout: Layout,
  inode: number,
): SparseFile | undefined {
  const {size, value, device} = tree.inodes
  if (!tree.isFile(inode)) return undefined
  const sizeBytes = size[inode] ?? 0
  const holes = tree.segments.get(inode)
  if (sizeBytes === 0 || (holes === undefined && layout.isUnified)) {
    return holes === undefined || sizeBytes === 0 ? undefined : file(holes)
  }
  return file(holes ?? [{offset: 0, length: sizeBytes}])

  function file(segments: readonly {offset: number; length: number}[]): SparseFile | undefined {
    const isEmpty = (device[inode] ?? 0) === 0
    const joined = isEmpty ? [] : joinSegments(segments)
    const sparse = {sizeBytes, position: value[inode] ?? 0, segments: joined}
    return layout.isUnified && isFlat(sparse) ? undefined : sparse
  }
}

/** Bytes of a file, a link's text or a directory. */
export function sizeOf(tree: ErofsTree, layout: Layout, inode: number): number {
  return (tree.isDirectory(inode) ? layout.sizes[inode] : tree.inodes.size[inode]) ?? 0
}

export function shapeOf(tree: ErofsTree, layout: Layout, inode: number): Shape {
  const {inodes} = tree
  const sizeBytes = sizeOf(tree, layout, inode)
  const isExtended =
    sizeBytes > 0xffff_ffff ||
    (inodes.uid[inode] ?? 0) > 0xffff ||
    (inodes.gid[inode] ?? 0) > 0xffff ||
    (inodes.links[inode] ?? 0) > 0xffff ||
    inodes.seconds[inode] !== layout.time.seconds ||
    inodes.nanoseconds[inode] !== layout.time.nanoseconds
  const set = inodes.xattrs[inode] ?? 0
  const headBytes =
    (isExtended ? EXTENDED_BYTES : COMPACT_BYTES) +
    (set === 0 ? 0 : tree.xattrs.body(set).sizeBytes)
  const plain = {isExtended, layout: LAYOUT_PLAIN, headBytes, tailBytes: 0, blockBytes: 0}
  switch (tree.typeOf(inode)) {
    case S_IFREG: {
      const bits = layout.chunkBits.get(inode)
      if (bits === undefined) return plain
      const chunks = Math.ceil(sizeBytes / 2 ** (bits + BLOCK_BITS))
      const tailBytes = chunks * (layout.isUnified ? 4 : 8)
      return {...plain, layout: LAYOUT_CHUNKS, tailBytes}
    }
    case S_IFDIR:
    case S_IFLNK: {
      const tailBytes = sizeBytes % BLOCK_BYTES
      const isLink = tree.typeOf(inode) === S_IFLNK
      // A link longer than a block is read through its blocks; older kernels expect all of it there.
      const canTail = tailBytes > 0 && (!isLink || sizeBytes < BLOCK_BYTES)
      if (canTail && headBytes + tailBytes <= BLOCK_BYTES) {
        const blockBytes = sizeBytes - tailBytes
        return {...plain, layout: LAYOUT_INLINE, tailBytes, blockBytes}
      }
      return {...plain, blockBytes: alignUp(sizeBytes, BLOCK_BYTES)}
    }
    default:
      return plain
  }
}
