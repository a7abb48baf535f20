/** Writes the areas of an image in their order; where everything is was decided by layout.ts. */
import {assert} from '../../assert.ts'
import {chunkRuns, type ChunkRun} from './chunks.ts'
import {directoryBlocks} from './directories.ts'
import {
  alignUp,
  BLOCK_BITS,
  BLOCK_BYTES,
  CHUNK_INDEXES,
  LAYOUT_CHUNKS,
  LAYOUT_INLINE,
  NO_BLOCK,
  putInode,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
  SLOT_BYTES,
} from './format.ts'
import type {ErofsOptions} from './options.ts'
import type {ImageSink} from './sink.ts'
import {chunkedFile, type Layout, shapeOf, type Shape, sizeOf, tableAt} from './layout.ts'
import type {ErofsTree} from './tree.ts'

const COPY_BYTES = 1 << 16

export function writeInodes(tree: ErofsTree, layout: Layout, sink: ImageSink): void {
  const next = {block: layout.blocksAt / BLOCK_BYTES, copy: layout.copiesAt / BLOCK_BYTES}
  for (const [serial, inode] of layout.order.entries()) {
    const shape = shapeOf(tree, layout, inode)
    const position = (layout.numbers[inode] ?? 0) * SLOT_BYTES
    assert(position >= sink.position, 'inodes are written in the order of their places')
    sink.padTo(position)
    const at = sink.take(shape.headBytes)
    writeInode(tree, layout, sink.target, at, inode, serial, shape, next.block)
    if (shape.layout === LAYOUT_CHUNKS) {
      sink.padTo(tableAt(position, shape, layout))
      writeTable(tree, layout, sink, inode, next)
    } else if (shape.layout === LAYOUT_INLINE) {
      sink.write(contentOf(tree, layout, inode, shape.blockBytes))
    }
    next.block += shape.blockBytes / BLOCK_BYTES
  }
}

function writeInode(
  tree: ErofsTree,
  layout: Layout,
  buffer: Buffer,
  at: number,
  inode: number,
  serial: number,
  shape: Shape,
  block: number,
): void {
  const {inodes} = tree
  const set = inodes.xattrs[inode] ?? 0
  const body = set === 0 ? undefined : tree.xattrs.body(set)
  const xattrBytes = body?.sizeBytes ?? 0
  const type = tree.typeOf(inode)
  const isOther = type !== S_IFREG && type !== S_IFDIR && type !== S_IFLNK
  putInode(buffer, at, {
    isExtended: shape.isExtended,
    layout: shape.layout,
    xattrBytes,
    mode: inodes.mode[inode] ?? 0,
    links: inodes.links[inode] ?? 0,
    sizeBytes: isOther ? 0 : sizeOf(tree, layout, inode),
    place: placeField(tree, layout, inode, shape, block),
    serial: serial + 1,
    uid: inodes.uid[inode] ?? 0,
    gid: inodes.gid[inode] ?? 0,
    mtimeSeconds: inodes.seconds[inode] ?? 0,
    mtimeNanoseconds: inodes.nanoseconds[inode] ?? 0,
  })
  body?.put(buffer, at + shape.headBytes - xattrBytes)
}

function placeField(
  tree: ErofsTree,
  layout: Layout,
  inode: number,
  shape: Shape,
  block: number,
): number {
  const {inodes} = tree
  switch (tree.typeOf(inode)) {
    case S_IFREG: {
      const bits = layout.chunkBits.get(inode)
      if (bits !== undefined) return bits | (layout.isUnified ? 0 : CHUNK_INDEXES)
      if ((inodes.size[inode] ?? 0) === 0) return 0
      return deviceBlock(layout, inodes.device[inode] ?? 0, inodes.value[inode] ?? 0)
    }
    case S_IFDIR:
    case S_IFLNK:
      return shape.blockBytes === 0 ? 0 : block
    case S_IFCHR:
    case S_IFBLK:
      return inodes.value[inode] ?? 0
    default:
      return 0
  }
}

/** The address of a place in a device. */
function deviceBlock(layout: Layout, device: number, position: number): number {
  assert(position % BLOCK_BYTES === 0, 'data that is pointed to begins a block')
  const block = position / BLOCK_BYTES
  if (!layout.isUnified) return block
  const first = layout.firstBlocks[device - 1]
  assert(first !== undefined, 'a file is in a device that there is')
  return first + block
}

