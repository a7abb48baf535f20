/** What one client cannot do to the others: permits, slow readers, connections, timeouts, and the end of the server. */
import {once} from 'node:events'
import type {Socket} from 'node:net'
import {expect} from 'chai'
import {clientOf} from '../../../../src/daemon/http/streaming/connections.ts'
import {Permits, type Holder} from '../../../../src/daemon/http/streaming/permits.ts'
import {
  eventually,
  parseAnswers,
  readAll,
  senders,
  withStreaming,
  type StreamingScene,
} from '../../../support/streaming-server.ts'

const big = {hole: 512 * 1024 ** 2}

function askOn(socket: Socket, path: string, more = ''): void {
  socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n`)
}

/** A client that asks for much and takes nothing more than its own buffers hold. */
async function stuck(scene: StreamingScene, path = '/v1/images/big'): Promise<Socket> {
  const before = scene.streaming.door.openFiles
  const socket = await scene.open()
  socket.pause()
  askOn(socket, path)
  await eventually('the answer to begin', () => scene.streaming.door.openFiles > before)
  return socket
}

for (const sender of senders) {
  describe(`limits of the streaming surface (sender ${sender})`, () => {
    it('turn away one request too many, but no preflight, metadata or probe', async () => {
      await withStreaming({sender, maxConcurrentBytesRequests: 1}, async (scene) => {
        const {put, get, head, ask, streaming, metrics} = scene
        put('big', big)
        put('chunked/a/manifest.json', '{}')
        const socket = await stuck(scene)
        for (const path of ['/v1/images/big', '/v1/images/a/chunked/manifest']) {
          for (const answer of [await get(path), await head(path)]) {
            expect(answer.status).to.equal(429)
            expect(answer.header('Retry-After')).to.equal('1')
            expect(answer.header('Cache-Control')).to.equal('no-store, no-transform')
            expect(answer.header('Accept-Ranges')).to.equal('bytes')
            expect(answer.header('Access-Control-Expose-Headers')).to.contain('Content-Range')
            expect(answer.header('Cross-Origin-Resource-Policy')).to.equal('same-site')
            expect(answer.header('Content-Length')).to.equal('0')
          }
          expect((await ask('OPTIONS', path)).status).to.equal(204)
        }
        for (const path of ['/v1/images', '/v1/images/big/meta', '/healthz', '/metrics'])
          expect((await get(path)).status).to.equal(200)
        // Ids are looked at before permits.
        expect((await get('/v1/images/a%20b')).status).to.equal(404)
        expect(await metrics()).to.match(/^imgstore_serve_rejected_total\{reason="in_flight"\} 4$/m)
        expect(await metrics()).to.match(/^imgstore_serve_in_flight_requests 1$/m)
        socket.destroy()
        await eventually('the permit to come back', () => streaming.door.permits.inFlight === 0)
        expect((await get('/v1/images/big', {Range: 'bytes=0-0'})).status).to.equal(206)
        expect((await get('/v1/images/none')).status).to.equal(404)
        expect(streaming.door.permits.inFlight).to.equal(0)
      })
    })

    it('take the permit of a client that has taken nothing for the grace time', async () => {
      const flags = {sender, maxConcurrentBytesRequests: 1, slowReaderGraceMs: 300}
      await withStreaming(flags, async (scene) => {
        scene.put('big', big)
        const socket = await stuck(scene)
        const closed = once(socket, 'close')
        let status = 0
        while (status !== 206)
          status = (await scene.get('/v1/images/big', {Range: 'bytes=0-9'})).status
        socket.resume()
        await closed
        expect(socket.bytesRead).to.be.lessThan(big.hole)
        expect(await scene.metrics()).to.match(/rejected_total\{reason="slow_reader"\} 1$/m)
        await eventually('the file to be released', () => scene.streaming.door.openFiles === 0)
      })
    })

    it('cut off a client that takes nothing for too long', async () => {
      await withStreaming({sender, slowReaderTimeoutMs: 1000}, async (scene) => {
        scene.put('big', big)
        const socket = await stuck(scene)
        await eventually('the answer to end', () => scene.streaming.door.openFiles === 0)
        socket.resume()
        expect(await scene.metrics()).to.match(/rejected_total\{reason="stalled"\} 1$/m)
      })
    })

    it('let answers under way end when told to stop, and idle connections at once', async () => {
      await withStreaming({sender}, async (scene) => {
        scene.put('large', {hole: 24 * 1024 ** 2})
        const idle = await scene.open()
        askOn(idle, '/healthz')
        await once(idle, 'data')
        const idleClosed = once(idle, 'close')
        const socket = await stuck(scene, '/v1/images/large')
        const closing = scene.streaming.close(20_000)
        await idleClosed
        const all = readAll(socket)
        socket.resume()
        const [answer] = parseAnswers(await all, ['GET'])
        expect(answer?.body).to.have.length(24 * 1024 ** 2)
        expect(await closing).to.equal(true)
      })
    })

    it('cut off what does not end in time when told to stop', async () => {
      await withStreaming({sender}, async (scene) => {
        scene.put('big', big)
        const socket = await stuck(scene)
        expect(await scene.streaming.close(200)).to.equal(false)
        socket.resume()
        if (!socket.closed) await once(socket, 'close')
        expect(socket.bytesRead).to.be.lessThan(big.hole)
        // The client may hear of the end before the server does.
        await eventually('the permit', () => scene.streaming.door.permits.inFlight === 0)
      })
    })
  })
}

describe('connections of the streaming surface', () => {
  it('make room for a new one by the longest idle one', async () => {
    await withStreaming({maxConnections: 3}, async (scene) => {
      const {open, put, streaming, metrics} = scene
      put('big', big)
      const working = await stuck(scene)
      const first = await open()
      await eventually('the connections', () => connectionsOf(scene) === 2)
      const second = await open()
      await eventually('the connections', () => connectionsOf(scene) === 3)
      const firstClosed = once(first, 'close')
      const third = await open()
      await firstClosed
      askOn(third, '/healthz', 'Connection: close\r\n')
      const [answer] = parseAnswers(await readAll(third), ['GET'])
      expect(answer?.status).to.equal(200)
      expect([second.destroyed, working.destroyed]).to.deep.equal([false, false])
      expect(streaming.door.openFiles).to.equal(1)
      expect(await metrics()).to.match(/rejected_total\{reason="connections"\} [12]$/m)
    })
  })

  it('are refused when all are at work', async () => {
    await withStreaming({maxConnectionsPerClient: 2}, async (scene) => {
      scene.put('big', big)
      const working = [await stuck(scene), await stuck(scene)]
      const refused = await scene.open()
      const all = readAll(refused)
      askOn(refused, '/healthz')
      expect(await all).to.have.length(0)
      expect(working.some((socket) => socket.destroyed)).to.equal(false)
    })
  })

  it('end when a head takes too long, or nothing is asked for', async () => {
    await withStreaming({headerTimeoutMs: 1000, idleTimeoutMs: 1000}, async ({open}) => {
      const silent = await open()
      const halfway = await open()
      halfway.write('GET /healthz HTTP/1.1\r\nHost:')
      const idle = await open()
      askOn(idle, '/healthz')
      const [none, late, one] = await Promise.all([
        readAll(silent),
        readAll(halfway),
        readAll(idle),
      ])
      expect(none.toString()).to.match(/^HTTP\/1\.1 408 /)
      expect(late.toString()).to.match(/^HTTP\/1\.1 408 /)
      expect(one.toString()).to.match(/^HTTP\/1\.1 200 /)
    })
  })

  it('end when small answers are left untaken', async () => {
    await withStreaming({slowReaderTimeoutMs: 1000}, async (scene) => {
      const images = Array.from({length: 2000}, (_, i) => ({
        id: `i${i}`,
        file: 'a',
        name: 'x'.repeat(500),
      }))
      scene.put('a', 'x')
      scene.put('manifest.json', JSON.stringify(images))
      const socket = await scene.open()
      socket.pause()
      for (let i = 0; i < 16; i++) askOn(socket, '/v1/images')
      await eventually('the connection to end', () => connectionsOf(scene) === 0)
    })
  })

  it('cannot make the server keep requests without end', async () => {
    await withStreaming({}, async (scene) => {
      scene.put('big', big)
      const socket = await stuck(scene)
      const closed = new Promise((resolve) => socket.once('close', resolve))
      for (let i = 0; i < 2000; i++) askOn(socket, '/healthz')
      socket.resume()
      await closed
      expect((await scene.get('/healthz')).status).to.equal(200)
    })
  })

  it('count as one client by address, or by network for IPv6', () => {
    expect(clientOf('192.0.2.1')).to.equal('192.0.2.1')
    expect(clientOf('::ffff:192.0.2.1')).to.equal('192.0.2.1')
    expect(clientOf('2001:db8:1:2:3:4:5:6')).to.equal('2001:db8:1:2')
    expect(clientOf('2001:db8::6')).to.equal('2001:db8:0:0')
    expect(clientOf('2001:db8:1:2::')).to.equal('2001:db8:1:2')
    expect(clientOf('::1')).to.equal('0:0:0:0')
    expect(clientOf('fe80::1%eth0')).to.equal('fe80:0:0:0')
    expect(clientOf(undefined)).to.equal('')
  })

  function connectionsOf(scene: StreamingScene): number {
    return scene.streaming.connections
  }
})

describe('permits', () => {
  function holder(takenBytes: () => number): Holder & {aborted: string[]} {
    const aborted: string[] = []
    return {aborted, takenBytes, abort: (reason) => void aborted.push(reason)}
  }

  it('are given out up to the maximum, and again when they come back', () => {
    const permits = new Permits({max: 2, graceMs: 10_000, stallMs: 60_000})
    const [a, b, c] = [holder(() => 0), holder(() => 0), holder(() => 0)]
    expect([permits.take(a), permits.take(b), permits.take(c)]).to.deep.equal([true, true, false])
    permits.release(a)
    permits.release(a)
    expect([permits.take(c), permits.inFlight]).to.deep.equal([true, 2])
    permits.close()
  })

  it('are without limit at 0', () => {
    const permits = new Permits({max: 0, graceMs: 10_000, stallMs: 60_000})
    for (let i = 0; i < 1000; i++) expect(permits.take(holder(() => 0))).to.equal(true)
    permits.close()
  })

  it('leave those alone who take 4 KiB a second, and pass over to others from the slowest', () => {
    let now = 0
    const permits = new Permits({max: 3, graceMs: 10_000, stallMs: 60_000, now: () => now})
    const quick = holder(() => now * 5)
    const slow = holder(() => now * 3)
    const still = holder(() => 7)
    for (const one of [quick, slow, still]) expect(permits.take(one)).to.equal(true)
    for (now = 500; now < 10_000; now += 500) {
      permits.sample()
      expect(permits.take(holder(() => 0))).to.equal(false)
    }
    now = 10_100
    expect(permits.take(holder(() => 0))).to.equal(true)
    expect(permits.take(holder(() => 0))).to.equal(true)
    expect(permits.take(holder(() => 0))).to.equal(false)
    expect(quick.aborted).to.deep.equal([])
    expect([...slow.aborted, ...still.aborted]).to.deep.equal(['slow_reader', 'slow_reader'])
    permits.close()
  })

  it('end an answer of which nothing at all is taken', () => {
    let now = 0
    const permits = new Permits({max: 0, graceMs: 1000, stallMs: 5000, now: () => now})
    let taken = 0
    const drip = holder(() => taken++)
    const still = holder(() => 7)
    permits.take(drip)
    permits.take(still)
    for (now = 500; now <= 5500; now += 500) permits.sample()
    expect([drip.aborted, still.aborted]).to.deep.equal([[], ['stalled']])
    expect(permits.inFlight).to.equal(1)
    permits.close()
  })
})
