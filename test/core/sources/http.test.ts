import {once} from 'node:events'
import {createServer, type AddressInfo} from 'node:net'
import {expect} from 'chai'
import type {ImgstoreError} from '../../../src/core/errors.ts'
import {MiB} from '../../../src/core/limits.ts'
import {openHttpSource} from '../../../src/core/sources/http.ts'
import {openSource, type SourceOptions} from '../../../src/core/sources/source.ts'
import {sourceSuite} from '../../contract/source-suite.ts'
import {
  FakeSource,
  randomContent,
  withFakeSource,
  type Behaviour,
} from '../../support/fake-source.ts'
import {readBody, rejection, sourceOptions} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'
import {makeTestCa} from '../../support/test-ca.ts'

const {signal} = new AbortController()
const content = randomContent(3 * MiB)

sourceSuite('http', async (bytes) => {
  const peer = await FakeSource.start(bytes)
  return {
    open: (options) => openSource(peer.url, options),
    async openMissing(options) {
      peer.script = [{kind: 'status', status: 404}]
      return openSource(peer.url, options)
    },
    replaceContent(other) {
      peer.content = other
      peer.etag = '"v2"'
    },
    close: () => peer.close(),
  }
})

/** What one request ends in: the answer and its bytes, or an error. */
async function ask(
  peer: FakeSource,
  behaviour: Behaviour,
  options: Partial<SourceOptions> = {},
  startByte = 0,
) {
  peer.script = [behaviour]
  const source = await openSource(peer.url, sourceOptions(options))
  const opened = await source.open({startByte, signal})
  return {...opened, bytes: await readBody(opened)}
}
const askInVain = async (...args: Parameters<typeof ask>): Promise<ImgstoreError> =>
  (await rejection(ask(...args))) as ImgstoreError

