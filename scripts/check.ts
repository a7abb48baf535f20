/**
 * `npm run check`: everything that a machine can say about the code without running it, two steps at a time.
 * A step that is fine is one line; one that is not shows its whole output. Exit 1 when any is not.
 */
import {spawn} from 'node:child_process'
import {appendFileSync} from 'node:fs'
import {availableParallelism} from 'node:os'

type Step = {name: string; command: string; fix?: string}

const shellFiles = 'bin/imgstore bin/manager bin/aero-storage-server .ci/run scripts/*.sh'
const steps: Step[] = [
  {name: 'lint', command: 'eslint .'},
  {
    name: 'types',
    command:
      'tsc -p tsconfig.test.json --noEmit --incremental --tsBuildInfoFile .cache/types.tsbuildinfo',
  },
  {name: 'types of the page', command: 'tsc -p src/daemon/http/page/ui'},
  {
    name: 'format',
    command:
      'prettier --check . --log-level warn --cache --cache-location .cache/prettier --cache-strategy content',
    fix: 'npm run format',
  },
  {name: 'layers', command: 'depcruise --output-type err-long src migrations'},
  {name: 'docs', command: 'node scripts/docs.ts --check', fix: 'npm run docs'},
  {name: 'shell', command: `for f in ${shellFiles}; do bash -n "$f" || exit 1; done`},
]

/** Runs one step to its end; true when it is fine. */
function check(step: Step): Promise<boolean> {
  const startedMs = Date.now()
  const child = spawn('sh', ['-c', step.command], {stdio: ['ignore', 'pipe', 'pipe']})
  const output: Buffer[] = []
  child.stdout.on('data', (bytes: Buffer) => output.push(bytes))
  child.stderr.on('data', (bytes: Buffer) => output.push(bytes))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => {
      const isFine = code === 0
      const seconds = ((Date.now() - startedMs) / 1000).toFixed(1)
      console.log(`${isFine ? 'ok    ' : 'FAILED'} ${step.name} (${seconds} s)`)
      if (!isFine) process.stdout.write(Buffer.concat(output))
      if (!isFine && step.fix) console.log(`       \`${step.fix}\` may mend it`)
      resolve(isFine)
    })
  })
}

const waiting = [...steps]
const failed: string[] = []
async function work(): Promise<void> {
  for (let step = waiting.shift(); step; step = waiting.shift())
    if (!(await check(step))) failed.push(step.name)
}
await Promise.all(Array.from({length: Math.min(availableParallelism(), 4)}, work))

const counts = process.env['IMGSTORE_TEST_COUNTS']
if (counts) {
  const line = {passed: steps.length - failed.length, failed, skipped: []}
  appendFileSync(counts, `${JSON.stringify(line)}\n`)
}
process.exitCode = failed.length > 0 ? 1 : 0
