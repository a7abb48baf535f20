/**
 * Why a system call failed. The danger: errno is read by a second call, and between the two the engine may collect
 * garbage, whose threads wait for one another in system calls of their own and leave their errno behind.
 */

/** A function of the C library with at most six arguments; below zero when it failed. */
export type Call = (...args: readonly (number | bigint | Buffer | string | null)[]) => number

/** EINTR, EAGAIN, ENOMEM, EINVAL, ETIMEDOUT: what futex(2) and madvise(2) leave. */
const doubtful = new Set([4, 11, 12, 22, 110])
/** Collections are far apart: that one comes between twice is luck, five times is the truth. */
const TRIES_MAX = 5

let last = 0

/** Why the last call made through `certain` failed. */
export function lastErrno(): number {
  return last
}

/**
 * Makes a call whose reason for failing can be relied on: one that may be somebody else's is asked for again. What failed
 * has done nothing, so repeating it does no harm; and when it does not fail again, all the better.
 *
 * `taken` is a reason that is never doubted: for a call that fails so all the time, by a caller whom it does no harm to hear
 * it wrongly.
 */
export function certain(call: Call, errno: () => number, taken = 0): Call {
  // Written out, because an array of arguments for each call would be garbage itself.
  return (a, b, c, d, e, f) => {
    let result = call(a, b, c, d, e, f)
    if (result >= 0) return result
    last = errno()
    for (let tries = 1; tries < TRIES_MAX && doubtful.has(last) && last !== taken; tries++) {
      result = call(a, b, c, d, e, f)
      if (result >= 0) return result
      last = errno()
    }
    return result
  }
}
