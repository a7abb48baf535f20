/** Runs schedules in a row, and says which seed failed. */
import {Schedule, type Counts} from './schedule.ts'
import type {Mistake} from './store.ts'

export const noCounts = (): Counts => ({
  schedules: 0,
  transitions: 0,
  takeovers: 0,
  crashes: 0,
  mounts: 0,
  wishes: 0,
})

/** Errors: what a schedule violated, with its seed. */
export async function runSchedules(
  first: number,
  count: number,
  mistake?: Mistake,
): Promise<Counts> {
  const counts = noCounts()
  // Most errors here are part of the play, and nobody reads where they were made.
  const {stackTraceLimit} = Error
  Error.stackTraceLimit = 0
  try {
    for (let seed = first; seed < first + count; seed++) await runOne(seed, counts, mistake)
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
  return counts
}

async function runOne(seed: number, counts: Counts, mistake: Mistake | undefined): Promise<void> {
  const schedule = new Schedule(seed, mistake)
  try {
    await schedule.run()
  } catch (error) {
    throw new Error(`IMGSTORE_SIMULATION_SEED=${seed}: ${String(error)}`, {cause: error})
  }
  schedule.addTo(counts)
}
