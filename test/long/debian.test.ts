/**
 * Debian as it is installed, of more than 30,000 entries: each release, compression and backend through the program as
 * its users run it. What is mounted must be what GNU tar makes of the same archive, in all that a file has.
 */
import {execFileSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {createReadStream, createWriteStream, existsSync, lstatSync, mkdirSync} from 'node:fs'
import {mkdtempSync, readFileSync, readdirSync, rmSync, statSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {createGzip, createZstdCompress} from 'node:zlib'
import {expect} from 'chai'
import {compressions, mountKinds, kindsOf, placesOf} from '../support/backend-image.ts'
import type {Compression} from '../support/backend-image.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {rootfsArchive} from '../support/rootfs-archive.ts'
import {expectSoundStore} from '../support/store-check.ts'
import {listTree, treeDifferences} from '../support/tree-listing.ts'

type Tree = Map<string, string>

const list = (root: string): Tree => listTree(root, {xattrs: true})
const MiB = 2 ** 20

for (const suite of ['bookworm', 'trixie'])
  describe(`Debian ${suite} by both backends`, function () {
    requires('root', 'program:debootstrap', 'program:unshare')
    this.timeout(900_000)
    const newScene = useScenes()
    let dir = ''
    let archive = ''
    let expected: Tree = new Map()

    before('GNU tar extracts it', () => {
      archive = rootfsArchive('large', suite)
      dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
      const theirs = join(dir, 'theirs')
      mkdirSync(theirs)
      const args = ['--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf', archive]
      execFileSync('tar', [...args, '-C', theirs])
      expected = list(theirs)
      const size = Math.round(statSync(archive).size / MiB)
      console.log(`    ${expected.size} names, ${size} MiB`)
    })

    after(() => rmSync(dir, {recursive: true, force: true}))

    it('has what other unpackers lose', () => {
      expect(expected.size).to.be.greaterThan(30_000)
      const lines = [...expected.values()]
      const count = (what: RegExp): number => lines.filter((line) => what.test(line)).length
      for (const what of [
        /^104755 .* 0:0 |^104755 0:0 /, // setuid of root
        /^102\d{3} /, // setgid
        /^41777 /, // sticky
        /security\.capability=/,
        /user\.of-a-file=/,
        /trusted\.of-a-file=/,
        /^12.* -> \//, // an absolute link
        / same as .*, /, // hard links
        / 100000:4000000000 /,
        /^10/, // a FIFO
        /^2\d{4} .* device/,
        /^6\d{4} .* device/,
        /mtime \d+[1-9]\d{0,8} /, // a time with a fraction of a second
        /mtime 5000000000000000000/,
      ])
        expect(count(what), String(what)).to.be.greaterThan(0)
    })

    for (const compression of compressions)
      for (const backend of ['dir', 'erofs'] as const)
        it(`is what GNU tar makes of it, and works: ${compression}, ${backend}`, async () => {
          const scene = newScene()
          const blob = await packed(archive, compression, scene.dir)
          const digest = createHash('sha256').update(readFileSync(blob)).digest('hex')
          const {rootfs, mountPoint, upper, index} = placesOf(scene.store, 'one', digest)
          const fetch = ['fetch', 'one', `file://${blob}`, digest, '--profile', 'image']
          const startedMs = performance.now()
          await scene.ok([...fetch, '--allow-file', '--backend', backend, '--wait'])
          const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)
          expect(mountKinds(scene.store, 'one')).to.deep.equal(kindsOf[backend])
          const sizes = [blob, ...(backend === 'erofs' ? [index] : [])].map(
            (path) => `${(statSync(path).size / MiB).toFixed(1)} MiB`,
          )
          console.log(`      ACTIVE after ${seconds} s; blob and index: ${sizes.join(', ')}`)

          expect(treeDifferences(list(rootfs), expected)).to.deep.equal([])
          expect(treeDifferences(list(mountPoint), expected), 'the overlay').to.deep.equal([])
          const before = sumsOf(scene)
          await expectPrograms(scene)
          await expectWrites(scene, upper)
          expect(treeDifferences(list(rootfs), expected), 'after writing').to.deep.equal([])
          expect(sumsOf(scene)).to.deep.equal(before)

          await scene.ok(['verify'])
          await expectSoundStore(scene)
          await scene.ok(['remove', 'one'])
          expect(scene.mounts()).to.deep.equal([])
        })
  })

/** The archive, compressed in some way, as a file in `dir`. */
async function packed(archive: string, how: Compression, dir: string): Promise<string> {
  if (how === 'plain') return archive
  const path = join(dir, `${how}.tar`)
  const compressor = how === 'gzip' ? createGzip({level: 1}) : createZstdCompress()
  await pipeline(createReadStream(archive), compressor, createWriteStream(path))
  return path
}

/** The digests of every blob and of the index: what nothing may change that happens in an image. */
function sumsOf(scene: Scene): Record<string, string> {
  const dirs = [join(scene.store, 'blobs'), join(scene.store, 'images/one')]
  const paths = dirs.flatMap((dir) => readdirSync(dir).map((name) => join(dir, name)))
  const files = paths.filter((path) => lstatSync(path).isFile())
  return Object.fromEntries(
    files.map((path) => [path, createHash('sha256').update(readFileSync(path)).digest('hex')]),
  )
}

/** Programs of the image, with what they need of it: their data, their modules, their users. */
async function expectPrograms(scene: Scene): Promise<void> {
  const run = (...command: string[]): Promise<string> => scene.ok(['run', 'one', '--', ...command])
  expect(await run('dpkg', '-l')).to.match(/^ii\s+libboost/m)
  expect(await run('dpkg', '--verify', 'perl-base')).to.equal('')
  expect(await run('perl', '-MPOSIX', '-MEncode', '-e', 'print floor(6.5) * 7')).to.equal('42')
  const json = 'import json, ssl, sqlite3; print(json.dumps([42]))'
  expect(await run('python3', '-c', json)).to.equal('[42]\n')
  expect(await run('git', '--version')).to.match(/^git version/)
  // Somebody who is not root may enter the root and nothing that is not for them.
  const asNobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--', 'sh', '-c']
  const script = 'id -u; cat /srv/everything/one/linked; test -r /etc/shadow || echo; ls / | wc -w'
  expect(await run(...asNobody, script)).to.match(/^65534\nlinked from three directories\n\d\d\n$/)
}

/** Makes, changes, moves and removes in the image; all of it is in the upper layer, and only there. */
async function expectWrites(scene: Scene, upper: string): Promise<void> {
  const script = [
    'echo written > /root/written',
    'echo changed >> /srv/everything/one/linked',
    'mv /srv/everything/capable /srv/everything/moved',
    'rm -r /usr/share/doc/base-files',
    'chmod 600 /etc/passwd',
  ]
  await scene.ok(['run', 'one', '--', 'sh', '-ec', script.join('\n')])
  const text = (name: string): string => readFileSync(join(upper, name), 'utf8')
  expect(text('root/written')).to.equal('written\n')
  expect(text('srv/everything/one/linked')).to.equal('linked from three directorieschanged\n')
  expect(existsSync(join(upper, 'srv/everything/moved'))).to.equal(true)
  expect(lstatSync(join(upper, 'usr/share/doc/base-files')).isCharacterDevice()).to.equal(true)
  expect(statSync(join(upper, 'etc/passwd')).mode & 0o777).to.equal(0o600)
}
