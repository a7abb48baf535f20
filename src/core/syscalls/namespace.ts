/** System calls for a process that becomes the first one of its own namespaces. */
import {libc, systemError} from './libc.ts'

const PR_SET_NO_NEW_PRIVS = 38
const PR_SET_SECCOMP = 22
const PR_CAPBSET_READ = 23
const PR_CAPBSET_DROP = 24
const PR_CAP_AMBIENT = 47
const PR_CAP_AMBIENT_CLEAR_ALL = 4
const SECCOMP_MODE_FILTER = 2
const WNOHANG = 1

type Calls = {
  pivotRoot: (newRoot: string, putOld: string) => number
  setHostname: (name: string, sizeBytes: number) => number
  prctl: (option: number, ...typedArguments: unknown[]) => number
  waitpid: (pid: number, status: null, options: number) => number
  errno: () => number
}

let bound: Calls | undefined

function calls(): Calls {
  if (bound === undefined) {
    const {koffi, lib} = libc()
    bound = {
      pivotRoot: lib.func('int pivot_root(const char *, const char *)') as Calls['pivotRoot'],
      setHostname: lib.func('int sethostname(const char *, size_t)') as Calls['setHostname'],
      prctl: lib.func('int prctl(int, ...)') as Calls['prctl'],
      waitpid: lib.func('int waitpid(int, void *, int)') as Calls['waitpid'],
      errno: () => koffi.errno(),
    }
  }
  return bound
}

/** Makes the current directory the root of this mount namespace; the old root lies on top of it until it is unmounted. */
export function pivotRootHere(): void {
  const c = calls()
  if (c.pivotRoot('.', '.') !== 0) throw systemError('pivot_root', c.errno())
}

/** Names the host of this UTS namespace. */
export function setHostname(name: string): void {
  const c = calls()
  if (c.setHostname(name, Buffer.byteLength(name)) !== 0)
    throw systemError('sethostname', c.errno(), name)
}

/** Takes one ended child off the kernel's books; does nothing while it runs. */
export function reap(pid: number): void {
  calls().waitpid(pid, null, WNOHANG)
}

function prctl(option: number, ...values: number[]): number {
  const c = calls()
  const padded = [0, 1, 2, 3].flatMap((i) => ['unsigned long', values[i] ?? 0])
  const result = c.prctl(option, ...padded)
  if (result < 0) throw systemError('prctl', c.errno())
  return result
}

/**
 * Takes from programs that this thread starts every capability but those to keep (by number), and the
 * way to get new ones. The thread itself keeps what it has.
 */
export function dropCapabilitiesOfChildren(keep: ReadonlySet<number>): void {
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
  for (let capability = 0; capability < 64; capability++) {
    try {
      if (prctl(PR_CAPBSET_READ, capability) === 0) continue
    } catch {
      break // the first number that this kernel does not know
    }
    if (!keep.has(capability)) prctl(PR_CAPBSET_DROP, capability)
  }
  prctl(PR_SET_NO_NEW_PRIVS, 1)
}

const BPF_LD_W_ABS = 0x20
const BPF_JMP_JEQ_K = 0x15
const BPF_RET_K = 0x06
const SECCOMP_RET_ALLOW = 0x7fff0000
const SECCOMP_RET_ERRNO_EPERM = 0x00050001
const TIOCSTI = 0x5412
const TIOCLINUX = 0x541c
// AUDIT_ARCH and number of ioctl(2) in every mode in which a Node architecture runs programs.
const ioctlCalls: Partial<Record<string, {arch: number; number: number}[]>> = {
  x64: [
    {arch: 0xc000003e, number: 16},
    {arch: 0xc000003e, number: 0x40000000 + 514}, // x32
    {arch: 0x40000003, number: 54}, // i386
  ],
  arm64: [
    {arch: 0xc00000b7, number: 29},
    {arch: 0x40000028, number: 54}, // 32-bit arm
  ],
}

/**
 * Forbids this thread and what it starts to type into its own terminal (ioctl TIOCSTI, TIOCLINUX): a
 * program that shares a person's terminal could else write commands for the shell outside. Needs
 * no_new_privs or CAP_SYS_ADMIN. Returns false on an architecture it does not know.
 *
 * Source: CVE-2017-5226 (bubblewrap), CVE-2023-28100 (flatpak).
 */
export function forbidTerminalInput(): boolean {
  const modes = ioctlCalls[process.arch]
  if (modes === undefined) return false
  // Offsets into struct seccomp_data: number 0, architecture 4, second argument (low half) 24.
  const program: [code: number, ifTrue: number, ifFalse: number, k: number][] = [
    ...modes.flatMap(({arch, number}, index): typeof program => [
      [BPF_LD_W_ABS, 0, 0, 4],
      [BPF_JMP_JEQ_K, 0, 2, arch],
      [BPF_LD_W_ABS, 0, 0, 0],
      [BPF_JMP_JEQ_K, 4 * (modes.length - index) - 3, 0, number],
    ]),
    [BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW],
    [BPF_LD_W_ABS, 0, 0, 24],
    [BPF_JMP_JEQ_K, 1, 0, TIOCSTI],
    [BPF_JMP_JEQ_K, 0, 1, TIOCLINUX],
    [BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO_EPERM],
    [BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW],
  ]
  const filter = Buffer.alloc(program.length * 8)
  for (const [index, [code, ifTrue, ifFalse, k]] of program.entries()) {
    filter.writeUInt16LE(code, index * 8)
    filter.writeUInt8(ifTrue, index * 8 + 2)
    filter.writeUInt8(ifFalse, index * 8 + 3)
    filter.writeUInt32LE(k, index * 8 + 4)
  }
  // struct sock_fprog: a count, padding, a pointer.
  const header = Buffer.alloc(16)
  header.writeUInt16LE(program.length, 0)
  header.writeBigUInt64LE(libc().koffi.address(filter), 8)
  const c = calls()
  if (c.prctl(PR_SET_SECCOMP, 'unsigned long', SECCOMP_MODE_FILTER, 'void *', header) !== 0)
    throw systemError('prctl', c.errno())
  return true
}
