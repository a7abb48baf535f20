/**
 * Bad input and bad surroundings, met by the built program itself: what oclif, Node and the system do with them before
 * and after our own code runs.
 */
import {spawnSync} from 'node:child_process'
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {freePorts} from '../support/free-ports.ts'
import {HostileServer, hostileAnswer} from '../support/hostile-server.ts'
import {
  bentBytes,
  canary,
  expectCivil,
  hostileDigests,
  hostileTexts,
  hostileUrls,
} from '../support/hostile.ts'
import {randomOf} from '../support/image-maker.ts'
import {program, useScenes, type Ran, type Scene, type StartOptions} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {commandIds} from '../support/run-command.ts'

const random = randomOf(faultSeed)
const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T
// What a process can be given at all: no NUL.
const anyText = (): string =>
  pick([...hostileTexts, ...hostileUrls, ...hostileDigests]).replaceAll('\u0000', '')
let cases = 0

/** Runs the program; when it stays, it is stopped as a service manager does it. */
async function answer(
  scene: Scene,
  args: readonly string[],
  o: StartOptions & {staysMs?: number; isTerminal?: boolean} = {},
): Promise<Ran> {
  cases++
  const running = scene.start(args, o)
  const timer = setTimeout(() => running.kill('SIGTERM'), o.staysMs ?? 20_000)
  const ran = await Promise.race([running.exited, sleep(30_000, undefined, {ref: false})])
  clearTimeout(timer)
  if (ran === undefined) throw new Error(`never ended: ${JSON.stringify(args)}`)
  const stdout = o.isTerminal ? withoutOwnControls(ran.stdout) : ran.stdout
  expectCivil(() => JSON.stringify([args, o]), {...ran, stdout, exit: ran.code})
  return ran
}