function writeTable(
  tree: ErofsTree,
  layout: Layout,
  sink: ImageSink,
  inode: number,
  next: {copy: number},
): void {
  const file = chunkedFile(tree, layout, inode)
  const bits = layout.chunkBits.get(inode) ?? 0
  assert(file !== undefined, 'a file with chunks is one with holes')
  const device = tree.inodes.device[inode] ?? 0
  const chunkBlocks = 2 ** bits
  for (const run of chunkRuns(file, chunkBlocks * BLOCK_BYTES)) {
    if (run.kind === 'copy') {
      putEntries(layout, sink, 1, 0, next.copy, 0)
      next.copy += Math.ceil(run.sizeBytes / BLOCK_BYTES)
    } else if (run.kind === 'hole') putEntries(layout, sink, run.count, 0, NO_BLOCK, 0)
    else {
      const block = deviceBlock(layout, device, run.position)
      putEntries(layout, sink, run.count, device, block, chunkBlocks)
    }
  }
}

function putEntries(
  layout: Layout,
  sink: ImageSink,
  count: number,
  device: number,
  first: number,
  step: number,
): void {
  for (let index = 0, block = first; index < count; index++, block += step) {
    if (layout.isUnified) {
      const at = sink.take(4)
      sink.target.writeUInt32LE(block, at)
    } else {
      const at = sink.take(8)
      sink.target.writeUInt16LE(device, at + 2)
      sink.target.writeUInt32LE(block, at + 4)
    }
  }
}

/** What a directory or link holds, from `start` on. */
function contentOf(tree: ErofsTree, layout: Layout, inode: number, start: number): Buffer {
  if (!tree.isDirectory(inode)) return Buffer.from(tree.textOf(inode).slice(start), 'latin1')
  const parts = [...blocksOf(tree, layout, inode)]
  return Buffer.concat(parts.slice(start / BLOCK_BYTES))
}

function blocksOf(tree: ErofsTree, layout: Layout, directory: number): Generator<Buffer> {
  return directoryBlocks(tree, directory, layout.namesOf(directory), layout.numbers)
}

export function writeBlocks(tree: ErofsTree, layout: Layout, sink: ImageSink): void {
  sink.padTo(layout.blocksAt)
  for (const inode of layout.order) {
    const type = tree.typeOf(inode)
    if (type !== S_IFDIR && type !== S_IFLNK) continue
    const {blockBytes} = shapeOf(tree, layout, inode)
    if (blockBytes === 0) continue
    const end = sink.position + blockBytes
    if (type === S_IFLNK) sink.write(contentOf(tree, layout, inode, 0))
    else {
      for (const block of blocksOf(tree, layout, inode)) {
        // The last one may stand behind the inode.
        if (sink.position < end) sink.write(block)
      }
    }
    sink.padTo(end)
  }
}

export function writeShared(tree: ErofsTree, layout: Layout, sink: ImageSink): void {
  assert(sink.position === layout.sharedAt, 'shared attributes are where they were placed')
  for (const part of tree.xattrs.sharedParts()) sink.write(part)
  sink.padTo(layout.copiesAt)
}

export function writeCopies(
  tree: ErofsTree,
  layout: Layout,
  sink: ImageSink,
  options: ErofsOptions,
): void {
  const buffer = Buffer.alloc(COPY_BYTES)
  for (const inode of layout.order) {
    const bits = layout.chunkBits.get(inode)
    if (bits === undefined) continue
    const file = chunkedFile(tree, layout, inode)
    if (file === undefined) continue
    const device = tree.inodes.device[inode] ?? 0
    for (const run of chunkRuns(file, 2 ** (bits + BLOCK_BITS))) {
      if (run.kind === 'copy') copyChunk(run, device, sink, options, buffer)
    }
  }
  assert(sink.position === layout.endBytes, 'an image has the size that was planned')
}

function copyChunk(
  run: Extract<ChunkRun, {kind: 'copy'}>,
  device: number,
  sink: ImageSink,
  options: ErofsOptions,
  buffer: Buffer,
): void {
  const {readDevice} = options
  assert(readDevice !== undefined, 'data that must be copied can be read')
  const start = sink.position
  for (const piece of run.pieces) {
    sink.padTo(start + piece.at)
    for (let done = 0; done < piece.length;) {
      const part = buffer.subarray(0, Math.min(COPY_BYTES, piece.length - done))
      readDevice(device, piece.position + done, part)
      sink.write(part)
      done += part.length
    }
  }
  sink.padTo(start + alignUp(run.sizeBytes, BLOCK_BYTES))
}
