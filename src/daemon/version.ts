import {existsSync, readFileSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {assert} from '../core/assert.ts'

/** The version in the package this file belongs to; sources and built code lie at different depths below it. */
export function readVersion(): string {
  let dir = import.meta.dirname
  while (!existsSync(join(dir, 'package.json'))) {
    assert(dirname(dir) !== dir, 'the program is installed with its package.json')
    dir = dirname(dir)
  }
  const found: unknown = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8'))
  assert(
    typeof found === 'object' && found !== null && 'version' in found,
    'package.json has a version',
  )
  return String(found.version)
}
