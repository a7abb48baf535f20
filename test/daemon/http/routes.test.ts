import {expect} from 'chai'
import {spawnSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {once} from 'node:events'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {createServer} from 'node:http'
import type {AddressInfo} from 'node:net'
import {join} from 'node:path'
import {fail} from '../../../src/core/errors.ts'
import {silentLogger, type LogFields} from '../../../src/core/log.ts'
import {resolveSettings} from '../../../src/core/settings.ts'
import {openStore, type Store} from '../../../src/core/store.ts'
import {healthRoutes} from '../../../src/daemon/http/routes/health.ts'
import {makeMetrics} from '../../../src/daemon/http/routes/metrics.ts'
import {buildServer} from '../../../src/daemon/http/server.ts'
import {withTempDir} from '../../support/temp-dir.ts'

async function withStore(
  env: Record<string, string>,
  body: (store: Store, dir: string) => Promise<void>,
): Promise<void> {
  await withTempDir(async (dir) => {
    const resolved = resolveSettings({
      env: {IMGSTORE_STORE_PATH: join(dir, 'store'), IMGSTORE_MAX_ATTEMPTS: '2', ...env},
      dataDir: dir,
      cwd: dir,
    })
    const store = await openStore({...resolved, role: 'worker'})
    try {
      await body(store, dir)
    } finally {
      await store.close()
    }
  })
}

/** A small tar on a loopback server, which says 503 to the first request. */
async function withTar(
  dir: string,
  body: (tar: {url: string; digest: string; sizeBytes: number}) => Promise<void>,
): Promise<void> {
  mkdirSync(join(dir, 'root'))
  writeFileSync(join(dir, 'root', 'hello'), 'hello')
  spawnSync('tar', ['-C', join(dir, 'root'), '-cf', join(dir, 'image.tar'), '.'])
  const bytes = readFileSync(join(dir, 'image.tar'))
  let asked = 0
  const server = createServer((request, response) => {
    if (request.url !== '/image.tar') response.writeHead(404).end()
    else if (asked++ === 0) response.writeHead(503).end()
    else response.end(bytes)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    await body({
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/image.tar`,
      digest: createHash('sha256').update(bytes).digest('hex'),
      sizeBytes: bytes.length,
    })
  } finally {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  }
}

/** Reads the text format: `name{labels}` → value; refuses a line that is not of it. */
function parseMetrics(text: string): Map<string, number> {
  const values = new Map<string, number>()
  for (const line of text.split('\n')) {
    if (line === '' || /^# (HELP|TYPE) [a-z0-9_:]+ \S/.test(line)) continue
    const match = /^([a-z0-9_:]+(?:\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)*\})?) (\S+)$/.exec(line)
    if (!match?.[1]) throw new Error(`not a metric: ${line}`)
    expect(values.has(match[1]), `twice: ${match[1]}`).to.equal(false)
    values.set(match[1], match[2] === '+Inf' ? Infinity : Number(match[2]))
  }
  return values
}

type HealthBody = {
  status: string
  checks: Record<string, {status: string; detail?: string; free_bytes?: number; code?: string}>
}

const ready = (): {isReady: boolean; detail: string} => ({isReady: true, detail: 'running'})

describe('/healthz', () => {
  it('is 200 while the database answers and there is space, and says what it looked at', () =>
    withStore({}, async (store) => {
      const app = buildServer({
        log: silentLogger,
        routes: [healthRoutes({store, readiness: ready, log: silentLogger})],
      })
      const answer = await app.inject('/healthz')
      expect(answer.statusCode).to.equal(200)
      expect(answer.headers['cache-control']).to.equal('no-store')
      const {status, checks} = answer.json<HealthBody>()
      expect(status).to.equal('ok')
      expect(checks).to.have.keys(['database', 'space'])
      expect(checks['database']?.status).to.equal('ok')
      expect(checks['space']?.free_bytes).to.be.above(0)
    }))

  it('is 503 when the store has less space than its reserve, and the log says so once', () =>
    withStore({IMGSTORE_HEALTH_SPACE: '1024T'}, async (store) => {
      const warnings: LogFields[] = []
      const log = {...silentLogger, warn: (fields: LogFields) => void warnings.push(fields)}
      const app = buildServer({log, routes: [healthRoutes({store, readiness: ready, log})]})
      const answer = await app.inject('/healthz')
      expect(answer.statusCode).to.equal(503)
      const {status, checks} = answer.json<HealthBody>()
      expect(status).to.equal('fail')
      expect(checks['space']?.status).to.equal('fail')
      expect(checks['database']?.status).to.equal('ok')
      await app.inject('/healthz')
      expect(warnings).to.have.length(1)
      // A worker with little space is not well, but it takes work: other images may fit.
      expect((await app.inject('/readyz')).statusCode).to.equal(200)
    }))

  it('is 503 with the code when the database does not answer', async () => {
    const store = {health: () => Promise.reject(fail('store_busy', {path: '/store.db'}))}
    const app = buildServer({
      log: silentLogger,
      routes: [healthRoutes({store, readiness: ready, log: silentLogger})],
    })
    for (const path of ['/healthz', '/readyz']) {
      const answer = await app.inject(path)
      expect(answer.statusCode).to.equal(503)
      expect(answer.json<HealthBody>().checks['database']?.code).to.equal('store_busy')
    }
  })
})

describe('/readyz', () => {
  it('follows the loop', () =>
    withStore({}, async (store) => {
      let loop = {isReady: false, detail: 'starting'}
      const app = buildServer({
        log: silentLogger,
        routes: [healthRoutes({store, readiness: () => loop, log: silentLogger})],
      })
      const before = await app.inject('/readyz')
      expect(before.statusCode).to.equal(503)
      expect(before.json<HealthBody>().checks['loop']?.detail).to.equal('starting')
      loop = ready()
      expect((await app.inject('/readyz')).statusCode).to.equal(200)
      // A loop that is not ready is no reason to call the store unwell.
      loop = {isReady: false, detail: 'stopping'}
      expect((await app.inject('/healthz')).statusCode).to.equal(200)
    }))
})

describe('/metrics', () => {
  it('moves by exactly what the state machine did', () =>
    withStore({IMGSTORE_RETRY_WAIT: '1ms'}, (store, dir) =>
      withTar(dir, async ({url, digest, sizeBytes}) => {
        const metrics = makeMetrics({store, version: '1.2.3', log: silentLogger})
        const app = buildServer({log: silentLogger, routes: [metrics.routes]})
        const scrape = async (): Promise<Map<string, number>> => {
          const answer = await app.inject('/metrics')
          expect(answer.statusCode).to.equal(200)
          expect(answer.headers['content-type']).to.match(/^text\/plain; version=0\.0\.4/)
          return parseMetrics(answer.body)
        }
        const before = await scrape()
        expect(before.get('imgstore_images{state="STORED"}')).to.equal(0)
        expect(before.get('imgstore_fetched_bytes_total')).to.equal(0)

        await store.images.fetch({name: 'good', url, digest, goal: 'STORED'})
        await store.images.fetch({
          name: 'bad',
          url: `${url}x`,
          digest: '0'.repeat(64),
          goal: 'STORED',
        })
        const controller = new AbortController()
        await store.work({
          signal: controller.signal,
          once: true,
          onEvent: (event) => metrics.observe(event),
        })

        const after = await scrape()
        const value = (key: string): number | undefined => after.get(key)
        expect(value('imgstore_images{state="STORED"}')).to.equal(1)
        expect(value('imgstore_images{state="FAILED"}')).to.equal(1)
        expect(value('imgstore_images{state="NEW"}')).to.equal(0)
        expect(value('imgstore_runs_active')).to.equal(0)
        expect(value('imgstore_fetched_bytes_total')).to.equal(sizeBytes)
        expect(value('imgstore_transitions_total{from="NEW",to="DOWNLOADING"}')).to.equal(2)
        expect(value('imgstore_transitions_total{from="UNPACKED",to="STORED"}')).to.equal(1)
        expect(value('imgstore_retries_total{step="download",code="source_unavailable"}')).to.equal(
          1,
        )
        expect(value('imgstore_failures_total{step="download",code="source_not_found"}')).to.equal(
          1,
        )
        const counts = (outcome: string): number | undefined =>
          value(
            `imgstore_step_duration_seconds_count{machine="image",step="download",outcome="${outcome}"}`,
          )
        expect(['done', 'retry', 'failed'].map(counts)).to.deep.equal([1, 1, 1])
        expect(value('imgstore_store_free_bytes')).to.be.above(0)
        expect(value('imgstore_store_up')).to.equal(1)
        expect(
          value(`imgstore_build_info{version="1.2.3",node_version="${process.versions.node}"}`),
        ).to.equal(1)
        expect(value('process_resident_memory_bytes')).to.be.above(0)
      }),
    ))

  it('gives what the process knows when the store cannot be read, and says so', async () => {
    const busy = (): Promise<never> => Promise.reject(fail('store_busy', {path: '/store.db'}))
    const store = {countByState: busy, countWaiting: busy, health: busy, runs: {list: busy}}
    const warnings: string[] = []
    const log = {
      ...silentLogger,
      warn: (_: LogFields, message: string) => void warnings.push(message),
    }
    const metrics = makeMetrics({store, version: '1.2.3', log})
    const app = buildServer({log: silentLogger, routes: [metrics.routes]})
    const values = parseMetrics((await app.inject('/metrics')).body)
    expect(values.get('imgstore_store_up')).to.equal(0)
    expect([...values.keys()].filter((key) => key.startsWith('imgstore_images'))).to.deep.equal([])
    expect(values.has('imgstore_store_free_bytes')).to.equal(false)
    expect(values.get('process_resident_memory_bytes')).to.be.above(0)
    expect(warnings).to.have.length(1)
  })
})

describe('docs/worker.md', () => {
  it('names every metric of imgstore, and no other', async () => {
    const none = (): Promise<never> => Promise.reject(fail('store_busy', {path: '/store.db'}))
    const store = {countByState: none, countWaiting: none, health: none, runs: {list: none}}
    const metrics = makeMetrics({store, version: '1.2.3', log: silentLogger})
    const app = buildServer({log: silentLogger, routes: [metrics.routes]})
    const {body} = await app.inject('/metrics')
    const served = [...body.matchAll(/^# TYPE (imgstore_\w+) /gm)].map((match) => match[1])
    const text = readFileSync('docs/worker.md', 'utf8')
    const documented = [...text.matchAll(/^\| `(imgstore_\w+)/gm)].map((match) => match[1])
    expect(documented.toSorted()).to.deep.equal(served.toSorted())
  })
})
