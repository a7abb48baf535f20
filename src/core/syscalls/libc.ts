/**
 * The one place that loads koffi, when the first system call that Node lacks is needed.
 * Everything that uses it must still start, and say what it lacks, where koffi cannot load.
 */
import {createRequire} from 'node:module'
import {constants} from 'node:os'
import type koffiModule from 'koffi'
import {fail} from '../errors.ts'

type Koffi = typeof koffiModule
export type Libc = {koffi: Koffi; lib: ReturnType<Koffi['load']>}

let loaded: Libc | Error | undefined

/** koffi's addon itself where npm put it: koffi's own way there goes through six files and the header of Node (6 ms). */
function loadKoffi(requireHere: NodeJS.Require): Koffi {
  const {arch} = process
  try {
    return requireHere(`@koromix/koffi-linux-${arch}/linux_${arch}/koffi.node`) as Koffi
  } catch {
    // Another C library, or another place: koffi looks further.
    return requireHere('koffi') as Koffi
  }
}

/** The C library, or the reason why it cannot be called. */
export function tryLibc(): Libc | Error {
  if (loaded === undefined) {
    try {
      // Not named `require`: in the bundle, the value of import.meta.url is made by the outer one.
      const requireHere = createRequire(import.meta.url)
      const koffi = loadKoffi(requireHere)
      let lib: Libc['lib']
      try {
        lib = koffi.load('libc.so.6')
      } catch {
        lib = koffi.load(`libc.musl-${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.so.1`)
      }
      loaded = {koffi, lib}
    } catch (error) {
      loaded = error instanceof Error ? error : new Error(String(error))
    }
  }
  return loaded
}

/**
 * The C library.
 *
 * Errors: host_lacks when koffi cannot load on this host.
 */
export function libc(): Libc {
  const found = tryLibc()
  if (found instanceof Error) {
    throw fail(
      'host_lacks',
      {what: 'koffi (foreign function calls)', need: 'make system calls that Node lacks'},
      {cause: found},
    )
  }
  return found
}

const names = new Map([
  ...Object.entries(constants.errno).map(([name, value]) => [value, name] as const),
  // Node knows those of its own functions. These are what mount calls say: no block device; damaged.
  [15, 'ENOTBLK'],
  [117, 'EUCLEAN'],
])

/** The name of an errno value (`EBUSY`), as Node's own errors carry it. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`
}

/** A Node-shaped system error for a failed call: `code`, `errno`, `syscall`. */
export function systemError(syscall: string, errno: number, path?: string): NodeJS.ErrnoException {
  const code = errnoName(errno)
  const error: NodeJS.ErrnoException = new Error(
    `${code}: ${syscall}${path === undefined ? '' : ` '${path}'`}`,
  )
  error.code = code
  error.errno = -errno
  error.syscall = syscall
  if (path !== undefined) error.path = path
  return error
}
