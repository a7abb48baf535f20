/** runc gives each container control groups; after a kill nobody but us takes them away. */
import {readdirSync, rmdirSync, statSync} from 'node:fs'
import {join} from 'node:path'

const root = '/sys/fs/cgroup'
const ownName = /^imgstore-[0-9a-f]{16}$/
// A group is empty for a moment between its making and its first process; far longer than that.
const newbornMs = 60_000

/** The hierarchies of this host: one folder per controller (version 1), or the root itself (version 2). */
function hierarchies(): string[] {
  return [root, ...names(root).map((name) => join(root, name))]
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

/** Removes the groups of a container that has ended, and old empty ones of containers whose end nobody saw. */
export function removeControlGroups(id: string, nowMs: number): void {
  for (const dir of hierarchies()) {
    for (const name of names(dir).filter((found) => ownName.test(found))) {
      const path = join(dir, name)
      try {
        // The kernel refuses to remove a group that has a process.
        if (name === id || nowMs - statSync(path).mtimeMs > newbornMs) rmdirSync(path)
      } catch {
        // In use, or removed by another process at the same time.
      }
    }
  }
}
