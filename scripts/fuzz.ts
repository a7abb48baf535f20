/**
 * `npm run fuzz`: damaged archives through the parser and the policy, and every so often through the whole unpacker. Ends
 * after 5 million cases or 30 minutes (`--cases N`, `--minutes N`); a case that fails is printed with its number, and
 * `npm run fuzz -- --seed NUMBER --cases 1` runs it again, unpacking included.
 */
import {availableParallelism} from 'node:os'
import {parseArgs} from 'node:util'
import {runFuzz} from '../test/support/fuzz/run.ts'

const {values} = parseArgs({
  options: {
    minutes: {type: 'string', default: '30'},
    cases: {type: 'string', default: '5000000'},
    seed: {type: 'string', default: String(Date.now())},
    threads: {type: 'string', default: String(availableParallelism())},
  },
})
const number = (name: keyof typeof values): number => {
  const value = Number(values[name])
  if (Number.isFinite(value) && value >= 0) return value
  console.error(`--${name} needs a number`)
  process.exit(2)
}
const [seed, cases, minutes] = [number('seed'), number('cases'), number('minutes')]
const isReplay = cases === 1
console.log(`seed ${seed}`)
const startedMs = performance.now()
const report = await runFuzz({
  seed,
  cases,
  durationMs: minutes * 60_000,
  threads: Math.min(number('threads'), cases),
  // Unpacking costs a hundred times a parse, a process ten times that. Odd, so that every thread gets its share.
  extractEvery: isReplay ? 1 : 49,
  childEvery: isReplay ? 1 : 4999,
  onProgress: (done) => {
    if (process.stdout.isTTY) process.stdout.write(`\r${done} cases`)
  },
})
const cpu = process.cpuUsage()
for (const [what, count] of Object.entries(report.counts).sort()) console.log(`${count}\t${what}`)
console.log(
  `${report.done} cases in ${Math.round((performance.now() - startedMs) / 1000)} s, ` +
    `${Math.round((cpu.user + cpu.system) / 1e6)} s of CPU, peak ${report.peakRssBytes >> 20} MiB, ` +
    `slowest case ${report.slowest.cpuMs.toFixed(1)} ms (seed ${report.slowest.seed})`,
)
for (const failure of report.failures) {
  console.error(`FAILED seed ${failure.seed}: ${failure.text}`)
  console.error(`again: npm run fuzz -- --seed ${failure.seed} --cases 1`)
  process.exitCode = 1
}
