/** The store's own directories and the id of the host: what everything else stands in. */
import {chmodSync, statSync} from 'node:fs'
import {fail, fromSystemError} from '../../errors.ts'
import type {Layout} from '../../layout.ts'
import type {MaintenanceContext} from '../context.ts'
import type {Finding} from './finding.ts'

/** The host's id was settled when the store was opened; this tells of it. */
export async function* wrongNode(
  maintenance: MaintenanceContext,
  settle: () => Promise<void>,
): AsyncIterable<Finding> {
  const {nodeTrouble: trouble, layout, node} = maintenance
  if (!trouble) return
  const {was, why} = trouble
  const problems = {
    gone: 'the id of this host is gone',
    damaged: 'the id of this host is damaged',
    another: 'the id is of a host without images',
  }
  yield await Promise.resolve({
    kind: 'node',
    path: layout.nodeFile,
    problem: problems[was],
    action: `set to ${node} (${why})`,
    mend: async () => {
      await settle()
      return true
    },
  })
}

/** Bits that a directory must have, and those that it must not. */
type Mode = {needs: number; lacks: number}

/**
 * Not everybody writes in a store (a group may, where the umask says so); staging is unpacked into, and shown disks are
 * for everybody to read.
 */
function modesOf(layout: Layout): [string, Mode][] {
  const usual = {needs: 0o700, lacks: 0o002}
  const {store, blobs, images, overlays, active, quarantine, staging, disks} = layout
  return [
    ...[store, blobs, images, overlays, active, quarantine].map((path): [string, Mode] => [
      path,
      usual,
    ]),
    [staging, {needs: 0o700, lacks: 0o077}],
    [disks, {needs: 0o755, lacks: 0o022}],
  ]
}

export async function* wrongDirectories(maintenance: MaintenanceContext): AsyncIterable<Finding> {
  const {layout} = maintenance
  for (const [path, mode] of modesOf(layout)) {
    const found = statSync(path, {throwIfNoEntry: false})
    if (!found) continue
    if (!found.isDirectory()) {
      yield await Promise.resolve({
        kind: 'directory',
        path,
        problem: 'there is no directory, but something else',
        action: 'move it away; it is made when it is needed',
        mend: () =>
          Promise.reject(fail('io_failed', {path, reason: 'it is no directory; move it away'})),
      })
      continue
    }
    const bits = found.mode & 0o7777
    const right = (bits | mode.needs) & ~mode.lacks
    if (bits === right) continue
    yield await Promise.resolve({
      kind: 'directory',
      path,
      problem: `its mode is ${octal(bits)}`,
      action: `set to ${octal(right)}`,
      mend: () => {
        try {
          chmodSync(path, right)
        } catch (error) {
          return Promise.reject(fromSystemError(error, path, 'change the mode of'))
        }
        return Promise.resolve(true)
      },
    })
  }
}

const octal = (mode: number): string => mode.toString(8).padStart(4, '0')
