// The unpacker's process in one file, dist/src/core/unpack/child.cjs: loading its modules one by one took a quarter of
// the time from its start to its first entry.
import {resolve} from 'node:path'
import {build} from 'esbuild'

/** Makes the file below `dist`, where tsc has put its modules. */
export async function bundleUnpacker(dist: string): Promise<void> {
  await build({
    entryPoints: [resolve(dist, 'src/core/unpack/child.js')],
    outfile: resolve(dist, 'src/core/unpack/child.cjs'),
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node24',
    external: ['koffi', 'tar'],
    // For createRequire, which takes a path as well.
    define: {'import.meta.url': '__filename'},
    // Names stay, for the traces of bugs.
    minifyWhitespace: true,
    minifySyntax: true,
    lineLimit: 200,
    legalComments: 'none',
    logLevel: 'warning',
  })
}
