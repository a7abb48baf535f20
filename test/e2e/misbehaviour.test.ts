/** What goes wrong in the world, through the real program: the right exit code, one clear message, and nothing left. */
import {spawnSync} from 'node:child_process'
import {existsSync, mkdirSync, readdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {makeImage, makeTar, readTree, sha256, type Image} from '../support/image-maker.ts'
import {until, useScenes, type Ran, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {eventsOf, expectSoundStore, imagesOf, namesIn, query} from '../support/store-check.ts'

type Stage = {scene: Scene; server: BlobServer; image: Image; url: string}

/** One thing that goes wrong: `arrange` brings it about and gives the command that meets it. */
type Failure = {
  title: string
  arrange: (stage: Stage) => string[] | Promise<string[]>
  code: number
  error: string
  says?: RegExp
  /** Requests that the source may see. */
  requests?: number
  /** State of the image afterwards; without it there is none. */
  state?: string
  /** What of a download may stay, to be resumed. */
  keepsPart?: boolean
  after?: (stage: Stage) => void | Promise<void>
}

const secret = 'hunter2'
const fetchArgs = ({url, image}: Stage, ...more: string[]): string[] => [
  'fetch',
  'one',
  url,
  image.digest,
  '--wait',
  ...more,
]
const activate = async (stage: Stage): Promise<void> => {
  await stage.scene.ok(fetchArgs(stage))
}
const page = Buffer.from(
  `<!DOCTYPE html>\n<html><body>${'Please log in. '.repeat(200)}</body></html>`,
)

/** An image that `strict` refuses and `image` takes: it has a link to an absolute path. */
const linked = makeImage(8, {extra: [{name: 'mtab', type: 'symlink', target: '/proc/mounts'}]})
const crowded = makeImage(9, {files: 100})

const failures: Failure[] = [
  {
    title: 'a wrong checksum',
    arrange: (stage) => ['fetch', 'one', stage.url, 'a'.repeat(64), '--wait'],
    code: 12,
    error: 'digest_mismatch',
    says: /has digest sha256:[0-9a-f]{64}, expected sha256:a{64}/,
    requests: 1,
    state: 'FAILED',
  },
  {
    title: 'a file that is not there',
    arrange: (stage) => {
      stage.url = stage.server
        .put('/secret.tar', stage.image.bytes, {status: 404})
        .replace('http://', `http://me:${secret}@`)
      return fetchArgs(stage)
    },
    code: 13,
    error: 'source_not_found',
    says: /nothing at http:\/\/\S+ \(status 404\)/,
    state: 'FAILED',
    after: ({server}) => {
      expect(server.of('/secret.tar'), 'asked once').to.have.length(1)
    },
  },
  {
    title: 'a server that forbids',
    arrange: (stage) => {
      stage.server.put('/one.tar', stage.image.bytes, {status: 403})
      return fetchArgs(stage)
    },
    code: 13,
    error: 'source_refused',
    requests: 1,
    state: 'FAILED',
  },
  {
    title: 'a server that fails and fails',
    arrange: (stage) => {
      stage.server.put('/one.tar', stage.image.bytes, {status: 503})
      return fetchArgs(stage)
    },
    code: 13,
    error: 'source_unavailable',
    requests: 3,
    state: 'FAILED',
  },
  {
    title: 'nobody at the address',
    arrange: ({image}) => ['fetch', 'one', 'http://127.0.0.1:1/x.tar', image.digest, '--wait'],
    code: 13,
    error: 'source_unavailable',
    state: 'FAILED',
  },
  {
    title: 'a full disk',
    arrange: (stage) => {
      const {scene} = stage
      mountTmpfs(scene.store, '2m')
      stage.image = makeImage(11, {files: 100, fileBytes: 60_000})
      stage.server.put('/one.tar', stage.image.bytes)
      return fetchArgs(stage)
    },
    code: 14,
    error: 'no_space',
    state: 'FAILED',
    after: async (stage) => {
      // Room is made, and the hint is followed.
      spawnSync('mount', ['-o', 'remount,size=64m', stage.scene.store])
      await stage.scene.ok(['retry', 'one'])
      expect(readTree(join(stage.scene.store, 'active/one'))).to.deep.equal(stage.image.tree)
    },
  },
  {
    title: 'a full disk that also holds the database',
    arrange: (stage) => {
      const {scene} = stage
      const disk = join(scene.dir, 'disk')
      mountTmpfs(disk, '3m')
      Object.assign(scene.env, {
        IMGSTORE_STORE_PATH: join(disk, 'store'),
        IMGSTORE_DB_PATH: join(disk, 'store.db'),
      })
      stage.image = makeImage(11, {files: 100, fileBytes: 60_000})
      stage.server.put('/one.tar', stage.image.bytes)
      return fetchArgs(stage)
    },
    code: 14,
    error: 'no_space',
    after: ({scene}) => {
      expect(readdirSync(join(scene.dir, 'disk/store/blobs'))).to.deep.equal([])
    },
  },
  {
    title: 'a name with ../',
    arrange: ({url, image}) => ['fetch', '../../evil', url, image.digest, '--wait'],
    code: 2,
    error: 'invalid_name',
    requests: 0,
    after: ({scene}) => {
      expect(existsSync(join(scene.dir, '..', 'evil'))).to.equal(false)
      expect(namesIn(scene, '.')).to.not.include('evil')
    },
  },
  {
    title: 'a name that would steer the terminal',
    arrange: ({url, image}) => ['fetch', 'a\u001b[31mb\u0007', url, image.digest],
    code: 2,
    error: 'invalid_name',
    requests: 0,
  },
  {
    title: 'an HTML page with a wrong checksum',
    arrange: (stage) => {
      stage.server.put('/one.tar', page, {headers: {'content-type': 'text/html'}})
      return fetchArgs(stage)
    },
    code: 13,
    error: 'source_not_image',
    says: /HTML page/,
    requests: 1,
    state: 'FAILED',
  },
  {
    title: 'an HTML page with the right checksum',
    arrange: (stage) => {
      stage.server.put('/one.tar', page)
      return ['fetch', 'one', stage.url, sha256(page), '--wait']
    },
    code: 13,
    error: 'source_not_image',
    requests: 1,
    state: 'FAILED',
  },
  {
    title: 'an archive that strict refuses, with the profile that allows it',
    arrange: (stage) => {
      stage.image = linked
      stage.server.put('/one.tar', linked.bytes)
      return fetchArgs(stage)
    },
    code: 16,
    error: 'unsafe_archive',
    says: /"mtab".*\(--profile image allows it\)/,
    state: 'FAILED',
    requests: 1,
    after: async ({scene, server}) => {
      await scene.ok(['retry', 'one', '--profile', 'image'])
      expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(linked.tree)
      expect(server.of('/one.tar'), 'not downloaded again').to.have.length(1)
    },
  },
  {
    title: 'an archive of too many entries, with the flag that allows them',
    arrange: (stage) => {
      stage.image = crowded
      stage.server.put('/one.tar', crowded.bytes)
      return fetchArgs(stage, '--max-files', '99')
    },
    code: 16,
    error: 'unsafe_archive',
    says: /--max-files/,
    state: 'FAILED',
    requests: 1,
    after: async ({scene, server}) => {
      await scene.ok(['retry', 'one', '--max-files', '200'])
      expect(namesIn(scene, 'images')).to.deep.equal(['one'])
      expect(server.of('/one.tar'), 'not downloaded again').to.have.length(1)
    },
  },
  {
    title: 'an archive that climbs out',
    arrange: (stage) => {
      const bytes = makeTar([{name: '../evil', content: Buffer.from('evil')}])
      stage.server.put('/one.tar', bytes)
      return ['fetch', 'one', stage.url, sha256(bytes), '--wait', '--profile', 'image']
    },
    code: 16,
    error: 'unsafe_archive',
    state: 'FAILED',
  },
  {
    title: 'a local file without leave',
    arrange: ({scene, image}) => {
      writeFileSync(join(scene.dir, 'image.tar'), image.bytes)
      return ['fetch', 'one', `file://${scene.dir}/image.tar`, image.digest, '--wait']
    },
    code: 2,
    error: 'invalid_source',
    says: /allow-file/,
  },
  {
    title: 'a checksum that is none',
    arrange: ({url}) => ['fetch', 'one', url, 'abc123', '--wait'],
    code: 2,
    error: 'invalid_digest',
  },
  ...['status', 'activate', 'deactivate', 'remove', 'retry', 'verify'].map((command) => ({
    title: `${command} of an image that is not there`,
    arrange: () => [command, 'nosuch'],
    code: 10,
    error: 'image_not_found',
  })),
  {
    title: 'run in an image that is not there',
    arrange: () => ['run', 'nosuch', '--', 'true'],
    code: 10,
    error: 'image_not_found',
  },
  {
    title: 'a run that is not there',
    arrange: () => ['runs', 'show', '01J00000000000000000000000'],
    code: 10,
    error: 'run_not_found',
  },
  {
    title: 'a name that is taken',
    arrange: async (stage) => {
      await activate(stage)
      return ['fetch', 'one', `${stage.url}?other`, stage.image.digest, '--wait']
    },
    code: 11,
    error: 'name_taken',
    requests: 1,
    state: 'ACTIVE',
  },
  {
    title: 'a wait that is too long',
    arrange: (stage) => {
      stage.server.put('/one.tar', stage.image.bytes, {stallAfterBytes: 20_000})
      return fetchArgs(stage, '--timeout', '1s')
    },
    code: 18,
    error: 'wait_timeout',
    state: 'DOWNLOADING',
    keepsPart: true,
    after: async (stage) => {
      stage.server.put('/one.tar', stage.image.bytes)
      await stage.scene.ok(fetchArgs(stage))
    },
  },
]

describe('what goes wrong', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  for (const failure of failures) {
    it(`exits ${failure.code} with one message for ${failure.title}`, async () => {
      const stage = await makeStage(newScene(), await newServer())
      const ran = await stage.scene.run(await failure.arrange(stage))
      expectMessage(ran, failure)
      await expectAftermath(stage, failure)
    })

    it(`says so in JSON for ${failure.title}`, async () => {
      const stage = await makeStage(newScene(), await newServer())
      const args = await failure.arrange(stage)
      const end = args.includes('--') ? args.indexOf('--') : args.length
      const ran = await stage.scene.run(args.toSpliced(end, 0, '--json'))
      expectJson(ran, failure)
      await expectAftermath(stage, failure)
    })
  }
})

describe('what only seems to go wrong', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  const expectActive = async ({scene, image}: Stage): Promise<void> => {
    const one = imagesOf(scene).find(({name}) => name === 'one')
    expect(one).to.include({digest: image.digest, state: 'ACTIVE', goal: 'ACTIVE'})
    expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(image.tree)
    await expectSoundStore(scene)
  }

  it('a server that fails twice: it is asked again, and the attempts and waits are noted', async () => {
    const stage = await makeStage(newScene(), await newServer())
    const {scene, server, image} = stage
    server.put('/one.tar', image.bytes, (nth) => (nth < 2 ? {status: 500} : {}))
    await activate(stage)
    expect(server.of('/one.tar').map(({status}) => status)).to.deep.equal([500, 500, 200])
    const retries = query<{attempt: number; error_code: string; wait: number}>(
      scene,
      `select attempt, error_code, due_at - at as wait from run_events where kind = 'retry' order by seq`,
    )
    expect(retries.map(({attempt, error_code}) => [attempt, error_code])).to.deep.equal([
      [1, 'source_unavailable'],
      [2, 'source_unavailable'],
    ])
    expect(retries[0]?.wait).to.be.within(25, 40)
    expect(retries[1]?.wait).to.be.within(55, 80)
    await expectActive(stage)
  })

  it('a server that names the time to come again: it is waited for', async () => {
    const stage = await makeStage(newScene(), await newServer())
    stage.server.put('/one.tar', stage.image.bytes, (nth) =>
      nth === 0 ? {status: 503, headers: {'retry-after': '1'}} : {},
    )
    await activate(stage)
    const [retry] = query<{wait: number}>(
      stage.scene,
      `select due_at - at as wait from run_events where kind = 'retry'`,
    )
    expect(retry?.wait).to.be.within(950, 1300)
    await expectActive(stage)
  })

  it('a body that is cut short, again and again: the rest is asked for, and little twice', async () => {
    const stage = await makeStage(newScene(), await newServer())
    stage.image = makeImage(12, {files: 60, fileBytes: 30_000})
    const {server, image} = stage
    // Six answers of a sixth each: more failures than attempts, but each one brings the download forward.
    const cutAfterBytes = Math.ceil(image.bytes.length / 6)
    server.put('/one.tar', image.bytes, () => ({cutAfterBytes}))
    await activate(stage)
    const requests = server.of('/one.tar')
    expect(requests.length).to.be.greaterThan(5)
    expect(requests.slice(1).every(({range}) => range !== undefined)).to.equal(true)
    expect(server.sentBytes('/one.tar')).to.be.lessThan(
      image.bytes.length + requests.length * 32 * 1024,
    )
    await expectActive(stage)
  })

  it('a server that ignores ranges: all is fetched again', async () => {
    const stage = await makeStage(newScene(), await newServer())
    const {server, image} = stage
    server.put('/one.tar', image.bytes, (nth) =>
      nth === 0 ? {cutAfterBytes: 30_000} : {isRangeIgnored: true},
    )
    await activate(stage)
    await expectActive(stage)
  })

  it('a store in a path of commas, colons, spaces, backslashes and letters of other tongues', async () => {
    const stage = await makeStage(newScene('a,b:c d\\e/é "ü" \'日本\''), await newServer())
    await activate(stage)
    expect((await stage.scene.run(['deactivate', 'one'])).code).to.equal(0)
    expect((await stage.scene.run(['activate', 'one'])).code).to.equal(0)
    await expectActive(stage)
  })

  it('a checksum in upper case with its kind in front', async () => {
    const stage = await makeStage(newScene(), await newServer())
    const {scene, url, image} = stage
    await scene.ok(['fetch', 'one', url, `sha256:${image.digest.toUpperCase()}`, '--wait'])
    // The same in other words is the same.
    await scene.ok(['fetch', 'one', url, image.digest, '--wait'])
    await expectActive(stage)
  })

  it('Ctrl-C during a download: exit 130, and the same command goes on from there', async () => {
    const stage = await makeStage(newScene(), await newServer())
    const {scene, server} = stage
    stage.image = makeImage(13, {files: 60, fileBytes: 30_000})
    const size = stage.image.bytes.length
    server.put('/one.tar', stage.image.bytes, (nth) => (nth === 0 ? {bytesPerSecond: 400_000} : {}))
    const fetch = scene.start(fetchArgs(stage))
    await until('a third of it', () => server.sentBytes('/one.tar') > size / 3)
    // A terminal sends it to every process of the command.
    process.kill(-fetch.pid, 'SIGINT')
    const ran = await fetch.exited
    expectMessage(ran, {code: 130})
    expect(namesIn(scene, 'blobs')).to.include(`${stage.image.digest}.tar.tmp`)
    expect(await scene.processesLeft()).to.deep.equal([])
    await activate(stage)
    const [, second] = server.of('/one.tar')
    expect(second?.range).to.match(/^bytes=[1-9]/)
    expect(second?.sentBytes).to.be.lessThan((size * 3) / 4)
    await expectActive(stage)
  })

  it('a worker that runs meanwhile: it does the work, and the command follows it', async () => {
    const stage = await makeStage(newScene(), await newServer())
    const {scene} = stage
    const worker = scene.start(['worker'])
    await until('the worker', () => worker.out.stderr.includes('worker started'))
    const ran = await scene.run(fetchArgs(stage))
    expect([ran.code, ran.stderr]).to.deep.equal([0, ''])
    expect(ran.stdout).to.match(/one: STORED[\s\S]*Image one: ACTIVE\n/)
    expect(worker.out.stderr).to.contain('"to":"ACTIVE"')
    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
    await expectActive(stage)
  })
})

