/**
 * `npm run bench`: runs every program in bench/, one after another so that none disturbs the next; each prints lines of
 * JSON. `npm run bench -- unpack` runs those whose name contains a word; flags are handed on to them. The soak, which
 * takes two hours, runs only when it is named.
 */
import {spawnSync} from 'node:child_process'
import {globSync} from 'node:fs'

const words = process.argv.slice(2).filter((word) => !word.startsWith('-'))
const flags = process.argv.slice(2).filter((word) => word.startsWith('-'))
const programs = globSync('bench/*.ts')
  .sort()
  .filter((path) =>
    words.length === 0 ? !path.includes('soak') : words.some((word) => path.includes(word)),
  )

if (programs.length === 0) {
  console.error(`no program in bench/ has ${words.join(' or ')} in its name`)
  process.exitCode = 2
}
for (const path of programs) {
  const done = spawnSync(process.execPath, [path, ...flags], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (done.status !== 0) {
    console.error(`${path} ended with ${done.status ?? done.signal ?? 'an error'}`)
    process.exitCode = 1
  }
}
