/** System calls that fail as on a broken or full disk: the n-th of a kind, in a program and all its children. */
import {execFileSync} from 'node:child_process'
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {constants, tmpdir} from 'node:os'
import {join, resolve} from 'node:path'

export const faultKinds = ['read', 'write', 'fsync', 'rename', 'create', 'mount'] as const
export type FaultKind = (typeof faultKinds)[number]
export type FaultErrno = 'EIO' | 'ENOSPC' | 'EDQUOT'

export type KernelFault = {
  kind: FaultKind
  errno: FaultErrno
  /** The first call that fails, from 1, and how many do. */
  first: number
  count: number
  /** Only calls on files whose path holds this; mounts have none. */
  path: string
}

export type KernelFaults = {
  /** What to give to a program, with the counters at 0. */
  env(fault: KernelFault): Record<string, string>
  /** The same for a program of which every call on such files is counted, and none fails. */
  countingEnv(path: string): Record<string, string>
  /** Calls of each kind that is counted, and how many failed. */
  counts(): Record<FaultKind, number> & {failures: number}
}

/** Call first in a `describe`: builds the library that fails, once, and takes it away at the end. */
export function useKernelFaults(): () => KernelFaults {
  let dir = ''
  before('builds the library', () => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    const source = resolve(import.meta.dirname, 'kernel-faults.c')
    const flags = ['-O1', '-Wall', '-Werror', '-shared', '-fPIC']
    execFileSync('gcc', [...flags, '-o', join(dir, 'faults.so'), source, '-ldl'])
  })
  after('takes the library away', () => rmSync(dir, {recursive: true, force: true}))
  let scenes = 0
  return () => {
    const state = join(dir, `state-${scenes++}`)
    const begin = (...words: (string | number)[]): Record<string, string> => {
      writeFileSync(state, Buffer.alloc(8 + 8 * faultKinds.length))
      return {
        LD_PRELOAD: join(dir, 'faults.so'),
        KERNEL_FAULTS: [state, ...words].join('|'),
      }
    }
    return {
      env: ({kind, errno, first, count, path}) =>
        begin(kind, constants.errno[errno], first, count, path),
      countingEnv: (path) => begin('*', 0, 0, 0, path),
      counts: () => {
        const bytes = readFileSync(state)
        const at = (index: number): number => Number(bytes.readBigUInt64LE(8 * index))
        const calls = faultKinds.map((kind, index) => [kind, at(index + 1)] as const)
        const counted = Object.fromEntries(calls) as Record<FaultKind, number>
        return {...counted, failures: at(0)}
      },
    }
  }
}
