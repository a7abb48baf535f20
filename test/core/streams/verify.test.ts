import {createServer, type IncomingMessage, type ServerResponse} from 'node:http'
import {once} from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import type {AddressInfo} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {
  diskSettings,
  makeDisk,
  publish,
  randomBytesOf,
  readManifest,
  sha256,
  verify,
} from '../../support/disk-images.ts'
import {rejection} from '../../support/source-options.ts'

type Answer = (request: IncomingMessage, response: ServerResponse, path: string) => boolean

/** Serves a directory as the format wants it served; `odd` answers first, and says whether it did. */
class ChunkServer {
  readonly requests: {method: string; url: string; headers: IncomingMessage['headers']}[] = []
  connections = 0
  odd: Answer = () => false
  readonly #dir: string
  readonly #server = createServer((request, response) => this.#answer(request, response))

  constructor(dir: string) {
    this.#dir = dir
    this.#server.on('connection', () => this.connections++)
  }

  async start(): Promise<string> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    this.#server.close()
    this.#server.closeAllConnections()
    await once(this.#server, 'close')
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const {method = '', url = '', headers} = request
    this.requests.push({method, url, headers})
    const path = join(this.#dir, new URL(url, 'http://x').pathname)
    if (this.odd(request, response, path)) return
    if (!existsSync(path)) {
      response.writeHead(404).end()
      return
    }
    const bytes = readFileSync(path)
    const head = {'cache-control': 'public, no-transform', 'content-length': bytes.length}
    response.writeHead(200, head).end(method === 'HEAD' ? undefined : bytes)
  }
}

describe('verifying a chunked disk image', () => {
  let dir = ''
  let place = ''
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    makeDisk(join(dir, 'd.img'), 10_240, [{at: 0, bytes: randomBytesOf(5000)}])
  })
  beforeEach(async () => {
    rmSync(join(dir, 'images'), {recursive: true, force: true})
    place = (await publish(join(dir, 'd.img'), join(dir, 'images'), {version: 'r1'})).place
  })
  after(() => rmSync(dir, {recursive: true}))
  const chunk = (index: number): string => join(place, 'chunks', `0000000${index}.bin`)
  const said = async (
    options: Parameters<typeof verify>[1] = {},
    where = place,
  ): Promise<string[]> => {
    const report = await verify(where, options)
    expect(report.problemCount).to.equal(report.problems.length)
    return report.problems.map((problem) => `${problem.where}: ${problem.reason}`)
  }

  it('finds nothing wrong with a good one, by its directory and by its manifest', async () => {
    expect(await verify(place)).to.deep.include({
      imageId: 'd.img',
      version: 'r1',
      checkedChunks: 3,
      problems: [],
    })
    expect(await said({}, join(place, 'manifest.json'))).to.deep.equal([])
    expect(await verify(place, {readsData: false})).to.include({readBytes: 0, problemCount: 0})
  })

  it('names everything that is wrong at once', async () => {
    writeFileSync(chunk(0), Buffer.alloc(4096, 1))
    rmSync(chunk(1))
    writeFileSync(chunk(2), Buffer.alloc(4096))
    writeFileSync(join(place, 'chunks', '3.bin'), '')
    writeFileSync(join(place, 'chunks', '00000003.bin'), '')
    const sizes = [
      'chunks/00000001.bin: it is missing',
      'chunks/00000002.bin: it has 4096 bytes, expected 2048',
    ]
    const extra = ['00000003.bin', '3.bin'].map(
      (name) => `chunks/${name}: the manifest does not have it`,
    )
    expect((await said({readsData: false})).toSorted()).to.deep.equal([...sizes, ...extra])
    const all = await said()
    expect(all).to.have.length(5)
    expect(all[0]).to.match(
      /^chunks\/00000000\.bin: its content has digest sha256:[0-9a-f]{64}, expected sha256:[0-9a-f]{64}$/,
    )
  })

  it('does not take a directory for a chunk, and follows links as the server does', async () => {
    rmSync(chunk(0))
    mkdirSync(chunk(0))
    rmSync(chunk(1))
    symlinkSync('00000002.bin', chunk(1))
    expect(await said({readsData: false})).to.deep.equal([
      'chunks/00000000.bin: it is not a regular file',
      'chunks/00000001.bin: it has 2048 bytes, expected 4096',
    ])
  })

  it('says which rule a manifest breaks, and that there is none', async () => {
    const manifest = readManifest(place)
    for (const [changes, reason] of [
      [{schema: 'x'}, 'schema is "x"'],
      [{imageId: ' '}, 'imageId is blank'],
      [{chunkCount: 4}, 'chunkCount is 4'],
      [{chunks: []}, 'chunks has 0 elements'],
    ] as const) {
      writeFileSync(join(place, 'manifest.json'), JSON.stringify({...manifest, ...changes}))
      expect((await said())[0]).to.contain(`manifest.json: ${reason}`)
    }
    rmSync(join(place, 'manifest.json'))
    expect(await rejection(verify(place))).to.include({code: 'disk_not_found', exit: 10})
    expect(await rejection(verify(join(dir, 'none')))).to.include({code: 'disk_not_found'})
  })

  it('says how many chunks have no digest', async () => {
    const {chunks, ...manifest} = readManifest(place)
    expect(chunks).to.have.length(3)
    writeFileSync(join(place, 'manifest.json'), JSON.stringify(manifest))
    expect(await verify(place)).to.include({problemCount: 0, undigestedChunks: 3})
  })

