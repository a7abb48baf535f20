/** What an image's overlay is made of, and how its options are written for those who only take text. */

/** One overlay: a read-only image below, what was changed above, seen together at the mount point. */
export type OverlaySpec = {
  lowerDir: string
  upperDir: string
  workDir: string
  mountPoint: string
  /** Refuse to execute programs from the mount; device files and setuid are always refused. */
  noexec: boolean
  /** What the mount table shows as the source: `imgstore:NAME`. */
  source: string
}

/** mount(2) copies one page of options, the closing NUL included, and cuts off the rest silently. */
export const optionBytesMax = 4095

/**
 * A directory as overlayfs reads it inside its option text: a backslash before each comma (ends an
 * option), colon (ends a lower directory) and backslash. Everything else, blanks and newlines too, stands
 * for itself.
 *
 * Source: Linux, fs/overlayfs/params.c (5.10 to 6.18); tried on 6.18 with all of these in one path.
 */
export function escapeOverlayPath(path: string): string {
  return path.replaceAll(/[\\,:]/g, (c) => `\\${c}`)
}

/** The option text of an overlay for mount(2) and for mount(8) and fuse-overlayfs, which read it alike. */
export function overlayOptions(spec: {
  lowerDir: string
  upperDir: string
  workDir: string
}): string {
  return [
    `lowerdir=${escapeOverlayPath(spec.lowerDir)}`,
    `upperdir=${escapeOverlayPath(spec.upperDir)}`,
    `workdir=${escapeOverlayPath(spec.workDir)}`,
  ].join(',')
}

/** Whether the option text reaches the kernel whole. */
export function fitsOnePage(options: string): boolean {
  return Buffer.byteLength(options) <= optionBytesMax
}

/** The mount options that every image gets, whatever it holds. */
export function safeOptions(spec: Pick<OverlaySpec, 'noexec'>): string[] {
  return ['nodev', 'nosuid', ...(spec.noexec ? ['noexec'] : [])]
}
