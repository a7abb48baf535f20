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
  /** Calls of the kind on such files so far, and how many of them failed. */
  counts(): {calls: number; failures: number}
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
    return {
      env: ({kind, errno, first, count, path}) => {
        writeFileSync(state, Buffer.alloc(16))
        const words = [state, kind, constants.errno[errno], first, count, path]
        return {LD_PRELOAD: join(dir, 'faults.so'), KERNEL_FAULTS: words.join('|')}
      },
      counts: () => {
        const bytes = readFileSync(state)
        const at = (offset: number): number => Number(bytes.readBigUInt64LE(offset))
        return {calls: at(0), failures: at(8)}
      },
    }
  }
}
