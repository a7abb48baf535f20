import {expect} from 'chai'
import {randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {mkdirSync, readFileSync, statSync} from 'node:fs'
import {createServer, type Server} from 'node:http'
import type {AddressInfo} from 'node:net'
import {join} from 'node:path'
import type {Page} from 'playwright-core'
import {useBrowser} from '../support/browser.ts'
import {makeSparseImage, readBytes, writeChunked} from '../support/page-images.ts'
import {Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe, type Serving} from '../support/serve-process.ts'

const size = 20e9
const GiB4 = 2 ** 32
const noiseAt = [0, 7_777_777, GiB4 - 30_000, 12_345_678_901, size - 40_000]
const client = readFileSync('test/support/streaming-client.js')

type Answer = {status: number; range: string; cache: string; bytes: string}

describe('a page of another origin, isolated by COEP require-corp', () => {
  requires('program:chromium')
  const open = useBrowser()
  const chunkSize = 512 * 1024
  const disk = randomBytes(7 * chunkSize + 512 * 3)
  let scene: Scene
  let images: string
  let foreign: Server
  let origin: string
  let serving: Serving

  before('serves images, and a page elsewhere', async () => {
    scene = new Scene()
    images = join(scene.dir, 'images')
    mkdirSync(images)
    makeSparseImage(join(images, 'large.img'), size, noiseAt)
    writeChunked(images, {id: 'disk', version: '', image: disk, chunkSize})
    writeChunked(images, {id: 'disk', version: 'r2', image: disk, chunkSize})
    foreign = createServer((request, response) => {
      const isClient = request.url === '/client.js'
      response.writeHead(200, {
        'content-type': isClient ? 'text/javascript' : 'text/html',
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-embedder-policy': 'require-corp',
      })
      const page = `<!doctype html><link rel="icon" href="data:,"><script type="module">
        import * as client from './client.js'; Object.assign(window, client, {isReady: true})
      </script>`
      response.end(isClient ? client : page)
    }).listen(0, '127.0.0.1')
    await once(foreign, 'listening')
    // By another name than the server's it is another site too, not only another origin.
    origin = `http://localhost:${(foreign.address() as AddressInfo).port}`
    const args = ['--images-root', images, '--cross-origin-resource-policy', 'cross-origin']
    serving = await startServe(scene, args)
  })
  after('stops both', async () => {
    foreign.closeAllConnections()
    foreign.close()
    await once(foreign, 'close')
    serving.running.kill('SIGTERM')
    await serving.running.exited
    scene.close()
  })

  async function visit(): Promise<Page> {
    const page = await (await open()).newPage()
    await page.goto(origin)
    await page.waitForFunction('window.isReady')
    return page
  }

  const call = (page: Page, name: string, ...args: unknown[]): Promise<unknown> =>
    page.evaluate(`${name}(...${JSON.stringify(args)})`)

  it('learns all that a client needs before it reads', async () => {
    const page = await visit()
    const url = `${serving.url}/v1/images/large.img`
    const {etag, ...rest} = (await call(page, 'probe', url)) as Record<string, unknown>
    expect(rest).to.deep.equal({
      isolated: true,
      head: [200, String(size), 'bytes'],
      one: [206, `bytes 0-0/${size}`, 1],
      missing: [],
    })
    expect(etag).to.match(/^"4a817c800-[0-9a-f]+-[0-9a-f]+"$/)
  })

  it('streams 20 GB by ranges, byte for byte: ends, past 4 GiB, suffixes, and places by chance', async () => {
    const page = await visit()
    const file = join(images, 'large.img')
    expect(statSync(file).size).to.equal(size)
    const url = `${serving.url}/v1/images/large.img`
    const {etag} = (await call(page, 'probe', url)) as {etag: string}

    const ranges = new Map<string, [number, number]>([
      ['bytes=0-511', [0, 511]],
      ['bytes=-512', [size - 512, size - 1]],
      ['bytes=-100000', [size - 100_000, size - 1]],
      [`bytes=${size - 1}-`, [size - 1, size - 1]],
      [`bytes=${size - 10}-${size + 1000}`, [size - 10, size - 1]],
      [`bytes=${GiB4 - 1}-${GiB4}`, [GiB4 - 1, GiB4]],
      [`bytes=${GiB4 - 65_536}-${GiB4 + 65_535}`, [GiB4 - 65_536, GiB4 + 65_535]],
    ])
    for (let i = 0; i < 40; i++) {
      // Half of them where the noise is, so that they are not all zeros.
      const near = noiseAt[i % noiseAt.length]!
      const from =
        i % 2 === 0
          ? near - 50_000 + Math.floor(Math.random() * 100_000)
          : Math.floor(Math.random() * size)
      const start = Math.max(0, Math.min(from, size - 1))
      const end = Math.min(size - 1, start + Math.floor(Math.random() * 200_000))
      ranges.set(`bytes=${start}-${end}`, [start, end])
    }
    let noisy = 0
    for (const [range, [start, end]] of ranges) {
      const answer = (await call(page, 'readRange', url, range, etag)) as Answer
      expect(answer.status, range).to.equal(206)
      expect(answer.range).to.equal(`bytes ${start}-${end}/${size}`)
      expect(answer.cache).to.include('no-transform')
      const expected = readBytes(file, start, end)
      expect(Buffer.from(answer.bytes, 'base64').equals(expected), range).to.equal(true)
      if (expected.some((byte) => byte !== 0)) noisy++
    }
    expect(noisy).to.be.above(10)
  })

  for (const version of ['', 'r2/'])
    it(`streams the chunked form ${version === '' ? 'without a version' : 'of a version'}, byte for byte`, async () => {
      const page = await visit()
      const base = `${serving.url}/v1/images/disk/chunked/${version}`
      for (const name of ['manifest.json', 'manifest']) {
        const chunks = (await call(page, 'readChunked', `${base}${name}`)) as string[]
        const whole = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk, 'base64')))
        expect(chunks).to.have.length(8)
        expect(whole.equals(disk)).to.equal(true)
      }
    })

  it('may embed images without CORS only as far as the resource policy says', async () => {
    const page = await visit()
    expect(await call(page, 'canEmbed', `${serving.url}/v1/images/large.img`)).to.equal(true)
    const usual = await startServe(scene, ['--images-root', images])
    expect(await call(page, 'canEmbed', `${usual.url}/v1/images/large.img`)).to.equal(false)
    // By CORS it may read them all the same.
    const answer = await call(page, 'readRange', `${usual.url}/v1/images/large.img`, 'bytes=0-9')
    expect(answer).to.include({status: 206})
  })

  it('may read with credentials where it is on the list, and not where another is', async () => {
    const page = await visit()
    const read = async (allowed: string) => {
      const {url} = await startServe(scene, ['--images-root', images, '--cors-origin', allowed])
      return await call(page, 'canReadWithCredentials', `${url}/v1/images/large.img`)
    }
    expect(await read(origin)).to.equal(206)
    expect(await read('https://elsewhere.example')).to.equal('refused')
  })

  it('sees errors as what they are, not as a broken network', async () => {
    const page = await visit()
    const read = async (path: string, range = 'bytes=0-9') =>
      ((await call(page, 'readRange', `${serving.url}${path}`, range)) as Answer).status
    expect(await read('/v1/images/none')).to.equal(404)
    expect(await read('/v1/images/none/meta')).to.equal(404)
    expect(await read('/v1/images/large.img', `bytes=${size}-`)).to.equal(416)
    expect(await read('/v1/images/large.img', 'bytes=0-8388608')).to.equal(413)
    expect(await read('/v1/images/disk/chunked/chunks/00000099.bin')).to.equal(404)
  })
})
