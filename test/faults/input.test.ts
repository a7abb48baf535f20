/** Whatever the program is given to read: a usage error or a coded failure, and nothing worse. */
import {spawnSync} from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import {dirname, join} from 'node:path'
import type {Command} from '@oclif/core'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {settingKeys, settingTable, type SettingSpec} from '../../src/core/settings.ts'
import {withStore, type Bench} from '../support/command-store.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {
  bentBytes,
  canary,
  expectCivil,
  hostileDigests,
  hostileTexts,
  hostileUrls,
  listAround,
  namingCommands,
  type Answer,
} from '../support/hostile.ts'
import {HostileServer, hostileAnswer} from '../support/hostile-server.ts'
import {randomOf} from '../support/image-maker.ts'
import {commandIds, loadCommand} from '../support/run-command.ts'

const random = randomOf(faultSeed)
const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T
const anyText = (): string =>
  random() < 0.6 ? pick(hostileTexts) : pick([...hostileUrls, ...hostileDigests])
const count = new Map<string, number>()

/** Runs one case, which must come to an end, and looks at how it ended. */
async function expectAnswer(
  kind: string,
  what: string | (() => string),
  work: () => Promise<Answer>,
): Promise<void> {
  count.set(kind, (count.get(kind) ?? 0) + 1)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('it never ended')), 30_000)
  })
  const shown = (): string => (typeof what === 'string' ? what : what()).slice(0, 2000)
  try {
    expectCivil(shown, await Promise.race([work(), late]))
  } catch (error) {
    if (process.env['TRIAGE']) {
      console.log(
        `TRIAGE ${kind} ${shown().slice(0, 400)} ::`,
        (error as Error).message.slice(0, 1500),
      )
      return
    }
    throw new Error(`${shown()}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    })
  } finally {
    clearTimeout(timer)
  }
}

/** Commands that go on until they are stopped, or that enter an image. */
const staying = new Set(['serve', 'worker', 'run'])
/** Flags that let a command stay, or that say in so many words where it shall write. */
const excluded = new Set(['force', 'watch', 'follow', 'store', 'db', 'config', 'images-root', 'to'])

/** A command line with hostile words at the places of arguments and flags. */
function hostileLine(id: string, command: Command.Class): string[] {
  const words = id.split(' ')
  const good: Record<string, string> = {name: 'one', id: '01J00000000000000000000000'}
  const oddNames = hostileTexts.filter((text) => !/[./]/.test(text))
  for (const name of Object.keys({...command.args})) {
    if (random() < 0.05) continue
    if (namingCommands.has(id)) {
      words.push(pick(oddNames))
      continue
    }
    words.push(random() < 0.25 ? (good[name] ?? anyText()) : anyText())
  }
  const flags = {...command.flags}
  for (const [name, flag] of Object.entries(flags)) {
    if (random() > 0.15 || excluded.has(name)) continue
    words.push(`--${name}`)
    if (flag.type === 'option') words.push(anyText())
  }
  if (random() < 0.3) words.push('--json')
  if (random() < 0.1) words.push(`--${anyText()}`)
  if (random() < 0.1 && !namingCommands.has(id)) words.push(anyText())
  // A question that is put again after a wait is no hang.
  if ('timeout' in flags) words.push('--timeout', '1s')
  if ('max-attempts' in flags) words.push('--max-attempts', '1')
  return words
}

/** A store with one image, STORED, and a working directory deep in the same place. */
async function withPlace(body: (bench: Bench) => Promise<void>): Promise<void> {
  await withStore(async (bench) => {
    const before = process.cwd()
    mkdirSync(join(bench.dir, 'a/b/c'), {recursive: true})
    process.chdir(join(bench.dir, 'a/b/c'))
    try {
      await bench.fetched('one')
      await body(bench)
    } finally {
      process.chdir(before)
      for (const {mountPoint} of mountsBelow(bench.dir).reverse())
        spawnSync('umount', ['--lazy', mountPoint])
    }
  })
}

/** Everything beside the store must stay as it was; `restore` keeps the old database beside the new one. */
async function expectNothingAround(
  dir: string,
  odd: readonly string[],
  body: () => Promise<void>,
): Promise<void> {
  const own = ['store', 'store.db', ...odd]
  const listed = (): string[] =>
    listAround(dir, own).filter((name) => !/^store\.db\.before-restore-/.test(name))
  const before = listed()
  await body()
  expect(listed()).to.deep.equal(before)
}

async function withEnv(env: Record<string, string>, body: () => Promise<void>): Promise<void> {
  const before = Object.keys(env).map((name) => [name, process.env[name]] as const)
  Object.assign(process.env, env)
  try {
    await body()
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) Reflect.deleteProperty(process.env, name)
      else process.env[name] = value
    }
  }
}

describe('bad input', function () {
  this.timeout(isLong ? 3_600_000 : 120_000)
  before(() => console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`))
  after(() => {
    const total = [...count.values()].reduce((sum, n) => sum + n, 0)
    if (total === 0) return
    recordRow({
      row: 'input',
      injected: `${total} hostile inputs: ${[...count].map(([kind, n]) => `${n} ${kind}`).join(', ')}`,
      checked:
        'a code of the table, an end; no stack, secret, raw control character, file outside the store',
    })
  })

  it('on the command line is wrong usage or a coded failure, for every command', async () => {
    await withPlace(async ({dir, run}) => {
      for (const id of commandIds().filter((one) => !staying.has(one))) {
        const command = await loadCommand(id)
        // What a backup wrote under an odd name may be published as a disk.
        const odd = namingCommands.has(id) || id === 'disk publish' ? ['a'] : []
        await expectNothingAround(dir, odd, async () => {
          for (let i = 0; i < howMany(12, 2000); i++) {
            const line = hostileLine(id, command)
            await expectAnswer('command lines', JSON.stringify(line), () => run(...line))
          }
        })
      }
    })
  })

  it('in the environment is refused by the name of the variable', async () => {
    const names = settingKeys.flatMap((key) => {
      const spec: SettingSpec = settingTable[key]
      // Where the store is, is for them to say; failpoints and systemd's socket are not for people.
      const isLeft = ['store', 'db', 'failpoints', 'notifySocket'].includes(key)
      return isLeft ? [] : [...(spec.env ?? []), ...(spec.lenientEnv ?? [])]
    })
    await withPlace(async ({dir, run}) => {
      await expectNothingAround(dir, [], async () => {
        for (let i = 0; i < howMany(60, 20_000); i++) {
          // The kernel lets no NUL into an environment.
          const value = anyText().replaceAll('\u0000', '')
          const env = {[pick(names)]: value, [pick(names)]: anyText().replaceAll('\u0000', '')}
          const line = pick([['list'], ['doctor', '--settings'], ['status', 'one', '--json']])
          await withEnv(env, () =>
            expectAnswer('variables', JSON.stringify({env, line}), () => run(...line)),
          )
        }
      })
    })
  })

  it('in files of settings, secrets and certificates is refused by the name of the file', async () => {
    await withPlace(async ({dir, run, server}) => {
      const file = join(dir, 'file')
      const right = Buffer.from(
        JSON.stringify({concurrency: 2, stallTimeoutMs: '5s', caFile: '/x', corsOrigin: ['a']}),
      )
      const lines = [
        ['list', '--config', file],
        ['doctor', '--settings', '--json', '--config', file],
        [
          'fetch',
          'two',
          server.url,
          'a'.repeat(64),
          '--wait',
          '--max-attempts=1',
          '--ca-file',
          file,
        ],
        ['fetch', 'two', server.url, 'a'.repeat(64), '--wait', '--max-attempts=1', '--json'],
        ['disk', 'list', '--images-root', file],
        ['disk', 'verify', file],
      ]
      const tryAll = async (what: string): Promise<void> => {
        for (const line of lines) {
          const words = JSON.stringify([...line, what])
          await withEnv({IMGSTORE_BEARER_TOKEN_FILE: file}, () =>
            expectAnswer('files', words, () => run(...line)),
          )
        }
        await run('remove', 'two', '--wait')
      }
      for (let i = 0; i < howMany(5, 800); i++) {
        const bytes = bentBytes(random, right)
        writeFileSync(file, bytes)
        await tryAll(bytes.toString('latin1').slice(0, 500))
        rmSync(file)
      }
      for (const target of ['/dev/zero', '/dev/null', '/proc/self/mem', file, dir]) {
        symlinkSync(target, file)
        await tryAll(`a link to ${target}`)
        rmSync(file)
      }
      spawnSync('mkfifo', [file])
      await tryAll('a pipe that nobody writes to')
    })
  })

  it('in the files of a store is reported, or mended, and never spreads', async () => {
    await withPlace(async (bench) => {
      const {dir} = bench
      for (const name of ['store', 'store.db'])
        cpSync(join(dir, name), join(dir, `right-${name}`), {recursive: true})
      for (let i = 0; i < howMany(25, 3000); i++) {
        const what = bendStore(dir, bench.server.digest)
        await expectNothingAround(dir, [], async () => {
          for (const line of pick(storeLines(bench))) {
            await expectAnswer('store files', `${what} ${JSON.stringify(line)}`, () =>
              bench.run(...line),
            )
          }
        })
        for (const {mountPoint} of mountsBelow(dir).reverse())
          spawnSync('umount', ['-l', mountPoint])
        for (const name of ['store', 'store.db', 'store.db-wal', 'store.db-shm'])
          rmSync(join(dir, name), {recursive: true, force: true})
        for (const name of ['store', 'store.db'])
          cpSync(join(dir, `right-${name}`), join(dir, name), {recursive: true})
      }
    })
  })
  it('in the heads of answers ends in a coded failure, and nothing of it steers a terminal', async () => {
    const server = await HostileServer.start()
    const url = `http://me:${canary}@127.0.0.1:${server.port}/x.tar`
    const wishes = ['--no-activate', '--wait', '--max-attempts=1', '--stall-timeout=150ms']
    try {
      await withPlace(async ({dir, run}) => {
        await expectNothingAround(dir, [], async () => {
          for (let i = 0; i < howMany(30, 5000); i++) {
            const answers: Buffer[] = []
            server.answer = () => {
              const answer = hostileAnswer(random, server.port)
              answers.push(answer)
              return answer
            }
            const log = ['--log-level', pick(['debug', 'info', 'error'])]
            const lines = [
              ['fetch', 'two', url, 'a'.repeat(64), ...wishes, ...log, ...pick([[], ['--json']])],
              pick([
                ['status', 'two'],
                ['status', 'two', '--json'],
                ['events'],
                ['runs', 'list', '--json'],
              ]),
              ['remove', 'two', '--wait'],
            ]
            for (const line of lines) {
              const what = (): string =>
                `${line.join(' ')} ${answers.map((a) => JSON.stringify(a.toString('latin1').slice(0, 600))).join(' ')}`
              await expectAnswer('heads', what, () => run(...line))
            }
          }
        })
      })
    } finally {
      await server.close()
    }
  })
})

