import {once} from 'node:events'
import {createServer, request as httpRequest} from 'node:http'
import {connect, type AddressInfo, type Socket} from 'node:net'
import {expect} from 'chai'
import {MiB} from '../../../src/core/limits.ts'
import {proxyFor} from '../../../src/core/sources/agents.ts'
import {openHttpSource} from '../../../src/core/sources/http.ts'
import {openSource} from '../../../src/core/sources/source.ts'
import {randomContent, withFakeSource} from '../../support/fake-source.ts'
import {readBody, rejection, sourceOptions} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'
import {makeTestCa} from '../../support/test-ca.ts'

const {signal} = new AbortController()

/** A forwarding and tunnelling proxy that notes what it was asked for. */
async function withProxy(
  body: (proxy: {url: string; asked: string[]}) => Promise<void>,
): Promise<void> {
  const asked: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((incoming, response) => {
    asked.push(`GET ${incoming.url ?? ''}`)
    const {host, ...headers} = incoming.headers
    expect(host).to.be.a('string')
    const outgoing = httpRequest(incoming.url ?? '', {headers}, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    outgoing.on('error', () => response.destroy())
    outgoing.end()
  })
  server.on('connect', (incoming, client: Socket) => {
    asked.push(`CONNECT ${incoming.url ?? ''}`)
    const [host = '', port] = (incoming.url ?? '').split(':')
    const upstream = connect(Number(port), host, () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n')
      upstream.pipe(client).pipe(upstream)
    })
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    await body({url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked})
  } finally {
    for (const socket of sockets) socket.destroy()
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  }
}

describe('proxyFor', () => {
  const env = {HTTP_PROXY: 'http://p:1', HTTPS_PROXY: 'http://s:2'}
  const chosen = (url: string, noProxy?: string) =>
    proxyFor(new URL(url), {...env, ...(noProxy === undefined ? {} : {NO_PROXY: noProxy})})

  it('chooses by scheme, and none without settings', () => {
    expect(chosen('http://host/')).to.equal('http://p:1')
    expect(chosen('https://host/')).to.equal('http://s:2')
    expect(proxyFor(new URL('http://host/'))).to.equal(undefined)
    expect(proxyFor(new URL('http://host/'), {HTTP_PROXY: ''})).to.equal(undefined)
    expect(proxyFor(new URL('http://host/'), {http_proxy: 'http://low:1', ...env})).to.equal(
      'http://low:1',
    )
  })

  it('keeps NO_PROXY: names, domains, ports, addresses, nets and everything', () => {
    for (const [url, noProxy] of [
      ['http://host/', '*'],
      ['http://host/', 'other, HOST'],
      ['http://a.example.test/', '.example.test'],
      ['http://a.example.test/', 'example.test'],
      ['http://a.example.test/', '*.example.test'],
      ['http://host:8080/', 'host:8080'],
      ['https://host/', 'host:443'],
      ['http://10.1.2.3/', '10.0.0.0/8'],
      ['http://[::1]/', '::1'],
      ['http://[fd00::1]/', 'fd00::/8'],
      ['http://127.0.0.1/', '127.0.0.1'],
    ] as const) {
      expect(chosen(url, noProxy), `${url} ${noProxy}`).to.equal(undefined)
    }
    for (const [url, noProxy] of [
      ['http://myhost/', 'host'],
      ['http://host:8081/', 'host:8080'],
      ['http://11.1.2.3/', '10.0.0.0/8'],
      ['http://11.1.2.3/', '10.0.0.0/99'],
      ['http://1.127.0.0.1.test/', '127.0.0.1'],
      ['http://host/', ''],
    ] as const) {
      expect(chosen(url, noProxy), `${url} ${noProxy}`).to.equal('http://p:1')
    }
  })
})

describe('a source behind a proxy', () => {
  const content = randomContent(3 * MiB)

  it('is asked through it, except where NO_PROXY says otherwise', async () => {
    await withFakeSource(content, async (peer) => {
      await withProxy(async (proxy) => {
        const proxyEnv = {HTTP_PROXY: proxy.url, NO_PROXY: 'elsewhere'}
        const source = await openSource(peer.url, sourceOptions({proxyEnv}))
        const opened = await source.open({startByte: 5, signal})
        expect((await readBody(opened)).equals(content.subarray(5))).to.equal(true)
        expect(proxy.asked).to.eql([`GET ${peer.url}`])
        const direct = {HTTP_PROXY: proxy.url, NO_PROXY: '127.0.0.0/8'}
        const other = await openSource(peer.url, sourceOptions({proxyEnv: direct}))
        await readBody(await other.open({startByte: 0, signal}))
        expect(proxy.asked.length).to.equal(1)
      })
    })
  })

  it('is reached over TLS through a tunnel', async () => {
    await withTempDir(async (dir) => {
      const {caFile, ...tls} = makeTestCa(dir)
      await withFakeSource(
        content,
        async (peer) => {
          await withProxy(async (proxy) => {
            const options = sourceOptions({caFile, proxyEnv: {HTTPS_PROXY: proxy.url}})
            const source = await openSource(peer.url, options)
            expect(
              (await readBody(await source.open({startByte: 0, signal}))).equals(content),
            ).to.equal(true)
            expect(proxy.asked).to.eql([`CONNECT 127.0.0.1:${peer.port}`])
          })
        },
        {tls},
      )
    })
  })

  it('still refuses redirects to a private number or localhost', async () => {
    await withFakeSource(content, async (peer) => {
      await withProxy(async (proxy) => {
        const options = sourceOptions({proxyEnv: {HTTP_PROXY: proxy.url}})
        const deps = {isPrivate: (address: string) => address !== '127.0.0.1'}
        for (const location of ['http://10.0.0.1/', 'http://localhost/', 'http://a.localhost/']) {
          peer.script = [{kind: 'redirect', location}]
          const source = openHttpSource(new URL(peer.url), options, deps)
          const error = await rejection(source.open({startByte: 0, signal}))
          expect(error, location).to.have.property('code', 'redirect_refused')
        }
      })
    })
  })

  it('says source_unavailable when the proxy is not there', async () => {
    const proxyEnv = {HTTP_PROXY: 'http://127.0.0.1:9'}
    const source = await openSource('http://host.test/', sourceOptions({proxyEnv}))
    const error = await rejection(source.open({startByte: 0, signal}))
    expect(error).to.have.property('code', 'source_unavailable')
  })
})
