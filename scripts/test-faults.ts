/**
 * `npm run test:faults`: the fault matrix, one row after another, and a table of what was injected and checked.
 *
 *   --long       every row in its long form: some hours
 *   --seed N     the choices of an earlier run
 *   --row WORD   only rows whose name has this word; may be given several times
 *
 * Anything after `--` goes to mocha. Needs root and the packages of scripts/install-apt-packages.sh.
 */
import {spawnSync} from 'node:child_process'
import {mkdtempSync, readdirSync, readFileSync, existsSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {parseArgs} from 'node:util'
import type {FaultRow} from '../test/support/faults.ts'

const folder = 'test/faults'
// npm hands on what follows its own `--`; the reporter of test-all comes that way too.
const {values: flags} = parseArgs({
  options: {
    long: {type: 'boolean', default: false},
    seed: {type: 'string'},
    row: {type: 'string', multiple: true, default: []},
    reporter: {type: 'string'},
    color: {type: 'boolean'},
    'no-color': {type: 'boolean'},
  },
})

const rows = readdirSync(folder)
  .filter((name) => name.endsWith('.test.ts'))
  .filter((name) => flags.row.length === 0 || flags.row.some((word) => name.includes(word)))
if (rows.length === 0) {
  console.error(`no row of ${folder} has the word ${flags.row.join(' or ')}`)
  process.exit(2)
}

const scratch = mkdtempSync(join(tmpdir(), 'imgstore-faults-'))
const file = join(scratch, 'rows')
const options = [
  ...(flags.reporter === undefined ? [] : ['--reporter', flags.reporter]),
  ...(flags['no-color'] === true ? ['--no-color'] : []),
]
const env = {
  ...process.env,
  IMGSTORE_TEST_FAULTS: flags.long ? 'long' : 'short',
  IMGSTORE_TEST_FAULTS_FILE: file,
  ...(flags.seed === undefined ? {} : {IMGSTORE_TEST_SEED: flags.seed}),
}
const files = rows.map((name) => join(folder, name))
const done = spawnSync('mocha', ['--config', '.mocharc.slow.json', ...options, ...files], {
  env,
  stdio: 'inherit',
})
const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : []
rmSync(scratch, {recursive: true})
for (const line of lines) {
  const {row, injected, checked, figures, seed} = JSON.parse(line) as FaultRow & {seed: number}
  console.log(`${row} (seed ${seed}): ${injected}; ${checked}${figures ? `; ${figures}` : ''}`)
}
process.exitCode = done.status ?? 1
