/**
 * A real root filesystem as a tar archive: Debian made by debootstrap from this host's own apt sources, kept in
 * `.cache` so that it is made once.
 */
import {execFileSync} from 'node:child_process'
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import {join} from 'node:path'
import {lsetxattr} from '../../src/core/syscalls/files.ts'

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

/**
 * `minimal`: 7,000 entries, 200 MB. `developer`: with compilers and interpreters, some 11,000 entries more. `large`: more
 * than 30,000 entries, with one of everything that a root filesystem may hold.
 */
const variants = {
  minimal: ['iputils-ping'],
  developer: ['iputils-ping', 'python3', 'perl', 'git', 'gcc', 'g++', 'make', 'vim', 'man-db'],
  large: [
    ...['iputils-ping', 'python3', 'perl', 'git', 'gcc', 'g++', 'make', 'vim', 'man-db'],
    // Small files by the thousand, a mode with setgid, and what packages set up when they are installed.
    ...['libboost-dev', 'manpages-dev', 'openssh-client', 'sudo', 'tzdata', 'locales', 'perl-doc'],
  ],
}

/**
 * The archive's path; made now if it is not cached. Needs root, debootstrap and the network of apt. `suite` is that of
 * the host unless it is named.
 */
export function rootfsArchive(variant: keyof typeof variants = 'minimal', suite?: string): string {
  const source = aptSource()
  if (source === undefined) throw new Error('this host has no apt source of Debian')
  const release = suite ?? source.suite
  const path = join(cacheDir, `rootfs-${release}-${variant}.tar`)
  if (existsSync(path)) return path
  mkdirSync(cacheDir, {recursive: true})
  const work = mkdtempSync(join(cacheDir, 'rootfs-'))
  try {
    const root = join(work, 'root')
    const include = `--include=${variants[variant].join(',')}`
    // In namespaces of its own, so that what debootstrap mounts and starts is gone with it.
    const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'debootstrap']
    const args = ['--variant=minbase', include, release, root, source.mirror]
    execFileSync('unshare', [...apart, ...args], {stdio: ['ignore', 'ignore', 'inherit']})
    if (variant === 'large') {
      rmSync(join(root, 'var/cache/apt/archives'), {recursive: true, force: true})
      addOneOfEverything(root)
    }
    const tar = ['--numeric-owner', '--xattrs', '--xattrs-include=*', '--format=pax', '--sparse']
    execFileSync('tar', [...tar, '-C', root, '-cf', join(work, 'tar'), '.'])
    renameSync(join(work, 'tar'), path)
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
  return path
}

/** What no package of Debian has, below `/srv/everything`. */
function addOneOfEverything(root: string): void {
  const dir = join(root, 'srv/everything')
  mkdirSync(join(dir, 'one/two'), {recursive: true})
  writeFileSync(join(dir, 'one/linked'), 'linked from three directories')
  linkSync(join(dir, 'one/linked'), join(dir, 'one/two/linked'))
  linkSync(join(dir, 'one/linked'), join(root, 'opt/linked'))
  execFileSync('mkfifo', [join(dir, 'fifo')])
  linkSync(join(dir, 'fifo'), join(dir, 'one/fifo'))
  execFileSync('mknod', [join(dir, 'disk'), 'b', '259', '70000'])
  execFileSync('mknod', [join(dir, 'zero'), 'c', '1', '5'])
  const attributes: [string, string, Buffer][] = [
    ['one', 'user.of-a-directory', Buffer.from('value')],
    ['one/linked', 'user.of-a-file', Buffer.alloc(2000, 'long ')],
    ['one/linked', 'trusted.of-a-file', Buffer.from([0, 1, 0x0a, 0x3d, 0xff])],
    // cap_net_raw=ep, as setcap(8) writes it.
    ['capable', 'security.capability', Buffer.from(`0100000200200000${'0'.repeat(24)}`, 'hex')],
  ]
  writeFileSync(join(dir, 'capable'), '#!/bin/sh\n', {mode: 0o755})
  for (const [name, key, value] of attributes) lsetxattr(join(dir, name), key, value)
  writeFileSync(join(dir, 'setuid'), '#!/bin/sh\n')
  execFileSync('chown', ['100000:4000000000', join(dir, 'setuid')])
  chmodSync(join(dir, 'setuid'), 0o6755)
  chmodSync(join(dir, 'one/two'), 0o1777)
  writeFileSync(join(dir, 'empty'), '')
  writeFileSync(join(dir, 'n'.repeat(255)), 'a long name')
  writeFileSync(join(dir, 'a b\n\\c é \u202e'), 'an odd name')
  symlinkSync('/srv/everything/one/linked', join(dir, 'absolute'))
  symlinkSync('../../../../../../etc/hostname', join(dir, 'above'))
  symlinkSync('x/'.repeat(2000), join(dir, 'long'))
  symlinkSync('nowhere', join(dir, 'dangling'))
  linkSync(join(dir, 'dangling'), join(dir, 'one/dangling'))
  const sparse = openSync(join(dir, 'sparse'), 'w')
  for (let at = 0; at < 40; at++) writeSync(sparse, `data ${at}`, at * 100_000)
  ftruncateSync(sparse, 64 << 20)
  closeSync(sparse)
  utimesSync(join(dir, 'setuid'), 5_000_000_000, 5_000_000_000)
}