describe('the http source', () => {
  it('says what each status means for the next attempt', async () => {
    await withFakeSource(content, async (peer) => {
      const expected = {
        400: 'source_refused',
        401: 'source_refused',
        403: 'source_refused',
        404: 'source_not_found',
        408: 'source_unavailable',
        410: 'source_not_found',
        425: 'source_unavailable',
        429: 'source_unavailable',
        500: 'source_unavailable',
        503: 'source_unavailable',
        204: 'source_refused',
        304: 'source_refused',
      }
      for (const [status, code] of Object.entries(expected)) {
        const error = await askInVain(peer, {kind: 'status', status: Number(status)})
        expect(error.code, status).to.equal(code)
      }
    })
  })

  it('hands on Retry-After in seconds and as a date, and ignores nonsense', async () => {
    await withFakeSource(content, async (peer) => {
      const retryAfter = async (text: string): Promise<unknown> => {
        const headers = {'retry-after': text}
        return (await askInVain(peer, {kind: 'status', status: 429, headers})).details[
          'retryAfterMs'
        ]
      }
      expect(await retryAfter('3')).to.equal(3000)
      const date = new Date(Date.now() + 60_000).toUTCString()
      expect(await retryAfter(date)).to.be.within(50_000, 60_000)
      expect(await retryAfter('9'.repeat(400))).to.equal(Number.MAX_SAFE_INTEGER)
      expect(await retryAfter('soon')).to.equal(undefined)
    })
  })

  it('asks for unencoded bytes and gives an encoded body as it came, saying so', async () => {
    await withFakeSource(content, async (peer) => {
      const opened = await ask(peer, {kind: 'gzip'})
      expect(opened.contentEncoding).to.equal('gzip')
      expect(opened.bytes.subarray(0, 2).toString('hex')).to.equal('1f8b')
      expect(peer.requests[0]?.headers['accept-encoding']).to.equal('identity')
    })
  })

  it('tells usable ranges from all others', async () => {
    await withFakeSource(content, async (peer) => {
      const answer = async (behaviour: Behaviour) => (await ask(peer, behaviour, {}, MiB)).answer
      expect(await answer({kind: 'honest'})).to.equal('range')
      expect(await answer({kind: 'ignore_range'})).to.equal('whole')
      expect(await answer({kind: 'other_start', shiftBytes: -1})).to.equal('unusable')
      expect(await answer({kind: 'no_content_range'})).to.equal('unusable')
      expect(await answer({kind: 'multipart'})).to.equal('unusable')
      expect(await answer({kind: 'gzip'})).to.equal('unusable')
    })
  })

  it('says how much came when a body is cut short', async () => {
    await withFakeSource(content, async (peer) => {
      for (const afterBytes of [0, 1000, MiB + 5, content.length - 1]) {
        const error = await askInVain(peer, {kind: 'cut', afterBytes})
        expect(error.code).to.equal('source_incomplete')
        expect(error.details['receivedBytes']).to.equal(afterBytes)
        expect(error.details['expectedBytes']).to.equal(content.length)
      }
    })
  })

  it('hands over what came before it reports a broken connection', async () => {
    await withFakeSource(content, async (peer) => {
      for (const size of [1000, 2 * MiB + 77]) {
        peer.script = [{kind: 'cut', afterBytes: size}]
        const source = await openSource(peer.url, sourceOptions())
        const opened = await source.open({startByte: 0, signal})
        const got: Buffer[] = []
        const reading = (async () => {
          for await (const batch of opened.body) got.push(Buffer.concat(batch))
        })()
        expect(await rejection(reading)).to.have.property('code', 'source_incomplete')
        expect(Buffer.concat(got).equals(content.subarray(0, size))).to.equal(true)
      }
    })
  })

  it('reports a connection that broke before its body was read', async () => {
    await withFakeSource(content, async (peer) => {
      peer.script = [{kind: 'cut', afterBytes: 10}]
      const source = await openSource(peer.url, sourceOptions())
      const opened = await source.open({startByte: 0, signal})
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(await rejection(readBody(opened))).to.have.property('code', 'source_incomplete')
    })
  })

  it('reads bodies without a length, and small ones, as well as large ones', async () => {
    for (const sizeBytes of [0, 1, 65_536, 2 * MiB - 1, 2 * MiB, 9 * MiB + 1]) {
      const bytes = randomContent(sizeBytes)
      await withFakeSource(bytes, async (peer) => {
        expect((await ask(peer, {kind: 'honest'})).bytes.equals(bytes), 'with a length').to.equal(
          true,
        )
        const chunked = await ask(peer, {kind: 'no_length'})
        expect(chunked.bytes.equals(bytes), 'without').to.equal(true)
        expect(chunked.totalBytes).to.equal(undefined)
      })
    }
  })

  it('reads a large body of known length into buffers of its own, and stops at its length', async () => {
    const bytes = randomContent(5 * MiB)
    const server = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${bytes.length}\r\n\r\n`)
        socket.write(bytes)
        socket.write(randomContent(3 * MiB))
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    try {
      const {port} = server.address() as AddressInfo
      const source = await openSource(`http://127.0.0.1:${port}/`, sourceOptions())
      const opened = await source.open({startByte: 0, signal})
      const copies: Buffer[] = []
      let largeBuffers = 0
      for await (const batch of opened.body) {
        largeBuffers += batch.filter((chunk) => chunk.buffer.byteLength === MiB).length
        copies.push(Buffer.concat(batch))
      }
      expect(Buffer.concat(copies).equals(bytes)).to.equal(true)
      expect(largeBuffers, 'the short way was taken').to.be.greaterThan(2)
    } finally {
      server.close()
      await once(server, 'close')
    }
  })

  it('keeps several downloads at once apart', async () => {
    const all = [3, 4, 5, 6].map((mebibytes) => randomContent(mebibytes * MiB))
    await Promise.all(
      all.map((bytes) =>
        withFakeSource(bytes, async (peer) => {
          expect((await ask(peer, {kind: 'honest'})).bytes.equals(bytes)).to.equal(true)
        }),
      ),
    )
  })

  it('gives every byte right when the reader is slower than the server', async () => {
    const bytes = randomContent(12 * MiB)
    await withFakeSource(bytes, async (peer) => {
      const source = await openSource(peer.url, sourceOptions())
      const opened = await source.open({startByte: 0, signal})
      const copies: Buffer[] = []
      for await (const batch of opened.body) {
        await new Promise((resolve) => setTimeout(resolve, 20))
        copies.push(Buffer.concat(batch))
      }
      expect(Buffer.concat(copies).equals(bytes)).to.equal(true)
    })
  })

  it('hands on what trickles in without waiting for a full batch', async () => {
    await withFakeSource(content.subarray(0, 500), async (peer) => {
      peer.script = [{kind: 'slow', chunkBytes: 100, everyMs: 120}]
      const source = await openSource(peer.url, sourceOptions())
      let batches = 0
      for await (const batch of (await source.open({startByte: 0, signal})).body) {
        expect(batch.length).to.be.greaterThan(0)
        batches++
      }
      expect(batches).to.be.greaterThan(2)
    })
  })

  it('gives up on silence: before the answer, at its start and in the middle', async () => {
    await withFakeSource(content, async (peer) => {
      const options = {stallTimeoutMs: 150}
      for (const behaviour of [
        {kind: 'silent'},
        {kind: 'stall', afterBytes: 0},
        {kind: 'stall', afterBytes: MiB + 1},
      ] as const) {
        const error = await askInVain(peer, behaviour, options)
        expect(error.code, JSON.stringify(behaviour)).to.equal('source_stalled')
        expect(error.details['idleMs']).to.equal(150)
      }
    })
  })

  it('gives up on what only trickles, and says how little came', async () => {
    await withFakeSource(content, async (peer) => {
      for (const everyMs of [20, 100]) {
        const slow = {kind: 'slow', chunkBytes: 10, everyMs} as const
        const error = await askInVain(peer, slow, {stallTimeoutMs: 500})
        expect(error.code).to.equal('source_stalled')
        expect(error.details['receivedBytes']).to.be.within(10, 1023)
        expect(error.message).to.match(/sent only \d+ bytes in 500 ms$/)
      }
    })
  })

  it('ends what takes too long in all, though it never falls silent', async () => {
    await withFakeSource(content, async (peer) => {
      const slow = {kind: 'slow', chunkBytes: 10, everyMs: 20} as const
      const error = await askInVain(peer, slow, {totalTimeoutMs: 200})
      expect(error.code).to.equal('source_unavailable')
      expect(error.message).to.contain('longer than 200 ms')
    })
  })

  it('stops at the size limit when the size was not announced', async () => {
    await withFakeSource(content, async (peer) => {
      const error = await askInVain(peer, {kind: 'no_length'}, {maxBlobBytes: MiB})
      expect(error.code).to.equal('source_too_large')
    })
  })

  it('says source_unavailable for a reset, a refused connection and an unknown host', async () => {
    await withFakeSource(content, async (peer) => {
      expect((await askInVain(peer, {kind: 'reset'})).code).to.equal('source_unavailable')
    })
    for (const url of ['http://127.0.0.1:9/', 'http://does-not-exist.invalid/']) {
      const source = await openSource(url, sourceOptions())
      const error = await rejection(source.open({startByte: 0, signal}))
      expect(error, url).to.have.property('code', 'source_unavailable')
    }
  })

  it('sends user and password as Basic, a token as Bearer, and shows neither', async () => {
    await withFakeSource(content, async (peer) => {
      const url = peer.url.replace('http://', 'http://us%40er:p%3Aw@')
      peer.script = [{kind: 'honest'}, {kind: 'status', status: 403}]
      const source = await openSource(url, sourceOptions({bearerToken: 'unused'}))
      await readBody(await source.open({startByte: 0, signal}))
      const basic = Buffer.from('us@er:p:w').toString('base64')
      expect(peer.requests[0]?.headers.authorization).to.equal(`Basic ${basic}`)
      const refused = (await rejection(source.open({startByte: 0, signal}))) as ImgstoreError
      expect(`${refused.message} ${JSON.stringify(refused.details)}`).not.to.match(/p:w|p%3Aw/)
      await ask(peer, {kind: 'honest'}, {bearerToken: 'token'})
      expect(peer.requests.at(-1)?.headers.authorization).to.equal('Bearer token')
    })
  })

  it('sends Range and If-Range only for a rest', async () => {
    await withFakeSource(content, async (peer) => {
      const source = await openSource(peer.url, sourceOptions())
      await (await source.open({startByte: 0, validator: '"v1"', signal})).close()
      await (await source.open({startByte: 10, validator: '"v1"', signal})).close()
      expect(peer.requests[0]?.headers).not.to.have.any.keys('range', 'if-range')
      expect(peer.requests[1]?.headers).to.include({range: 'bytes=10-', 'if-range': '"v1"'})
    })
  })

  it('does not take a weak ETag for a validator', async () => {
    await withFakeSource(content, async (peer) => {
      expect((await ask(peer, {kind: 'etag', etag: 'W/"1"'})).validator).to.equal(undefined)
      expect((await ask(peer, {kind: 'etag', etag: '"1"'})).validator).to.equal('"1"')
    })
  })
})

