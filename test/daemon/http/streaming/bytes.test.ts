import {createHash, randomBytes} from 'node:crypto'
import {
  closeSync,
  openSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {
  eventually,
  parseAnswers,
  readAll,
  senders,
  withStreaming,
  type Answer,
  type Flags,
  type StreamingScene,
} from '../../../support/streaming-server.ts'

const MiB = 1024 ** 2
const longList =
  'ETag, Last-Modified, Cache-Control, Content-Range, Accept-Ranges, Content-Length, Content-Encoding'
const content = randomBytes(10_240)

/** The live matrix of the original: a 10,240-byte file. */
const matrix: [range: string, status: number, contentRange?: string][] = [
  ['bytes=0-9', 206, 'bytes 0-9/10240'],
  ['bytes=-10', 206, 'bytes 10230-10239/10240'],
  ['bytes=10230-99999', 206, 'bytes 10230-10239/10240'],
  ['bytes=0-', 206, 'bytes 0-10239/10240'],
  ['bytes=0-1,5-6', 416],
  ['bytes=99999-', 416],
  ['bytes=5-3', 416],
  ['bytes=-0', 416],
  ['garbage', 416],
  ['bytes', 416],
  ['bytes=', 416],
  ['bytes=+0-1', 416],
  ['bytes=0-4,', 416],
  ['bytes=,0-4', 416],
  ['items=0-1', 200],
  ['Bytes = 0 - 4', 206, 'bytes 0-4/10240'],
  ['bytes=-99999999', 206, 'bytes 0-10239/10240'],
  [`bytes=0-${'1'.repeat(8186)}`, 413],
  [`bytes=${Array.from({length: 1000}, () => '0-1').join(',')}`, 416],
  [`bytes=${Array.from({length: 1001}, () => '0-1').join(',')}`, 413],
  [`bytes=0-${'4'.padStart(64, '0')}`, 206, 'bytes 0-4/10240'],
  [`bytes=0-${'4'.padStart(65, '0')}`, 416],
  ['bytes=0-18446744073709551615', 206, 'bytes 0-10239/10240'],
  ['bytes=0-18446744073709551616', 416],
  ['bytes=0-\xe9', 200],
]

for (const sender of senders) {
  describe(`bytes of an image (sender ${sender})`, () => {
    async function serving(
      flags: Flags,
      body: (scene: StreamingScene) => Promise<void>,
    ): Promise<void> {
      await withStreaming({sender, ...flags}, async (scene) => {
        scene.put('a.img', content, 1_700_000_000.5)
        await body(scene)
      })
    }

    it('sends a whole image with every header that is promised, and no other', async () => {
      await serving({}, async ({get, head}) => {
        const answer = await get('/v1/images/a.img')
        expect(answer.status).to.equal(200)
        expect(answer.body.equals(content)).to.equal(true)
        expect(names(answer)).to.deep.equal([
          'accept-ranges',
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
        expect(answer.header('Content-Type')).to.equal('application/octet-stream')
        expect(answer.header('Content-Encoding')).to.equal('identity')
        expect(answer.header('X-Content-Type-Options')).to.equal('nosniff')
        expect(answer.header('Content-Length')).to.equal('10240')
        expect(answer.header('Accept-Ranges')).to.equal('bytes')
        expect(answer.header('Cache-Control')).to.equal('public, max-age=3600, no-transform')
        expect(answer.header('ETag')).to.equal('"2800-6553f100-1dcd6500"')
        expect(answer.header('Last-Modified')).to.equal('Tue, 14 Nov 2023 22:13:20 GMT')
        expect(answer.header('Access-Control-Allow-Origin')).to.equal('*')
        expect(answer.header('Access-Control-Expose-Headers')).to.equal(longList)
        expect(answer.header('Cross-Origin-Resource-Policy')).to.equal('same-site')
        const headed = await head('/v1/images/a.img')
        expect(headed.body).to.have.length(0)
        expect(stable(headed)).to.deep.equal(stable(answer))
      })
    })

    it('names no connection header on a connection that stays open', async () => {
      await serving({}, async ({open}) => {
        const socket = await open()
        const all = readAll(socket)
        socket.write('GET /v1/images/a.img HTTP/1.1\r\nHost: a\r\n\r\n')
        socket.write('HEAD /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        const [first, second] = parseAnswers(await all, ['GET', 'HEAD'])
        expect(first?.header('Connection')).to.equal(undefined)
        expect(first?.header('Keep-Alive')).to.equal(undefined)
        expect(second?.header('Connection')).to.equal('close')
      })
    })

    it('answers HTTP/1.0, which keeps the connection when asked to', async () => {
      await serving({}, async ({open}) => {
        const socket = await open()
        const all = readAll(socket)
        socket.write('GET /v1/images/a.img HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
        socket.write('GET /healthz HTTP/1.0\r\n\r\n')
        const [first, second] = parseAnswers(await all, ['GET', 'GET'])
        expect(first?.status).to.equal(200)
        expect(first?.header('Connection')).to.equal('keep-alive')
        expect(second?.status).to.equal(200)
      })
    })

    for (const [range, status, contentRange] of matrix) {
      const shown = range.length > 40 ? `${range.slice(0, 30)}… (${range.length})` : range
      it(`answers ${JSON.stringify(shown)} with ${status}`, async () => {
        await serving({}, async ({get, head}) => {
          const answer = await get('/v1/images/a.img/data', {Range: range})
          expect(answer.status).to.equal(status)
          if (contentRange !== undefined) {
            expect(answer.header('Content-Range')).to.equal(contentRange)
            const [, from, to] = /(\d+)-(\d+)/.exec(contentRange) ?? []
            expect(answer.body.equals(content.subarray(Number(from), Number(to) + 1))).to.equal(
              true,
            )
          }
          if (status === 200) expect(answer.body).to.have.length(10_240)
          if (status === 416) {
            expect(answer.header('Content-Range')).to.equal('bytes */10240')
            expect(answer.header('ETag')).to.be.a('string')
          }
          if (status === 413) expect(answer.header('Content-Range')).to.equal(undefined)
          if (status >= 400) expectBytesError(answer)
          expect(answer.header('Transfer-Encoding')).to.equal(undefined)
          const headed = await head('/v1/images/a.img/data', {Range: range})
          expect(stable(headed)).to.deep.equal(stable(answer))
        })
      })
    }

    it('lets the first of two Range lines count', async () => {
      await serving({}, async ({raw}) => {
        const bytes = await raw(
          'GET /v1/images/a.img HTTP/1.1\r\nHost: a\r\nConnection: close\r\nRange: bytes=0-1\r\nrange: bytes=4-9\r\n\r\n',
        )
        expect(parseAnswers(bytes, ['GET'])[0]?.header('Content-Range')).to.equal('bytes 0-1/10240')
      })
    })

    it('joins If-None-Match over several lines', async () => {
      await serving({}, async ({raw}) => {
        const bytes = await raw(
          'GET /v1/images/a.img HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-None-Match: "x"\r\nIf-None-Match: "2800-6553f100-1dcd6500"\r\n\r\n',
        )
        expect(parseAnswers(bytes, ['GET'])[0]?.status).to.equal(304)
      })
    })

    it('bounds ranges but not whole images', async () => {
      await serving({maxRangeBytes: 100}, async ({get}) => {
        expect((await get('/v1/images/a.img', {Range: 'bytes=0-99'})).status).to.equal(206)
        expect((await get('/v1/images/a.img', {Range: 'bytes=0-100'})).status).to.equal(413)
        expect((await get('/v1/images/a.img')).status).to.equal(200)
      })
    })

    it('answers conditions: 304 before all else, 412 for what was to match', async () => {
      await serving({}, async ({get, head}) => {
        const etag = '"2800-6553f100-1dcd6500"'
        const path = '/v1/images/a.img'
        const dated = 'Tue, 14 Nov 2023 22:13:20 GMT'
        const early = 'Tue, 14 Nov 2023 22:13:19 GMT'
        const cases: [Record<string, string>, number][] = [
          [{'If-None-Match': etag}, 304],
          [{'If-None-Match': `W/${etag}`, Range: 'bytes=0-1'}, 304],
          [{'If-None-Match': '*'}, 304],
          [{'If-None-Match': '"a,b", "c"'}, 200],
          [{'If-None-Match': '"other"', 'If-Modified-Since': dated}, 200],
          [{'If-Modified-Since': dated}, 304],
          [{'If-Modified-Since': early}, 200],
          [{'If-Modified-Since': 'yesterday'}, 200],
          [{'If-Range': etag, Range: 'bytes=0-1'}, 206],
          [{'If-Range': '"other"', Range: 'bytes=0-1'}, 200],
          [{'If-Range': '"other"', Range: 'garbage'}, 200],
          [{'If-Range': dated, Range: 'bytes=0-1'}, 206],
          [{'If-Range': early, Range: 'bytes=0-1'}, 200],
          [{'If-Match': etag}, 200],
          [{'If-Match': '"other"'}, 412],
          [{'If-Unmodified-Since': dated}, 200],
          [{'If-Unmodified-Since': early, Range: 'bytes=0-1'}, 412],
        ]
        for (const [headers, status] of cases) {
          const answer = await get(path, headers)
          expect(answer.status, JSON.stringify(headers)).to.equal(status)
          expect(answer.header('ETag')).to.equal(etag)
          expect((await head(path, headers)).status).to.equal(status)
        }
        const unchanged = await get(path, {'If-None-Match': etag})
        expect(names(unchanged)).to.deep.equal([
          'accept-ranges',
          'access-control-allow-origin',
          'access-control-expose-headers',
          'cache-control',
          'cross-origin-resource-policy',
          'date',
          'etag',
          'last-modified',
          'x-request-id',
        ])
        expectBytesError(await get(path, {'If-Match': '"other"'}))
      })
    })

    it('never sends a whole image where a range is required', async () => {
      await serving({requireRange: true}, async ({get, head}) => {
        const path = '/v1/images/a.img'
        const cases: [Record<string, string>, number][] = [
          [{}, 416],
          [{'If-Range': '"x"'}, 416],
          [{Range: 'items=0-1'}, 416],
          [{Range: 'garbage'}, 416],
          [{Range: 'bytes=0-1', 'If-Range': '"x"'}, 412],
          [{Range: 'bytes=0-1'}, 206],
          [{'If-None-Match': '*'}, 304],
        ]
        for (const [headers, status] of cases)
          expect((await get(path, headers)).status, JSON.stringify(headers)).to.equal(status)
        const headed = await head(path)
        expect(headed.status).to.equal(200)
        expect(headed.header('Content-Length')).to.equal('10240')
      })
    })

    it('sends an empty image, and no range of it', async () => {
      await serving({}, async ({put, get}) => {
        put('empty', '')
        const whole = await get('/v1/images/empty')
        expect(whole.status).to.equal(200)
        expect(whole.header('Content-Length')).to.equal('0')
        const range = await get('/v1/images/empty', {Range: 'bytes=0-0'})
        expect(range.status).to.equal(416)
        expect(range.header('Content-Range')).to.equal('bytes */0')
      })
    })

    it('reads past 4 GiB, and large bodies to the byte', async () => {
      await serving({maxRangeBytes: 64 * MiB}, async ({put, images, get}) => {
        const size = 24 * 1024 ** 3
        put('big', {hole: size})
        const middle = randomBytes(9 * MiB + 4097)
        const at = 20 * 1024 ** 3 + 511
        const fd = openSync(join(images, 'big'), 'r+')
        writeSync(fd, middle, 0, middle.length, at)
        closeSync(fd)
        const answer = await get('/v1/images/big', {
          Range: `bytes=${at}-${at + middle.length - 1}`,
        })
        expect(answer.status).to.equal(206)
        expect(answer.header('Content-Range')).to.equal(
          `bytes ${at}-${at + middle.length - 1}/${size}`,
        )
        expect(answer.body.equals(middle)).to.equal(true)
        // Around the sizes at which the senders go another way.
        for (const length of [4096, 16_384, 65_535, 65_536, 65_537, 262_144, 262_145, 524_289]) {
          const part = await get('/v1/images/big', {Range: `bytes=${at}-${at + length - 1}`})
          expect(part.body.equals(middle.subarray(0, length)), String(length)).to.equal(true)
        }
      })
    })

    it('answers pipelined requests in order, whatever their size', async () => {
      await serving({}, async ({put, open}) => {
        const large = randomBytes(3 * MiB)
        put('large', large)
        const socket = await open()
        const all = readAll(socket)
        const request = (path: string, more = ''): string =>
          `GET ${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n`
        socket.write(
          request('/v1/images/large') +
            request('/v1/images/a.img', 'Range: bytes=1-3\r\n') +
            request('/nowhere') +
            request('/v1/images/large', 'Range: bytes=1-2000000\r\n') +
            request('/healthz', 'Connection: close\r\n'),
        )
        const answers = parseAnswers(await all, ['GET', 'GET', 'GET', 'GET', 'GET'])
        expect(answers.map(({status}) => status)).to.deep.equal([200, 206, 404, 206, 200])
        expect(answers[0]?.body.equals(large)).to.equal(true)
        expect(answers[1]?.body.equals(content.subarray(1, 4))).to.equal(true)
        expect(answers[3]?.body.equals(large.subarray(1, 2_000_001))).to.equal(true)
      })
    })

    it('marks answers private for an image that is, and for who shows credentials', async () => {
      await serving({}, async ({put, get}) => {
        put(
          'manifest.json',
          JSON.stringify({
            images: [
              {id: 'open', file: 'a.img', name: 'Open', etag: '"r3"'},
              {id: 'closed', file: 'a.img', name: 'Closed', public: false},
            ],
          }),
        )
        const own = 'private, no-store, no-transform'
        const cacheOf = async (path: string, headers = {}): Promise<string | undefined> =>
          (await get(path, headers)).header('Cache-Control')
        expect(await cacheOf('/v1/images/closed')).to.equal(own)
        expect(await cacheOf('/v1/images/closed', {Range: 'bytes=0-1'})).to.equal(own)
        expect(await cacheOf('/v1/images/open', {Cookie: ''})).to.equal(own)
        expect(await cacheOf('/v1/images/open', {Authorization: 'x'})).to.equal(own)
        expect(await cacheOf('/v1/images/open')).to.equal('public, max-age=3600, no-transform')
        expect((await get('/v1/images/open')).header('ETag')).to.equal('"r3"')
        expectBytesError(await get('/v1/images/a.img'), 404)
      })
    })

    it('refuses what is no image: bad and long ids, directories, links out of the root', async () => {
      await serving({}, async ({put, dir, images, get, head}) => {
        put('directory/file', 'x')
        writeFileSync(join(dir, 'secret'), 'secret')
        symlinkSync(join(dir, 'secret'), join(images, 'out'))
        symlinkSync('a.img', join(images, 'in'))
        expect((await get('/v1/images/in')).status).to.equal(200)
        expect((await get('/v1/images/%61.img')).status).to.equal(200)
        const paths = [
          'directory',
          'out',
          'none',
          '%2e%2e',
          '..%2fsecret',
          'a%00b',
          'a%zz',
          'x'.repeat(129),
          'x'.repeat(385),
          'a b'.replace(' ', '%20'),
        ]
        for (const path of paths) {
          expectBytesError(await get(`/v1/images/${path}`), 404)
          expect((await head(`/v1/images/${path}/data`)).status).to.equal(404)
        }
        const undecodable = await get('/v1/images/%ff')
        expect(undecodable.status).to.equal(400)
        expect(undecodable.header('Content-Type')).to.equal('text/plain; charset=utf-8')
        expect(undecodable.body.toString()).to.contain('`image_id`')
        expect(undecodable.header('Access-Control-Allow-Origin')).to.equal('*')
      })
    })

    it('sees an image that was changed or replaced at the next request', async () => {
      await serving({}, async ({put, images, get}) => {
        const before = await get('/v1/images/a.img')
        writeFileSync(join(images, '.new'), 'replaced')
        renameSync(join(images, '.new'), join(images, 'a.img'))
        const after = await get('/v1/images/a.img')
        expect(after.body.toString()).to.equal('replaced')
        expect(after.header('ETag')).to.not.equal(before.header('ETag'))
        put('manifest.json', '{"images": []')
        expectBytesError(await get('/v1/images/a.img'), 500)
        put('manifest.json', JSON.stringify([{id: 'b', file: 'a.img', name: ''}]))
        expect((await get('/v1/images/b')).body.toString()).to.equal('replaced')
      })
    })

    it('cuts an answer short rather than mix two versions of a file', async () => {
      await serving({}, async ({put, images, open, streaming, metrics}) => {
        const path = put('large', Buffer.alloc(64 * MiB, 'a'))
        const socket = await open()
        socket.pause()
        socket.write('GET /v1/images/large HTTP/1.1\r\nHost: a\r\n\r\n')
        await eventually('the answer to begin', () => streaming.door.openFiles === 1)
        await eventually('bytes in the socket', () => socket.bytesRead > 0)
        truncateSync(path, 0)
        writeFileSync(join(images, 'large'), Buffer.alloc(64 * MiB, 'b'))
        const all = readAll(socket)
        socket.resume()
        const bytes = await all
        expect(bytes.length).to.be.lessThan(64 * MiB)
        expect(statSync(path).size).to.equal(64 * MiB)
        await eventually('the file to be released', () => streaming.door.openFiles === 0)
        expect(await metrics()).to.match(/^imgstore_serve_aborted_total 1$/m)
      })
    })

    it('goes on reading the version it began with when another file takes its name', async () => {
      await serving({}, async ({put, images, open}) => {
        put('large', Buffer.alloc(48 * MiB, 'a'))
        const socket = await open()
        socket.pause()
        socket.write('GET /v1/images/large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        await eventually('bytes in the socket', () => socket.bytesRead > 0)
        writeFileSync(join(images, '.new'), 'b')
        renameSync(join(images, '.new'), join(images, 'large'))
        const all = readAll(socket)
        socket.resume()
        const [answer] = parseAnswers(await all, ['GET'])
        const digest = createHash('sha256')
          .update(answer?.body ?? '')
          .digest('hex')
        const expected = createHash('sha256')
          .update(Buffer.alloc(48 * MiB, 'a'))
          .digest('hex')
        expect(digest).to.equal(expected)
      })
    })

    it('logs and counts the bytes that were really sent', async () => {
      await serving({}, async ({put, open, log, streaming, get, metrics}) => {
        put('large', {hole: 64 * MiB})
        const socket = await open()
        socket.pause()
        socket.write('GET /v1/images/large HTTP/1.1\r\nHost: a\r\n\r\n')
        await eventually('the answer to begin', () => streaming.door.openFiles === 1)
        socket.destroy()
        await eventually('the answer to end', () => log.some(({fields}) => fields['aborted']))
        const line = log.find(({fields}) => fields['aborted'])
        expect(line?.fields['bytes_sent']).to.be.lessThan(64 * MiB)
        await get('/v1/images/a.img', {Range: 'bytes=0-99'})
        const text = await metrics()
        expect(text).to.match(/^image_bytes_served_total\{image_id="a.img"\} 100$/m)
        const sent = /^image_bytes_served_total\{image_id="large"\} (\d+)$/m.exec(text)?.[1] ?? '0'
        expect(Number(sent)).to.equal(line?.fields['bytes_sent'])
      })
    })
  })
}

function names(answer: Answer): string[] {
  return answer.headers.map(([name]) => name.toLowerCase()).sort()
}

/** Headers that are the same for HEAD and GET. */
function stable(answer: Answer): Record<string, string> {
  const changing = ['x-request-id', 'date']
  return Object.fromEntries([
    ['status', String(answer.status)],
    ...answer.headers.filter(([name]) => !changing.includes(name.toLowerCase())),
  ])
}

function expectBytesError(answer: Answer, status = answer.status): void {
  expect(answer.status).to.equal(status)
  expect(answer.body).to.have.length(0)
  expect(answer.header('Content-Length')).to.equal('0')
  expect(answer.header('Content-Type')).to.equal(undefined)
  expect(answer.header('Access-Control-Allow-Origin')).to.equal('*')
  expect(answer.header('Access-Control-Expose-Headers')).to.equal(longList)
  expect(answer.header('Cross-Origin-Resource-Policy')).to.equal('same-site')
  expect(answer.header('Cache-Control')).to.equal('no-store, no-transform')
  expect(answer.header('Accept-Ranges')).to.equal('bytes')
  expect(answer.header('X-Request-Id')).to.be.a('string')
}
