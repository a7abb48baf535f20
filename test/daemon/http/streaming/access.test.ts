/** Who may read what: leases, TLS, HTTP/2, and both of them read again. */
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {request} from 'node:https'
import {
  connect as connectHttp2,
  type ClientHttp2Session,
  type IncomingHttpHeaders,
} from 'node:http2'
import {join} from 'node:path'
import {connect as connectTls} from 'node:tls'
import {expect} from 'chai'
import {openLeases} from '../../../../src/daemon/http/streaming/lease.ts'
import {
  senders,
  withStreaming,
  type Answer,
  type Flags,
  type StreamingScene,
} from '../../../support/streaming-server.ts'
import {withTempDir} from '../../../support/temp-dir.ts'
import {makeTestCa, type TestCa} from '../../../support/test-ca.ts'

const token = 'Bearer issuer-token'

type Lease = {url: string; expiresAt: string; chunked?: {delivery: string; manifestUrl: string}}

async function withLeases(
  body: (scene: StreamingScene, files: {secret: string; tokens: string}) => Promise<void>,
  more: Flags = {},
): Promise<void> {
  await withTempDir(async (dir) => {
    const secret = join(dir, 'secret')
    const tokens = join(dir, 'tokens')
    writeFileSync(secret, '# first\n0123456789abcdef0123456789abcdef\n')
    writeFileSync(tokens, 'other-token\nissuer-token\n')
    const flags = {leaseSecretFile: secret, leaseTokenFile: tokens, ...more}
    await withStreaming(flags, async (scene) => {
      scene.put('open.img', 'public bytes')
      scene.put('closed.img', 'private bytes')
      for (const id of ['closed', 'closed2']) {
        scene.put(`chunked/${id}/manifest.json`, '{}')
        scene.put(`chunked/${id}/chunks/0.bin`, 'chunk')
      }
      scene.put(
        'manifest.json',
        JSON.stringify([
          {id: 'open', file: 'open.img', name: 'Open'},
          {id: 'closed', file: 'closed.img', name: 'Closed', public: false},
          {id: 'closed2', file: 'closed.img', name: 'Closed too', public: false},
        ]),
      )
      await body(scene, {secret, tokens})
    })
  })
}

async function leaseOf(scene: StreamingScene, id: string): Promise<Lease> {
  const answer = await scene.get(`/v1/images/${id}/lease`, {Authorization: token, Host: 'h:1'})
  expect(answer.status).to.equal(200)
  return JSON.parse(answer.body.toString()) as Lease
}

function expectRefusal(answer: Answer, status: 401 | 403): void {
  expect(answer.status).to.equal(status)
  expect(answer.body).to.have.length(0)
  expect(answer.header('Access-Control-Allow-Origin')).to.equal('*')
  expect(answer.header('Cross-Origin-Resource-Policy')).to.equal('same-site')
  expect(answer.header('Cache-Control')).to.equal('no-store, no-transform')
  const challenge = answer.header('WWW-Authenticate')
  if (status === 401) expect(challenge).to.match(/^Bearer/)
  else expect(challenge).to.equal(undefined)
}

