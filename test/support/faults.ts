/**
 * The fault matrix: each row is a file in test/faults/ that injects one kind of fault many times and checks the store.
 *
 * `npm run test:faults` runs all rows in their short form, as CI does; `-- --long` in their long one, `-- --row WORD`
 * some of them, `-- --seed N` the same choices again. What a row did is printed at the end, and stands in
 * docs/reliability.md.
 */
import {appendFileSync} from 'node:fs'
import {testSeed} from './seed.ts'

/** True in the long form. */
export const isLong = process.env['IMGSTORE_TEST_FAULTS'] === 'long'

/** Where a row begins to choose; the same for all rows of a run. */
export const faultSeed = testSeed() >>> 0

/** How many of something: `short` in CI, `long` in the long form. */
export function howMany(short: number, long: number): number {
  return isLong ? long : short
}

/** One row of the matrix as it ran. */
export type FaultRow = {
  /** The file of test/faults/ without its endings. */
  row: string
  /** What was injected, with its number: "50 × kill -9". */
  injected: string
  /** What was checked after it, in a few words. */
  checked: string
  /** What was measured, where something was: "slowest recovery 0.4 s". */
  figures?: string
}

/** Says what a row did; call it when its checks have passed. */
export function recordRow(done: FaultRow): void {
  const file = process.env['IMGSTORE_TEST_FAULTS_FILE']
  if (file) appendFileSync(file, `${JSON.stringify({...done, seed: faultSeed})}\n`)
}
