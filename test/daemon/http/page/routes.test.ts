import {expect} from 'chai'
import {createHash} from 'node:crypto'
import {readdirSync} from 'node:fs'
import {openPage, wantsHtml, type PageOptions} from '../../../../src/daemon/http/page/routes.ts'
import type {StreamImage} from '../../../../src/core/stream.ts'

const image: StreamImage = {
  id: 'disk',
  name: 'Disk',
  size: 20e9,
  isPublic: false,
  etag: '"4a817c800-1-0"',
  modifiedNs: 1_795_258_011_135_575_261n,
  origin: 'directory',
}

function options(o: Partial<PageOptions> = {}): PageOptions {
  return {
    streams: {
      list: () => ({
        images: [image],
        problems: [{id: 'broken', reason: '/srv/images/broken: gone', kind: 'file'}],
      }),
      versions: (id) => (id === 'disk' ? ['', 'r3'] : []),
    },
    figures: () => ({
      inFlight: 2,
      inFlightMax: 64,
      requestsTotal: 10,
      refusedTotal: 1,
      sentBytesTotal: 12345,
      maxRangeBytes: 8 << 20,
      requiresRange: false,
      needsLease: true,
    }),
    maySeePrivate: () => true,
    version: '1.2.3',
    ...o,
  }
}

const browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8'

async function get(
  path: string,
  headers: Record<string, string> = {},
  o = options(),
  method = 'GET',
) {
  return await openPage(o).answer({method, path, headers})
}

