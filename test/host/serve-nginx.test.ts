import {connect as connectHttp2, type ClientHttp2Session} from 'node:http2'
import {once} from 'node:events'
import {mkdirSync, utimesSync, writeFileSync} from 'node:fs'
import {request} from 'node:http'
import {join} from 'node:path'
import {expect} from 'chai'
import {makeDisk, randomBytesOf} from '../support/disk-images.ts'
import {freePorts} from '../support/free-ports.ts'
import {startNginx, type Front} from '../support/nginx-server.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe} from '../support/serve-process.ts'

type Answer = {status: number; headers: Record<string, string>; body: Buffer}
type Question = {method: string; path: string; headers: Record<string, string>}

/** What belongs to one connection (RFC 9110 section 7.6.1), to one moment, or to the server that answers. */
const passing = new Set([
  ...['connection', 'keep-alive', 'transfer-encoding', 'date', 'server', 'x-request-id'],
])

function kept(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): Record<string, string> {
  const all = Object.entries(headers).filter(
    ([name]) => !passing.has(name) && !name.startsWith(':'),
  )
  return Object.fromEntries(all.map(([name, value]) => [name, String(value)]))
}

/** Asks the server itself. */
function direct(port: number, {method, path, headers}: Question): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request(
      {host: '127.0.0.1', port, method, path, headers, agent: false},
      (answer) => {
        const parts: Buffer[] = []
        answer.on('data', (part: Buffer) => parts.push(part)).on('error', reject)
        answer.on('end', () =>
          resolve({
            status: answer.statusCode ?? 0,
            headers: kept(answer.headers),
            body: Buffer.concat(parts),
          }),
        )
      },
    )
    asked.on('error', reject).end()
  })
}

/** Asks nginx, by HTTP/2. */
function fronted(session: ClientHttp2Session, {method, path, headers}: Question): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const stream = session.request({':method': method, ':path': path, ...headers})
    let head: Record<string, string | string[] | undefined> = {}
    const parts: Buffer[] = []
    stream.on('response', (sent) => (head = sent))
    stream.on('data', (part: Buffer) => parts.push(part)).on('error', reject)
    stream.on('end', () =>
      resolve({
        status: Number(head[':status']),
        headers: kept(head),
        body: Buffer.concat(parts),
      }),
    )
    stream.end()
  })
}

