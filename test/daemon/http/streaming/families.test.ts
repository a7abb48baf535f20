/** Routes, methods, CORS, metadata, chunks and health: what does not depend on how bodies are sent. */
import {createHash} from 'node:crypto'
import {rmSync, symlinkSync, unlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import type {Digest} from '../../../../src/core/digest.ts'
import type {StoreDisk} from '../../../../src/core/stream.ts'
import {
  parseAnswers,
  withStreaming,
  type Answer,
  type StreamingScene,
} from '../../../support/streaming-server.ts'
import {withTempDir} from '../../../support/temp-dir.ts'

const longList =
  'ETag, Last-Modified, Cache-Control, Content-Range, Accept-Ranges, Content-Length, Content-Encoding'
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

function names(answer: Answer): string[] {
  return answer.headers
    .map(([name]) => name.toLowerCase())
    .filter((name) => name !== 'connection')
    .sort()
}

function chunked(scene: StreamingScene): void {
  const {put} = scene
  put('chunked/a/manifest.json', '{"not": "checked"', 1_700_000_000)
  put('chunked/a/chunks/00000000.bin', 'first', 1_700_000_000)
  put('chunked/a/chunks/0.bin', 'unpadded')
  put('chunked/a/v1/manifest.json', '{}')
  put('chunked/a/v1/chunks/00000000.bin', 'versioned')
  put('chunked/a/chunks/chunks/7.bin', 'of the version "chunks"')
}

describe('routes of the streaming surface', () => {
  const unmatched = [
    '/',
    '/v1',
    '/v1/',
    '/v1/images/',
    '/v1/images//',
    '/v1/images/a/',
    '/v1/images/a/datas',
    '/v1/images/a/Meta',
    '/V1/images',
    '/v1//images',
    '/v1%2fimages',
    '/v1/images/a/../a',
    '/v1/images/a/chunked',
    '/v1/images/a/chunked/',
    '/v1/images/a/chunked/v1/',
    '/v1/images/a/chunked//manifest',
    '/v1/images/a/chunked/v1/chunks/0.bin/x',
    '/v1/images/a/lease',
    '/metrics/',
    '/healthz/',
  ]
  for (const path of unmatched) {
    it(`are matched exactly: nothing is at ${path}`, async () => {
      await withStreaming({}, async ({put, ask, log}) => {
        put('a', 'x')
        const lines = log.length
        for (const method of ['GET', 'OPTIONS', 'BREW']) {
          const answer = await ask(method, path)
          expect(answer.status).to.equal(404)
          expect(names(answer)).to.deep.equal(['content-length', 'date'])
          expect(answer.body).to.have.length(0)
        }
        expect(log.slice(lines).filter(({span}) => span)).to.deep.equal([])
      })
    })
  }

  it('ignore the query, take absolute targets and requests without a host', async () => {
    await withStreaming({}, async ({put, get, raw}) => {
      put('a', 'x')
      for (const path of [
        '/healthz',
        '/v1/images',
        '/v1/images/a',
        '/v1/images/a/meta',
        '/version',
      ])
        expect((await get(`${path}?x=y&z=/../?`)).status, path).to.equal(200)
      expect((await get('http://elsewhere/v1/images/a')).body.toString()).to.equal('x')
      const bare = await raw('GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n')
      expect(parseAnswers(bare, ['GET'])[0]?.status).to.equal(200)
    })
  })

  const wrong: [path: string, allow: string][] = [
    ['/health', 'GET,HEAD'],
    ['/readyz', 'GET,HEAD'],
    ['/version', 'GET,HEAD'],
    ['/metrics', 'GET,HEAD'],
    ['/v1/images', 'GET,HEAD,OPTIONS'],
    ['/v1/images/a/meta', 'GET,HEAD,OPTIONS'],
    ['/v1/images/a', 'GET,HEAD,OPTIONS'],
    ['/v1/images/a/chunked/manifest', 'GET,HEAD,OPTIONS'],
    ['/v1/images/a/chunked/v/chunks/0.bin', 'GET,HEAD,OPTIONS'],
  ]
  for (const [path, allow] of wrong) {
    it(`refuse other methods at ${path}, known to HTTP or not`, async () => {
      await withStreaming({}, async ({ask, log, metrics}) => {
        const methods = ['POST', 'PUT', 'DELETE', 'TRACE', 'PROPFIND', 'BREW', 'X'.repeat(40)]
        if (allow === 'GET,HEAD') methods.push('OPTIONS')
        for (const method of methods) {
          const answer = await ask(method, path)
          expect(answer.status, method).to.equal(405)
          expect(answer.header('Allow')).to.equal(allow)
          expect(answer.header('Content-Length')).to.equal('0')
          expect(answer.header('X-Request-Id')).to.match(uuid)
          expect(answer.body).to.have.length(0)
        }
        const logged = log.filter(({span}) => span?.['path'] === path)
        expect(logged).to.have.length(methods.length)
        const series = (await metrics())
          .split('\n')
          .filter((line) => line.startsWith('http_requests_total') && line.includes('"405"'))
        expect(series.every((line) => /method="(\w{1,7}|OTHER)"/.test(line))).to.equal(true)
        expect(series.join()).to.not.contain('BREW')
      })
    })
  }

  it('answer CONNECT and what is no HTTP, and close', async () => {
    await withStreaming({}, async ({raw}) => {
      const connect = await raw('CONNECT example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n')
      expect(connect.toString()).to.match(/^HTTP\/1\.1 404 /)
      for (const garbage of [
        'garbage\r\n\r\n',
        '\x16\x03\x01\x02\x00\x01',
        'GET  HTTP/1.1\r\n\r\n',
      ])
        expect((await raw(garbage)).toString()).to.match(/^HTTP\/1\.1 400 .*Content-Length: 0/s)
      const http2 = await raw('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
      expect(http2.toString()).to.match(/^HTTP\/1\.1 (400|404|405|505) /)
    })
  })

  it('bound the head of a request: 100 headers, 80 KiB, 65,534 bytes of target', async () => {
    await withStreaming({}, async ({get, raw}) => {
      const many = (count: number): Record<string, string> =>
        Object.fromEntries(Array.from({length: count}, (_, i) => [`x-${i}`, 'y']))
      // With Host.
      expect((await get('/healthz', many(99))).status).to.equal(200)
      expect((await get('/healthz', many(100))).status).to.equal(431)
      expect((await get('/healthz', many(5000))).status).to.equal(431)
      expect((await get('/healthz', {x: 'y'.repeat(60_000)})).status).to.equal(200)
      expect((await get('/healthz', {x: 'y'.repeat(200_000)})).status).to.equal(431)
      expect((await get(`/healthz?${'x'.repeat(65_000)}`)).status).to.equal(200)
      expect((await get(`/healthz?${'x'.repeat(70_000)}`)).status).to.equal(414)
      const both =
        'GET /healthz HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n'
      expect((await raw(both)).toString()).to.match(/^HTTP\/1\.1 400 /)
    })
  })

  it('ignore the body of a request', async () => {
    await withStreaming({}, async ({open}) => {
      const socket = await open()
      const parts: Buffer[] = []
      socket.on('data', (part: Buffer) => parts.push(part))
      const closed = new Promise((resolve) => socket.once('close', resolve))
      socket.write('GET /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello')
      socket.write('GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n')
      await closed
      const answers = parseAnswers(Buffer.concat(parts), ['GET', 'GET'])
      expect(answers.map(({status}) => status)).to.deep.equal([200, 200])
    })
  })

  it('echo the id of a request, or make one', async () => {
    await withStreaming({}, async ({get, log}) => {
      const idOf = async (given: string): Promise<string | undefined> =>
        (await get('/healthz', {'X-Request-Id': given})).header('X-Request-Id')
      expect(await idOf('abc-1')).to.equal('abc-1')
      expect(await idOf(`  ${'x'.repeat(128)} `)).to.equal('x'.repeat(128))
      for (const bad of ['', 'x'.repeat(129), 'a b', 'a\xe9'])
        expect(await idOf(bad), bad).to.match(uuid)
      expect(log.some(({span}) => span?.['request_id'] === 'abc-1')).to.equal(true)
    })
  })
})

describe('CORS of the streaming surface', () => {
  it('lets every page read, without credentials, by default', async () => {
    await withStreaming({}, async ({put, get, ask}) => {
      put('a', 'x')
      for (const path of [
        '/healthz',
        '/metrics',
        '/v1/images',
        '/v1/images/a',
        '/v1/images/a/meta',
      ]) {
        const answer = await get(path, {Origin: 'https://any'})
        expect(answer.header('Access-Control-Allow-Origin'), path).to.equal('*')
        expect(answer.header('Access-Control-Allow-Credentials')).to.equal(undefined)
        expect(answer.header('Vary')).to.equal(undefined)
      }
      const preflight = await ask('OPTIONS', '/v1/images/nothing%2f')
      expect(preflight.status).to.equal(204)
      expect(names(preflight)).to.deep.equal([
        'access-control-allow-headers',
        'access-control-allow-methods',
        'access-control-allow-origin',
        'access-control-max-age',
        'cross-origin-resource-policy',
        'date',
        'vary',
        'x-request-id',
      ])
      expect(preflight.header('Access-Control-Allow-Methods')).to.equal('GET, HEAD, OPTIONS')
      expect(preflight.header('Access-Control-Allow-Headers')).to.equal(
        'Range, If-Range, If-None-Match, If-Modified-Since, Authorization, Content-Type',
      )
      expect(preflight.header('Access-Control-Max-Age')).to.equal('86400')
      expect(preflight.header('Vary')).to.equal(
        'Access-Control-Request-Method, Access-Control-Request-Headers',
      )
      const metadata = await ask('OPTIONS', '/v1/images')
      expect(metadata.header('Cross-Origin-Resource-Policy')).to.equal(undefined)
      expect((await ask('OPTIONS', `/v1/images/${'x'.repeat(385)}`)).status).to.equal(404)
      expect((await ask('OPTIONS', `/v1/images/${'x'.repeat(385)}/meta`)).status).to.equal(400)
    })
  })

  it('echoes an allowed origin byte for byte, and names it in Vary in any case', async () => {
    const flags = {
      corsOrigins: ['https://App.example/', 'https://b'],
      corsPreflightMaxAgeSecs: 0,
      resourcePolicy: 'cross-origin',
    }
    await withStreaming(flags, async ({put, get, ask}) => {
      put('a', 'x')
      const paths = ['/healthz', '/metrics', '/v1/images', '/v1/images/a', '/v1/images/none']
      for (const path of paths) {
        const hit = await get(path, {Origin: 'https://app.EXAMPLE//'})
        expect(hit.header('Access-Control-Allow-Origin'), path).to.equal('https://app.EXAMPLE//')
        expect(hit.header('Access-Control-Allow-Credentials')).to.equal('true')
        expect(hit.header('Vary')).to.equal('Origin')
        for (const headers of [{}, {Origin: 'https://evil'}]) {
          const miss = await get(path, headers)
          expect(miss.status).to.equal(hit.status)
          expect(miss.headers.filter(([name]) => /^access-control/i.test(name))).to.deep.equal([])
          expect(miss.header('Vary')).to.equal('Origin')
        }
      }
      const bytes = await get('/v1/images/a', {Origin: 'https://b'})
      expect(bytes.header('Access-Control-Expose-Headers')).to.equal(longList)
      expect(bytes.header('Cross-Origin-Resource-Policy')).to.equal('cross-origin')
      const meta = await get('/v1/images', {Origin: 'https://b'})
      expect(meta.header('Access-Control-Expose-Headers')).to.equal(
        'ETag, Last-Modified, Cache-Control',
      )
      const allowed = await ask('OPTIONS', '/v1/images/a', {Origin: 'https://b'})
      expect(allowed.header('Access-Control-Allow-Origin')).to.equal('https://b')
      expect(allowed.header('Access-Control-Max-Age')).to.equal('0')
      const refused = await ask('OPTIONS', '/v1/images/a', {Origin: 'https://evil'})
      expect(refused.status).to.equal(204)
      expect(refused.headers.filter(([name]) => /^access-control/i.test(name))).to.deep.equal([])
      expect(refused.header('Vary')).to.equal(
        'Origin, Access-Control-Request-Method, Access-Control-Request-Headers',
      )
    })
  })
})

describe('metadata of images', () => {
  const catalog = {
    images: [
      {
        id: 'one',
        file: 'files/one.img',
        name: 'One',
        description: 'first',
        etag: 'W/"r1"',
        last_modified: '2026-01-10T00:00:00.5Z',
        recommended_chunk_size_bytes: 1_048_576,
        content_type: 'text/html',
      },
      {id: 'two', file: 'two', name: '', public: false},
    ],
  }
  function fill({put}: StreamingScene): void {
    put('files/one.img', '12345')
    put('two', '', 1_700_000_000)
    put('manifest.json', JSON.stringify(catalog))
  }

  it('lists the catalog, in its order and with the fields that readers know', async () => {
    await withStreaming({}, async (scene) => {
      fill(scene)
      const answer = await scene.get('/v1/images')
      expect(answer.status).to.equal(200)
      expect(answer.body.toString()).to.equal(
        JSON.stringify([
          {
            id: 'one',
            name: 'One',
            description: 'first',
            size_bytes: 5,
            etag: 'W/"r1"',
            last_modified: '2026-01-10T00:00:00.5Z',
            content_type: 'application/octet-stream',
            recommended_chunk_size_bytes: 1_048_576,
            public: true,
          },
          {
            id: 'two',
            name: '',
            size_bytes: 0,
            etag: '"0-6553f100-0"',
            last_modified: '2023-11-14T22:13:20Z',
            content_type: 'application/octet-stream',
            public: false,
          },
        ]),
      )
      expect(names(answer)).to.deep.equal([
        'access-control-allow-origin',
        'access-control-expose-headers',
        'cache-control',
        'content-length',
        'content-type',
        'date',
        'etag',
        'x-request-id',
      ])
      expect(answer.header('Cache-Control')).to.equal('no-cache')
      expect(answer.header('ETag')).to.match(/^"images-[0-9a-f]{32}"$/)
      const head = await scene.head('/v1/images')
      expect(head.header('Content-Length')).to.equal(String(answer.body.length))
      const etag = answer.header('ETag') ?? ''
      const known = await scene.get('/v1/images', {'If-None-Match': `"x", W/${etag}`})
      expect(known.status).to.equal(304)
      expect(known.header('ETag')).to.equal(etag)
      const dated = {'If-Modified-Since': 'Tue, 14 Nov 2030 22:13:20 GMT'}
      expect((await scene.get('/v1/images', dated)).status).to.equal(200)
      expect((await scene.get('/v1/images', {'If-Match': '"x"'})).status).to.equal(412)
    })
  })

  it('describes one image, with its conditions', async () => {
    await withStreaming({}, async (scene) => {
      fill(scene)
      const {get, head} = scene
      const answer = await get('/v1/images/two/meta')
      expect(JSON.parse(answer.body.toString())).to.include({id: 'two', public: false})
      expect(answer.header('ETag')).to.equal('"0-6553f100-0"')
      expect(answer.header('Last-Modified')).to.equal('Tue, 14 Nov 2023 22:13:20 GMT')
      expect(answer.header('Cross-Origin-Resource-Policy')).to.equal(undefined)
      const path = '/v1/images/two/meta'
      expect((await get(path, {'If-None-Match': '"0-6553f100-0"'})).status).to.equal(304)
      const since = {'If-Modified-Since': 'Tue, 14 Nov 2023 22:13:20 GMT'}
      expect((await get(path, since)).status).to.equal(304)
      const headed = await head(path)
      expect(headed.header('Content-Length')).to.equal(String(answer.body.length))
    })
  })

  it('answers errors that pages on other origins can read, without paths of this host', async () => {
    await withStreaming({requireManifest: true}, async (scene) => {
      for (const path of ['/v1/images', '/v1/images/one/meta']) {
        const answer = await scene.get(path)
        expect(answer.status).to.equal(500)
        expect(answer.body.toString())
          .to.match(/^manifest error/)
          .and.not.to.contain(scene.dir)
        expect(answer.header('Access-Control-Allow-Origin')).to.equal('*')
        expect(answer.header('Cache-Control')).to.equal('no-store')
      }
      fill(scene)
      const none = await scene.get('/v1/images/three/meta')
      expect([none.status, none.body.toString()]).to.deep.equal([404, 'image not found'])
      expect(none.header('Content-Type')).to.equal('text/plain; charset=utf-8')
      expect(none.header('Access-Control-Expose-Headers')).to.contain('ETag')
      for (const id of ['a%20b', 'x'.repeat(129), '%2e%2e', '%22%0a%e2%80%ae']) {
        const bad = await scene.get(`/v1/images/${id}/meta`)
        expect(bad.status).to.equal(400)
        expect(bad.body.toString()).to.match(
          /^bad request: invalid image id: "[\x20-\x7e]{1,200}"$/,
        )
      }
      const long = await scene.get(`/v1/images/${'x'.repeat(10_000)}/meta`)
      expect([long.status, long.body.length]).to.deep.equal([400, 0])
      expect(long.header('Cache-Control')).to.equal('no-cache')
    })
  })

  it('leaves out one bad entry or missing file, names it in the log, and serves the rest', async () => {
    await withStreaming({}, async (scene) => {
      fill(scene)
      const {get, put, images, log, metrics} = scene
      const ids = async (): Promise<string[]> =>
        (JSON.parse((await get('/v1/images')).body.toString()) as {id: string}[]).map(({id}) => id)
      expect(await ids()).to.deep.equal(['one', 'two'])
      unlinkSync(join(images, 'two'))
      expect(await ids()).to.deep.equal(['one'])
      expect((await get('/readyz')).status).to.equal(200)
      expect(await metrics()).to.match(/^imgstore_serve_catalog_problems 1$/m)
      expect(log.some(({fields}) => fields['image_id'] === 'two')).to.equal(true)
      const more = {...catalog, images: [...catalog.images, {id: 'bad', file: '../x', name: 'x'}]}
      put('manifest.json', JSON.stringify(more))
      put('two', 'back')
      expect(await ids()).to.deep.equal(['one', 'two'])
      expect((await get('/readyz')).status).to.equal(503)
      put('manifest.json', 'nonsense')
      expect((await get('/readyz')).body.toString()).to.equal('{"status":"error"}')
      expect((await get('/healthz')).status).to.equal(200)
      expect(await metrics()).to.match(/^imgstore_serve_catalog_problems -1$/m)
    })
  })
})

describe('disk images of the store', () => {
  it('are served beside the directory, with the digest of the whole where it is wanted', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'disk.raw')
      writeFileSync(path, '0123456789')
      const sha256 = createHash('sha256').update('0123456789').digest('hex')
      const disk: StoreDisk = {
        id: 'disk',
        name: 'Disk',
        isPublic: true,
        path,
        size: 10,
        sha256: sha256 as Digest,
      }
      const serve = async ({get, head, put}: StreamingScene): Promise<void> => {
        const digest = `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`
        const wanted = {'Want-Repr-Digest': 'sha-512=3, sha-256=10'}
        for (const answer of [
          await get('/v1/images/disk', wanted),
          await get('/v1/images/disk', {...wanted, Range: 'bytes=2-3'}),
          await head('/v1/images/disk', wanted),
        ]) {
          expect(answer.header('Repr-Digest')).to.equal(digest)
          expect(answer.header('ETag')).to.equal(`"sha256-${sha256}"`)
        }
        expect((await get('/v1/images/disk')).header('Repr-Digest')).to.equal(undefined)
        put('disk', 'of the directory')
        const hidden = await get('/v1/images/disk', wanted)
        expect(hidden.body.toString()).to.equal('of the directory')
        expect(hidden.header('Repr-Digest')).to.equal(undefined)
      }
      await withStreaming({}, serve, () => [disk])
    })
  })
})