describe('redirects of the http source', () => {
  it('are followed, with the range and without the credentials when the origin changes', async () => {
    await withFakeSource(content, async (first) => {
      await withFakeSource(content, async (second) => {
        first.script = [
          {kind: 'redirect', location: '/elsewhere', status: 301},
          {kind: 'redirect', location: `http://other:secret@127.0.0.1:${second.port}/image.tar`},
        ]
        const url = first.url.replace('http://', 'http://user:password@')
        const source = await openSource(url, sourceOptions())
        const opened = await source.open({startByte: 10, validator: '"v1"', signal})
        expect((await readBody(opened)).equals(content.subarray(10))).to.equal(true)
        expect(first.requests.map(({headers}) => headers.authorization !== undefined)).to.eql([
          true,
          true,
        ])
        expect(first.requests[1]?.path).to.equal('/elsewhere')
        const headers = second.requests[0]?.headers
        expect(headers).not.to.have.any.keys('authorization', 'cookie')
        expect(headers).to.include({range: 'bytes=10-', 'if-range': '"v1"'})
      })
    })
  })

  it('end at a loop, after too many, at another scheme and at nonsense', async () => {
    await withFakeSource(content, async (peer) => {
      const loop = await askInVain(peer, {kind: 'redirect', location: '/image.tar'})
      expect(loop.code).to.equal('redirect_refused')
      for (const location of ['file:///etc/passwd', 'ftp://127.0.0.1/', 'http://[', 's3://a/b']) {
        const error = await askInVain(peer, {kind: 'redirect', location})
        expect(error.code, location).to.equal('redirect_refused')
      }
      peer.script = [1, 2, 3].map((n) => ({kind: 'redirect', location: `/${n}`}))
      const source = await openSource(peer.url, sourceOptions({redirectsMax: 2}))
      expect(await rejection(source.open({startByte: 0, signal}))).to.have.property(
        'code',
        'redirect_refused',
      )
      const noLocation = await askInVain(peer, {kind: 'status', status: 302})
      expect(noLocation.code).to.equal('source_refused')
    })
  })

  it('lead from a public address to no private one, by number or by name, unless that is allowed', async () => {
    await withFakeSource(content, async (peer) => {
      // The first address counts as public here; every other loopback address is private.
      const deps = {isPrivate: (address: string) => address !== '127.0.0.1'}
      const open = async (location: string, options: Partial<SourceOptions> = {}) => {
        peer.script = [{kind: 'redirect', location}]
        const source = openHttpSource(new URL(peer.url), sourceOptions(options), deps)
        return (await source.open({startByte: 0, signal})).close()
      }
      const inside = await FakeSource.start(content, {host: '127.0.0.2'})
      try {
        for (const host of ['127.0.0.2', 'localhost', '[::1]', '2130706434']) {
          const error = await rejection(open(`http://${host}:${inside.port}/image.tar`))
          expect(error, host).to.have.property('code', 'redirect_refused')
        }
        expect(inside.requests.length).to.equal(0)
        await open(inside.url, {allowPrivateRedirects: true})
        expect(inside.requests.length).to.equal(1)
      } finally {
        await inside.close()
      }
    })
  })

  it('may lead from one private address to another', async () => {
    await withFakeSource(content, async (peer) => {
      const inside = await FakeSource.start(content, {host: '127.0.0.2'})
      try {
        peer.script = [{kind: 'redirect', location: inside.url}]
        const source = await openSource(peer.url, sourceOptions())
        expect(
          (await readBody(await source.open({startByte: 0, signal}))).equals(content),
        ).to.equal(true)
      } finally {
        await inside.close()
      }
    })
  })
})

