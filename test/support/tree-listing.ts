/** Lists a tree with everything that can be right or wrong about it, so that two trees can be compared. */
import {createHash} from 'node:crypto'
import {lstatSync, readdirSync, readFileSync, readlinkSync} from 'node:fs'
import {lgetxattr, llistxattr} from '../../src/core/syscalls/files.ts'

export type TreeOptions = {
  /** Blocks on disk: tells whether holes were kept. */
  blocks?: boolean
  xattrs?: boolean
  /** A directory that is not looked into. */
  skip?: string
}

/** One line for each file, by name; names are byte strings. */
export function listTree(root: string, options: TreeOptions = {}): Map<string, string> {
  const lines = new Map<string, string>()
  const names = new Map<string, string[]>()
  const visit = (path: string): void => {
    const full = Buffer.from(path === '' ? root : `${root}/`, 'utf8')
    const where = Buffer.concat([full, Buffer.from(path, 'latin1')])
    const stats = lstatSync(where, {bigint: true})
    const isDirectory = stats.isDirectory()
    const parts = [
      stats.mode.toString(8),
      `${stats.uid}:${stats.gid}`,
      isDirectory ? '' : `size ${stats.size}`,
      `mtime ${stats.mtimeNs}`,
      stats.isSymbolicLink() ? `-> ${readlinkSync(where, 'latin1')}` : '',
      stats.isFile() ? createHash('sha256').update(readFileSync(where)).digest('hex') : '',
      stats.isCharacterDevice() || stats.isBlockDevice() ? `device ${stats.rdev}` : '',
      isDirectory ? '' : `links ${stats.nlink}`,
      options.blocks && stats.isFile() ? blocksOf(stats) : '',
      ...(options.xattrs ? xattrsOf(where.toString('latin1')) : []),
    ]
    lines.set(path, parts.filter((part) => part !== '').join(' '))
    if (!isDirectory && stats.nlink > 1n) {
      names.set(`${stats.ino}`, [...(names.get(`${stats.ino}`) ?? []), path])
    }
    if (!isDirectory) return
    if (path !== '' && path === options.skip) {
      lines.delete(path)
      return
    }
    for (const name of readdirSync(where, {encoding: 'latin1'}).sort()) {
      visit(path === '' ? name : `${path}/${name}`)
    }
  }
  visit('')
  for (const group of names.values()) {
    for (const path of group)
      lines.set(path, `${lines.get(path) ?? ''} same as ${group.join(', ')}`)
  }
  return lines
}

function xattrsOf(path: string): string[] {
  return llistxattr(path)
    .sort()
    .map((name) => `${name}=${lgetxattr(path, name).toString('hex')}`)
}

/** What differs between two listings, at most `max` lines. */
export function treeDifferences(
  actual: Map<string, string>,
  expected: Map<string, string>,
  max = 20,
): string[] {
  const found: string[] = []
  for (const path of new Set([...expected.keys(), ...actual.keys()])) {
    const [is, should] = [actual.get(path), expected.get(path)]
    if (is === should) continue
    found.push(`${JSON.stringify(path)}: is ${is ?? 'absent'}; should be ${should ?? 'absent'}`)
    if (found.length >= max) break
  }
  return found
}

/** The blocks of a file with holes. Another one has a few more or less, as the file system found room for it. */
function blocksOf({blocks, size}: {blocks: bigint; size: bigint}): string {
  return blocks * 512n < size ? `blocks ${blocks}` : ''
}
