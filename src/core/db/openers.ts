import {readdirSync, readFileSync, readlinkSync} from 'node:fs'

/**
 * Other processes of this host that have a database open, as far as this one may see: `imgstore worker (4711)`.
 *
 * Source: proc(5), /proc/pid/fd.
 */
export function findOpeners(path: string): string[] {
  const files = new Set([path, `${path}-wal`, `${path}-shm`])
  const openers: string[] = []
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue
    if (filesOf(pid).some((file) => files.has(file))) openers.push(`${commandOf(pid)} (${pid})`)
  }
  return openers
}

function filesOf(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`)
      } catch {
        return ''
      }
    })
  } catch {
    // Ended meanwhile, or not ours to look at.
    return []
  }
}

function commandOf(pid: string): string {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').filter(Boolean)
    const start = words.findIndex((word) => /(imgstore|manager|run\.js|main\.cjs)$/.test(word))
    return start < 0 ? (words[0] ?? 'a process') : `imgstore ${words[start + 1] ?? ''}`.trim()
  } catch {
    return 'a process'
  }
}
