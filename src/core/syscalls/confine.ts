/**
 * Takes away from this process what it will not need, so that hostile bytes which get the better of it gain little:
 * Landlock (writing only below one directory, no network, no signals to others) and resource limits. None of it can
 * be undone. Numbers are from linux/landlock.h and asm-generic/resource.h, the same on every architecture of Node.
 */
import {libc, tryLibc} from './libc.ts'

const SYS_LANDLOCK_CREATE_RULESET = 444
const SYS_LANDLOCK_ADD_RULE = 445
const SYS_LANDLOCK_RESTRICT_SELF = 446
const CREATE_RULESET_VERSION = 1
const RULE_PATH_BENEATH = 1
const PR_SET_NO_NEW_PRIVS = 38
const RESTRICT_SELF_TSYNC = 8

const EXECUTE = 1n << 0n
const IOCTL_DEV = 1n << 15n
/** Everything that writes: WRITE_FILE, REMOVE_DIR … MAKE_SYM (4 … 12), REFER (13), TRUNCATE (14). */
const WRITE = (1n << 1n) | (0x7ffn << 4n)
const NET_BIND_AND_CONNECT_TCP = 3n
const SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3n

const RLIMIT_CPU = 0
const RLIMIT_FSIZE = 1
const RLIMIT_CORE = 4
const RLIMIT_NOFILE = 7
const CPU_GRACE_SECONDS = 5

type Syscall = (...args: unknown[]) => number

function syscall(): Syscall {
  return libc().lib.func('long syscall(long, ...)') as Syscall
}

/** The version of Landlock that the kernel has, 0 for none. */
export function landlockVersion(): number {
  if (tryLibc() instanceof Error) return 0
  const found = syscall()(
    SYS_LANDLOCK_CREATE_RULESET,
    ...['void *', null, 'size_t', 0, 'uint32_t', CREATE_RULESET_VERSION],
  )
  return Math.max(0, found)
}

export type Confinement = {
  /** The directory below which writing stays allowed; without one, only what is open already can be written. */
  rootFd?: number
  /** More directories of that kind. */
  otherFds?: readonly number[]
  /** Whether programs may still be started. */
  canExecute: boolean
}

/**
 * Confines this thread and every thread and process it makes from now on (with Landlock 8, all threads). Returns false,
 * with nothing changed, where the kernel has no Landlock 2 (version 1 forbids hard links between directories).
 */
export function confine({rootFd, otherFds = [], canExecute}: Confinement): boolean {
  const version = landlockVersion()
  if (version < 2) return false
  const call = syscall()
  const write = version >= 3 ? WRITE : WRITE & ~(1n << 14n)
  const handled = write | (version >= 5 ? IOCTL_DEV : 0n) | (canExecute ? 0n : EXECUTE)
  // struct landlock_ruleset_attr: files, network, scopes; an older kernel knows a shorter one.
  const ruleset = Buffer.alloc(version >= 6 ? 24 : version >= 4 ? 16 : 8)
  ruleset.writeBigUInt64LE(handled, 0)
  if (version >= 4) ruleset.writeBigUInt64LE(NET_BIND_AND_CONNECT_TCP, 8)
  if (version >= 6) ruleset.writeBigUInt64LE(SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS, 16)
  const fd = call(
    SYS_LANDLOCK_CREATE_RULESET,
    ...['void *', ruleset, 'size_t', ruleset.length, 'uint32_t', 0],
  )
  if (fd < 0) return false
  // struct landlock_path_beneath_attr, packed.
  const rule = Buffer.alloc(12)
  rule.writeBigUInt64LE(write, 0)
  const dirFds = rootFd === undefined ? otherFds : [rootFd, ...otherFds]
  const areAdded = dirFds.every((dirFd) => {
    rule.writeInt32LE(dirFd, 8)
    const args = ['int', fd, 'int', RULE_PATH_BENEATH, 'void *', rule, 'uint32_t', 0]
    return call(SYS_LANDLOCK_ADD_RULE, ...args) === 0
  })
  const prctl = libc().lib.func('prctl', 'int', ['int', 'ulong', 'ulong', 'ulong', 'ulong'])
  const flags = version >= 8 ? RESTRICT_SELF_TSYNC : 0
  const isDone =
    areAdded &&
    (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) as number) === 0 &&
    call(SYS_LANDLOCK_RESTRICT_SELF, ...['int', fd, 'uint32_t', flags]) === 0
  libc().lib.func('int close(int)')(fd)
  return isDone
}

/** Bounds for this process and its children; what the system forbids more strictly already stays so. */
export type ResourceLimits = {
  fileBytesMax: number
  descriptorsMax: number
  /** Of processor time, in all threads together; then comes SIGXCPU, and SIGKILL soon after. */
  cpuSecondsMax?: number
}

/** Sets the limits, and that no core is dumped. Returns false where this host cannot. */
export function limitResources(limits: ResourceLimits): boolean {
  if (tryLibc() instanceof Error) return false
  const setrlimit = libc().lib.func('setrlimit', 'int', ['int', 'void *'])
  const set = (resource: number, value: number, hard = value): boolean => {
    const limit = Buffer.alloc(16)
    limit.writeBigUInt64LE(BigInt(value), 0)
    limit.writeBigUInt64LE(BigInt(hard), 8)
    return (setrlimit(resource, limit) as number) === 0
  }
  const results = [
    set(RLIMIT_CORE, 0),
    set(RLIMIT_FSIZE, Math.min(limits.fileBytesMax, Number.MAX_SAFE_INTEGER)),
    set(RLIMIT_NOFILE, limits.descriptorsMax),
  ]
  const {cpuSecondsMax} = limits
  if (cpuSecondsMax !== undefined) {
    results.push(set(RLIMIT_CPU, cpuSecondsMax, cpuSecondsMax + CPU_GRACE_SECONDS))
  }
  return results.every(Boolean)
}
