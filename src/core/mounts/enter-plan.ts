/** What the two ways to run a program in an image share: the plan, and what a program may not reach. */

/** How a program is started in an image. */
export type EnterDriver = 'runc' | 'unshare'

/** What the parent tells the first process of the new namespaces, as one line of JSON. */
export type EnterPlan = {
  rootDir: string
  command: string[]
  hostname: string
  cwd: string
  env: Record<string, string>
  /** Numbers or a name, `user[:group]`, as the image's own /etc/passwd and /etc/group know them. */
  user: string | undefined
  isTerminal: boolean
  /** The host's network namespace is kept. */
  hasHostNetwork: boolean
  /** Where runc is, when it starts the program; else the first process builds the root itself. */
  runc: {program: string; id: string} | undefined
}

/** What comes back, one line of JSON each. */
export type EnterReport =
  | {started: true}
  | {exitCode: number; signal?: string | undefined}
  | {problem: 'command_failed' | 'host_lacks' | 'internal'; reason: string}

/**
 * Capabilities that a program keeps, by number: enough to install packages and run daemons as root of
 * the image, none that reaches the kernel's own state (no SYS_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_PTRACE).
 *
 * Source: the default set of moby (oci/caps/defaults.go); numbers of <linux/capability.h>.
 */
export const keptCapabilities = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_NET_RAW: 13,
  CAP_SYS_CHROOT: 18,
  CAP_MKNOD: 27,
  CAP_AUDIT_WRITE: 29,
  CAP_SETFCAP: 31,
}

// Root in the image is root to the kernel's files: writing /proc/sys/kernel/core_pattern or
// /proc/sysrq-trigger needs no capability, only the owner. Source: runc's and moby's defaults.
/** Below /proc, seen but not written. */
export const readonlyProcPaths = ['bus', 'fs', 'irq', 'sys', 'sysrq-trigger']
/** Below /proc, hidden. */
export const maskedProcPaths = [
  ...['acpi', 'asound', 'interrupts', 'kcore', 'keys', 'latency_stats', 'sched_debug', 'scsi'],
  ...['timer_list', 'timer_stats'],
]

/** Devices of the host that every program may use. */
export const deviceNames = ['null', 'zero', 'full', 'random', 'urandom', 'tty']

/** The environment that a program starts with, before what is given; HOME is added from the image's list of users. */
export function baseEnv(isTerminal: boolean): Record<string, string> {
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    TERM: isTerminal ? 'xterm' : 'dumb',
    LANG: 'C.UTF-8',
  }
}

/** A name as a host name: 1 to 63 letters, digits and dashes. */
export function hostnameOf(name: string): string {
  const clean = name.replaceAll(/[^A-Za-z0-9-]/g, '-').slice(0, 63)
  return clean.replace(/^-+|-+$/g, '') || 'image'
}
