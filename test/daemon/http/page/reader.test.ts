import {expect} from 'chai'
import {createHash, randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {createServer, type IncomingMessage, type ServerResponse} from 'node:http'
import type {AddressInfo} from 'node:net'
import {readAll, type Reading, type Target} from '../../../../src/daemon/http/page/ui/reader.js'
import {checkManifest, makePicker} from '../../../../src/daemon/http/page/ui/reads.js'
import {sha256} from '../../../../src/daemon/http/page/ui/sha256.js'

const chunkSize = 4096
const image = randomBytes(10 * chunkSize + 512)
const etag = '"a0-1-0"'

type Tamper = (
  request: IncomingMessage,
  response: ServerResponse,
  send: (status: number, headers: Record<string, string>, body: Buffer) => void,
) => boolean

/** A server of one image in both forms; `tamper` may answer in its place. */
async function withPeer(tamper: Tamper, body: (url: string) => Promise<void>): Promise<void> {
  const server = createServer((request, response) => {
    const send = (status: number, headers: Record<string, string>, bytes: Buffer): void => {
      const common = {'cache-control': 'public, no-transform', 'content-length': bytes.length}
      response.writeHead(status, {...common, ...headers}).end(bytes)
    }
    if (tamper(request, response, send)) return
    const chunk = /chunks\/(\d+)\.bin$/.exec(request.url ?? '')?.[1]
    if (chunk !== undefined) {
      const start = Number(chunk) * chunkSize
      send(200, {}, image.subarray(start, start + chunkSize))
      return
    }
    const [, from, to] = /^bytes=(\d*)-(\d+)$/.exec(request.headers.range ?? '') ?? []
    const start = from === '' ? image.length - Number(to) : Number(from)
    const end = from === '' ? image.length - 1 : Number(to)
    const range = `bytes ${start}-${end}/${image.length}`
    send(206, {etag, 'content-range': range}, image.subarray(start, end + 1))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  } finally {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  }
}

function manifest() {
  const chunkCount = Math.ceil(image.length / chunkSize)
  const made = checkManifest({
    schema: 'aero.chunked-disk-image.v1',
    totalSize: image.length,
    chunkSize,
    chunkCount,
    chunkIndexWidth: 8,
    chunks: Array.from({length: chunkCount}, (_, index) => {
      const bytes = image.subarray(index * chunkSize, (index + 1) * chunkSize)
      return {size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex')}
    }),
  })
  if (typeof made === 'string') throw new Error(made)
  return made
}

async function read(
  url: string,
  o: {count: number; withDigests: boolean; rangeBytesMax?: number; signal?: AbortSignal},
): Promise<Reading[]> {
  const chunked = {url: `${url}/chunked/manifest.json`, manifest: manifest()}
  const target: Target = {
    url: `${url}/image`,
    size: image.length,
    etag,
    rangeBytesMax: o.rangeBytesMax ?? 1 << 20,
    ...(o.withDigests && {chunked}),
  }
  const readings: Reading[] = []
  await readAll({
    target,
    pick: makePicker({
      size: image.length,
      readBytes: 1000,
      random: Math.random,
      ...(o.withDigests && {manifest: chunked.manifest}),
    }),
    count: o.count,
    atOnce: 4,
    tools: {fetch, digest: sha256, sleep: () => Promise.resolve()},
    signal: o.signal ?? new AbortController().signal,
    onReading: (reading) => readings.push(reading),
  })
  return readings
}

const verdicts = (readings: readonly Reading[]): Record<string, number> =>
  Object.fromEntries(
    Object.entries(Object.groupBy(readings, ({verdict}) => verdict)).map(([verdict, some]) => [
      verdict,
      some.length,
    ]),
  )

describe('the reader of the page', () => {
  it('verifies every chunk, by range and by its own address', () =>
    withPeer(
      () => false,
      async (url) => {
        const readings = await read(url, {count: 22, withDigests: true})
        expect(verdicts(readings)).to.deep.equal({verified: 22})
        for (const {startMs, firstByteMs, endMs} of readings) {
          expect(firstByteMs).to.be.at.least(startMs)
          expect(endMs).to.be.at.least(firstByteMs)
        }
      },
    ))

  it('joins the parts of a chunk that is longer than a range may be', () =>
    withPeer(
      (request) => {
        const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
        expect(Number(to) - Number(from)).to.not.be.above(999)
        return false
      },
      async (url) => {
        const readings = await read(url, {count: 22, withDigests: true, rangeBytesMax: 1000})
        expect(verdicts(readings)).to.deep.equal({verified: 22})
      },
    ))

  it('finds the one chunk that was changed, and only that', () =>
    withPeer(
      (request, _response, send) => {
        if (!request.url?.endsWith('/00000003.bin')) return false
        send(200, {}, randomBytes(chunkSize))
        return true
      },
      async (url) => {
        const readings = await read(url, {count: 22, withDigests: true})
        expect(verdicts(readings)).to.deep.equal({verified: 21, wrong: 1})
        const wrong = readings.find(({verdict}) => verdict === 'wrong')
        expect(wrong?.read).to.include({chunk: 3, by: 'chunk'})
        expect(wrong?.reason).to.match(/^SHA-256 is [0-9a-f]{64}, the manifest says [0-9a-f]{64}$/)
      },
    ))

  it('tries again while the server is busy, and not for ever', () => {
    let busy = 3
    return withPeer(
      (_request, _response, send) => {
        if (busy-- <= 0) return false
        send(429, {}, Buffer.alloc(0))
        return true
      },
      async (url) => {
        const readings = await read(url, {count: 4, withDigests: false})
        expect(verdicts(readings)).to.deep.equal({read: 4})
        expect(readings.reduce((sum, {retries}) => sum + retries, 0)).to.equal(3)
        busy = Number.MAX_SAFE_INTEGER
        const [only] = await read(url, {count: 1, withDigests: false})
        expect(only).to.deep.include({verdict: 'failed', retries: 4, bytes: 0})
        expect(only?.reason).to.match(/busy/)
      },
    )
  })

  it('takes no whole image in place of a range, and hangs up on it', () => {
    let hungUp = 0
    return withPeer(
      (_request, response) => {
        response.once('close', () => (hungUp += response.writableFinished ? 0 : 1))
        response.writeHead(200, {'content-length': 2 ** 40, etag: '"other"'})
        response.write('x'.repeat(1000))
        return true
      },
      async (url) => {
        const readings = await read(url, {count: 3, withDigests: false})
        expect(verdicts(readings)).to.deep.equal({failed: 3})
        expect(readings[0]?.reason).to.equal('the image has changed')
        while (hungUp < 3) await new Promise((resolve) => setTimeout(resolve, 5))
      },
    )
  })

  it('names an answer that ends too soon', () =>
    withPeer(
      (_request, response) => {
        response.writeHead(206, {
          etag,
          'content-range': `bytes 0-999/${image.length}`,
          'content-length': 1000,
          'cache-control': 'no-transform',
        })
        response.write('x'.repeat(10), () => response.destroy())
        return true
      },
      async (url) => {
        const [only] = await read(url, {count: 1, withDigests: false})
        expect(only).to.deep.include({verdict: 'failed', retries: 4})
        expect(only?.reason).to.match(/^the connection failed/)
      },
    ))

  it('stops when told, whatever is under way', async () => {
    const abort = new AbortController()
    await withPeer(
      () => {
        // The first answer never comes.
        setImmediate(() => abort.abort())
        return true
      },
      async (url) => {
        const readings = await read(url, {count: 100, withDigests: false, signal: abort.signal})
        expect(readings).to.deep.equal([])
      },
    )
  })
})