describe('leases of private images', () => {
  const secured = [
    '/v1/images/closed',
    '/v1/images/closed/data',
    '/v1/images/closed/meta',
    '/v1/images/closed/chunked/manifest.json',
    '/v1/images/closed/chunked/chunks/0.bin',
  ]

  it('open what they are for, in the query or as a bearer, and nothing else', async () => {
    await withLeases(async (scene) => {
      const {url, expiresAt, chunked} = await leaseOf(scene, 'closed')
      expect(Date.parse(expiresAt) - Date.now()).to.be.within(14 * 60_000, 15 * 60_000 + 1000)
      expect(chunked?.delivery).to.equal('chunked')
      expect(url).to.match(/^http:\/\/h:1\/v1\/images\/closed\?cap=v1\.[\w-]+\.[\w-]+$/)
      const query = new URL(url).search
      expect(chunked?.manifestUrl).to.equal(
        `http://h:1/v1/images/closed/chunked/manifest.json${query}`,
      )
      for (const path of secured) {
        expectRefusal(await scene.get(path), 401)
        expectRefusal(await scene.head(path), 401)
        const answer = await scene.get(`${path}${query}`)
        expect(answer.status, path).to.equal(200)
        const bearer = {Authorization: `Bearer ${query.slice('?cap='.length)}`}
        expect((await scene.get(path, bearer)).status).to.equal(200)
        expectRefusal(await scene.get(path, {Authorization: token}), 403)
        expectRefusal(await scene.get(path.replace('closed', 'closed2') + query), 403)
        expect((await scene.ask('OPTIONS', path)).status).to.equal(204)
      }
      const body = await scene.get(`/v1/images/closed${query}`, {Range: 'bytes=0-6'})
      expect([body.status, body.body.toString()]).to.deep.equal([206, 'private'])
      expect(body.header('Cache-Control')).to.equal('private, no-store, no-transform')
      expect((await scene.get('/v1/images/open')).status).to.equal(200)
      expect((await scene.get('/v1/images/none')).status).to.equal(404)
      const absent = '/v1/images/closed/chunked/chunks/1.bin'
      expectRefusal(await scene.get(absent), 401)
      expect((await scene.get(`${absent}${query}`)).status).to.equal(404)
      expect(JSON.stringify(scene.log)).to.not.contain(query)
    })
  })

  it('are handed out to who has a token, for images that exist', async () => {
    await withLeases(
      async (scene) => {
        const path = '/v1/images/closed/lease'
        expectRefusal(await scene.get(path), 401)
        expectRefusal(await scene.get(path, {Authorization: 'Bearer wrong'}), 403)
        const posted = await scene.ask('POST', path, {Authorization: 'Bearer other-token'})
        expect(posted.status).to.equal(200)
        expect(posted.header('Cache-Control')).to.equal('no-store')
        expect((JSON.parse(posted.body.toString()) as Lease).url).to.match(/^https:\/\/x\/y\/v1/)
        expect((await leaseOf(scene, 'open')).url).to.equal('https://x/y/v1/images/open')
        for (const id of ['none', '%2e%2e', 'x'.repeat(400)]) {
          const answer = await scene.get(`/v1/images/${id}/lease`, {Authorization: token})
          expect(answer.status).to.equal(404)
        }
        const preflight = await scene.ask('OPTIONS', path)
        expect(preflight.header('Access-Control-Allow-Methods')).to.equal('GET, POST, OPTIONS')
        expect((await scene.head(path)).status).to.equal(405)
      },
      {publicUrl: 'https://x/y/'},
    )
  })

  it('keep private images out of the list, but for who hands them out', async () => {
    await withLeases(async (scene) => {
      const ids = async (headers = {}): Promise<string[]> => {
        const answer = await scene.get('/v1/images', headers)
        expect(answer.header('Vary')).to.equal('Authorization')
        return (JSON.parse(answer.body.toString()) as {id: string}[]).map(({id}) => id)
      }
      expect(await ids()).to.deep.equal(['open'])
      expect(await ids({Authorization: token})).to.deep.equal(['open', 'closed', 'closed2'])
      expect((await scene.get('/ui/images.json')).body.toString()).to.not.contain('closed')
    })
  })

  it('end with their time and with their secret, which may be replaced in two steps', async () => {
    await withLeases(async (scene, files) => {
      const old = new URL((await leaseOf(scene, 'closed')).url).search
      const statusOf = async (query: string): Promise<number> =>
        (await scene.get(`/v1/images/closed${query}`)).status
      writeFileSync(files.secret, 'a-new-secret-of-some-length\n0123456789abcdef0123456789abcdef\n')
      const settings = scene.settings({leaseSecretFile: files.secret, leaseTokenFile: files.tokens})
      scene.streaming.reload(settings)
      const fresh = new URL((await leaseOf(scene, 'closed')).url).search
      expect([await statusOf(old), await statusOf(fresh)]).to.deep.equal([200, 200])
      writeFileSync(files.secret, 'a-new-secret-of-some-length\n')
      scene.streaming.reload(settings)
      expect([await statusOf(old), await statusOf(fresh)]).to.deep.equal([403, 200])
      writeFileSync(files.secret, 'short\n')
      expect(() => scene.streaming.reload(settings)).to.throw(/at least 16 bytes/)
      expect(await statusOf(fresh)).to.equal(200)
    })
  })

  it('are judged by signature, image and time', async () => {
    await withTempDir((dir) => {
      const secretFile = join(dir, 'secret')
      writeFileSync(secretFile, '0123456789abcdef')
      let now = 1_000_000
      const leases = openLeases({secretFile, tokenFile: undefined, ttlMs: 60_000, now: () => now})
      const {lease, expiresAtMs} = leases.issue('a')
      expect(expiresAtMs).to.equal(1_060_000)
      const judge = (text: string, id = 'a'): string =>
        leases.verdict(id, {query: `x=1&cap=${encodeURIComponent(text)}`, authorization: undefined})
      expect(judge(lease)).to.equal('valid')
      expect(judge(lease, 'b')).to.equal('wrong')
      const [version = '', payload = '', signature = ''] = lease.split('.')
      const other = Buffer.from(JSON.stringify({img: 'b', exp: 9e9})).toString('base64url')
      for (const forged of [
        `${version}.${other}.${signature}`,
        `${version}.${payload}.${signature.slice(0, -4)}`,
        `${version}.${payload}.`,
        `v2.${payload}.${signature}`,
        `${lease}.x`,
        'x'.repeat(5000),
        '',
      ])
        expect(judge(forged), forged).to.equal('wrong')
      expect(leases.verdict('a', {query: '', authorization: undefined})).to.equal('absent')
      expect(leases.verdict('a', {query: '', authorization: 'Basic x'})).to.equal('absent')
      const both = {query: `cap=${lease}`, authorization: 'Bearer nonsense'}
      expect(leases.verdict('a', both)).to.equal('valid')
      now = 1_060_000
      expect(judge(lease)).to.equal('expired')
      expect(leases.canIssue).to.equal(false)
    })
  })

  it('are no matter where no secret is set: private is then a matter of caches', async () => {
    await withStreaming({}, async ({put, get}) => {
      put('a', 'x')
      put('manifest.json', JSON.stringify([{id: 'a', file: 'a', name: '', public: false}]))
      expect((await get('/v1/images/a')).status).to.equal(200)
      expect((await get('/v1/images/a/lease', {Authorization: token})).status).to.equal(404)
    })
  })
})

