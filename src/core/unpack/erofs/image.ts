/**
 * A file tree as an EROFS image that holds everything but the files' data, which stays where it is in other files
 * (devices). Pure: a tree in, bytes out, the same bytes for the same tree.
 *
 * In the image: superblock and device table, inodes in the order of a walk (each directory's children together, links
 * and the ends of directories behind their inodes), blocks of directories and long links, shared attributes, and
 * copies of what a device does not hold in whole blocks.
 */
import {fail} from '../../errors.ts'
import {BLOCK_BYTES, makeHead, SLOT_BYTES} from './format.ts'
import {layOut, type Layout} from './layout.ts'
import {writeBlocks, writeCopies, writeInodes, writeShared} from './emit.ts'
import type {ErofsOptions} from './options.ts'
import {ImageSink} from './sink.ts'
import type {ErofsTree} from './tree.ts'

export type {ErofsOptions} from './options.ts'

export type ErofsSummary = {sizeBytes: number; inodes: number}

/** Above this a block address has no number. */
const BLOCKS_MAX = 0xffff_fffe
/**
 * Writes the image.
 *
 * Shape: `out` is called with chunks in order, each of which may be reused after it returns.
 * Guarantees: deterministic; the root is the first inode.
 * Errors: unsafe_archive when something does not fit the format's 2 TiB of data.
 */
export function writeErofs(
  tree: ErofsTree,
  options: ErofsOptions,
  out: (chunk: Buffer) => void,
): ErofsSummary {
  const layout = layOut(tree, options)
  const sink = new ImageSink(out)
  sink.write(makeHead(superblockOf(layout, options)))
  writeInodes(tree, layout, sink)
  writeBlocks(tree, layout, sink)
  writeShared(tree, layout, sink)
  writeCopies(tree, layout, sink, options)
  sink.flush()
  return {sizeBytes: sink.position, inodes: layout.order.length}
}

function superblockOf(layout: Layout, options: ErofsOptions): Parameters<typeof makeHead>[0] {
  const blocks = layout.endBytes / BLOCK_BYTES
  let firstBlock = layout.isUnified ? blocks : 0
  const devices = options.devices.map((device) => {
    const record = {blocks: device.blocks, firstBlock, tag: device.tag ?? ''}
    if (layout.isUnified) firstBlock += device.blocks
    return record
  })
  if (blocks > BLOCKS_MAX || options.devices.some((device) => device.blocks > BLOCKS_MAX)) {
    throw fail('unsafe_archive', {
      entry: '',
      offset: 0,
      rule: 'needs addresses past 2 TiB, which an EROFS index does not have',
    })
  }
  return {
    rootNumber: layout.inodesAt / SLOT_BYTES,
    inodes: layout.order.length,
    timeSeconds: layout.time.seconds,
    timeNanoseconds: layout.time.nanoseconds,
    blocks,
    sharedXattrsBlock: layout.sharedAt / BLOCK_BYTES,
    uuid: options.uuid,
    hasChunks: layout.hasChunks,
    devices,
  }
}