async function makeStage(scene: Scene, server: BlobServer): Promise<Stage> {
  Object.assign(scene.env, {IMGSTORE_RETRY_WAIT: '30ms', IMGSTORE_POLL: '50ms'})
  const image = makeImage(10, {files: 40})
  return await Promise.resolve({scene, server, image, url: server.put('/one.tar', image.bytes)})
}

function mountTmpfs(path: string, size: string): void {
  mkdirSync(path, {recursive: true})
  const done = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', path])
  expect(done.status, done.stderr.toString()).to.equal(0)
}

/** One error and one hint on standard error, fit for a terminal, and nothing else. */
function expectMessage(ran: Ran, {code, says}: Pick<Failure, 'code' | 'says'>): void {
  const all = `${ran.stdout}${ran.stderr}`
  expect(ran.code, all).to.equal(code)
  expect(ran.stderr).to.match(/^Error: [^\n]{10,}\n(Usage: [^\n]+\n)?Try: [^\n]{10,}\n$/)
  if (says) expect(ran.stderr).to.match(says)
  expectHarmless(all)
}

function expectJson(ran: Ran, failure: Failure): void {
  const all = `${ran.stdout}${ran.stderr}`
  expect(ran.code, all).to.equal(failure.code)
  expect(ran.stderr, 'nothing beside the JSON').to.equal('')
  // A command that follows prints a line for each thing that happens; the result is the last one.
  const text = ran.stdout.startsWith('{\n')
    ? ran.stdout
    : (ran.stdout.trim().split('\n').at(-1) ?? '')
  const {error} = JSON.parse(text) as {error: {code: string; message: string; hint: string}}
  expect(error.code).to.equal(failure.error)
  expect(error.message).to.have.length.greaterThan(10)
  expect(error.hint).to.have.length.greaterThan(10)
  if (failure.says) expect(error.message + error.hint).to.match(failure.says)
  expectHarmless(all)
}

