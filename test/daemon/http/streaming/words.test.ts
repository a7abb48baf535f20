/** The small words of the door: paths, log filters, ids, headers, CORS, text of metrics and log lines. */
import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../../src/core/errors.ts'
import {cutPath, makeServeLog} from '../../../../src/daemon/http/streaming/access-log.ts'
import {wantsSha256} from '../../../../src/daemon/http/streaming/bytes.ts'
import {makeCors, mergeVary} from '../../../../src/daemon/http/streaming/cors.ts'
import {queryParameter} from '../../../../src/daemon/http/streaming/lease.ts'
import {parseLogFilter} from '../../../../src/daemon/http/streaming/log-filter.ts'
import {
  Buckets,
  histogramText,
  metricText,
} from '../../../../src/daemon/http/streaming/metric-text.ts'
import {doorOptions, logFilterOf} from '../../../../src/daemon/http/streaming/options.ts'
import {readRequestHeaders} from '../../../../src/daemon/http/streaming/request-headers.ts'
import {matchPath, splitTarget} from '../../../../src/daemon/http/streaming/router.ts'
import {settingsFor} from '../../../support/streaming-server.ts'

describe('paths of the streaming surface', () => {
  const matches: [path: string, label: string, captured: object][] = [
    ['/v1/images', '/v1/images', {}],
    ['/v1/images/a', '/v1/images/:image_id', {image: 'a'}],
    ['/v1/images/%2f', '/v1/images/:image_id', {image: '%2f'}],
    ['/v1/images/..', '/v1/images/:image_id', {image: '..'}],
    ['/v1/images/a/data', '/v1/images/:image_id/data', {image: 'a'}],
    ['/v1/images/a/meta', '/v1/images/:id/meta', {image: 'a'}],
    ['/v1/images/a/chunked/manifest', '/v1/images/:image_id/chunked/manifest', {image: 'a'}],
    [
      '/v1/images/a/chunked/chunks/manifest.json',
      '/v1/images/:image_id/chunked/chunks/:chunk_name',
      {image: 'a', chunk: 'manifest.json'},
    ],
    [
      '/v1/images/a/chunked/manifest.json/manifest',
      '/v1/images/:image_id/chunked/:version/manifest',
      {image: 'a', version: 'manifest.json'},
    ],
    [
      '/v1/images/a/chunked/chunks/chunks/0.bin',
      '/v1/images/:image_id/chunked/:version/chunks/:chunk_name',
      {image: 'a', version: 'chunks', chunk: '0.bin'},
    ],
  ]
  for (const [path, label, captured] of matches) {
    it(`lead to ${label} from ${path}`, () => {
      const {route, ...rest} = matchPath(path) ?? {}
      expect(route?.label).to.equal(label)
      expect(rest).to.deep.equal(captured)
    })
  }

  it('never match what has an empty segment, and always capture what was sent', () => {
    const segment = fc.stringMatching(/^[\x21-\x2e\x30-\x3e\x40-\x7e]{0,8}$/)
    fc.assert(
      fc.property(fc.array(segment, {maxLength: 6}), (segments) => {
        const path = `/v1/images/${segments.join('/')}`
        const match = matchPath(path)
        if (!match) return
        expect(segments).to.not.include('')
        expect(match.image).to.equal(segments[0])
        for (const part of [match.version, match.chunk])
          if (part !== undefined) expect(segments).to.include(part)
      }),
    )
  })

  it('are taken from targets of every form', () => {
    expect(splitTarget('/a?b?c')).to.deep.equal({path: '/a', query: 'b?c'})
    expect(splitTarget('http://h:1/a/../b?x')).to.deep.equal({path: '/a/../b', query: 'x'})
    expect(splitTarget('HTTP://h')).to.deep.equal({path: '/', query: ''})
    expect(splitTarget('http://h?x')).to.deep.equal({path: '/', query: 'x'})
    expect(splitTarget('*')).to.deep.equal({path: '/*', query: ''})
  })
})

describe('log filters', () => {
  const ranks: [text: string, rank: number | undefined][] = [
    ['', 3],
    ['info', 3],
    [' WARN ', 2],
    ['off', 0],
    ['0', 0],
    ['trace', 5],
    ['warn,imgstore=debug', 4],
    ['aero_storage_server=error', 1],
    ['aero_storage_server::http=debug,info', 4],
    ['hyper=debug', 0],
    ['info,hyper=off,tower_http[request{path="/x,y"}]=debug', 3],
    ['imgstore[span]=off,error', 1],
    ['loud', undefined],
    ['info,a b=debug', undefined],
    ['imgstore=loud', undefined],
    ['x'.repeat(2000), undefined],
  ]
  for (const [text, rank] of ranks) {
    it(`read ${JSON.stringify(text.slice(0, 60))} as ${String(rank)}`, () => {
      expect(parseLogFilter(text)?.rank).to.equal(rank)
    })
  }
})

