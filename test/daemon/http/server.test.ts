import {expect} from 'chai'
import {once} from 'node:events'
import {connect, createServer} from 'node:net'
import {fail} from '../../../src/core/errors.ts'
import {silentLogger, type LogFields, type Logger} from '../../../src/core/log.ts'
import {parseListenAddress} from '../../../src/daemon/http/listen-address.ts'
import {buildServer, startServer, type Routes} from '../../../src/daemon/http/server.ts'

type Body = {error: {code: string; message: string; hint: string}}

const things: Routes = (app) => {
  app.get('/things/:id', (_request, reply) => reply.send({ok: true}))
  app.post('/things/:id', (_request, reply) => reply.code(201).send({ok: true}))
  app.get('/missing', () => {
    throw fail('image_not_found', {name: 'x'})
  })
  app.get('/crash', () => {
    throw new Error('secret inner words')
  })
}

function build(log: Logger = silentLogger): ReturnType<typeof buildServer> {
  return buildServer({log, routes: [things]})
}

/** Sends bytes as they are and gives back everything until the server hangs up. */
async function rawExchange(port: number, text: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8').on('data', (part: string) => (answer += part))
  socket.write(text)
  await once(socket, 'close')
  return answer
}

function portOf(address: string): number {
  return Number(address.split(':').pop())
}

describe('the HTTP door', () => {
  it('serves the routes it was given, HEAD with GET', async () => {
    const app = build()
    expect((await app.inject('/things/1')).json()).to.deep.equal({ok: true})
    expect((await app.inject({method: 'HEAD', url: '/things/1'})).statusCode).to.equal(200)
    expect((await app.inject({method: 'POST', url: '/things/1'})).statusCode).to.equal(201)
  })

  it('answers an unknown path with 404 in the one shape of errors, without its query', async () => {
    const answer = await build().inject('/nothing?token=hunter2')
    expect(answer.statusCode).to.equal(404)
    expect(answer.headers['content-type']).to.match(/^application\/json/)
    const {error} = answer.json<Body>()
    expect(error).to.have.keys(['code', 'message', 'hint'])
    expect(error.code).to.equal('route_not_found')
    expect(answer.body).to.not.contain('hunter2')
  })

  it('answers a known path asked with another method with 405 and the methods it takes', async () => {
    for (const method of ['PUT', 'DELETE', 'PATCH', 'OPTIONS'] as const) {
      const answer = await build().inject({method, url: '/things/1'})
      expect(answer.statusCode, method).to.equal(405)
      expect(answer.headers['allow']).to.equal('GET, HEAD, POST')
      expect(answer.json<Body>().error.code).to.equal('method_not_allowed')
    }
  })

  it('takes the status of a failure from the error table', async () => {
    const answer = await build().inject('/missing')
    expect(answer.statusCode).to.equal(404)
    expect(answer.json<Body>().error).to.deep.include({code: 'image_not_found'})
  })

  it('keeps the inner words of a bug for the log, where they stand once', async () => {
    const errors: LogFields[] = []
    const log = {...silentLogger, error: (fields: LogFields) => void errors.push(fields)}
    const answer = await build(log).inject('/crash')
    expect(answer.statusCode).to.equal(500)
    expect(answer.json<Body>().error.code).to.equal('internal')
    expect(answer.body).to.not.contain('secret')
    expect(errors).to.have.length(1)
    expect(errors[0]).to.include({method: 'GET', path: '/crash'})
    expect((errors[0]?.['error'] as Error).message).to.equal('secret inner words')
  })

  it('answers what a client did wrong in HTTP with its status and our shape', async () => {
    const large = await build().inject({
      method: 'POST',
      url: '/things/1',
      headers: {'content-type': 'application/json'},
      payload: JSON.stringify('x'.repeat(100_000)),
    })
    expect(large.statusCode).to.equal(413)
    expect(large.json<Body>().error.code).to.equal('bad_request')
    const badUrl = await build().inject('/things/%zz')
    expect(badUrl.statusCode).to.equal(400)
    expect(badUrl.json<Body>().error.code).to.equal('bad_request')
  })

  it('logs each request at debug, without its query', async () => {
    const lines: LogFields[] = []
    const log = {...silentLogger, debug: (fields: LogFields) => void lines.push(fields)}
    await build(log).inject('/things/1?token=hunter2')
    expect(lines).to.have.length(1)
    expect(lines[0]).to.include({method: 'GET', path: '/things/1', status: 200})
    expect(lines[0]?.['duration_ms']).to.be.a('number')
  })
})

describe('the HTTP listener', () => {
  const loopback = parseListenAddress(':0', 'test')

  it('listens on loopback alone unless told otherwise, and frees the port when closed', async () => {
    const server = await startServer(build(), loopback, 'test')
    expect(server.address).to.match(/^127\.0\.0\.1:\d+$/)
    const answer = await fetch(`http://${server.address}/things/1`)
    expect(await answer.json()).to.deep.equal({ok: true})
    await server.close(1000)
    const again = createServer().listen(portOf(server.address), '127.0.0.1')
    await once(again, 'listening')
    again.close()
    await once(again, 'close')
  })

  it('says that a port is taken, exit 11', async () => {
    const first = await startServer(build(), loopback, 'test')
    try {
      const address = parseListenAddress(first.address, 'test')
      const error: unknown = await startServer(build(), address, 'test').catch((e: unknown) => e)
      expect(error).to.include({code: 'address_in_use', exit: 11})
      expect((error as Error).message).to.contain(first.address)
    } finally {
      await first.close(1000)
    }
  })

  it('says that an address is not of this host, as a wrong setting', async () => {
    const address = parseListenAddress('192.0.2.1:0', 'flag --listen')
    const error: unknown = await startServer(build(), address, 'flag --listen').catch(
      (e: unknown) => e,
    )
    expect(error).to.include({code: 'invalid_setting', exit: 2})
    expect((error as Error).message).to.match(/192\.0\.2\.1:0.*flag --listen/)
  })

  it('answers what is not HTTP with 400 in the same shape and hangs up', async () => {
    const server = await startServer(build(), loopback, 'test')
    try {
      const answer = await rawExchange(portOf(server.address), 'this is no request\r\n\r\n')
      const [head, body] = answer.split('\r\n\r\n')
      expect(head).to.match(/^HTTP\/1\.1 400 /)
      expect((JSON.parse(body ?? '') as Body).error.code).to.equal('bad_request')
    } finally {
      await server.close(1000)
    }
  })

  it('gives clients that never finish their header, or keep silent, a limited time', async () => {
    const app = build()
    expect(app.server.headersTimeout).to.equal(10_000)
    expect(app.server.requestTimeout).to.equal(30_000)
    expect(app.server.timeout).to.equal(30_000)
    expect(app.server.keepAliveTimeout).to.equal(15_000)
    await app.close()
  })

  it('ends although a client keeps its connection or never takes its answer', async () => {
    const stuck: Routes = (app) => {
      app.get('/stuck', () => new Promise(() => undefined))
    }
    const server = await startServer(
      buildServer({log: silentLogger, routes: [things, stuck]}),
      loopback,
      'test',
    )
    const idle = connect(portOf(server.address), '127.0.0.1')
    await once(idle, 'connect')
    const waiting = rawExchange(portOf(server.address), 'GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n')
    await fetch(`http://${server.address}/things/1`)
    await server.close(50)
    expect(await waiting).to.equal('')
    idle.destroy()
  })
})
