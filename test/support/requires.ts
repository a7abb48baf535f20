/** Skips a suite, with the reason, where the host cannot run it. As root, CI counts a skip as a failure. */
import {spawnSync} from 'node:child_process'

export type Need = 'root' | `program:${string}`

export function missing(...needs: Need[]): string | undefined {
  for (const need of needs) {
    if (need === 'root') {
      if (process.getuid?.() !== 0) return 'needs root'
    } else {
      const program = need.slice('program:'.length)
      if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0)
        return `needs the program ${program}`
    }
  }
  return undefined
}

/** Call first inside a `describe`: every test of it is skipped, and says why, when something is missing. */
export function requires(...needs: Need[]): void {
  const reason = missing(...needs)
  before(function () {
    if (reason !== undefined) {
      console.log(`    skipped: ${reason}`)
      this.skip()
    }
  })
}