describe('chunks of an image', () => {
  it('are files as they are, whole whatever the range', async () => {
    await withStreaming({}, async (scene) => {
      chunked(scene)
      const {get, head} = scene
      for (const name of ['manifest.json', 'manifest']) {
        const answer = await get(`/v1/images/a/chunked/${name}`, {
          Range: 'bytes=0-1',
          'If-Range': 'x',
        })
        expect(answer.status).to.equal(200)
        expect(answer.body.toString()).to.equal('{"not": "checked"')
        expect(answer.header('Content-Type')).to.equal('application/json')
        expect(names(answer)).to.deep.equal([
          'access-control-allow-origin',
          'access-control-expose-headers',
          'cache-control',
          'content-encoding',
          'content-length',
          'content-type',
          'cross-origin-resource-policy',
          'date',
          'etag',
          'last-modified',
          'x-content-type-options',
          'x-request-id',
        ])
        expect(answer.header('Cache-Control')).to.equal(
          'public, max-age=31536000, immutable, no-transform',
        )
        const etag = answer.header('ETag') ?? ''
        const known = await get(`/v1/images/a/chunked/${name}`, {'If-None-Match': etag})
        expect(known.status).to.equal(304)
        expect(known.header('Accept-Ranges')).to.equal(undefined)
        const since = {'If-Modified-Since': 'Tue, 14 Nov 2023 22:13:20 GMT'}
        expect((await head(`/v1/images/a/chunked/${name}`, since)).status).to.equal(304)
      }
      const chunk = await get('/v1/images/a/chunked/chunks/00000000.bin', {Range: 'bytes=0-0'})
      expect([chunk.status, chunk.body.toString()]).to.deep.equal([200, 'first'])
      expect(chunk.header('Content-Type')).to.equal('application/octet-stream')
      expect((await get('/v1/images/a/chunked/chunks/0.bin')).body.toString()).to.equal('unpadded')
      const versioned = await get('/v1/images/a/chunked/v1/chunks/00000000.bin')
      expect(versioned.body.toString()).to.equal('versioned')
      expect((await get('/v1/images/a/chunked/v1/manifest')).body.toString()).to.equal('{}')
      const odd = await get('/v1/images/a/chunked/chunks/chunks/7.bin')
      expect(odd.body.toString()).to.equal('of the version "chunks"')
    })
  })

  it('that are missing, misnamed or led out of the root are 404', async () => {
    await withStreaming({}, async (scene) => {
      chunked(scene)
      const {put, images, dir, get} = scene
      writeFileSync(join(dir, 'secret'), 'secret')
      symlinkSync(join(dir, 'secret'), join(images, 'chunked/a/chunks/9.bin'))
      put('chunked/a/chunks/8.bin/x', 'in a directory')
      const paths = [
        'a/chunked/chunks/9.bin',
        'a/chunked/chunks/8.bin',
        'a/chunked/chunks/1.bin',
        'a/chunked/chunks/manifest.json',
        'a/chunked/chunks/0.BIN',
        'a/chunked/chunks/..%2f..%2fmanifest.json',
        `a/chunked/chunks/${'0'.repeat(33)}.bin`,
        `a/chunked/chunks/${'0'.repeat(109)}`,
        `a/chunked/${'v'.repeat(129)}/manifest.json`,
        `a/chunked/${'v'.repeat(385)}/manifest.json`,
        'a/chunked/%2e%2e/manifest.json',
        'a/chunked/v2/manifest.json',
        'b/chunked/manifest.json',
      ]
      for (const path of paths) {
        const answer = await get(`/v1/images/${path}`)
        expect(answer.status, path).to.equal(404)
        expect(answer.header('Accept-Ranges')).to.equal(undefined)
        expect(answer.header('Cache-Control')).to.equal('no-store, no-transform')
        expect(answer.header('Access-Control-Expose-Headers')).to.equal(longList)
      }
      const long = await get(`/v1/images/${'x'.repeat(385)}/chunked/manifest.json`)
      expect([long.status, long.header('Accept-Ranges')]).to.deep.equal([404, 'bytes'])
      expect((await get('/v1/images/a/chunked/%ff/manifest')).status).to.equal(400)
    })
  })

  it('follow the catalog: its version, its privacy, its ids; not its file', async () => {
    await withStreaming({maxChunkBytes: 5}, async (scene) => {
      chunked(scene)
      const {put, get, head} = scene
      put(
        'manifest.json',
        JSON.stringify([{id: 'a', file: 'gone', name: '', public: false, chunked_version: 'v1'}]),
      )
      const manifest = await get('/v1/images/a/chunked/manifest')
      expect(manifest.body.toString()).to.equal('{}')
      expect(manifest.header('Cache-Control')).to.equal('private, no-store, no-transform')
      expect((await get('/v1/images/a')).status).to.equal(404)
      for (const answer of [
        await get('/v1/images/a/chunked/chunks/00000000.bin'),
        await head('/v1/images/a/chunked/chunks/00000000.bin', {'If-None-Match': '*'}),
      ])
        expect(answer.status).to.equal(413)
      put('chunked/b/manifest.json', '{}')
      expect((await get('/v1/images/b/chunked/manifest')).status).to.equal(404)
    })
  })
})

