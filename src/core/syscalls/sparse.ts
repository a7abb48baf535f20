/** Where the data and the holes of a file are (lseek(2) with SEEK_DATA and SEEK_HOLE), which Node cannot ask. */
import {systemCode} from '../errors.ts'
import {type Call, certain, lastErrno} from './errno.ts'
import {systemError, tryLibc} from './libc.ts'

const SEEK_DATA = 3
const SEEK_HOLE = 4

let bound: {seek: Call} | undefined | 'none'

function calls(): Exclude<typeof bound, undefined> {
  if (bound !== undefined) return bound
  const libc = tryLibc()
  if (libc instanceof Error) return (bound = 'none')
  const {koffi, lib} = libc
  const seek = lib.func('lseek', 'int64_t', ['int', 'int64_t', 'int'])
  return (bound = {seek: certain(seek, () => koffi.errno())})
}

/**
 * The first byte at or after `offset` that is data, or `end` when only a hole is left.
 *
 * Guarantees: true of the file at that moment; what lies between `offset` and the result reads as zeros. Where the
 * host or the file system cannot tell, `offset` itself: everything is data then.
 */
export function seekData(fd: number, offset: number, end: number): number {
  return Math.min(ask(fd, offset, SEEK_DATA, end) ?? offset, end)
}

/**
 * The first byte after `offset`, which is data, that begins a hole; `end` when there is none before.
 *
 * Guarantees: as `seekData`.
 */
export function seekHole(fd: number, offset: number, end: number): number {
  return Math.min(ask(fd, offset, SEEK_HOLE, end) ?? end, end)
}

/** Whether this host can be asked at all. */
export function canSeekData(): boolean {
  return calls() !== 'none'
}

/** Undefined where nobody can tell. */
function ask(fd: number, offset: number, whence: number, end: number): number | undefined {
  const libc = calls()
  if (libc === 'none') return undefined
  const found = libc.seek(fd, offset, whence)
  if (found >= 0) return found
  const error = systemError('lseek', lastErrno())
  switch (systemCode(error)) {
    case 'ENXIO':
      // No data up to the end of the file, or the offset lies beyond it.
      return end
    case 'EINVAL':
    case 'EOPNOTSUPP':
    case 'ESPIPE':
      return undefined
    default:
      throw error
  }
}
