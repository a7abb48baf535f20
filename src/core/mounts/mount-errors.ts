/** Turns what mounting met into coded failures, with the reason in the kernel's own words where it gave one. */
import {fail, fromSystemError, ImgstoreError, systemCode} from '../errors.ts'
import {tryLibc} from '../syscalls/libc.ts'
import {kernelLogLines} from '../syscalls/mount.ts'

/** A failed call with what the kernel wrote into the file system context. */
export class KernelSays extends Error {
  readonly code: string
  constructor(lines: string[], cause: unknown) {
    super(lines.map((line) => line.replace(/^[ewi] (overlay: |erofs: )?/, '')).join('; '), {cause})
    this.code = systemCode(cause) ?? ''
  }
}

/** The message of anything thrown. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The coded failure of a mount, with what the kernel said since `logBefore`. */
export function explain(
  error: unknown,
  mountPoint: string,
  logBefore: string | undefined,
): ImgstoreError {
  const said =
    error instanceof KernelSays && error.message !== '' ? error.message : kernelSaid(logBefore)
  const code = systemCode(error)
  const own = error instanceof KernelSays ? reasonOf(error.cause) : reasonOf(error)
  return mapError(error, mountPoint, said === '' ? own : `${said}${code ? ` (${code})` : ''}`)
}

/** The coded failure for a system error met while mounting or unmounting. */
export function mapError(error: unknown, mountPoint: string, reason: string): ImgstoreError {
  if (error instanceof ImgstoreError) return error
  if (/not supported as upperdir|failed to create directory .*errno: 95/.test(reason)) {
    const clear = `the store's file system cannot hold the changes of an overlay (${reason}); put the store on ext4, xfs, btrfs or tmpfs`
    return fail('host_cannot_mount', {reason: clear}, {cause: error})
  }
  switch (systemCode(error)) {
    case 'EPERM':
    case 'EACCES':
      return fail(
        'host_cannot_mount',
        {reason: `not allowed to mount; root (CAP_SYS_ADMIN) is needed (${reason})`},
        {cause: error},
      )
    case 'ENODEV':
      return fail('host_cannot_mount', {reason: 'the kernel has no overlayfs'}, {cause: error})
    case 'ENOSPC':
    case 'EDQUOT':
      return fromSystemError(error, mountPoint, 'mount')
    case 'EIO':
      return fail('io_failed', {path: mountPoint, reason: `mounting it: ${reason}`}, {cause: error})
    default:
      return fail('mount_failed', {path: mountPoint, reason}, {cause: error})
  }
}

/**
 * The failure of a disk, full or broken, as a coded error; undefined for all else. It says nothing about what the host
 * can do, and may be gone the next time.
 */
export function diskTrouble(error: unknown, path: string): ImgstoreError | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (['EIO', 'ENOSPC', 'EDQUOT'].includes(systemCode(at) ?? ''))
      return fromSystemError(error, path, 'write')
  }
  return undefined
}

/** The last line of the kernel's log, to tell later ones from it; undefined where it cannot be read. */
export function logEnd(): string | undefined {
  return tryLibc() instanceof Error ? undefined : kernelLogLines().at(-1)
}

/** What overlayfs wrote to the kernel's log since `before`, errors first if there are any. */
export function kernelSaid(before: string | undefined): string {
  if (before === undefined) return ''
  const lines = kernelLogLines()
  const own = lines
    .slice(lines.lastIndexOf(before) + 1)
    .map((line) => /^<(\d+)>\[[^\]]*\] overlayfs: (.*)$/.exec(line))
    .filter((found) => found !== null)
  const errors = own.filter((found) => (Number(found[1]) & 7) <= 3)
  return (errors.length > 0 ? errors : own).map((found) => found[2]).join('; ')
}
