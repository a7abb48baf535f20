/** A state machine as one table: from which state which step leads where, towards which goals, and how it is retried. */
import {assert} from '../assert.ts'

/** `backoff`: attempts and waits as set; `never`: the first failure is final. */
export type RetryPolicy = 'backoff' | 'never'

export type Transition<S extends string, G extends string, K extends string> = {
  from: S
  step: K
  to: S | 'REMOVED'
  towards: readonly G[]
  retry: RetryPolicy
  /** Where the subject stays, without failing, when the host must be helped first (`retry: 'after_fix'`). */
  heldAt?: S
}

export type Machine<S extends string, G extends string, K extends string> = {
  readonly name: string
  readonly transitions: readonly Transition<S, G, K>[]
  /** The step that brings `state` nearer to `goal`, or undefined when there is none. */
  next(state: S, goal: G): Transition<S, G, K> | undefined
}

/** Checks the table once: no state may have two ways to one goal. */
export function defineMachine<S extends string, G extends string, K extends string>(
  name: string,
  transitions: readonly Transition<S, G, K>[],
): Machine<S, G, K> {
  const byStateAndGoal = new Map<string, Transition<S, G, K>>()
  for (const transition of transitions) {
    for (const goal of transition.towards) {
      const key = `${transition.from}>${goal}`
      assert(!byStateAndGoal.has(key), `machine ${name} has two ways for ${key}`)
      byStateAndGoal.set(key, transition)
    }
  }
  return {name, transitions, next: (state, goal) => byStateAndGoal.get(`${state}>${goal}`)}
}
