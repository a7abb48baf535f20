/** Overlays by the program fuse-overlayfs, for hosts whose kernel refuses them. */
import {execa} from 'execa'
import {fail} from '../errors.ts'
import {overlayOptions, safeOptions, type OverlaySpec} from './overlay.ts'
import {programEnv} from './programs.ts'

/**
 * Starts fuse-overlayfs; it has mounted when this returns.
 *
 * Errors: host_cannot_mount (a colon in a path), host_lacks, mount_failed with the program's words.
 */
export async function mountByFuse(spec: OverlaySpec): Promise<void> {
  const paths = [spec.lowerDir, spec.upperDir, spec.workDir]
  if (paths.some((path) => path.includes(':'))) {
    const reason = 'fuse-overlayfs cannot use a store whose path has a colon'
    throw fail('host_cannot_mount', {reason})
  }
  const options = [...safeOptions(spec), overlayOptions(spec)].join(',')
  // The program goes on in the background as a daemon of its own; it must not hold our pipes open.
  const result = await execa('fuse-overlayfs', ['-o', options, spec.mountPoint], {
    env: programEnv,
    extendEnv: false,
    stdin: 'ignore',
    stdout: 'ignore',
    stderr: 'pipe',
    reject: false,
    cleanup: false,
  })
  if (result.code === 'ENOENT') {
    throw fail('host_lacks', {what: 'fuse-overlayfs', need: 'mount images without the kernel'})
  }
  if (result.failed) {
    const reason = result.stderr.trim() || (result.shortMessage ?? 'it says nothing')
    throw fail('mount_failed', {path: spec.mountPoint, reason}, {cause: result})
  }
}