const storeLines = ({server}: Bench): string[][][] => [
  [['list'], ['status', 'one'], ['status', 'one', '--json']],
  [['doctor'], ['verify'], ['list', '--json']],
  [['cleanup', '--dry-run'], ['cleanup'], ['list']],
  [['remove', 'one', '--wait', '--timeout=5s'], ['list']],
  [['fetch', 'two', server.url, server.digest, '--wait', '--no-activate', '--timeout=5s']],
  [['events'], ['runs', 'list'], ['events', 'one', '--json']],
  [['retry', 'one', '--timeout=5s'], ['status']],
]

/** Makes one file of the store something else; says what. */
function bendStore(dir: string, digest: string): string {
  const store = join(dir, 'store')
  const places = [
    'store.db',
    'store.db',
    'store/node-id',
    'store/images/one/tree.json',
    `store/blobs/${digest}.tar`,
    `store/blobs/${digest}.tar.tmp`,
    `store/blobs/${digest}.tar.tmp.json`,
    `store/blobs/${digest}.tar.raw`,
    `store/blobs/${digest}.tar.raw.json`,
    'store/disks/one.json',
    'store/staging/x',
    'store/blobs/\u001b[41;5m\u009b\u202e',
    'store/images/\u001b]0;x\u0007',
    'store',
    'store/blobs',
  ]
  const place = pick(places)
  const path = join(dir, place)
  const right =
    existsSync(path) && !place.endsWith('s') && place !== 'store' ? readFileSync(path) : notes
  if (place.includes('.tmp') || place.includes('.raw'))
    rmSync(join(store, 'blobs', `${digest}.tar`), {force: true})
  const way = pick(['bytes', 'bytes', 'bytes', 'directory', 'pipe', 'link', 'circle', 'database'])
  if (place !== 'store.db') mkdirSync(dirname(path), {recursive: true})
  rmSync(path, {recursive: true, force: true})
  if (way === 'bytes') writeFileSync(path, bentBytes(random, right))
  else if (way === 'directory') mkdirSync(join(path, 'x'), {recursive: true})
  else if (way === 'pipe') spawnSync('mkfifo', [path])
  else if (way === 'link') symlinkSync('/dev/zero', path)
  else if (way === 'circle') symlinkSync(path, path)
  else {
    const database = new SqliteDatabase(path)
    database.exec('create table other (x); create table images (id)')
    database.close()
  }
  return `${way} at ${place}`
}

/** What notes of the store hold, of several kinds at once. */
const notes = Buffer.from(
  JSON.stringify({
    url: 'http://127.0.0.1:1/',
    validator: '"v1"',
    totalBytes: 5,
    treeId: 'x',
    backend: 'dir',
    sizeBytes: 7,
    schema: 1,
    name: 'one',
    file: 'x',
    size: 1,
    sha256: 'a'.repeat(64),
  }),
)