type Answered = {headers: IncomingHttpHeaders; body: Buffer}

async function askHttp2(
  session: ClientHttp2Session,
  headers: Record<string, string>,
): Promise<Answered> {
  const stream = session.request(headers)
  return await new Promise((resolve, reject) => {
    let answer: IncomingHttpHeaders = {}
    const parts: Buffer[] = []
    stream.on('response', (found) => (answer = found))
    stream.on('data', (part: Buffer) => parts.push(part))
    stream.on('error', reject)
    stream.on('close', () => resolve({headers: answer, body: Buffer.concat(parts)}))
    stream.end()
  })
}

for (const sender of senders) {
  describe(`TLS and HTTP/2 (sender ${sender})`, () => {
    async function withTls(
      body: (
        scene: StreamingScene,
        ca: TestCa,
        files: {cert: string; key: string},
      ) => Promise<void>,
    ): Promise<void> {
      await withTempDir(async (dir) => {
        const ca = makeTestCa(dir)
        const cert = join(dir, 'cert.pem')
        const key = join(dir, 'key.pem')
        writeFileSync(cert, ca.cert)
        writeFileSync(key, ca.key)
        await withStreaming({sender, tlsCert: cert, tlsKey: key}, async (scene) => {
          await body(scene, ca, {cert, key})
        })
      })
    }

    it('serve both protocols on one port', async () => {
      await withTls(async ({put, port, log, streaming}, ca) => {
        const large = Buffer.alloc(3 * 1024 * 1024, 'large')
        put('large', large)
        const authority = readFileSync(ca.caFile)
        const session = connectHttp2(`https://127.0.0.1:${port}`, {ca: authority})
        try {
          const path = '/v1/images/large'
          const answers = await Promise.all([
            askHttp2(session, {':path': path}),
            askHttp2(session, {':path': path, range: 'bytes=5-14'}),
            askHttp2(session, {':path': path, ':method': 'HEAD'}),
            askHttp2(session, {':path': '/nothing'}),
            askHttp2(session, {':path': path, ':method': 'POST'}),
            askHttp2(session, {':path': path, ':method': 'OPTIONS', origin: 'https://a'}),
            askHttp2(session, {':path': path, 'if-none-match': '*'}),
          ])
          expect(answers.map(({headers}) => headers[':status'])).to.deep.equal([
            200, 206, 200, 404, 405, 204, 304,
          ])
          expect(answers[0].body.equals(large)).to.equal(true)
          expect(answers[0].headers['content-length']).to.equal(String(large.length))
          expect(answers[1].body.toString()).to.equal('largelarge')
          expect(answers[2].headers['content-length']).to.equal(String(large.length))
          expect(answers[3].headers).to.not.have.property('access-control-allow-origin')
          expect(answers[0].headers['access-control-allow-origin']).to.equal('*')
          const logged = log.filter(({span}) => span)
          expect(logged).to.have.length(6)
          expect(logged.some(({fields}) => fields['aborted'])).to.equal(false)
          expect(logged.map(({fields}) => fields['bytes_sent'])).to.include(large.length)
          expect(streaming.door.permits.inFlight).to.equal(0)
        } finally {
          session.destroy()
        }
        const status = await new Promise((resolve, reject) => {
          const options = {port, host: '127.0.0.1', path: '/v1/images/large', ca: authority}
          const asked = request({...options, headers: {range: 'bytes=0-99999'}}, (answer) => {
            answer.resume()
            answer.on('end', () => resolve(answer.statusCode))
          })
          asked.on('error', reject)
          asked.end()
        })
        expect(status).to.equal(206)
      })
    })

    it('take a new certificate without dropping a connection', async () => {
      await withTls(async ({put, port, streaming, settings}, ca, files) => {
        put('a', 'x')
        const session = connectHttp2(`https://127.0.0.1:${port}`, {ca: readFileSync(ca.caFile)})
        try {
          expect((await askHttp2(session, {':path': '/healthz'})).headers[':status']).to.equal(200)
          await withTempDir(async (dir) => {
            mkdirSync(join(dir, 'new'))
            const next = makeTestCa(join(dir, 'new'))
            writeFileSync(files.cert, 'no certificate')
            const changed = settings({sender, tlsCert: files.cert, tlsKey: files.key})
            expect(() => streaming.reload(changed)).to.throw(/certificate/)
            writeFileSync(files.cert, next.cert)
            expect(() => streaming.reload(changed)).to.throw(/certificate/)
            writeFileSync(files.key, next.key)
            streaming.reload(changed)
            const fresh = await new Promise<boolean>((resolve, reject) => {
              const options = {port, host: '127.0.0.1', ca: readFileSync(next.caFile)}
              const socket = connectTls(options, () => {
                resolve(socket.authorized)
                socket.destroy()
              })
              socket.on('error', reject)
            })
            expect(fresh).to.equal(true)
          })
          expect(session.destroyed).to.equal(false)
          expect((await askHttp2(session, {':path': '/v1/images/a'})).body.toString()).to.equal('x')
        } finally {
          session.destroy()
        }
      })
    })
  })
}

