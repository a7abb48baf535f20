import {expect} from 'chai'
import {findLegalOrder, type Call, type Known, type Op} from '../support/legal-orders.ts'

const known = (goal: string, source = 'a'): Known => ({source, goal})
const call = (op: Op, from: number, to: number, result: string, source?: string): Call => ({
  shell: 0,
  op,
  ...(source === undefined ? {} : {source}),
  from,
  to,
  result,
})

describe('the search for a legal order', () => {
  it('finds one for calls that follow each other', () => {
    const calls = [
      call('fetch', 0, 1, 'enqueued ACTIVE a', 'a'),
      call('deactivate', 2, 3, 'ok STORED a'),
      call('status', 4, 5, 'ok STORED a'),
      call('remove', 6, 7, 'ok'),
      call('status', 8, 9, 'image_not_found'),
    ]
    expect(findLegalOrder(calls, undefined, undefined)).to.deep.equal([0, 0, 1, 1, 2, 3, 3, 4])
  })

  it('finds one where calls overlap, also within a call of several steps', () => {
    const calls = [
      call('activate', 0, 9, 'ok STORED a'),
      call('deactivate', 1, 8, 'ok STORED a'),
      call('fetch', 2, 7, 'name_taken', 'b'),
    ]
    expect(findLegalOrder(calls, known('STORED'), known('STORED'))).to.be.an('array')
    const replaced = [
      call('replace', 0, 9, 'replaced ACTIVE b', 'b'),
      call('status', 3, 4, 'image_not_found'),
    ]
    expect(findLegalOrder(replaced, known('ACTIVE'), known('ACTIVE', 'b'))).to.be.an('array')
  })

  const illegal: [string, Call[], Known, Known][] = [
    ['a lost wish', [call('deactivate', 0, 1, 'ok STORED a')], known('ACTIVE'), known('ACTIVE')],
    [
      'two that both made one name',
      [
        call('fetch', 0, 9, 'enqueued ACTIVE a', 'a'),
        call('fetch', 0, 9, 'enqueued ACTIVE b', 'b'),
      ],
      undefined,
      known('ACTIVE'),
    ],
    [
      'a look that shows what was over before it began',
      [call('deactivate', 0, 1, 'ok STORED a'), call('status', 2, 3, 'ok ACTIVE a')],
      known('ACTIVE'),
      known('STORED'),
    ],
    [
      'an image that comes back by itself',
      [call('remove', 0, 1, 'ok'), call('status', 2, 3, 'image_not_found')],
      known('ACTIVE'),
      known('ACTIVE'),
    ],
    ['an image that goes by itself', [call('cleanup', 0, 1, 'ok')], known('STORED'), undefined],
    [
      'a wish for what is being removed',
      [call('remove', 0, 1, 'ok'), call('activate', 2, 3, 'ok ACTIVE a')],
      known('STORED'),
      known('ACTIVE'),
    ],
    [
      'an error that nothing explains',
      [call('activate', 0, 1, 'wrong_state')],
      known('STORED'),
      known('STORED'),
    ],
  ]
  for (const [what, calls, before, after] of illegal) {
    it(`finds none for ${what}`, () => {
      expect(findLegalOrder(calls, before, after)).to.equal(undefined)
    })
  }
})
