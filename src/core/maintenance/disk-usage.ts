import {lstat, readdir} from 'node:fs/promises'
import {join} from 'node:path'

/**
 * Bytes that a file or tree takes on disk; a file with many names counts once. What vanishes meanwhile and what is
 * mounted below counts nothing.
 */
export async function diskUsage(path: string): Promise<number> {
  const seen = new Set<string>()
  let total = 0
  const pending = [path]
  let device: number | undefined
  for (;;) {
    const next = pending.pop()
    if (next === undefined) return total
    try {
      const found = await lstat(next)
      device ??= found.dev
      if (found.dev !== device) continue
      if (found.nlink > 1 && !found.isDirectory()) {
        const key = `${found.dev}:${found.ino}`
        if (seen.has(key)) continue
        seen.add(key)
      }
      total += found.blocks * 512
      if (found.isDirectory())
        for (const name of await readdir(next)) pending.push(join(next, name))
    } catch {
      continue
    }
  }
}