function expectHarmless(text: string): void {
  expect(text, 'no stack trace').to.not.match(/^\s+at .*[(:]/m)
  expect(text, 'no secret').to.not.contain(secret)
  expect(text, 'no control characters').to.not.match(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/)
}

/** Nothing is left of what failed, before any cleanup; then what the case itself wants to see. */
async function expectAftermath(stage: Stage, failure: Failure): Promise<void> {
  const {scene, server} = stage
  expect(await scene.processesLeft(), 'processes').to.deep.equal([])
  expect(namesIn(scene, 'staging'), 'staging').to.deep.equal([])
  if (!failure.keepsPart)
    expect(
      namesIn(scene, 'blobs').filter((name) => !name.endsWith('.tar')),
      'parts',
    ).to.deep.equal([])
  if (failure.requests !== undefined) expect(server.of('/one.tar')).to.have.length(failure.requests)
  if (existsSync(scene.db)) {
    const states = imagesOf(scene).map(({state}) => state)
    expect(states).to.deep.equal(failure.state === undefined ? [] : [failure.state])
    if (failure.state === 'FAILED')
      expect(eventsOf(scene).at(-1)).to.deep.include({kind: 'failed', error_code: failure.error})
  }
  await failure.after?.(stage)
  if (existsSync(scene.db)) await expectSoundStore(scene)
}
