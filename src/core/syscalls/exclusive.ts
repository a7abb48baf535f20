/** Locks that end with their process (flock(2)), and changing places of two names in one act (renameat2(2)). */
import {systemCode} from '../errors.ts'
import {type Call, certain, lastErrno} from './errno.ts'
import {libc, systemError} from './libc.ts'

const LOCK_SH = 1
const LOCK_EX = 2
const LOCK_NB = 4
const AT_FDCWD = -100
const RENAME_EXCHANGE = 2
const EINTR = 4

type Calls = {flock: Call; renameat2: Call}

let bound: Calls | undefined

function calls(): Calls {
  if (bound !== undefined) return bound
  const {koffi, lib} = libc()
  const call = (name: string, args: string[]): Call =>
    certain(lib.func(name, 'int', args), () => koffi.errno())
  bound = {
    flock: call('flock', ['int', 'int']),
    renameat2: call('renameat2', ['int', 'str', 'int', 'str', 'uint32_t']),
  }
  return bound
}

/**
 * Takes the lock of an open file, without waiting; false when another descriptor has it. It ends when the descriptor
 * is closed, however the process ends. A shared one is for looking: those who look are not in one another's way.
 *
 * Errors: a system error; host_lacks when koffi cannot load.
 */
export function tryLock(fd: number, options: {isShared?: boolean} = {}): boolean {
  const kind = options.isShared === true ? LOCK_SH : LOCK_EX
  for (;;) {
    if (calls().flock(fd, kind | LOCK_NB) === 0) return true
    const errno = lastErrno()
    if (errno === EINTR) continue
    const error = systemError('flock', errno)
    if (systemCode(error) === 'EWOULDBLOCK' || systemCode(error) === 'EAGAIN') return false
    throw error
  }
}

/**
 * Makes two names of one file system change places in one act.
 *
 * Errors: a system error (EINVAL where the file system cannot, ENOENT when one is not there); host_lacks when koffi
 * cannot load.
 */
export function exchangeNames(first: string, second: string): void {
  if (calls().renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE) === 0) return
  throw systemError('renameat2', lastErrno(), first)
}
