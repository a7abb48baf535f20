/** The power goes while images are made by both backends, again and again, on a real kernel and disk of their own. */
import {execFileSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {createReadStream, createWriteStream, mkdirSync, mkdtempSync, rmSync} from 'node:fs'
import {readFileSync, realpathSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {pipeline} from 'node:stream/promises'
import {createGzip} from 'node:zlib'
import {expect} from 'chai'
import {requires} from '../support/requires.ts'
import {rootfsArchive} from '../support/rootfs-archive.ts'
import {randomOf} from '../support/image-maker.ts'
import {testSeed} from '../support/seed.ts'
import {listTree} from '../support/tree-listing.ts'
import {machineNeeds, VirtualMachine} from '../support/virtual-machine.ts'

const GiB = 2 ** 30
const cuts = 4
/** What a machine prints of a tree: a digest of everything that it has. */
const digestOf = (root: string): string => {
  const lines = [...listTree(root, {xattrs: true})].sort(([a], [b]) => (a < b ? -1 : 1))
  return createHash('sha256').update(JSON.stringify(lines)).digest('hex')
}

const digestProgram = `
import {createHash} from 'node:crypto'
import {listTree} from '${join(import.meta.dirname, '../support/tree-listing.ts')}'
const lines = [...listTree(process.argv[2], {xattrs: true})].sort(([a], [b]) => (a < b ? -1 : 1))
console.log('TREE', process.argv[3], createHash('sha256').update(JSON.stringify(lines)).digest('hex'))
`

describe('a machine whose power is cut while it makes images', function () {
  requires('program:debootstrap', ...machineNeeds)
  this.timeout(3_600_000)
  let machine: VirtualMachine | undefined
  afterEach(() => machine?.close())

  it('has them all after the next start, and lost nothing that was written in them', async () => {
    machine = new VirtualMachine(6 * GiB)
    const seed = testSeed()
    const random = randomOf(seed)
    console.log(`    seed ${seed}`)
    const plain = realpathSync(rootfsArchive())
    const expected = byTar(plain)
    const gzip = join(machine.dir, 'image.tar.gz')
    await pipeline(createReadStream(plain), createGzip({level: 1}), createWriteStream(gzip))
    const program = join(machine.dir, 'digest.ts')
    writeFileSync(program, digestProgram)

    const environment = ['STORE_PATH=/mnt/store', 'DB_PATH=/mnt/store.db', 'ALLOW_FILE=true']
    const head = [
      ...environment.map((setting) => `export IMGSTORE_${setting}`),
      'imgstore() { bin/imgstore "$@"; }',
    ]
    const fetch = (name: string, blob: string, ...more: string[]): string => {
      const digest = createHash('sha256').update(readFileSync(blob)).digest('hex')
      return `imgstore fetch ${name} file://${blob} ${digest} --profile image ${more.join(' ')}`
    }
    const watch = 'while :; do imgstore list; sleep 1; done'

    machine.start([
      ...head,
      fetch('kept-dir', plain, '--backend dir', '--wait'),
      fetch('kept-erofs', plain, '--backend erofs', '--wait'),
      'for name in kept-dir kept-erofs; do',
      '  echo written > /mnt/store/active/$name/root/written',
      '  mv /mnt/store/active/$name/etc/hostname /mnt/store/active/$name/etc/moved',
      'done',
      'sync',
      fetch('dir', plain, '--backend dir'),
      fetch('erofs', gzip, '--backend erofs'),
      'imgstore worker & echo WORKING',
      watch,
    ])
    await machine.printed(/WORKING/)
    for (let cut = 0; cut < cuts; cut++) {
      // In the middle of the work of one backend, then of the other.
      await machine.printed(
        cut % 2 === 0 ? /^erofs +(UNPACKING|ACTIVE)/m : /^dir +(UNPACKING|ACTIVE)/m,
      )
      await sleep(random() * 5000)
      await machine.cutPower()
      const seen = machine.output.matchAll(/^((?:kept-)?(?:dir|erofs)) +([A-Z]+)/gm)
      const states = new Map([...seen].map(([, name = '', state = '']) => [name, state]))
      console.log(`    cut ${cut}: ${[...states].map((pair) => pair.join(' ')).join(', ')}`)
      machine.start([...head, 'imgstore list; imgstore worker & echo WORKING', watch])
      await machine.printed(/WORKING/)
    }
    await machine.cutPower()

    const names = ['kept-dir', 'kept-erofs', 'dir', 'erofs']
    machine.start([
      ...head,
      'imgstore worker --once; echo WORKER $?',
      'imgstore verify; echo VERIFY $?',
      'imgstore cleanup --dry-run --json',
      ...names.map((name) => `node ${program} /mnt/store/images/${name}/rootfs ${name}`),
      ...names.map((name) => `echo IN ${name} $(chroot /mnt/store/active/${name} dpkg -l | wc -l)`),
      ...names.map((name) => `echo WRITTEN ${name} $(cat /mnt/store/active/${name}/root/written)`),
      'echo MOVED $(ls /mnt/store/active/kept-*/etc | grep -c moved)',
      'imgstore list --json; echo END',
    ])
    await machine.ended()
    const {output} = machine
    expect(output).to.match(/^WORKER 0\r?$/m)
    expect(output).to.match(/^VERIFY 0\r?$/m)
    for (const name of names) {
      expect(output).to.include(`TREE ${name} ${expected}`)
      expect(output).to.match(new RegExp(`^IN ${name} \\d\\d`, 'm'))
    }
    for (const name of ['kept-dir', 'kept-erofs'])
      expect(output).to.match(new RegExp(`^WRITTEN ${name} written`, 'm'))
    expect(output).to.match(/^MOVED 2\r?$/m)
    expect(output.match(/"state": ?"ACTIVE"/g)).to.have.length(names.length)
  })
})

/** The digest of what GNU tar makes of an archive. */
function byTar(archive: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  try {
    const root = join(dir, 'root')
    mkdirSync(root)
    const args = ['--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf', archive]
    execFileSync('tar', [...args, '-C', root])
    return digestOf(root)
  } finally {
    rmSync(dir, {recursive: true, force: true})
  }
}
