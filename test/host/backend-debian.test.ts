/** A real Debian by both backends: equal to what GNU tar makes of it, and its own programs run in it. */
import {execFileSync} from 'node:child_process'
import {createReadStream, createWriteStream, existsSync, mkdirSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {createHash} from 'node:crypto'
import {createGzip, createZstdCompress} from 'node:zlib'
import {pipeline} from 'node:stream/promises'
import {expect} from 'chai'
import {runInRoot} from '../../src/core/mounts/enter.ts'
import {compressions, placesOf, reached, removed} from '../support/backend-image.ts'
import {requires} from '../support/requires.ts'
import {rootfsArchive} from '../support/rootfs-archive.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {withTempStore} from '../support/temp-store.ts'
import {listTree, treeDifferences} from '../support/tree-listing.ts'

/** The archive, compressed in some way, as a file in `dir`. */
async function packed(archive: string, how: string, dir: string): Promise<string> {
  if (how === 'plain') return archive
  const path = join(dir, `${how}.tar`)
  const compressor = how === 'gzip' ? createGzip({level: 1}) : createZstdCompress()
  await pipeline(createReadStream(archive), compressor, createWriteStream(path))
  return path
}

describe('a Debian by both backends', function () {
  requires('root', 'program:debootstrap')
  this.timeout(600_000)

  for (const variant of ['minimal', 'developer'] as const)
    it(`is what GNU tar makes of it, and runs its programs: ${variant}`, () =>
      withTempDir(async (dir) => {
        const archive = rootfsArchive(variant)
        const theirs = join(dir, 'theirs')
        mkdirSync(theirs)
        const args = ['--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf', archive]
        execFileSync('tar', [...args, '-C', theirs])
        const expected = listTree(theirs, {xattrs: true})
        for (const how of variant === 'minimal' ? compressions : (['plain'] as const)) {
          const blob = await packed(archive, how, dir)
          const digest = createHash('sha256').update(readFileSync(blob)).digest('hex')
          await withTempStore(
            async ({store, storeDir}) => {
              const {rootfs, mountPoint, upper} = placesOf(storeDir, 'one', digest)
              const url = `file://${blob}`
              for (const backend of ['erofs', 'dir'] as const) {
                if (backend === 'erofs')
                  await store.images.fetch({name: 'one', url, digest, backend, profile: 'image'})
                else await store.images.convert('one', {backend})
                expect(await reached(store)).to.include({state: 'ACTIVE', treeBackend: backend})
                const below = listTree(rootfs, {xattrs: true})
                expect(treeDifferences(below, expected), `${how} ${backend}`).to.deep.equal([])
                await expectPrograms(mountPoint, theirs)
                expect(readFileSync(join(upper, 'root/written'), 'utf8')).to.equal('written\n')
                expect(existsSync(join(rootfs, 'root/written'))).to.equal(false)
                const after = listTree(rootfs, {xattrs: true})
                expect(treeDifferences(after, expected), 'after running').to.deep.equal([])
              }
              await removed(store)
            },
            {flags: {allowFile: true}},
          )
        }
      }))
})

/** Runs what the image has of dpkg, perl and python. */
async function expectPrograms(rootDir: string, theirs: string): Promise<void> {
  const run = async (...command: string[]): Promise<string> => {
    const options = {name: 'one', driver: 'auto', stdio: 'pipe'} as const
    const {exitCode, stdout, stderr} = await runInRoot({rootDir, command, ...options})
    expect(exitCode, stderr).to.equal(0)
    return stdout ?? ''
  }
  expect(await run('dpkg', '-l')).to.match(/^ii\s+base-files/m)
  expect(await run('perl', '-MPOSIX', '-e', 'print floor(6.5) * 7')).to.equal('42')
  if (existsSync(join(theirs, 'usr/bin/python3')))
    expect(await run('python3', '-c', 'import json; print(json.dumps([42]))')).to.equal('[42]\n')
  await run('sh', '-c', 'echo written > /root/written')
}
