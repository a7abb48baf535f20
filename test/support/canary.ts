/** Files beside a staging root that attacks aim at; a case is lost when any of them is touched. */
import {mkdirSync, symlinkSync, utimesSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {listTree} from './tree-listing.ts'

/** A sibling with the name of the root (`img`) as its prefix, a secret above, a link, a directory with a file. */
export function makeCanary(dir: string): void {
  mkdirSync(join(dir, 'img-evil'))
  writeFileSync(join(dir, 'img-evil', 'file'), 'canary\n', {mode: 0o640})
  writeFileSync(join(dir, 'secret'), 'secret\n', {mode: 0o600})
  symlinkSync('secret', join(dir, 'link'))
  writeFileSync(join(dir, 'empty'), '')
  for (const name of ['img-evil/file', 'img-evil', 'secret'])
    utimesSync(join(dir, name), 1000, 1000)
}

/** Everything but the root: content, mode, owner, times, link count, size. */
export function listCanary(dir: string): string[] {
  return [...listTree(dir, {skip: 'img'})].map((line) => line.join(' '))
}