describe('routes of the page', () => {
  it('gives the page to who asks for HTML by name, and to nobody else', async () => {
    const accepted = [browser, 'text/html', 'TEXT/HTML; q=0.5', '*/*, application/xhtml+xml']
    for (const accept of accepted) expect(wantsHtml(accept), accept).to.equal(true)
    const others = [
      undefined,
      '',
      '*/*',
      'text/*',
      'application/json',
      'text/html;q=0',
      'text/html ; q=0.000',
    ]
    for (const accept of others) expect(wantsHtml(accept), accept).to.equal(false)

    expect((await get('/', {accept: browser}))?.headers['content-type']).to.match(/^text\/html/)
    expect(await get('/', {accept: '*/*'})).to.equal(undefined)
    expect(await get('/')).to.equal(undefined)
  })

  it('has nothing for other paths and methods', async () => {
    const none = [
      '',
      '/index.html',
      '/ui',
      '/ui/',
      '/ui/page.html',
      '/ui/tsconfig.json',
      '/ui/../routes.ts',
      '//',
    ]
    for (const path of none) expect(await get(path, {accept: browser}), path).to.equal(undefined)
    for (const method of ['POST', 'OPTIONS', 'PUT', 'get'])
      expect(await get('/', {accept: browser}, options(), method), method).to.equal(undefined)
  })

  it('gives every asset that the page and its modules name', async () => {
    const page = openPage(options())
    const ask = async (path: string) =>
      await page.answer({method: 'GET', path, headers: {accept: browser}})
    const html = String((await ask('/'))?.body)
    const wanted = [...html.matchAll(/(?:src|href)="(ui\/[^"]+)"/g)].map(([, path]) => `/${path}`)
    expect(wanted).to.have.length(3)
    for (let next = 0; next < wanted.length; next++) {
      const answer = await ask(wanted[next]!)
      expect(answer?.status, wanted[next]).to.equal(200)
      if (!wanted[next]!.endsWith('.js')) continue
      expect(answer?.headers['content-type']).to.equal('text/javascript; charset=utf-8')
      for (const [, name] of String(answer?.body).matchAll(/from '\.\/([^']+)'/g))
        if (!wanted.includes(`/ui/${name}`)) wanted.push(`/ui/${name}`)
    }
    const written = readdirSync('src/daemon/http/page/ui').filter((name) =>
      /\.(js|css|svg)$/.test(name),
    )
    expect(wanted.toSorted()).to.deep.equal(written.map((name) => `/ui/${name}`).toSorted())
  })

  it('sends each answer with what keeps it safe', async () => {
    for (const path of ['/', '/ui/page.js', '/ui/status.json', '/ui/images.json']) {
      const headers = (await get(path, {accept: browser}))?.headers ?? {}
      expect(headers['content-security-policy'], path).to.include("default-src 'none'")
      expect(headers['content-security-policy'], path).to.include("frame-ancestors 'none'")
      expect(headers['content-security-policy'], path).to.not.include('unsafe')
      expect(headers).to.deep.include({
        'x-content-type-options': 'nosniff',
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-embedder-policy': 'require-corp',
        'cross-origin-resource-policy': 'same-origin',
        'cache-control': 'no-cache',
      })
      expect(headers).to.not.have.property('access-control-allow-origin')
    }
  })

  it('has nothing inline in the page, and nothing from elsewhere', async () => {
    const html = String((await get('/', {accept: browser}))?.body)
    expect(html).to.not.match(/\son\w+=|\sstyle=|<style|javascript:|https?:|\/\//i)
    expect(html).to.not.match(/<script(?![^>]*\ssrc=)/)
  })

  it('answers HEAD with the length, and 304 to who has it', async () => {
    const whole = await get('/ui/page.css')
    const head = await get('/ui/page.css', {}, options(), 'HEAD')
    expect(head?.headers).to.deep.equal(whole?.headers)
    expect(head?.headers['content-length']).to.equal(String(whole?.body?.length))
    expect(head?.body).to.equal(undefined)

    const etag = whole?.headers['etag'] ?? ''
    const known = await get('/ui/page.css', {'if-none-match': `"other", ${etag}`})
    expect(known?.status).to.equal(304)
    expect(known?.body).to.equal(undefined)
    expect(known?.headers).to.include({etag}).and.not.have.property('content-length')
  })

  it('says what the server does, without a word about the images', async () => {
    expect(JSON.parse(String((await get('/ui/status.json'))?.body))).to.deep.equal({
      version: '1.2.3',
      max_range_bytes: 8 << 20,
      requires_range: false,
      needs_lease: true,
      in_flight: 2,
      in_flight_max: 64,
      requests_total: 10,
      refused_total: 1,
      sent_bytes_total: 12345,
    })
  })

  it('lists private images, and what is left out, only for whom they are shown', async () => {
    const o = options({maySeePrivate: (authorization) => authorization === 'Bearer yes'})
    const listed = async (headers: Record<string, string>): Promise<number> => {
      const answer = await get('/ui/images.json', headers, o)
      expect(answer?.headers).to.include({vary: 'Authorization'})
      const {images_total, left_out} = JSON.parse(String(answer?.body)) as {
        images_total: number
        left_out: string[]
      }
      return images_total + left_out.length
    }
    expect(await listed({})).to.equal(0)
    expect(await listed({authorization: 'Bearer no'})).to.equal(0)
    expect(await listed({authorization: 'Bearer yes'})).to.equal(2)
    expect(await listed({})).to.equal(0)
  })

  it('lists the images with their origin and versions, and no path of the host', async () => {
    const answer = await get('/ui/images.json')
    expect(JSON.parse(String(answer?.body))).to.deep.equal({
      images: [
        {
          id: 'disk',
          name: 'Disk',
          size_bytes: 20e9,
          etag: '"4a817c800-1-0"',
          modified_ms: 1_795_258_011_135,
          public: false,
          origin: 'directory',
          versions: ['', 'r3'],
        },
      ],
      images_total: 1,
      left_out: ['broken'],
    })
  })

  it('answers 503 in general words when the images cannot be listed, also to who asks for news', async () => {
    const list = (): never => {
      throw new Error('/srv/images/manifest.json: unexpected end')
    }
    const broken = options({streams: {list, versions: () => []}})
    const answer = await get('/ui/images.json', {}, broken)
    expect(answer?.status).to.equal(503)
    expect(String(answer?.body)).to.not.include('/srv')
    const etag = answer?.headers['etag'] ?? ''
    expect((await get('/ui/images.json', {'if-none-match': etag}, broken))?.status).to.equal(503)
  })

  it('looks at the images once for many who ask at the same time, and at a bounded number', async () => {
    let looks = 0
    const many = Array.from({length: 5000}, (_, index) => ({...image, id: `disk${index}`}))
    const list = () => {
      looks++
      return {images: many, problems: []}
    }
    let versionLooks = 0
    const versions = () => {
      versionLooks++
      return []
    }
    const page = openPage(options({streams: {list, versions}}))
    const ask = async () => await page.answer({method: 'GET', path: '/ui/images.json', headers: {}})
    const answers = await Promise.all(Array.from({length: 20}, ask))
    const bodies = answers.map((answer) => answer?.body)
    expect(new Set(bodies).size).to.equal(1)
    expect([looks, versionLooks]).to.deep.equal([1, 1000])
    const listing = JSON.parse(String(bodies[0])) as {images: unknown[]; images_total: number}
    expect([listing.images.length, listing.images_total]).to.deep.equal([1000, 5000])
  })

  it('gives others their turn while it looks at many images', async () => {
    const many = Array.from({length: 1000}, (_, index) => ({...image, id: `disk${index}`}))
    let looksSinceTurn = 0
    let mostLooks = 0
    const versions = () => {
      mostLooks = Math.max(mostLooks, ++looksSinceTurn)
      return []
    }
    let isOver = false
    const turn = (): void => {
      looksSinceTurn = 0
      if (!isOver) setImmediate(turn)
    }
    setImmediate(turn)
    await get(
      '/ui/images.json',
      {},
      options({streams: {list: () => ({images: many, problems: []}), versions}}),
    )
    isOver = true
    expect(mostLooks).to.be.within(1, 32)
  })

  it('tags an asset by its content', async () => {
    const {headers, body} = (await get('/ui/page.js'))!
    const digest = createHash('sha256').update(body!).digest('hex')
    expect(headers['etag']).to.equal(`"${digest.slice(0, 32)}"`)
  })
})
