import {expect} from 'chai'
import {once} from 'node:events'
import {existsSync, readFileSync, writeFileSync} from 'node:fs'
import {createServer, type AddressInfo} from 'node:net'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {resolveSettings} from '../../src/core/settings.ts'
import {openStore, type Store} from '../../src/core/store.ts'
import {withImageServer} from '../support/image-server.ts'
import {killReceivers, withNotifySocket} from '../support/notify-socket.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {killWorkers, startWorker, type WorkerProcess} from '../support/worker-process.ts'

/** A store in `dir` for asking and looking; the worker under test is another process. */
async function withStore<T>(dir: string, body: (store: Store) => Promise<T>): Promise<T> {
  const env = {IMGSTORE_STORE_PATH: join(dir, 'store')}
  const store = await openStore({
    ...resolveSettings({env, dataDir: dir, cwd: dir}),
    role: 'command',
  })
  try {
    return await body(store)
  } finally {
    await store.close()
  }
}

function worker(dir: string, args: string[] = [], env: Record<string, string> = {}): WorkerProcess {
  return startWorker(['--store', join(dir, 'store'), ...args], {env, cwd: dir})
}

/** Gives up at some time, so that a failed test does not look for ever. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let looks = 0; !(await condition()); looks++) {
    if (looks > 3000) throw new Error(`never came true: ${condition.toString()}`)
    await sleep(20)
  }
}

const cleanExit = {code: 0, signal: null}

describe('imgstore worker', () => {
  afterEach(killWorkers)

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`gives a slow download back at ${signal}, and the next worker resumes it`, () =>
      withTempDir((dir) =>
        withImageServer(dir, {fileBytes: 4 << 20}, async (server) => {
          server.isStalling = true
          await withStore(dir, async (store) => {
            const {url, digest} = server
            await store.images.fetch({name: 'slow', url, digest, goal: 'STORED'})
          })
          const first = worker(dir)
          const part = join(dir, 'store', 'blobs', `${server.digest}.tar.tmp`)
          await until(() => existsSync(part) && readFileSync(part).length > 1 << 20)
          first.child.kill(signal)
          // A worker that had to be ended by its own deadline would exit 1.
          expect(await first.exited).to.deep.equal(cleanExit)
          const messages = first.log().map(({msg}) => msg)
          expect(messages).to.include.members(['worker is stopping', 'worker stopped'])
          await withStore(dir, async (store) => {
            expect((await store.images.status('slow')).state).to.equal('DOWNLOADING')
            expect((await store.runs.list({isOpen: true})).map((run) => run.status)).to.deep.equal([
              'pending',
            ])
          })

          server.isStalling = false
          const second = worker(dir, ['--once'])
          expect(await second.exited).to.deep.equal(cleanExit)
          await withStore(dir, async (store) => {
            expect((await store.images.status('slow')).state).to.equal('STORED')
          })
          expect(server.ranges[0]).to.equal(undefined)
          expect(server.ranges.at(-1)).to.match(/^bytes=[1-9]\d*-/)
        }),
      ))
  }

  it('drains the queue and ends with --once, with a log line for every state', () =>
    withTempDir((dir) =>
      withImageServer(dir, {fileBytes: 1000}, async ({url, digest}) => {
        await withStore(dir, async (store) => {
          await store.images.fetch({name: 'one', url, digest, goal: 'STORED'})
          await store.images.fetch({name: 'two', url, digest, goal: 'STORED'})
        })
        const run = worker(dir, ['--once'])
        expect(await run.exited).to.deep.equal(cleanExit)
        expect(run.lines.filter((line) => !line.startsWith('{'))).to.deep.equal([])
        for (const image of ['one', 'two']) {
          const changes = run
            .log()
            .filter((line) => line.msg === 'state changed' && line['image'] === image)
          expect(changes.map((line) => line['to'])).to.deep.equal([
            'DOWNLOADING',
            'DOWNLOADED',
            'UNPACKING',
            'UNPACKED',
            'STORED',
          ])
          for (const line of changes)
            expect(line).to.include.keys(
              'run_id',
              'step',
              'attempt',
              'duration_ms',
              'time',
              'level',
            )
        }
      }),
    ))

  it('ends with 3 when an image failed, and its log says why and what to do', () =>
    withTempDir((dir) =>
      withImageServer(dir, {fileBytes: 1000}, async ({url, digest}) => {
        await withStore(dir, async (store) => {
          const good = {name: 'good', url, digest, goal: 'STORED'} as const
          await store.images.fetch(good)
          await store.images.fetch({...good, name: 'bad', digest: '0'.repeat(64)})
        })
        const run = worker(dir, ['--once'])
        expect(await run.exited).to.deep.equal({code: 3, signal: null})
        const failures = run.log().filter((line) => line.level === 'error')
        expect(failures).to.have.length(1)
        expect(failures[0]).to.include({msg: 'image failed', image: 'bad', code: 'digest_mismatch'})
        expect(failures[0]?.['hint']).to.be.a('string')
        await withStore(dir, async (store) => {
          expect((await store.images.status('good')).state).to.equal('STORED')
        })
      }),
    ))

  it('reads its settings again at SIGHUP, and keeps the old ones when the new are wrong', () =>
    withTempDir(async (dir) => {
      const config = join(dir, 'config.json')
      writeFileSync(config, JSON.stringify({concurrency: 1}))
      const run = worker(dir, ['--config', config])
      await run.waitFor('worker started')
      writeFileSync(config, JSON.stringify({concurrency: 7, logLevel: 'debug', pollMs: 100}))
      run.child.kill('SIGHUP')
      expect((await run.waitFor('settings reloaded'))['changed']).to.deep.equal([
        {setting: 'logLevel', from: 'info', to: 'debug'},
        {setting: 'concurrency', from: '1', to: '7'},
      ])
      const {settings} = await run.waitFor('settings need a restart')
      expect(settings).to.deep.equal([{setting: 'pollMs', from: '200ms', to: '100ms'}])

      writeFileSync(config, JSON.stringify({concurrency: 0}))
      run.child.kill('SIGHUP')
      const refused = await run.waitFor('settings were not reloaded; the old ones hold')
      expect(refused.level).to.equal('error')
      expect(refused['error']).to.include({code: 'invalid_setting'})

      const count = run.log().length
      writeFileSync(config, JSON.stringify({concurrency: 8, logLevel: 'debug'}))
      run.child.kill('SIGHUP')
      expect((await run.waitFor('settings reloaded', count))['changed']).to.deep.equal([
        {setting: 'concurrency', from: '7', to: '8'},
      ])
      run.child.kill('SIGTERM')
      expect(await run.exited).to.deep.equal(cleanExit)
    }))

  it('answers /healthz, /readyz and /metrics where --listen says', () =>
    withTempDir((dir) =>
      withImageServer(dir, {fileBytes: 1000}, async ({url, digest, sizeBytes}) => {
        const run = worker(dir, ['--listen', ':0'])
        const {listen, version} = await run.waitFor('worker started')
        expect(listen).to.match(/^127\.0\.0\.1:\d+$/)
        const base = `http://${String(listen)}`
        await until(async () => (await fetch(`${base}/readyz`)).status === 200)
        expect((await fetch(`${base}/healthz`)).status).to.equal(200)
        await withStore(dir, (store) =>
          store.images.fetch({name: 'one', url, digest, goal: 'STORED'}),
        )
        const metrics = async (): Promise<string> => (await fetch(`${base}/metrics`)).text()
        await until(async () => (await metrics()).includes('imgstore_images{state="STORED"} 1\n'))
        const text = await metrics()
        expect(text).to.contain(`imgstore_fetched_bytes_total ${sizeBytes}\n`)
        expect(text).to.contain(`imgstore_build_info{version="${String(version)}"`)
        run.child.kill('SIGTERM')
        expect(await run.exited).to.deep.equal(cleanExit)
      }),
    ))

  it('says at once that its address is wrong (exit 2) or taken (exit 11)', () =>
    withTempDir(async (dir) => {
      const wrong = worker(dir, ['--listen', 'nowhere'])
      expect(await wrong.exited).to.deep.equal({code: 2, signal: null})
      expect(wrong.lines.join('\n')).to.match(/listen.*nowhere.*host:port/)
      const other = createServer().listen(0, '127.0.0.1')
      await once(other, 'listening')
      const {port} = other.address() as AddressInfo
      const taken = worker(dir, ['--listen', `:${port}`])
      expect(await taken.exited).to.deep.equal({code: 11, signal: null})
      expect(taken.lines.join('\n')).to.contain(`127.0.0.1:${port}`)
      other.close()
      await once(other, 'close')
    }))
})

describe('imgstore worker under systemd', () => {
  requires('program:systemd-notify', 'program:python3')
  afterEach(killReceivers)
  afterEach(killWorkers)

  it('tells that it is ready, lives, reloads and stops', () =>
    withTempDir((dir) =>
      withNotifySocket(dir, async (socket) => {
        const env = {NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: '400000'}
        const run = worker(dir, [], env)
        const ready = await socket.waitFor('READY=1')
        // As root the messages come in the name of the worker, which systemd started and knows.
        if (process.getuid?.() === 0) expect(ready.pid).to.equal(run.pid)
        await socket.waitFor('WATCHDOG=1')
        const before = socket.received.length
        run.child.kill('SIGHUP')
        const reloading = await socket.waitFor('RELOADING=1')
        expect(reloading.lines[1]).to.match(/^MONOTONIC_USEC=\d+$/)
        await socket.waitFor('READY=1', before)
        run.child.kill('SIGTERM')
        await socket.waitFor('STOPPING=1')
        expect(await run.exited).to.deep.equal(cleanExit)
        const firsts = socket.received.map(({lines}) => lines[0])
        expect(firsts[0]).to.equal('READY=1')
        expect(firsts.indexOf('RELOADING=1')).to.be.below(firsts.lastIndexOf('READY=1'))
      }),
    ))

  it('says nothing of life while it hangs, so that systemd ends it', () =>
    withTempDir((dir) =>
      withNotifySocket(dir, async (socket) => {
        const run = worker(dir, [], {NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: '400000'})
        await socket.waitFor('WATCHDOG=1')
        run.child.kill('SIGSTOP')
        // What was under way when it stopped may still arrive.
        await sleep(500)
        const before = socket.received.length
        await sleep(2000)
        expect(socket.received.slice(before)).to.deep.equal([])
        run.child.kill('SIGCONT')
        await socket.waitFor('WATCHDOG=1', before)
        run.child.kill('SIGTERM')
        expect(await run.exited).to.deep.equal(cleanExit)
      }),
    ))
})
