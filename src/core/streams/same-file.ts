import type {BigIntStats} from 'node:fs'

/**
 * Whether two looks at a path found the same file with the same content, as far as inode, size and times tell. The
 * change time is among them: whoever puts back the modification time moves it. Kernels before 6.13, and some file
 * systems still, move it in steps of up to 10 ms: two writings of as many bytes within one step look like one.
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
