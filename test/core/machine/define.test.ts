import {expect} from 'chai'
import {BugError} from '../../../src/core/assert.ts'
import {lifecycle} from '../../../src/core/images/lifecycle.ts'
import {goals, imageStates, type Goal, type ImageState} from '../../../src/core/image.ts'
import {defineMachine} from '../../../src/core/machine/define.ts'

describe('a machine', () => {
  it('refuses two ways from one state to one goal', () => {
    const row = {from: 'a', to: 'b', retry: 'never'} as const
    expect(() =>
      defineMachine<'a' | 'b', 'x' | 'y', 'one' | 'two'>('odd', [
        {...row, step: 'one', towards: ['x', 'y']},
        {...row, step: 'two', towards: ['y']},
      ]),
    ).to.throw(BugError, 'machine odd has two ways for a>y')
  })

  it('knows the one step towards each goal, or that there is none', () => {
    const machine = defineMachine<'a' | 'b', 'b' | 'REMOVED', 'go' | 'drop'>('small', [
      {from: 'a', step: 'go', to: 'b', towards: ['b'], retry: 'backoff'},
      {from: 'a', step: 'drop', to: 'REMOVED', towards: ['REMOVED'], retry: 'never'},
    ])
    expect(machine.next('a', 'b')?.step).to.equal('go')
    expect(machine.next('a', 'REMOVED')?.step).to.equal('drop')
    expect(machine.next('b', 'REMOVED')).to.equal(undefined)
  })
})

describe('the life of an image', () => {
  /** What a run of this goal passes through from `state`, to its end. */
  function way(state: ImageState, goal: Goal): string[] {
    const steps: string[] = []
    let at: ImageState | 'REMOVED' = state
    while (at !== goal) {
      const row = lifecycle.next(at as ImageState, goal)
      if (!row) throw new Error(`no way from ${at} to ${goal}`)
      steps.push(row.step)
      if (steps.length > imageStates.length) throw new Error(`${state} never comes to ${goal}`)
      at = row.to
    }
    return steps
  }

  it('leads from every state to every goal, but from FAILED only out of the store', () => {
    for (const state of imageStates) {
      for (const goal of goals) {
        if (state === 'FAILED' && goal !== 'REMOVED') {
          expect(lifecycle.next(state, goal)).to.equal(undefined)
        } else if (!(state === goal)) expect(way(state, goal), `${state}>${goal}`).not.to.be.empty
      }
    }
  })

  it('goes the promised way up, and never mounts what shall not be ACTIVE', () => {
    const toStored = ['begin', 'download', 'begin_unpack', 'unpack', 'publish']
    expect(way('NEW', 'ACTIVE')).to.deep.equal([...toStored, 'prepare', 'mount'])
    expect(way('NEW', 'STORED')).to.deep.equal(toStored)
    for (const state of imageStates)
      for (const goal of ['STORED', 'REMOVED'] as const)
        expect(lifecycle.next(state, goal)?.step).not.to.equal('mount')
  })

  it('unmounts before it erases, wherever there may be a mount', () => {
    expect(way('ACTIVE', 'REMOVED')).to.deep.equal(['unmount', 'erase'])
    expect(way('ACTIVATING', 'REMOVED')).to.deep.equal(['unmount', 'erase'])
    expect(way('ACTIVE', 'STORED')).to.deep.equal(['unmount'])
  })

  it('uses every state, and every step at least once', () => {
    const named = lifecycle.transitions.flatMap(({from, to}) => [from, to])
    for (const state of imageStates) expect(named).to.include(state)
  })
})
