/**
 * Loaded before every test file: any Node warning or unhandled rejection fails the run. In a parallel run each process
 * loads it for itself, and only a failing hook reaches the one that counts.
 */
import {setImmediate} from 'node:timers/promises'
import {testSeed} from './seed.ts'

// Properties too begin where `testSeed` says; what fails prints its own seed and path.
if (process.env['CI'] === 'true' || process.env['IMGSTORE_TEST_SEED'] !== undefined) {
  const {default: fc} = await import('fast-check')
  fc.configureGlobal({seed: testSeed() | 0})
}

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
