import {expect} from 'chai'
import {certain, lastErrno} from '../../../src/core/syscalls/errno.ts'

const [ENOENT, EAGAIN, ETIMEDOUT] = [2, 11, 110]

/** A call that fails with each of these in turn, then does well; and how often it was made. */
function failing(...errors: number[]): {call: () => number; made: () => number} {
  return failingTaking(0, ...errors)
}

/** The same, made so that one reason is not doubted. */
function failingTaking(
  taken: number,
  ...errors: number[]
): {call: () => number; made: () => number} {
  let made = 0
  let errno = 0
  const call = certain(
    () => {
      errno = errors[made++] ?? 0
      return errno === 0 ? 7 : -1
    },
    () => errno,
    taken,
  )
  return {call: () => call(), made: () => made}
}

describe('why a system call failed', () => {
  it('is asked for once when it is what only the call itself says', () => {
    const {call, made} = failing(ENOENT, EAGAIN)
    expect(call()).to.equal(-1)
    expect([lastErrno(), made()]).to.deep.equal([ENOENT, 1])
  })

  it('is asked for again when a collection of garbage may have left it', () => {
    const {call, made} = failing(EAGAIN, ENOENT)
    expect(call()).to.equal(-1)
    expect([lastErrno(), made()]).to.deep.equal([ENOENT, 2])
  })

  it('is forgotten when the call does well after all', () => {
    const {call, made} = failing(EAGAIN, EAGAIN)
    expect(call()).to.equal(7)
    expect(made()).to.equal(3)
  })

  it('is not asked for again when the caller takes it as it is', () => {
    const {call, made} = failingTaking(EAGAIN, EAGAIN)
    expect(call()).to.equal(-1)
    expect([lastErrno(), made()]).to.deep.equal([EAGAIN, 1])
  })

  it('is asked for again beside one that is taken', () => {
    const {call, made} = failingTaking(EAGAIN, ETIMEDOUT, EAGAIN)
    expect(call()).to.equal(-1)
    expect([lastErrno(), made()]).to.deep.equal([EAGAIN, 2])
  })

  it('is believed when it stays the same', () => {
    const {call, made} = failing(...Array.from({length: 20}, () => EAGAIN))
    expect(call()).to.equal(-1)
    expect([lastErrno(), made()]).to.deep.equal([EAGAIN, 5])
  })
})