describe('request headers', () => {
  it('are found whatever their case; the first counts, and lists of tags are joined', () => {
    const found = readRequestHeaders([
      ...['RANGE', 'a', 'range', 'b', 'If-None-Match', '"x"', 'if-none-match', '"y"'],
      ...['Cookie', '', 'Other', 'z', ':authority', 'h'],
    ])
    expect(found).to.deep.equal({
      range: 'a',
      ifNoneMatch: '"x", "y"',
      hasCookie: true,
      host: 'h',
      count: 7,
    })
  })

  it('say whether a digest is wanted', () => {
    for (const yes of ['sha-256=1', 'sha-512=3, sha-256=10', 'sha-256=9;a=b, x=1'])
      expect(wantsSha256(yes), yes).to.equal(true)
    for (const no of [
      undefined,
      '',
      'sha-256=0',
      'sha-512=9',
      'xsha-256=1',
      'sha-256',
      'sha-256=x',
    ])
      expect(wantsSha256(no), no).to.equal(false)
  })

  it('bear leases in the query', () => {
    expect(queryParameter('a=b&cap=x%2Ey&cap=z', 'cap')).to.equal('x.y')
    expect(queryParameter('escape=1', 'cap')).to.equal(undefined)
  })
})

describe('CORS words', () => {
  it('merge Vary without names twice', () => {
    expect(mergeVary(undefined, ['Origin'])).to.equal('Origin')
    expect(mergeVary('origin, Accept', ['Origin', 'X'])).to.equal('origin, Accept, X')
    expect(mergeVary('a, *', ['Origin'])).to.equal('*')
  })

  it('take origins of strangers in time, and keep none of them for ever', () => {
    const cors = makeCors({
      origins: ['https://a'],
      resourcePolicy: 'same-site',
      preflightMaxAgeSecs: 1,
    })
    expect(cors.headers('bytes', `https://x${'/'.repeat(80_000)}x`)).to.deep.equal([
      'Vary',
      'Origin',
      'Cross-Origin-Resource-Policy',
      'same-site',
    ])
    for (let i = 0; i < 1000; i++) cors.headers('bytes', `https://${i}`)
    expect(cors.headers('bytes', 'https://a')).to.include('https://a')
  })
})

describe('text of metrics', () => {
  it('has labels in alphabetical order, escaped', () => {
    const series = [{labels: {b: 'x"\\\n', a: '1'}, value: 2}]
    expect(metricText({name: 'n', help: 'h', type: 'gauge', series})).to.equal(
      '# HELP n h\n# TYPE n gauge\nn{a="1",b="x\\"\\\\\\n"} 2\n',
    )
  })

  it('adds buckets up', () => {
    const buckets = new Buckets([1, 2])
    for (const value of [0.5, 1, 1.5, 9]) buckets.observe(value)
    const text = histogramText({name: 'h', help: 'x', series: [{labels: {}, buckets}]})
    expect(text.split('\n').slice(2)).to.deep.equal([
      'h_bucket{le="1"} 2',
      'h_bucket{le="2"} 3',
      'h_bucket{le="+Inf"} 4',
      'h_sum 12',
      'h_count 4',
      '',
    ])
  })
})

describe('log lines of requests', () => {
  it('are JSON of printable ASCII, whatever was sent', () => {
    const lines: string[] = []
    const filter = {rank: 3, text: 'info'}
    const log = makeServeLog({filter, write: (line) => lines.push(line), now: () => 0})
    fc.assert(
      fc.property(fc.string({unit: 'binary', maxLength: 300}), (text) => {
        lines.length = 0
        log.request({
          requestId: 'r',
          method: 'GET',
          path: text,
          route: '/x',
          imageId: text,
          userId: text,
          status: 200,
          sentBytes: 1,
          latencySeconds: 0.5,
          isAborted: false,
        })
        expect(lines[0]).to.match(/^[\x20-\x7e]*\n$/)
        const line = JSON.parse(lines[0] ?? '') as {span: Record<string, string>; spans: unknown[]}
        expect(line.span['path']).to.equal(cutPath(text))
        expect(line.span['user_id']).to.equal(text)
        expect(line.spans).to.deep.equal([line.span])
      }),
    )
  })

  it('have times that go on within one millisecond', () => {
    const lines: string[] = []
    const filter = {rank: 3, text: 'info'}
    const log = makeServeLog({filter, write: (line) => lines.push(line), now: () => 5})
    log.info({a: 1n}, 'one')
    log.info({}, 'two')
    expect(lines[0]).to.contain('"timestamp":"1970-01-01T00:00:00.005000Z","level":"INFO"')
    expect(lines[0]).to.contain('"fields":{"message":"one","a":"1"}')
    expect(lines[1]).to.contain('00.005001Z')
  })
})

describe('settings of the streaming surface', () => {
  it('take a public address only without user, query and fragment, and show no password', () => {
    expect(doorOptions(settingsFor({publicUrl: 'https://x/y/'})).publicUrl).to.equal('https://x/y')
    const others = [
      'x',
      'ftp://x/',
      'https://x/?a',
      'https://x/#a',
      'http:/me:hush@x/',
      'https://me@x',
    ]
    for (const publicUrl of others) {
      const {code, message} = thrown(() => doorOptions(settingsFor({publicUrl})))
      expect(code, publicUrl).to.equal('serve_failed')
      expect(message).not.to.include('hush')
    }
    const {message} = thrown(() => logFilterOf(settingsFor({serveLogLevel: 'me:hush@host'})))
    expect(message).to.include('--log-level').and.not.include('hush')
  })
})

function thrown(act: () => unknown): ImgstoreError {
  try {
    act()
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing was refused')
}