describe('nginx in front of the server', function () {
  requires('program:nginx', 'program:openssl')
  this.timeout(60_000)
  const makeScene = useScenes()
  const size = 20_000_003
  const MiB = 1024 * 1024

  async function withFront(
    file: string,
    body: (o: {
      session: ClientHttp2Session
      port: number
      front: Front
      scene: Scene
    }) => Promise<void>,
    args: readonly string[] = [],
  ): Promise<void> {
    const scene = makeScene()
    const images = join(scene.dir, 'images')
    mkdirSync(join(images, 'chunked/disk/chunks'), {recursive: true})
    makeDisk(join(images, 'disk'), size, [
      {at: 0, bytes: randomBytesOf(9_000_000)},
      {at: 15_000_000, bytes: randomBytesOf(5_000_003)},
    ])
    writeFileSync(join(images, 'empty'), '')
    writeFileSync(join(images, 'chunked/disk/manifest.json'), '{"schema":"any"}')
    writeFileSync(join(images, 'chunked/disk/chunks/00000000.bin'), randomBytesOf(MiB))
    utimesSync(join(images, 'disk'), 1_700_000_000, 1_700_000_000)
    const serving = await startServe(scene, ['--images-root', images, ...args])
    const [port = 0] = await freePorts(1)
    const front = await startNginx(scene, {file, port, upstreamPort: serving.port})
    const session = connectHttp2(`https://localhost:${front.port}`, {ca: front.ca})
    try {
      await once(session, 'connect')
      expect(session.alpnProtocol).to.equal('h2')
      await body({session, port: serving.port, front, scene})
    } finally {
      session.destroy()
      await front.stop()
      serving.running.kill('SIGTERM')
    }
    expect((await serving.running.exited).code).to.equal(0)
    expect(await scene.processesLeft()).to.deep.equal([])
  }

  const get = (path: string, headers: Record<string, string> = {}, method = 'GET'): Question => ({
    method,
    path,
    headers,
  })
  const range = (value: string, more: Record<string, string> = {}): Question =>
    get('/v1/images/disk', {range: `bytes=${value}`, ...more})

  /** Ranges without a pattern, but the same in each run. */
  function someRanges(count: number): Question[] {
    let state = 0x2545_f491
    const next = (below: number): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    return Array.from({length: count}, () => {
      const start = next(size)
      return range(`${start}-${start + next(2 * MiB)}`)
    })
  }

  for (const file of ['imgstore.conf', 'aero-storage-server.conf'])
    it(`changes no answer, with ${file}`, () =>
      withFront(file, async ({session, port}) => {
        const {etag = ''} = (await direct(port, get('/v1/images/disk', {}, 'HEAD'))).headers
        const origin = {origin: 'https://app.example'}
        const questions: [number, Question][] = [
          ...someRanges(12).map((question): [number, Question] => [206, question]),
          [200, get('/v1/images/disk')],
          [200, get('/v1/images/disk/data?token=1', {}, 'HEAD')],
          [200, get('/v1/images/empty')],
          [206, range('0-0', {'if-range': etag})],
          [206, range('-512', origin)],
          [206, get('/v1/images/disk', {range: 'bytes=100-199'}, 'HEAD')],
          [200, range('0-99', {'if-range': '"other"'})],
          [206, range(`0-${8 * MiB - 1}`)],
          [304, get('/v1/images/disk', {'if-none-match': etag})],
          [304, range('0-9', {'if-none-match': etag, ...origin})],
          [304, get('/v1/images/disk', {'if-modified-since': 'Tue, 14 Nov 2023 22:13:20 GMT'})],
          [404, get('/v1/images/none')],
          [404, get('/v1/images/disk/chunked/chunks/9.bin')],
          [412, get('/v1/images/disk', {'if-match': '"other"'})],
          [413, range('0-')],
          [416, range(`${size}-`)],
          [416, range('0-1,5-6')],
          [200, get('/v1/images', {'accept-encoding': 'gzip'})],
          [200, get('/v1/images/disk/meta')],
          [200, get('/v1/images/disk/chunked/manifest.json', {'accept-encoding': 'gzip'})],
          [
            200,
            get('/v1/images/disk/chunked/chunks/00000000.bin', {'accept-encoding': 'gzip, br'}),
          ],
          [
            204,
            get('/v1/images/disk', {...origin, 'access-control-request-method': 'GET'}, 'OPTIONS'),
          ],
          [405, get('/v1/images/disk', {}, 'DELETE')],
          [200, get('/healthz')],
        ]
        for (const [status, question] of questions) {
          const [before, after] = await Promise.all([
            direct(port, question),
            fronted(session, question),
          ])
          const what = JSON.stringify(question)
          expect(before.status, what).to.equal(status)
          expect(after.status, what).to.equal(status)
          expect(after.headers, what).to.deep.equal(before.headers)
          expect(after.body.equals(before.body), what).to.equal(true)
        }
      }))

  it('passes on what the limit on requests in flight answers', () =>
    withFront(
      'imgstore.conf',
      async ({session, port}) => {
        // The only permit is held by an answer that nobody reads.
        const holder = request({
          host: '127.0.0.1',
          port,
          path: '/v1/images/disk',
          agent: false,
        }).end()
        const [held] = (await once(holder, 'response')) as [NodeJS.ReadableStream]
        try {
          const [before, after] = [
            await direct(port, range('0-9')),
            await fronted(session, range('0-9')),
          ]
          expect(before.status).to.equal(429)
          expect(before.headers).to.have.property('retry-after')
          expect(after).to.deep.equal(before)
        } finally {
          held.on('error', () => undefined)
          holder.destroy()
        }
      },
      ['--max-concurrent-bytes-requests', '1'],
    ))

  it('keeps the metrics from the world, and for clients of the original everything but images', async () => {
    await withFront('imgstore.conf', async ({session, port}) => {
      expect((await direct(port, get('/metrics'))).status).to.equal(200)
      expect((await fronted(session, get('/metrics'))).status).to.equal(404)
      expect((await fronted(session, get('/readyz'))).status).to.equal(200)
    })
    await withFront('aero-storage-server.conf', async ({session}) => {
      for (const path of [
        '/metrics',
        '/readyz',
        '/ready',
        '/version',
        '/health',
        '/',
        '/v1/imagesX',
      ])
        expect((await fronted(session, get(path))).status, path).to.equal(404)
      for (const path of ['/healthz', '/v1/images', '/v1/images/disk/meta'])
        expect((await fronted(session, get(path))).status, path).to.equal(200)
    })
  })

  it('lets the raw path through, and the request id of the client', () =>
    withFront('imgstore.conf', async ({session, port}) => {
      const paths = [
        '/v1/images/%64isk/meta',
        '/v1/images/a%2f..%2fdisk',
        '/x/../v1/images',
        '//v1/images',
      ]
      for (const path of paths) {
        const [before, after] = [await direct(port, get(path)), await fronted(session, get(path))]
        expect(after, path).to.deep.equal(before)
      }
      const stream = session.request({':path': '/healthz', 'x-request-id': 'mine-1'}).end()
      const [head] = (await once(stream.resume(), 'response')) as [Record<string, string>]
      expect(head['x-request-id']).to.equal('mine-1')
    }))
})