describe('settings of the streaming surface, read again', () => {
  it('hold for the next request of a connection that is open', async () => {
    await withStreaming({}, async ({put, open, streaming, settings}) => {
      put('a', 'x'.repeat(100))
      const socket = await open()
      const text: string[] = []
      socket.on('data', (part: Buffer) => text.push(part.toString('latin1')))
      const ask = async (): Promise<string> => {
        text.length = 0
        const came = new Promise((resolve) => socket.once('data', resolve))
        socket.write(
          'GET /v1/images/a HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\nRange: bytes=0-50\r\n\r\n',
        )
        await came
        return text.join('')
      }
      expect(await ask()).to.match(/^HTTP\/1\.1 206 /)
      streaming.reload(settings({maxRangeBytes: 50, corsOrigins: ['https://a']}))
      const after = await ask()
      expect(after).to.match(/^HTTP\/1\.1 413 /)
      expect(after).to.contain('Access-Control-Allow-Origin: https://a\r\n')
    })
  })

  it('are refused as a whole when one cannot be taken', async () => {
    await withStreaming({}, async ({get, streaming, settings}) => {
      const bad = settings({corsOrigins: ['https://a'], resourcePolicy: 'nobody'})
      expect(() => streaming.reload(bad)).to.throw(/cross-origin-resource-policy/)
      expect(() => streaming.reload(settings({serveLogLevel: 'loud'}))).to.throw(/log-level/)
      expect((await get('/healthz')).header('Access-Control-Allow-Origin')).to.equal('*')
    })
  })
})
