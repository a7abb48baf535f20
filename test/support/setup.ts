/**
 * Loaded before every test file: any Node warning or unhandled rejection fails the run. In a parallel run each process
 * loads it for itself, and only a failing hook reaches the one that counts.
 */
import {setImmediate} from 'node:timers/promises'

const warnings: Error[] = []
process.on('warning', (warning) => {
  if (warning.name === 'ExperimentalWarning') return
  process.exitCode = 1
  console.error(warning)
  warnings.push(warning)
})
process.on('unhandledRejection', (reason) => {
  throw reason instanceof Error ? reason : new Error(String(reason))
})

export const mochaHooks = {
  /** Runs at the end; in a parallel run, of each file. */
  async afterAll(): Promise<void> {
    // Node tells of a warning a moment after its cause.
    await setImmediate()
    const [first] = warnings.splice(0)
    if (first) throw new Error(`Node warned: ${first.message}`, {cause: first})
  },
}