  it('counts more problems than it names', async () => {
    makeDisk(join(dir, 'many.img'), 512 * 150)
    const many = await publish(join(dir, 'many.img'), join(dir, 'images'), {chunkSize: 512})
    rmSync(join(many.place, 'chunks'), {recursive: true})
    const report = await verify(many.place)
    expect(report.problemCount).to.equal(150)
    expect(report.problems).to.have.length(100)
  })

  describe('over HTTP', () => {
    let server: ChunkServer
    let url = ''
    beforeEach(async () => {
      server = new ChunkServer(place)
      url = await server.start()
    })
    afterEach(() => server.close())
    const chunkUrl = '/chunks/00000001.bin'

    it('asks as a browser does, by HEAD alone or for every byte, over few connections', async () => {
      expect(await said({readsData: false}, url)).to.deep.equal([])
      expect(server.requests.map(({method}) => method).toSorted()).to.deep.equal([
        'GET',
        'HEAD',
        'HEAD',
        'HEAD',
      ])
      expect(server.requests[1]?.headers['accept-encoding']).to.contain('gzip')
      const report = await verify(`${url}/manifest.json?cap=abc`)
      expect(report).to.include({problemCount: 0, checkedChunks: 3, readBytes: 10_240})
      expect(report.place).to.not.contain('secret')
      expect(server.requests.at(-1)?.url).to.match(/^\/chunks\/.*\?cap=abc$/)
      expect(server.connections).to.be.at.most(8)
    })

    it('names answers that clients refuse', async () => {
      server.odd = (request, response, path) => {
        if (request.url?.endsWith(chunkUrl) !== true) return false
        const bytes = readFileSync(path)
        response.writeHead(200, {
          'content-encoding': 'gzip',
          'cache-control': 'public',
          'content-length': bytes.length,
        })
        response.end(request.method === 'HEAD' ? undefined : bytes)
        return true
      }
      expect(await said({readsData: false}, url)).to.deep.equal([
        'chunks/00000001.bin: it is sent with Content-Encoding gzip',
        'chunks/00000001.bin: its Cache-Control lacks no-transform',
      ])
    })

    it('finds chunks that are missing, of another length, and of other bytes', async () => {
      rmSync(chunk(0))
      writeFileSync(chunk(1), Buffer.alloc(5000))
      writeFileSync(chunk(2), Buffer.alloc(2048, 1))
      const all = await said({}, url)
      expect(all.slice(0, 2)).to.deep.equal([
        'chunks/00000000.bin: it is missing',
        'chunks/00000001.bin: it has 5000 bytes, expected 4096',
      ])
      expect(all[2]).to.contain(`digest sha256:${sha256(Buffer.alloc(2048, 1))}`)
    })

    it('does without HEAD and without lengths: by one byte, then by all of them', async () => {
      server.odd = (request, response, path) => {
        if (request.method === 'HEAD') response.writeHead(405).end()
        else if (request.url === chunkUrl && request.headers.range === 'bytes=0-0') {
          const head = {'content-range': 'bytes 0-0/4096', 'cache-control': 'no-transform'}
          response.writeHead(206, head).end('x')
        } else if (request.url?.startsWith('/chunks/') === true) {
          response.writeHead(200, {'cache-control': 'no-transform'})
          response.write(readFileSync(path).subarray(0, 10))
          response.end(readFileSync(path).subarray(10))
        } else return false
        return true
      }
      expect(await said({readsData: false}, url)).to.deep.equal([])
      writeFileSync(chunk(0), Buffer.alloc(4097))
      expect(await said({readsData: false}, url)).to.deep.equal([
        'chunks/00000000.bin: it has 4097 bytes, expected 4096',
      ])
    })

    it('tries again what may pass, and gives up with exit 13 on what does not', async () => {
      let refusals = 2
      server.odd = (request, response) => {
        if (request.url !== chunkUrl || refusals-- <= 0) return false
        if (refusals === 1) response.writeHead(503).end()
        else response.destroy()
        return true
      }
      expect(await said({}, url)).to.deep.equal([])
      refusals = 1000
      expect(await rejection(verify(url))).to.include({code: 'source_unavailable', exit: 13})
      server.odd = (request, response) => {
        if (request.url !== chunkUrl) return false
        response.writeHead(401).end()
        return true
      }
      expect(await rejection(verify(url))).to.include({code: 'source_refused', exit: 13})
    })

    it('says that there is no manifest, and does not read one without end', async () => {
      expect(await rejection(verify(`${url}/nothing`))).to.include({
        code: 'disk_not_found',
        exit: 10,
      })
      server.odd = (_request, response) => {
        response.writeHead(200, {'cache-control': 'no-transform'})
        const piece = Buffer.alloc(2 ** 20, 32)
        const more = (): void => {
          while (!response.destroyed && response.write(piece));
          response.once('drain', more)
        }
        more()
        return true
      }
      expect(await said({}, url)).to.deep.equal([
        'manifest.json: the manifest is longer than 67108864 bytes',
      ])
    })

    it('says that nobody is there', async () => {
      await server.close()
      const error = await rejection(verify(url, {settings: diskSettings({})}))
      expect(error).to.include({code: 'source_unavailable', exit: 13})
      server = new ChunkServer(place)
      await server.start()
    })
  })
})