describe('health and metrics of the streaming surface', () => {
  it('answers probes and tells its version', async () => {
    await withStreaming({serveGitSha: 'abc'}, async ({get, head}) => {
      const health = await get('/health')
      expect([health.status, health.body.toString()]).to.deep.equal([200, 'ok\n'])
      expect(health.header('Content-Type')).to.equal('text/plain; charset=utf-8')
      for (const path of ['/healthz', '/ready', '/readyz']) {
        const answer = await get(path)
        expect([answer.status, answer.body.toString()]).to.deep.equal([200, '{"status":"ok"}'])
        expect(answer.header('Access-Control-Expose-Headers')).to.equal(undefined)
        expect((await head(path)).header('Content-Length')).to.equal('15')
      }
      expect((await get('/version')).body.toString()).to.equal(
        '{"version":"0.1.0","gitSha":"abc","builtAt":""}',
      )
    })
  })

  it('is not ready without a catalog that it needs, or without its directory', async () => {
    await withStreaming({requireManifest: true}, async ({get, put}) => {
      put('a', 'x')
      expect((await get('/readyz')).status).to.equal(503)
      expect((await get('/healthz')).status).to.equal(200)
      expect((await get('/v1/images/a')).status).to.equal(500)
    })
    await withStreaming({}, async ({get, images}) => {
      rmSync(images, {recursive: true})
      expect((await get('/readyz')).status).to.equal(503)
    })
  })

  it('shows every series of the original from the start', async () => {
    await withStreaming({}, async ({get}) => {
      const answer = await get('/metrics')
      expect(answer.header('Content-Type')).to.equal('text/plain; version=0.0.4')
      expect(answer.header('Cross-Origin-Resource-Policy')).to.equal('same-site')
      expect(answer.header('Access-Control-Expose-Headers')).to.equal(longList)
      expect(answer.header('Cache-Control')).to.equal(undefined)
      const lines = answer.body.toString().split('\n')
      for (const line of [
        'aero_storage_server_build_info{version="0.1.0"} 1',
        'http_requests_total{method="GET",route="/metrics",status="200"} 0',
        'http_requests_total{method="GET",route="/v1/images/:image_id",status="200"} 0',
        'http_request_duration_seconds_count{method="GET",route="/metrics"} 0',
        'http_request_duration_seconds_bucket{le="0.0025",method="GET",route="/v1/images/:image_id"} 0',
        'http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/v1/images/:image_id"} 0',
        'image_bytes_served_total{image_id="__other__"} 0',
        'range_requests_total{result="valid"} 0',
        'range_requests_total{result="invalid"} 0',
        'store_errors_total{kind="meta"} 0',
        'store_errors_total{kind="open_range"} 0',
        'store_errors_total{kind="manifest"} 0',
        'imgstore_serve_in_flight_requests 0',
      ])
        expect(lines, line).to.include(line)
    })
  })

  it('counts requests, ranges, bytes and errors, with a bound on image ids', async () => {
    await withStreaming({metricsMaxIds: 1}, async ({put, get, head, metrics}) => {
      put('a', '0123456789')
      put('b', '0123456789')
      await get('/v1/images/a')
      await get('/v1/images/a', {Range: 'bytes=0-1'})
      await head('/v1/images/a', {Range: 'bytes=0-1'})
      await get('/v1/images/b/data', {Range: 'bytes=99-'})
      await get('/v1/images/b/data', {Range: 'items=0-1'})
      await get('/nothing')
      put('manifest.json', '{')
      await get('/v1/images/a')
      const text = await metrics()
      const lines = text.split('\n')
      for (const line of [
        'http_requests_total{method="GET",route="/v1/images/:image_id",status="200"} 1',
        'http_requests_total{method="GET",route="/v1/images/:image_id",status="206"} 1',
        'http_requests_total{method="HEAD",route="/v1/images/:image_id",status="206"} 1',
        'http_requests_total{method="GET",route="/v1/images/:image_id",status="500"} 1',
        'http_requests_total{method="GET",route="/v1/images/:image_id/data",status="416"} 1',
        'http_request_duration_seconds_count{method="GET",route="/v1/images/:image_id"} 3',
        'image_bytes_served_total{image_id="a"} 12',
        'image_bytes_served_total{image_id="__other__"} 10',
        'range_requests_total{result="valid"} 2',
        'range_requests_total{result="invalid"} 1',
        'store_errors_total{kind="manifest"} 1',
        'imgstore_serve_sent_bytes_total 22',
      ])
        expect(lines, line).to.include(line)
      expect(text).to.not.contain('/nothing')
      // A scrape does not count itself.
      expect(text).to.contain('http_requests_total{method="GET",route="/metrics",status="200"} 0')
    })
  })

  it('are shown to who has the token, or not at all', async () => {
    await withStreaming({metricsAuthToken: ' secret '}, async ({get}) => {
      const without = await get('/metrics')
      expect(without.status).to.equal(401)
      expect(without.header('WWW-Authenticate')).to.equal('Bearer')
      expect(without.header('Access-Control-Allow-Origin')).to.equal('*')
      expect(without.header('Cross-Origin-Resource-Policy')).to.equal('same-site')
      const statuses: [string, number][] = [
        ['Basic secret', 401],
        ['Bearer secret more', 401],
        ['Bearer', 401],
        ['Bearer wrong', 403],
        ['bEARER secret', 200],
      ]
      for (const [authorization, status] of statuses) {
        const answer = await get('/metrics', {Authorization: authorization})
        expect(answer.status, authorization).to.equal(status)
      }
    })
    await withStreaming({disableMetrics: true, metricsAuthToken: 'x'}, async ({get}) => {
      const answer = await get('/metrics')
      expect(answer.status).to.equal(404)
      expect(answer.header('Access-Control-Allow-Origin')).to.equal(undefined)
    })
  })
})