describe('TLS of the http source', () => {
  it('trusts the certificates of caFile and no unknown ones', async () => {
    await withTempDir(async (dir) => {
      const {caFile, ...tls} = makeTestCa(dir)
      await withFakeSource(
        content,
        async (peer) => {
          const opened = await ask(peer, {kind: 'honest'}, {caFile})
          expect(opened.bytes.equals(content)).to.equal(true)
          const unknown = await askInVain(peer, {kind: 'honest'})
          expect(unknown.code).to.equal('source_refused')
          expect(unknown.message).to.contain('certificate')
        },
        {tls},
      )
    })
  })

  it('refuses a certificate for another name', async () => {
    await withTempDir(async (dir) => {
      const {caFile, ...tls} = makeTestCa(dir, 'DNS:elsewhere.test')
      await withFakeSource(
        content,
        async (peer) => {
          const error = await askInVain(peer, {kind: 'honest'}, {caFile})
          expect(error.code).to.equal('source_refused')
        },
        {tls},
      )
    })
  })

  it('is never left by a redirect', async () => {
    await withTempDir(async (dir) => {
      const {caFile, ...tls} = makeTestCa(dir)
      await withFakeSource(
        content,
        async (peer) => {
          const location = `http://127.0.0.1:${peer.port}/`
          const error = await askInVain(peer, {kind: 'redirect', location}, {caFile})
          expect(error.code).to.equal('redirect_refused')
          expect(error.message).to.contain('from https to http')
        },
        {tls},
      )
    })
  })

  it('may fail for a passing reason where no TLS is spoken', async () => {
    await withFakeSource(content, async (peer) => {
      const source = await openSource(peer.url.replace('http:', 'https:'), sourceOptions())
      const error = await rejection(source.open({startByte: 0, signal}))
      expect(error).to.have.property('code', 'source_unavailable')
    })
  })

  it('names the setting when caFile cannot be used', async () => {
    await withTempDir(async (dir) => {
      const source = await openSource('https://127.0.0.1:9/', sourceOptions({caFile: `${dir}/no`}))
      const error = await rejection(source.open({startByte: 0, signal}))
      expect(error).to.have.property('code', 'invalid_setting')
    })
  })
})
