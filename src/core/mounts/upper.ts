/**
 * The root of a mounted image is its upper directory, with the mode, owner and attributes of that: those of the image's
 * own root are seen only when they are given to it.
 */
import {chmodSync, chownSync, readdirSync, statSync} from 'node:fs'
import {systemCode} from '../errors.ts'
import {hasFileCalls, lgetxattr, llistxattr, lsetxattr, lutimensat} from '../syscalls/files.ts'
import type {OverlaySpec} from './overlay.ts'

/** What a user, a file system or a namespace may not keep; the image works without it. */
const harmless = new Set(['EPERM', 'EACCES', 'EINVAL', 'EOPNOTSUPP', 'ENOSYS', 'E2BIG'])

/**
 * Makes the upper directory like the root below it, before the first mount of the two. Later ones find what was changed
 * since then, and leave it.
 *
 * Errors: those of the system, as Node has them.
 */
export function adoptRoot(spec: Pick<OverlaySpec, 'lowerDir' | 'upperDir' | 'workDir'>): void {
  // Whatever mounts an overlay begins by making a directory in the one for its work.
  const isNew = [spec.workDir, spec.upperDir].every((dir) => readdirSync(dir).length === 0)
  if (!isNew) return
  const {mode, uid, gid, mtimeNs} = statSync(spec.lowerDir, {bigint: true})
  const own = statSync(spec.upperDir, {bigint: true})
  if (own.uid !== uid || own.gid !== gid)
    tryTo(() => {
      chownSync(spec.upperDir, Number(uid), Number(gid))
    })
  if (hasFileCalls()) copyAttributes(bytesOf(spec.lowerDir), bytesOf(spec.upperDir))
  // After the owner, which takes bits of it away, and whatever the umask is.
  chmodSync(spec.upperDir, Number(mode & 0o7777n))
  if (!hasFileCalls()) return
  const nanoseconds = ((mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n
  const seconds = Number((mtimeNs - nanoseconds) / 1_000_000_000n)
  tryTo(() => {
    lutimensat(AT_FDCWD, bytesOf(spec.upperDir), {seconds, nanoseconds: Number(nanoseconds)})
  })
}

const AT_FDCWD = -100

/** A path as system calls take it: a character for each byte. */
const bytesOf = (path: string): string => Buffer.from(path).toString('latin1')

function copyAttributes(from: string, to: string): void {
  tryTo(() => {
    for (const name of llistxattr(from)) {
      // Those speak to overlayfs, or say where on the host a file is.
      if (/^(trusted|user)\.overlay\.|^security\.selinux$/.test(name)) continue
      tryTo(() => {
        lsetxattr(to, name, lgetxattr(from, name))
      })
    }
  })
}

function tryTo(act: () => void): void {
  try {
    act()
  } catch (error) {
    if (!harmless.has(systemCode(error) ?? '')) throw error
  }
}