describe('the log of the streaming surface', () => {
  it('has one line a request, without its query, cut and escaped', async () => {
    await withStreaming({}, async ({put, get, raw, log}) => {
      put('a', 'x')
      await get('/v1/images/a?cap=secret', {'X-Aero-User-Id': ' joe ', 'X-Request-Id': 'r-1'})
      const line = log.find(({span}) => span?.['request_id'] === 'r-1')
      expect(line?.level).to.equal('INFO')
      expect(line?.fields).to.include({message: 'request complete', status: 200, bytes_sent: 1})
      expect(line?.fields['latency_seconds']).to.be.a('number')
      expect(line?.span).to.include({
        method: 'GET',
        path: '/v1/images/a',
        route: '/v1/images/:image_id',
        image_id: 'a',
        user_id: 'joe',
      })
      expect(JSON.stringify(log)).to.not.contain('secret')
      await get(`/v1/images/${'y'.repeat(300)}`)
      const cut = log.at(-1)?.span
      expect(cut?.['path'])
        .to.have.length(256)
        .and.to.match(/\.\.\.$/)
      expect(cut?.['image_id']).to.equal('<invalid>')
      await raw('GET /v1/images/\x7f\xff\x80 HTTP/1.1\r\nConnection: close\r\n\r\n')
      expect(JSON.stringify(log)).to.match(/^[\x20-\x7e]*$/)
    })
  })

  it('says nothing of requests below its level', async () => {
    await withStreaming({serveLogLevel: 'warn'}, async ({get, log}) => {
      await get('/healthz')
      await get('/v1/images')
      expect(log).to.deep.equal([])
    })
  })
})