/** What the program itself sends to a terminal: colours, the cursor, lines cleared. Hostile ones are others. */
function withoutOwnControls(text: string): string {
  return text
    .replaceAll(/\u001b\[(0|1|2|22|3[0-9]|9[0-7])?m/g, '')
    .replaceAll(/\u001b\[(\?\d+[hl]|\d*[ABCDGK]|0?J)/g, '')
    .replaceAll('\r', '')
}

describe('bad input to the program', function () {
  requires('program:script')
  this.timeout(isLong ? 3_600_000 : 120_000)
  const newScene = useScenes()
  before(() => console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`))
  after(() => {
    if (cases > 0)
      recordRow({
        row: 'input-process',
        injected: `${cases} starts of the program with hostile words, files, answers, surroundings`,
        checked: 'a code of the table, an end; no stack, secret or raw control character',
      })
  })

  it('in words is wrong usage or a coded failure, whether they name a command or not', async () => {
    const scene = newScene()
    for (let i = 0; i < howMany(10, 500); i++) {
      const command = pick([...commandIds().filter((id) => id !== 'run'), anyText(), ''])
      const words = Array.from({length: Math.floor(random() * 3)}, anyText)
      const args = [...command.split(' ').filter(Boolean), ...words]
      await answer(scene, args, {staysMs: 2000})
    }
  })

  it("in the user's own directories is refused, or of no account", async () => {
    const scene = newScene()
    const home = join(scene.dir, 'home')
    for (const place of [
      '.config/imgstore/config.json',
      '.local/share/imgstore',
      '.cache/imgstore',
    ]) {
      mkdirSync(join(home, place, '..'), {recursive: true})
      writeFileSync(join(home, place), bentBytes(random, Buffer.from('{"concurrency": 2}')))
    }
    const env = {HOME: home}
    await answer(scene, ['list'], {env})
    // Node itself dies of this one.
    await answer(scene, ['list'], {env: {...env, LANG: '/nonexistent/x'}})
    for (const value of ['/dev/null', '/nonexistent/x', '\u001b[41;5m', 'a\nb'])
      for (const name of ['HOME', 'XDG_CONFIG_HOME', 'LANG'])
        if (isLong || random() < 0.3) await answer(scene, ['list'], {env: {...env, [name]: value}})
    mkdirSync(join(scene.dir, 'plugins'))
    writeFileSync(
      join(scene.dir, 'plugins/package.json'),
      '{"oclif": {"plugins": ["\u001b[41;5m"]}}',
    )
    await answer(scene, ['status'], {env: {XDG_DATA_HOME: join(scene.dir, 'plugins')}})
  })

  it('in what it stands on is told in a line: no working directory, no output, no room for it', async () => {
    const scene = newScene()
    const shell = (script: string): Promise<Ran> =>
      answer(scene, ['-c', script, 'sh', program], {command: 'sh'})
    await shell('mkdir gone && cd gone && rmdir ../gone && exec "$1" list')
    await shell('mkdir gone && cd gone && rmdir ../gone && exec "$1" --help > /dev/null')
    for (const command of ['list', 'doctor --settings --json', '--help', 'events']) {
      // The shell's own code tells that the words were lost, where it says nothing of why.
      await shell(`"$1" ${command} > /dev/full; code=$?; echo code $code >&2; exit $code`)
      await shell(`"$1" ${command} >&-; code=$?; echo code $code >&2; exit $code`)
    }
  })

  it('in settings of the server is refused before it listens', async () => {
    const scene = newScene()
    const [port = 0] = await freePorts(1)
    const file = join(scene.dir, 'file')
    mkdirSync(join(scene.dir, 'images'))
    const flags = [
      'tls-cert',
      'tls-key',
      'lease-secret-file',
      'lease-token-file',
      'metrics-auth-token-file',
      'public-url',
      'cors-origin',
      'log-level',
      'max-range-bytes',
    ]
    const base = ['serve', '--images-root', join(scene.dir, 'images')]
    for (let i = 0; i < howMany(8, 500); i++) {
      writeFileSync(file, bentBytes(random, Buffer.from(`${canary}\n`)))
      const flag = pick(flags)
      const value =
        flag.endsWith('file') || flag.startsWith('tls') ? pick([file, anyText()]) : anyText()
      const listen = pick([`127.0.0.1:${port}`, anyText()])
      await answer(scene, [...base, '--listen-addr', listen, `--${flag}`, value], {staysMs: 1500})
    }
  })

  it("in a source's answers stands in a worker's log as plain text, with no secret", async () => {
    const scene = newScene()
    const server = await HostileServer.start()
    const url = `http://me:${canary}@127.0.0.1:${server.port}/x.tar?token=${canary}`
    try {
      server.answer = () => hostileAnswer(random, server.port)
      for (let i = 0; i < howMany(3, 200); i++) {
        const names = Array.from({length: 6}, (_, n) => `image-${i}-${n}`)
        for (const name of names.slice(0, howMany(3, 6)))
          await answer(scene, ['fetch', name, url, 'a'.repeat(64), '--no-activate'])
        const format = pick(['json', 'text'])
        const ran = await answer(
          scene,
          ['worker', '--once', '--log-format', format, '--log-level', 'debug', '--max-attempts=1'],
          {env: {IMGSTORE_STALL_TIMEOUT: '200ms'}},
        )
        expect(ran.code, 'done, and some of it FAILED').to.equal(3)
        expect(ran.stderr).to.include(`image-${i}-0`)
      }
      await answer(scene, ['events', '--json'])
      await answer(scene, ['list'])
    } finally {
      await server.close()
    }
  })

  it("in a source's answers does not steer a terminal that shows the progress", async () => {
    const scene = newScene()
    const server = await HostileServer.start()
    const url = `http://me:${canary}@127.0.0.1:${server.port}/x.tar?token=${canary}`
    try {
      server.answer = () => hostileAnswer(random, server.port)
      for (let i = 0; i < howMany(2, 300); i++) {
        const fetch = `'${program}' fetch image-${i} '${url}' ${'a'.repeat(64)} --wait`
        const wishes = '--no-activate --max-attempts=2 --retry-wait=10ms --stall-timeout=200ms'
        // util-linux's script gives the program a terminal.
        const ran = await answer(scene, ['-qefc', `${fetch} ${wishes}`, '/dev/null'], {
          command: 'script',
          env: {TERM: 'xterm-256color'},
          isTerminal: true,
        })
        expect(ran.stdout).to.include(`image-${i}`)
      }
    } finally {
      await server.close()
    }
  })

  it('at the place of the store or its database is refused by its path', async () => {
    const scene = newScene()
    const places: [string, (path: string) => void][] = [
      ['file', (path) => writeFileSync(path, 'x')],
      ['pipe', (path) => spawnSync('mkfifo', [path])],
      ['circle', (path) => symlinkSync(path, path)],
      ['device', (path) => symlinkSync('/dev/zero', path)],
      ['closed', (path) => mkdirSync(path, {mode: 0})],
      ['\u001b[41;5m', (path) => writeFileSync(path, 'x')],
    ]
    for (const [name, make] of places) {
      const path = join(scene.dir, name)
      make(path)
      const settings = [
        {IMGSTORE_STORE_PATH: path},
        {IMGSTORE_DB_PATH: path},
        {IMGSTORE_STORE_PATH: join(path, 'a\nb')},
      ]
      for (const env of isLong ? settings : [pick(settings)]) {
        const fetch = ['fetch', 'one', 'http://127.0.0.1:1/', 'a'.repeat(64)]
        await answer(scene, pick([['list'], fetch, ['doctor']]), {env})
      }
    }
  })
})
