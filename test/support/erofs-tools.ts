/** fsck.erofs and dump.erofs 1.8, kept in `.cache`; scripts/erofs-tools.sh gets them. */
import {execFileSync} from 'node:child_process'
import {copyFileSync, openSync, rmSync, writeSync, closeSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'

const home = join(import.meta.dirname, '../..')
const dir = join(home, '.cache/erofs-tools')

/** The path of a tool; fetches them all when they are not there. Needs the network of apt. */
export function erofsTool(name: 'fsck.erofs' | 'dump.erofs' | 'mkfs.erofs'): string {
  execFileSync(join(home, 'scripts/erofs-tools.sh'), [dir], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return join(dir, name)
}

/**
 * Fails unless both tools find the image right. Without its checksum: fsck.erofs 1.8.6 sums blocks of 512 bytes as if
 * they were endless, and crashes (its mkfs.erofs makes such images without one). The kernel checks the sum.
 */
export function expectSound(imagePath: string, devicePath: string): void {
  const dump = execFileSync(erofsTool('dump.erofs'), ['-s', imagePath], {encoding: 'utf8'})
  expect(dump).to.match(/features: .*sb_csum.*device_table/)
  const copy = `${imagePath}.unsummed`
  copyFileSync(imagePath, copy)
  try {
    const fd = openSync(copy, 'r+')
    writeSync(fd, Buffer.from([0, 0, 0, 0, 2]), 0, 5, 1028)
    closeSync(fd)
    execFileSync(erofsTool('fsck.erofs'), [`--device=${devicePath}`, copy], {stdio: 'pipe'})
  } finally {
    rmSync(copy)
  }
}
