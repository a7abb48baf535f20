/** What only shows in a process of its own: signals, pipes, files of settings. */
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {lines, objects, withStore} from '../support/command-store.ts'
import {runCommand, startCommand, until} from '../support/run-command.ts'

describe('a command as a process', () => {
  it('stops at the first SIGINT, exits 130, and leaves things so that the work goes on', () =>
    withStore(async ({run, server, flags}) => {
      server.isStalling = true
      const words = ['fetch', 'web', server.url, server.digest, '--no-activate', '--wait']
      const {child, ended} = startCommand([...words, ...flags])
      await until(() => server.ranges.length > 0)
      child.kill('SIGINT')
      const {exit, stderr} = await ended
      expect(stderr).to.match(/^Error: waiting for image web was interrupted\nTry: /)
      expect(exit).to.equal(130)
      server.isStalling = false
      const again = await run(...words)
      expect(lines(again.stdout).at(-1)).to.equal('Image web: STORED')
    }))

  it('ends quietly with 0 when nobody reads its output any more', () =>
    withStore(async ({server, flags, fetched}) => {
      await fetched('web')
      const {child, output, ended} = startCommand(['events', '--follow', ...flags])
      await until(() => output.stdout !== '')
      child.stdout?.destroy()
      // The end of the pipe is noticed at the next line.
      await runCommand('fetch', 'two', server.url, server.digest, '--no-activate', '-w', ...flags)
      const {exit, stderr} = await ended
      expect(stderr).to.equal('')
      expect(exit).to.equal(0)
    }))

  it('exits 15 when the host cannot mount, says why, and keeps the image', () =>
    withStore(async ({server, flags, json}) => {
      const words = ['fetch', 'web', server.url, server.digest, '-w', ...flags]
      // Mounting is a matter of one capability; root goes without it here, others never had it.
      const by = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-sys_admin'] : []
      const said = await startCommand(words, {by}).ended
      expect(said.stderr).to.match(/^Error: this host cannot mount images: .+\nTry: .*doctor/)
      expect(lines(said.stdout).at(-1)).to.equal('Image web: STORED')
      expect(said.exit).to.equal(15)
      const again = await startCommand([...words, '--json'], {by}).ended
      expect(objects(again.stdout).at(-1)).to.include({outcome: 'held', state: 'STORED'})
      expect(again.exit).to.equal(15)
      const status = await json('status', 'web')
      expect(status).to.include({state: 'STORED', goal: 'ACTIVE', exit: 0})
      expect(status['held']).to.include({code: 'host_cannot_mount'})
    }))

  it('follows events, one JSON object a line, until it is stopped', () =>
    withStore(async ({server, flags, fetched}) => {
      await fetched('web')
      const words = ['events', '--follow', '--json', '--limit', '1']
      const {child, output, ended} = startCommand([...words, ...flags])
      await until(() => output.stdout !== '')
      await runCommand('fetch', 'two', server.url, server.digest, '--no-activate', '-w', ...flags)
      await until(() => /"image":"two".*"to":"STORED"/.test(output.stdout))
      child.kill('SIGTERM')
      const {exit, stdout} = await ended
      expect(exit).to.equal(130)
      const images = objects(stdout).map((o) => (o['event'] as {image: string}).image)
      expect(images[0]).to.equal('web')
      expect(new Set(images.slice(1))).to.deep.equal(new Set(['two']))
    }))

  it('reads its settings from a file, and names it when a value is wrong', () =>
    withStore(async ({dir, run}) => {
      const config = join(dir, 'config.json')
      writeFileSync(config, JSON.stringify({profile: 'image', maxFiles: 12}))
      const ran = await run('doctor', '--settings', '--config', config)
      expect(ran.stdout).to.match(new RegExp(`^maxFiles +12 +${config} `, 'm'))
      writeFileSync(config, JSON.stringify({maxFiles: -1}))
      const wrong = await run('list', '--config', config)
      expect(wrong.exit).to.equal(2)
      expect(wrong.stderr).to.contain(config)
      expect((await run('list', '--config', join(dir, 'none.json'))).exit).to.equal(2)
    }))
})
