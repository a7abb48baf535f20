/** Commands that mount: from an address to a program that runs in the image. */
import {existsSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {findMounts} from '../../src/core/mounts/mount-table.ts'
import {lines, objects, withStore, type Bench} from '../support/command-store.ts'
import {startCommand, type Ran} from '../support/run-command.ts'
import {requires} from '../support/requires.ts'

const activeOf = (bench: Bench): string => join(bench.dir, 'store/active/web')

/** An image that is ACTIVE while `body` runs, and gone afterwards whatever happens. */
async function withActiveImage(body: (bench: Bench, fetched: Ran) => Promise<void>): Promise<void> {
  await withStore(async (bench) => {
    const {server, run} = bench
    try {
      const words = ['fetch', 'web', server.url, server.digest, '--profile', 'image', '--wait']
      await body(bench, await run(...words))
    } finally {
      await run('remove', 'web')
      expect(findMounts(activeOf(bench))).to.deep.equal([])
    }
  })
}

describe('commands that mount', () => {
  requires('root')

  it('fetch --wait ends ACTIVE and says where the image is mounted', () =>
    withActiveImage(async (bench, fetched) => {
      expect(fetched.exit, fetched.stderr).to.equal(0)
      expect(lines(fetched.stdout).slice(-2)).to.deep.equal([
        'Image web: ACTIVE',
        `  mounted at  ${activeOf(bench)}`,
      ])
      expect(readFileSync(join(activeOf(bench), 'etc/hello'), 'utf8')).to.equal('hello\n')
      const status = await bench.json('status', 'web')
      expect(status).to.include({
        state: 'ACTIVE',
        is_mounted: true,
        mount_point: activeOf(bench),
      })
      const list = await bench.run('list')
      expect(lines(list.stdout)[1]).to.match(new RegExp(`^web +ACTIVE .* ${activeOf(bench)}$`))
    }))

  it('deactivate unmounts and keeps what was written; activate brings it back', () =>
    withActiveImage(async (bench) => {
      writeFileSync(join(activeOf(bench), 'etc/new'), 'mine\n')
      const down = await bench.run('deactivate', 'web')
      expect(lines(down.stdout).at(-1)).to.equal('Image web: STORED')
      expect(down.exit).to.equal(0)
      expect(existsSync(join(activeOf(bench), 'etc/new'))).to.equal(false)
      // Once more is no error.
      expect((await bench.run('deactivate', 'web')).exit).to.equal(0)
      const up = await bench.run('activate', 'web', '--json')
      expect(objects(up.stdout).at(-1)).to.include({outcome: 'reached', state: 'ACTIVE'})
      expect(readFileSync(join(activeOf(bench), 'etc/new'), 'utf8')).to.equal('mine\n')
    }))

  it('run refuses an image that is not mounted, and says what to do', () =>
    withActiveImage(async (bench) => {
      await bench.run('deactivate', 'web', '--quiet')
      const ran = await bench.run('run', 'web', '--', '/bin/true')
      expect(ran.exit).to.equal(1)
      expect(ran.stderr).to.match(/^Error: image "web" is STORED; .*imgstore activate web/)
    }))

  it('run exits as the program does, and hands it its words in their order', () =>
    withActiveImage(async (bench) => {
      const missing = await startCommand(['run', 'web', ...bench.flags, '--', '/no/such']).ended
      expect(missing.exit).to.not.equal(0)
      expect(missing.stderr).to.contain('/no/such')
      await addBusybox(bench)
      const script = 'echo "$@"; echo $A; exit 7'
      const command = ['/bin/sh', '-c', script, 'sh', 'b', 'a', 'b', '--json', '-c']
      const words = ['run', 'web', ...bench.flags, '--env', 'A=x y', '--', ...command]
      const ran = await startCommand(words).ended
      expect(ran).to.deep.equal({stdout: 'b a b --json -c\nx y\n', stderr: '', exit: 7})
      const json = await startCommand([...words.slice(0, 2), '--json', ...words.slice(2)]).ended
      expect(json.exit).to.equal(7)
      expect(json.stdout.slice(json.stdout.indexOf('{'))).to.equal(
        '{\n  "name": "web",\n  "exit_code": 7\n}\n',
      )
    }))
})

/** Gives the image a program that needs no library. */
async function addBusybox(bench: Bench): Promise<void> {
  const {cpSync, mkdirSync} = await import('node:fs')
  mkdirSync(join(activeOf(bench), 'bin'), {recursive: true})
  cpSync('/bin/busybox', join(activeOf(bench), 'bin/sh'))
}
