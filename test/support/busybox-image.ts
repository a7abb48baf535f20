/** A tiny root filesystem in which programs run: busybox and, where it is not static, what it is linked with. */
import {spawnSync} from 'node:child_process'
import {readFileSync, realpathSync} from 'node:fs'
import {makeTar, sha256, type TarEntry} from './image-maker.ts'

/** The archive, for the profile `image`. */
export function makeBusyboxImage(): {bytes: Buffer; digest: string} {
  const busybox = spawnSync('sh', ['-c', 'command -v busybox'], {encoding: 'utf8'}).stdout.trim()
  // Of a static program ldd prints no path.
  const linked = spawnSync('ldd', [busybox], {encoding: 'utf8'}).stdout
  const libraries = [...linked.matchAll(/(\/\S+) \(0x/g)].map(([, path = '']) => path)
  const entries: TarEntry[] = [
    ...['bin/', 'dev/', 'etc/', 'proc/', 'root/', 'sys/', 'tmp/', 'usr/', 'usr/bin/'].map(
      (name) => ({name, type: 'directory'}) as const,
    ),
    {name: 'etc/os-release', content: Buffer.from('NAME=tiny\n')},
    {name: 'etc/passwd', content: Buffer.from('root:x:0:0:root:/root:/bin/sh\n')},
    {name: 'bin/busybox', content: readFileSync(busybox), mode: 0o755},
    ...['bin/sh', 'bin/cat', 'bin/ls', 'usr/bin/id'].map(
      (name) => ({name, type: 'symlink', target: '/bin/busybox'}) as const,
    ),
    ...libraries.map((path) => ({
      name: path.slice(1),
      content: readFileSync(realpathSync(path)),
      mode: 0o755,
    })),
  ]
  const bytes = makeTar(entries)
  return {bytes, digest: sha256(bytes)}
}
