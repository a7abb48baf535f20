import type {BigIntStats} from 'node:fs'

/**
 * Whether two looks at a path found the same file with the same content, as far as inode, size and times tell. The
 * change time is among them: whoever puts back the modification time moves it.
 */
export function isSameFile(a: BigIntStats, b: BigIntStats): boolean {
  return (
    a.mtimeNs === b.mtimeNs &&
    a.ctimeNs === b.ctimeNs &&
    a.size === b.size &&
    a.ino === b.ino &&
    a.dev === b.dev
  )
}
