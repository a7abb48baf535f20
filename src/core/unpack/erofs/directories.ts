/** Directories as EROFS reads them: names in the order of their bytes, packed into blocks that each stand alone. */
import {BLOCK_BYTES, DIRENT_BYTES, entryType, put64} from './format.ts'
import type {ErofsTree} from './tree.ts'

/** The names of a directory in the order of their bytes. */
export function sortNames(tree: ErofsTree, directory: number): Uint32Array {
  const count = tree.childCount(directory)
  const names = new Uint32Array(count)
  // Archives list directories mostly in some order; the newest comes first here.
  let index = count
  for (const name of tree.children(directory)) names[--index] = name
  for (let at = 1; at < count; at++) {
    if (tree.compareNames(names[at - 1] ?? 0, names[at] ?? 0) > 0) {
      return names.sort((one, other) => tree.compareNames(one, other))
    }
  }
  return names
}

/** Where `.` and `..` go among sorted names: both before, between or after others, as their bytes say. */
function* entries(
  tree: ErofsTree,
  names: Uint32Array,
): Generator<{name: number | '.' | '..'; length: number}> {
  let rest: ('.' | '..')[] = ['.', '..']
  for (const name of names) {
    // Only names that begin with something below a dot, or with the dot itself, can matter.
    while (rest[0] !== undefined && rest[0] < tree.nameText(name)) {
      yield {name: rest[0], length: rest[0].length}
      rest = rest.slice(1)
    }
    yield {name, length: tree.names.length[name] ?? 0}
  }
  for (const dots of rest) yield {name: dots, length: dots.length}
}

/** How large a directory is. */
export function directoryBytes(tree: ErofsTree, names: Uint32Array): number {
  let full = 0
  let used = 0
  for (const {length} of entries(tree, names)) {
    const bytes = DIRENT_BYTES + length
    if (used + bytes > BLOCK_BYTES) {
      full += BLOCK_BYTES
      used = 0
    }
    used += bytes
  }
  return full + used
}

/** Writes the blocks of a directory, each into a new buffer of its size; the last one may be short. */
export function* directoryBlocks(
  tree: ErofsTree,
  directory: number,
  names: Uint32Array,
  numbers: Uint32Array,
): Generator<Buffer> {
  let block: {name: number | '.' | '..'; length: number}[] = []
  let used = 0
  const finish = (size: number): Buffer => {
    const buffer = Buffer.alloc(size)
    let nameAt = block.length * DIRENT_BYTES
    for (const [index, {name, length}] of block.entries()) {
      const inode =
        name === '.' ? directory : name === '..' ? tree.parentOf(directory) : tree.inodeOf(name)
      const at = index * DIRENT_BYTES
      put64(buffer, numbers[inode] ?? 0, at)
      buffer.writeUInt16LE(nameAt, at + 8)
      buffer.writeUInt8(entryType(tree.inodes.mode[inode] ?? 0), at + 10)
      if (typeof name === 'string') buffer.write(name, nameAt, 'latin1')
      else {
        const from = tree.names.at[name] ?? 0
        tree.texts.bytes.copy(buffer, nameAt, from, from + length)
      }
      nameAt += length
    }
    return buffer
  }
  for (const entry of entries(tree, names)) {
    const bytes = DIRENT_BYTES + entry.length
    if (used + bytes > BLOCK_BYTES) {
      yield finish(BLOCK_BYTES)
      block = []
      used = 0
    }
    block.push(entry)
    used += bytes
  }
  yield finish(used)
}
