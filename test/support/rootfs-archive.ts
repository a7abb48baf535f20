/**
 * A real root filesystem as a tar archive: Debian made by debootstrap from this host's own apt sources, kept in
 * `.cache` so that it is made once.
 */
import {execFileSync} from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs'
import {join} from 'node:path'

const cacheDir = join(import.meta.dirname, '../../.cache')

/** The first mirror and suite that this host installs Debian from. */
export function aptSource(): {mirror: string; suite: string} | undefined {
  const files = ['/etc/apt/sources.list']
  for (const dir of ['/etc/apt/sources.list.d']) {
    if (existsSync(dir)) files.push(...readdirSync(dir).map((name) => join(dir, name)))
  }
  for (const file of files.filter((path) => existsSync(path))) {
    const text = readFileSync(file, 'utf8')
    if (file.endsWith('.sources')) {
      for (const stanza of text.split(/\n\s*\n/)) {
        const mirror = /^URIs:\s*(\S+\/debian)\/?(?:\s|$)/m.exec(stanza)?.[1]
        const suite = /^Suites:\s*(\S+)/m.exec(stanza)?.[1]
        if (mirror && suite) return {mirror, suite}
      }
    } else {
      const found = /^deb\s+(?:\[[^\]]*\]\s+)?(\S+\/debian)\/?\s+(\S+)/m.exec(text)
      if (found?.[1] && found[2]) return {mirror: found[1], suite: found[2]}
    }
  }
  return undefined
}

/** `minimal`: 7,000 entries, 200 MB. `developer`: with compilers and interpreters, some 15,000 entries more. */
const variants = {
  minimal: ['iputils-ping'],
  developer: ['iputils-ping', 'python3', 'perl', 'git', 'gcc', 'g++', 'make', 'vim', 'man-db'],
}

/** The archive's path; made now if it is not cached. Needs root, debootstrap and the network of apt. */
export function rootfsArchive(variant: keyof typeof variants = 'minimal'): string {
  const source = aptSource()
  if (source === undefined) throw new Error('this host has no apt source of Debian')
  const path = join(cacheDir, `rootfs-${source.suite}-${variant}.tar`)
  if (existsSync(path)) return path
  mkdirSync(cacheDir, {recursive: true})
  const work = mkdtempSync(join(cacheDir, 'rootfs-'))
  try {
    const root = join(work, 'root')
    const include = `--include=${variants[variant].join(',')}`
    const args = ['--variant=minbase', include, source.suite, root, source.mirror]
    execFileSync('debootstrap', args, {stdio: ['ignore', 'ignore', 'inherit']})
    const tar = ['--numeric-owner', '--xattrs', '--xattrs-include=*', '--format=pax', '--sparse']
    execFileSync('tar', [...tar, '-C', root, '-cf', join(work, 'tar'), '.'])
    renameSync(join(work, 'tar'), path)
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
  return path
}
