/** The smallest image that proves something: one file, whose bytes are in the device. */
import {createHash} from 'node:crypto'
import {BLOCK_BYTES, S_IFDIR, S_IFREG} from './format.ts'
import {writeErofs} from './image.ts'
import {ErofsTree, ROOT} from './tree.ts'

export type TrialErofs = {image: Buffer; device: Buffer; fileName: string; content: Buffer}

/** An image and its device, to see whether this host mounts what we write. */
export function trialErofs(): TrialErofs {
  const fileName = 'file'
  const content = Buffer.from('these bytes are in the device\n')
  const device = Buffer.alloc(8 * BLOCK_BYTES)
  // Not at its beginning, so that an address that is off by anything shows.
  content.copy(device, 5 * BLOCK_BYTES)
  const attributes = {uid: 0, gid: 0, mtime: {seconds: 1, nanoseconds: 2}, xattrs: []}
  const tree = new ErofsTree({...attributes, mode: S_IFDIR | 0o755})
  const file = tree.addInode({...attributes, mode: S_IFREG | 0o644})
  tree.inodes.size[file] = content.length
  tree.setData(file, 1, 5 * BLOCK_BYTES)
  tree.addName(ROOT, fileName, file)
  const parts: Buffer[] = []
  const uuid = createHash('sha256').update('imgstore erofs trial').digest().subarray(0, 16)
  writeErofs(tree, {uuid, devices: [{blocks: device.length / BLOCK_BYTES}]}, (chunk) =>
    parts.push(Buffer.from(chunk)),
  )
  return {image: Buffer.concat(parts), device, fileName, content}
}
