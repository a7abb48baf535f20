/** `imgstore serve` as a user runs it: flags and variables, exit codes, signals, systemd, its other name. */
import {mkdirSync, readFileSync, statSync, writeFileSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {expect} from 'chai'
import {killReceivers, withNotifySocket} from '../support/notify-socket.ts'
import {until, useScenes} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe} from '../support/serve-process.ts'

type Line = {level: string; fields: Record<string, unknown> & {message: string}}

function logOf(stdout: string): Line[] {
  return stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line)
}

describe('imgstore serve', () => {
  const scene = useScenes()
  const shim = resolve('bin/aero-storage-server')

  it('makes its directory, says when it listens and with which settings, and shows no secret', async () => {
    const s = scene()
    const root = join(s.dir, 'a/b')
    const env = {AERO_STORAGE_IMAGE_ROOT: root, AERO_STORAGE_METRICS_AUTH_TOKEN: 'hush-hush'}
    const {running, url} = await startServe(s, ['--max-range-bytes', '1000'], env)
    expect(statSync(root).isDirectory()).to.equal(true)
    writeFileSync(join(root, 'x'), '12345')
    expect(await (await fetch(`${url}/v1/images/x`)).text()).to.equal('12345')
    expect((await fetch(`${url}/metrics`)).status).to.equal(401)
    const [line] = logOf(running.out.stdout)
    expect(line?.fields).to.include({
      message: 'aero-storage-server listening',
      images_root: root,
      max_range_bytes: 1000,
      cors_preflight_max_age_secs: 86_400,
      metrics_auth_token: 'set',
    })
    running.kill('SIGTERM')
    const ran = await running.exited
    expect(ran.code).to.equal(0)
    expect(ran.stdout).to.not.contain('hush-hush')
    expect(logOf(ran.stdout).at(-1)?.fields.message).to.equal('the server has stopped')
    expect(ran.stderr).to.equal('')
  })

  it('takes the older names of variables, and says what it ignores', async () => {
    const s = scene()
    const env = {
      AERO_BIND: 'localhost:1',
      AERO_STORAGE_SERVER_ADDR: '127.0.0.1:0',
      AERO_IMAGE_DIR: join(s.dir, 'images'),
      AERO_STORAGE_REQUIRE_MANIFEST: '1',
      AERO_STORAGE_SERVER_VERSION: '9.9.9',
      GIT_SHA: 'abc',
    }
    const running = s.start([], {env, command: shim})
    const address = await until(
      'the server to listen',
      () => /"address":"([^"]+)"/.exec(running.out.stdout)?.[1],
    )
    expect(running.out.stdout).to.contain('AERO_BIND')
    expect((await fetch(`http://${address}/readyz`)).status).to.equal(503)
    const version = await (await fetch(`http://${address}/version`)).json()
    expect(version).to.deep.equal({version: '9.9.9', gitSha: 'abc', builtAt: ''})
    running.kill('SIGINT')
    expect((await running.exited).code).to.equal(0)
  })

  it('ends with 2 for wrong usage and with 1 for what it cannot start with', async () => {
    const s = scene()
    const taken = await startServe(s, [])
    const file = join(s.dir, 'file')
    writeFileSync(file, 'x')
    const cases: [args: string[], env: Record<string, string>, code: number, words: RegExp][] = [
      [['--no-such-flag'], {}, 2, /--help/],
      [['--listen-addr', 'localhost:80'], {}, 2, /listenAddr/],
      [['--max-range-bytes', '-1'], {}, 2, /maxRangeBytes/],
      [[], {AERO_STORAGE_MAX_CHUNK_BYTES: ''}, 2, /AERO_STORAGE_MAX_CHUNK_BYTES/],
      [[], {AERO_STORAGE_REQUIRE_MANIFEST: 'perhaps'}, 2, /true or false/],
      [['--cross-origin-resource-policy', 'none'], {}, 1, /same-origin, same-site/],
      [['--log-level', 'loud'], {}, 1, /log-level/],
      [['--listen-addr', `127.0.0.1:${taken.port}`], {}, 1, /another program listens/],
      [['--listen-addr', '192.0.2.1:0'], {}, 1, /no address of this host/],
      [['--images-root', join(file, 'x')], {}, 1, /images directory/],
      [['--images-root', file], {}, 1, /./],
      [['--tls-cert', file], {}, 1, /belong together/],
      [['--tls-cert', file, '--tls-key', file], {}, 1, /certificate/],
      [['--lease-secret-file', join(s.dir, 'none')], {}, 1, /lease secret/],
    ]
    for (const [args, env, code, words] of cases) {
      const ran = await s.run(['serve', ...args], {env: {AERO_BIND: '127.0.0.1:0', ...env}})
      expect(ran.code, `${args.join(' ')}: ${ran.stderr}`).to.equal(code)
      expect(ran.stderr).to.match(words)
    }
    taken.running.kill('SIGTERM')
    await taken.running.exited
  })

  it('reads settings, secrets and the log level again on SIGHUP', async () => {
    const s = scene()
    const config = join(s.dir, 'config.json')
    writeFileSync(config, JSON.stringify({maxRangeBytes: 10}))
    const {running, url} = await startServe(s, ['--config', config])
    writeFileSync(join(s.dir, 'images/x'), 'x'.repeat(100))
    const statusOf = async (): Promise<number> =>
      (await fetch(`${url}/v1/images/x`, {headers: {Range: 'bytes=0-49'}})).status
    expect(await statusOf()).to.equal(413)
    writeFileSync(config, JSON.stringify({maxRangeBytes: 50, requireManifest: true}))
    running.kill('SIGHUP')
    await until('the reload', () => running.out.stdout.includes('settings reloaded'))
    expect(await statusOf()).to.equal(206)
    await until('the word about a restart', () =>
      /need a restart.*requireManifest|requireManifest.*need a restart/.test(running.out.stdout),
    )
    writeFileSync(config, JSON.stringify({resourcePolicy: 'none'}))
    running.kill('SIGHUP')
    await until('the refusal', () => running.out.stdout.includes('settings were not reloaded'))
    expect(await statusOf()).to.equal(206)
    running.kill('SIGTERM')
    expect((await running.exited).code).to.equal(0)
  })

  it('warns of a token on the command line, and takes it from a file', async () => {
    const s = scene()
    const {running, url} = await startServe(s, ['--metrics-auth-token', 'visible'])
    expect(running.out.stdout)
      .to.contain('a secret on the command line')
      .and.not.to.contain('visible"')
    const headers = {Authorization: 'Bearer visible'}
    expect((await fetch(`${url}/metrics`, {headers})).status).to.equal(200)
    running.kill('SIGTERM')
    await running.exited
    const file = join(s.dir, 'token')
    writeFileSync(file, 'from-file\n')
    const other = await startServe(s, ['--metrics-auth-token-file', file])
    const right = {Authorization: 'Bearer from-file'}
    expect((await fetch(`${other.url}/metrics`, {headers: right})).status).to.equal(200)
    other.running.kill('SIGTERM')
    await other.running.exited
  })

  it('lets an answer under way end, and ends at once when told twice', async () => {
    const s = scene()
    mkdirSync(join(s.dir, 'images'))
    writeFileSync(join(s.dir, 'images/x'), Buffer.alloc(64 * 1024 ** 2))
    const {running, url} = await startServe(s, [])
    const answer = await fetch(`${url}/v1/images/x`)
    running.kill('SIGTERM')
    await until('the stop', () => running.out.stdout.includes('the server is stopping'))
    expect((await answer.arrayBuffer()).byteLength).to.equal(64 * 1024 ** 2)
    expect((await running.exited).code).to.equal(0)
    const again = await startServe(s, [])
    const stuck = await fetch(`${again.url}/v1/images/x`)
    again.running.kill('SIGTERM')
    await until('the stop', () => again.running.out.stdout.includes('the server is stopping'))
    again.running.kill('SIGTERM')
    expect((await again.running.exited).code).to.equal(130)
    await stuck.body?.cancel().catch(() => undefined)
  })

  it('does not wait for who has stopped to read its log', async () => {
    const s = scene()
    const {running, url} = await startServe(s, [])
    running.child.stdout?.pause()
    for (let i = 0; i < 400; i++) {
      const answers = Array.from({length: 10}, () => fetch(`${url}/v1/images/${'x'.repeat(300)}`))
      for (const answer of await Promise.all(answers)) expect(answer.status).to.equal(404)
    }
    expect((await fetch(`${url}/healthz`)).status).to.equal(200)
    running.child.stdout?.resume()
    running.kill('SIGTERM')
    expect((await running.exited).code).to.equal(0)
  })

  it('is called aero-storage-server too', async () => {
    const s = scene()
    const ran = await s.run(['--version'], {command: shim})
    expect([ran.code, ran.stdout]).to.deep.equal([0, 'aero-storage-server 0.1.0\n'])
    const help = await s.run(['--help'], {command: shim})
    expect(help.code).to.equal(0)
    expect(help.stdout).to.contain('--images-root').and.to.contain('EXAMPLES')
    expect(readFileSync(shim, 'utf8')).to.contain('exec')
  })

  describe('under systemd', () => {
    requires('program:systemd-notify', 'program:python3')
    afterEach(killReceivers)

    it('says when it is ready, reloads and stops', async () => {
      const s = scene()
      await withNotifySocket(s.dir, async (socket) => {
        const env = {NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: '500000'}
        const {running} = await startServe(s, [], env)
        await socket.waitFor('READY=1')
        await socket.waitFor('WATCHDOG=1')
        const before = socket.received.length
        running.kill('SIGHUP')
        await socket.waitFor('RELOADING=1', before)
        await socket.waitFor('READY=1', before)
        running.kill('SIGTERM')
        await socket.waitFor('STOPPING=1')
        expect((await running.exited).code).to.equal(0)
      })
    })
  })
})
