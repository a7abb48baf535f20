import {spawnSync} from 'node:child_process'
import {chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {request} from 'node:https'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {expect} from 'chai'
import {randomBytesOf, sha256} from '../support/disk-images.ts'
import {freePorts} from '../support/free-ports.ts'
import {useScenes, until, program, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {withSystemd, type Manager} from '../support/systemd-scene.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {makeTestCa} from '../support/test-ca.ts'

const name = 'imgstore-serve.service'
const unitFile = fileURLToPath(new URL(`../../deploy/systemd/${name}`, import.meta.url))
const unit = readFileSync(unitFile, 'utf8')

describe("the server's unit", function () {
  requires('program:systemd-analyze')
  this.timeout(60_000)

  it('is accepted by systemd without a word', () =>
    withTempDir((dir) => {
      const copy = join(dir, name)
      writeFileSync(copy, unit.replace(/^ExecStart=\S+/m, `ExecStart=${process.execPath}`))
      const verify = spawnSync('systemd-analyze', ['verify', '--man=no', copy], {encoding: 'utf8'})
      const said = `${verify.stdout}${verify.stderr}`.split('\n')
      expect(said.filter((line) => line.includes('imgstore'))).to.deep.equal([])
      expect(verify.status).to.equal(0)
    }))

  it('has an exposure of at most 1.5', () => {
    const security = spawnSync(
      'systemd-analyze',
      ['security', '--offline=true', '--no-pager', '--threshold=15', unitFile],
      {encoding: 'utf8'},
    )
    const level = /Overall exposure level for imgstore-serve\.service: ([\d.]+)/.exec(
      security.stdout,
    )
    expect(Number(level?.[1]), security.stderr).to.be.greaterThan(0).and.at.most(1.5)
    expect(security.status, security.stdout).to.equal(0)
  })
})

describe("the server's unit under systemd", function () {
  requires('root', 'program:unshare', 'program:nsenter', 'program:systemctl', 'program:openssl')
  this.timeout(120_000)
  const makeScene = useScenes()

  /** A scene whose directory is /var/lib/imgstore inside, and the file of settings with a port of its own. */
  async function prepare(more: readonly string[] = []): Promise<{
    scene: Scene
    port: number
    places: Record<string, string>
  }> {
    const scene = makeScene()
    const [port = 0] = await freePorts(1)
    const settings = join(scene.dir, 'settings')
    writeFileSync(settings, [`IMGSTORE_LISTEN_ADDR=127.0.0.1:${port}`, ...more, ''].join('\n'))
    return {scene, port, places: {'/etc/default/imgstore-serve': settings}}
  }

  /** What a process may do, and as whom, by /proc. */
  function rightsOf(manager: Manager): Record<string, string> {
    const {MainPID = ''} = manager.show(name, 'MainPID')
    const {stdout} = manager.inside('cat', `/proc/${MainPID}/status`)
    return Object.fromEntries(
      stdout.split('\n').map((line) => line.split(/:\s*/, 2) as [string, string]),
    )
  }

  it('serves a directory of images and the disks of the store, and writes nowhere', async () => {
    const {scene, port, places} = await prepare()
    const images = join(scene.dir, 'images')
    mkdirSync(images)
    const bytes = {directory: randomBytesOf(300_000), store: randomBytesOf(4096 * 50)}
    writeFileSync(join(images, 'plain.img'), bytes.directory)
    const source = join(scene.dir, 'source.raw')
    writeFileSync(source, bytes.store)
    // As the worker's unit has it: nobody but root gets into its directory, and what it makes is its own.
    const fetch = ['fetch', '--kind', 'disk', 'vm', `file://${source}`, sha256(bytes.store)]
    await scene.ok(
      ['-c', 'umask 0077; exec "$@"', 'sh', program, ...fetch, '--allow-file', '--wait'],
      {
        command: 'sh',
      },
    )
    chmodSync(scene.dir, 0o700)
    Object.assign(places, {'/srv/imgstore/images': images, '/var/lib/imgstore': scene.dir})

    await withSystemd(scene, {name, unit, places}, async (manager) => {
      manager.systemctl('start', name)
      const url = `http://127.0.0.1:${port}`
      const list = (await (await globalThis.fetch(`${url}/v1/images`)).json()) as {id: string}[]
      expect(list.map(({id}) => id)).to.deep.equal(['plain.img', 'vm'])
      for (const [id, expected] of [
        ['plain.img', bytes.directory],
        ['vm', bytes.store],
      ] as const) {
        const answer = await globalThis.fetch(`${url}/v1/images/${id}`)
        expect(answer.status, id).to.equal(200)
        expect(Buffer.from(await answer.arrayBuffer()).equals(expected), id).to.equal(true)
      }
      const rights = rightsOf(manager)
      expect(Number(rights['Uid']?.split('\t')[0])).to.be.within(61_184, 65_519)
      expect(rights).to.include({CapEff: '0'.repeat(16), CapBnd: '0'.repeat(16)})
      expect(rights).to.include({NoNewPrivs: '1', Seccomp: '2'})
      expect(manager.show(name, 'StatusText')).to.deep.equal({
        StatusText: `serving at 127.0.0.1:${port}`,
      })

      // Nothing of the hardening keeps the kernel from sending files.
      expect(manager.inside('cat', '/run/scene.log').stdout).to.match(/"sender":"(?!plain)/)

      // What is added is served without a restart, though the unit sees the directory by a mount of its own.
      writeFileSync(join(images, 'later.img'), 'later')
      expect((await globalThis.fetch(`${url}/v1/images/later.img/meta`)).status).to.equal(200)

      manager.systemctl('reload', name)
      expect((await globalThis.fetch(`${url}/readyz`)).status).to.equal(200)
      manager.systemctl('stop', name)
      expect(
        manager.show(name, 'ActiveState', 'Result', 'ExecMainStatus', 'NRestarts'),
      ).to.deep.equal({
        ActiveState: 'inactive',
        Result: 'success',
        ExecMainStatus: '0',
        NRestarts: '0',
      })
    })
    expect(await scene.processesLeft()).to.deep.equal([])
    expect(scene.mounts()).to.deep.equal([])
  })

  it('starts where there are no images and no store yet', async () => {
    const {scene, port, places} = await prepare()
    await withSystemd(scene, {name, unit, places}, async (manager) => {
      manager.systemctl('start', name)
      const list = await globalThis.fetch(`http://127.0.0.1:${port}/v1/images`)
      expect(await list.json()).to.deep.equal([])
    })
  })

  it('serves HTTPS with a key that root alone can read, once its lines for that are taken', async () => {
    const {scene, port, places} = await prepare()
    const ca = makeTestCa(scene.dir)
    const tls = join(scene.dir, 'tls')
    mkdirSync(tls, {mode: 0o700})
    writeFileSync(join(tls, 'tls.crt'), ca.cert, {mode: 0o600})
    writeFileSync(join(tls, 'tls.key'), ca.key, {mode: 0o600})
    places['/etc/imgstore'] = tls
    const withTls = unit.replaceAll(/^#(LoadCredential|Environment)=/gm, '$1=')
    expect(withTls).to.not.equal(unit)
    await withSystemd(scene, {name, unit: withTls, places}, async (manager) => {
      manager.systemctl('start', name)
      const status = await new Promise((resolve, reject) => {
        const asked = request(
          {host: '127.0.0.1', port, path: '/healthz', ca: readFileSync(ca.caFile), agent: false},
          (answer) => {
            answer.resume()
            resolve(answer.statusCode)
          },
        )
        asked.on('error', reject).end()
      })
      expect(status).to.equal(200)
    })
  })

  it('is not started again and again with settings that are wrong', async () => {
    const {scene, places} = await prepare(['IMGSTORE_MAX_RANGE_BYTES=much'])
    await withSystemd(scene, {name, unit, places}, async (manager) => {
      expect(manager.inside('systemctl', 'start', name).status).to.not.equal(0)
      const shown = await until('the unit to give up', () => {
        const state = manager.show(name, 'ActiveState', 'ExecMainStatus', 'NRestarts')
        return state['ActiveState'] === 'failed' && state
      })
      expect(shown).to.include({ExecMainStatus: '2', NRestarts: '0'})
    })
    rmSync(join(scene.dir, 'settings'))
  })
})
