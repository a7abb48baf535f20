/** A machine of four states for tests of the machine itself. */
import type {Clock} from '../../src/core/clock.ts'
import {silentLogger} from '../../src/core/log.ts'
import {defineMachine} from '../../src/core/machine/define.ts'
import type {RunnerDeps, Steps} from '../../src/core/machine/runner.ts'
import {MemoryJournal} from './memory-journal.ts'

export type SmallState = 'raw' | 'cut' | 'sewn' | 'worn' | 'torn'
export type SmallGoal = 'worn' | 'sewn' | 'REMOVED'
export type SmallStep = 'cut' | 'sew' | 'wear' | 'burn'
export type SmallSteps = Steps<SmallState, SmallGoal, SmallStep, string>
export type SmallJournal = MemoryJournal<SmallState, SmallGoal, string>

export const smallMachine = defineMachine<SmallState, SmallGoal, SmallStep>('small', [
  {from: 'raw', step: 'cut', to: 'cut', towards: ['sewn', 'worn'], retry: 'backoff'},
  {from: 'cut', step: 'sew', to: 'sewn', towards: ['sewn', 'worn'], retry: 'backoff'},
  {from: 'sewn', step: 'wear', to: 'worn', towards: ['worn'], retry: 'backoff', heldAt: 'sewn'},
  {from: 'raw', step: 'burn', to: 'REMOVED', towards: ['REMOVED'], retry: 'never'},
])

export const newSmallJournal = (clock: Clock): SmallJournal => new MemoryJournal(clock, 'torn')

export type SmallDeps = RunnerDeps<SmallState, SmallGoal, SmallStep, string>

/** Everything a runner needs; steps that are not given do nothing and succeed. */
export function smallDeps(
  clock: Clock,
  journal: SmallJournal,
  steps: Partial<SmallSteps>,
  more: Partial<SmallDeps> = {},
): SmallDeps {
  const done = () => Promise.resolve({})
  return {
    machine: smallMachine,
    journal,
    steps: {cut: done, sew: done, wear: done, burn: done, ...steps},
    clock,
    log: silentLogger,
    retry: () => ({maxAttempts: 3, waitMs: 1000, waitMaxMs: 60_000, jitterPercent: 0}),
    random: () => 0,
    onFailing: () => Promise.resolve(),
    ...more,
  }
}
