import {expect} from 'chai'
import {randomBytes} from 'node:crypto'
import {mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import type {BrowserContext, CDPSession, Page} from 'playwright-core'
import {artifact, plainHost, useBrowser} from '../support/browser.ts'
import {makeSparseImage, writeChunked} from '../support/page-images.ts'
import {Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe, type Serving} from '../support/serve-process.ts'
import {makeTestCa} from '../support/test-ca.ts'

const chunkSize = 256 * 1024
const looks = readFileSync('test/support/page-looks.js', 'utf8').replaceAll('export ', '')

describe('the page', () => {
  requires('program:chromium', 'program:openssl')
  const open = useBrowser()
  let scene: Scene
  let images: string
  let chunks: string
  let serving: Serving

  before('serves some images', async () => {
    scene = new Scene()
    images = join(scene.dir, 'images')
    mkdirSync(images)
    const disk = randomBytes(9 * chunkSize + 512)
    writeFileSync(join(images, 'debian12.img'), disk)
    chunks = writeChunked(images, {id: 'debian12', version: 'r3', image: disk, chunkSize})
    makeSparseImage(join(images, 'large.img'), 20e9, [0, 2 ** 32 - 30_000, 20e9 - 40_000])
    writeFileSync(join(images, 'empty.img'), '')
    writeCatalog()
    serving = await startServe(scene, ['--images-root', images])
  })
  after('stops the server', async () => {
    serving.running.kill('SIGTERM')
    await serving.running.exited
    scene.close()
  })

  function writeCatalog(...more: object[]): void {
    const entries = [
      {
        id: 'debian12',
        file: 'debian12.img',
        name: 'Debian 12 netinst',
        description: 'The installer; boots by BIOS and UEFI.',
        chunked_version: 'r3',
      },
      {id: 'large', file: 'large.img', name: 'large', public: false},
      {id: 'empty', file: 'empty.img', name: '<b>"Empty" & co</b>'},
      {id: 'gone', file: 'gone.img', name: 'gone'},
    ]
    const file = join(images, 'manifest.json')
    writeFileSync(file, JSON.stringify({images: [...entries, ...more]}))
  }

  /** Opens the page; what the browser complains of is in `faults`. */
  async function visit(
    o: Parameters<typeof open>[0] & {url?: string} = {},
  ): Promise<{page: Page; context: BrowserContext; faults: string[]}> {
    const context = await open(o)
    const page = await context.newPage()
    const faults: string[] = []
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) faults.push(message.text())
    })
    page.on('pageerror', (error) => faults.push(String(error)))
    page.on('response', (response) => {
      if (response.status() >= 400) faults.push(`${response.status()} ${response.url()}`)
    })
    await page.goto(o.url ?? `${serving.url}/`)
    await page.locator('#images-list > li').first().waitFor()
    return {page, context, faults}
  }

  /** Runs the viewer on an image, and gives what it says in the end. */
  async function prove(page: Page, image: string, o: {reads?: string; check?: string} = {}) {
    await page.getByLabel('Image', {exact: true}).selectOption(image)
    if (o.check !== undefined) await page.getByLabel('Check against').selectOption(o.check)
    await page.getByLabel('Reads', {exact: true}).selectOption(o.reads ?? '64')
    await page.getByRole('button', {name: 'Read and check'}).click()
    return await verdict(page)
  }

  async function verdict(page: Page): Promise<string> {
    await page.locator('#proof-stop:disabled').waitFor({state: 'attached'})
    return (await page.locator('#proof-status').textContent()) ?? ''
  }

  it('shows each image with its size, state, tag and versions, and nothing that it was not given', async () => {
    const {page, faults} = await visit()
    const items = page.locator('#images-list > li')
    expect(await items.count()).to.equal(3)
    const listed = (await (await fetch(`${serving.url}/v1/images`)).json()) as {etag: string}[]

    const first = (await items.nth(0).innerText()).replaceAll(/\s+/g, ' ')
    expect(first).to.include('Debian 12 netinst debian12')
    expect(first).to.include('The installer; boots by BIOS and UEFI.')
    expect(first).to.include('public from the catalog')
    expect(first).to.include('2.25 MiB 2,359,808 bytes').and.to.include('Chunks r3')
    expect(first).to.include(listed[0]!.etag)
    const second = (await items.nth(1).innerText()).replaceAll(/\s+/g, ' ')
    expect(second).to.include('private').and.to.include('18.6 GiB 20,000,000,000 bytes')
    expect(await items.nth(2).getByRole('heading').textContent()).to.equal(
      '<b>"Empty" & co</b> empty',
    )
    expect(await page.locator('#left-out').innerText()).to.match(/gone$/)
    expect(faults).to.deep.equal([])
  })

  it('lives under a policy that lets nothing in, and is isolated from other origins', async () => {
    const {page, faults} = await visit()
    expect(await page.evaluate('crossOriginIsolated')).to.equal(true)
    for (const attack of [
      `document.body.append(Object.assign(document.createElement('script'), {text: 'window.hit = 1'}))`,
      `document.body.setAttribute('onclick', 'window.hit = 1'), document.body.click()`,
      `document.body.innerHTML = '<img src=x onerror="window.hit = 1">'`,
      `document.head.append(Object.assign(document.createElement('style'), {textContent: 'body{color:red}'}))`,
      `fetch('http://localhost:1/')`,
    ])
      await page.evaluate(`Promise.resolve().then(() => ${attack}).catch(() => {})`)
    expect(await page.evaluate('window.hit')).to.equal(undefined)
    expect(
      faults.filter((text) => /Content Security Policy|TrustedHTML|assignment/.test(text)),
    ).to.have.length.at.least(4)
    const {headers} = await fetch(`${serving.url}/`, {headers: {accept: 'text/html'}})
    expect(headers.get('content-security-policy')).to.include("frame-ancestors 'none'")
  })

  it('shows an image that comes, changes and goes while it is open, and leaves the others as they are', async () => {
    const {page} = await visit()
    await page.getByText('Addresses').first().click()
    writeFileSync(join(images, 'fresh.img'), 'x'.repeat(1024))
    try {
      writeCatalog({id: 'fresh', file: 'fresh.img', name: 'fresh'})
      await page.getByText('1,024 bytes').waitFor()
      writeFileSync(join(images, 'fresh.img'), 'x'.repeat(1536))
      await page.getByText('1,536 bytes').waitFor()
      expect(
        await page.locator('#images-list > li').first().locator('details[open]').count(),
      ).to.equal(1)
    } finally {
      writeCatalog()
      rmSync(join(images, 'fresh.img'))
    }
    await page.getByText('1,536 bytes').waitFor({state: 'detached'})
  })

  it('says that the catalog is broken, and recovers', async () => {
    const {page} = await visit()
    writeFileSync(join(images, 'manifest.json'), '{"images": [')
    try {
      await page.getByText('The images cannot be listed').waitFor()
    } finally {
      writeCatalog()
    }
    await page.locator('#notice').waitFor({state: 'hidden'})
  })

  it('copies addresses and curl lines', async () => {
    const {page, context} = await visit({permissions: ['clipboard-read', 'clipboard-write']})
    await page.getByText('Addresses').first().click()
    const button = page.getByRole('button', {name: 'Copy curl, all of it of debian12'})
    await button.click()
    await page.getByText('Copied', {exact: true}).first().waitFor()
    expect(await button.textContent()).to.equal('Copied')
    const copied = await page.evaluate('navigator.clipboard.readText()')
    expect(copied).to.equal(`curl -f -o debian12 ${serving.url}/v1/images/debian12`)

    // From another machine without HTTPS a page has neither the clipboard nor SubtleCrypto.
    const plain = await context.newPage()
    await plain.goto(`http://${plainHost}:${serving.port}/`)
    await plain.getByText('Addresses').first().click()
    expect(
      await plain.evaluate('[isSecureContext, navigator.clipboard, crypto.subtle]'),
    ).to.deep.equal([false, undefined, undefined])
    await plain.getByRole('button', {name: 'Copy URL of debian12'}).click()
    await plain.getByText('Copied', {exact: true}).first().waitFor()
    await page.bringToFront()
    expect(await page.evaluate('navigator.clipboard.readText()')).to.equal(
      `http://${plainHost}:${serving.port}/v1/images/debian12`,
    )
    expect(await prove(plain, 'debian12')).to.match(/64 verified .*nothing wrong/)
  })

  it('proves an image with digests, chunk by chunk, and draws what it saw', async () => {
    const {page, faults} = await visit()
    expect(await prove(page, 'debian12')).to.match(
      /^64 reads, 14\.\d MiB at .*\/s: 64 verified against their digests, nothing wrong\.$/,
    )
    expect(await page.locator('#latency-plot circle').count()).to.be.above(20)
    expect(await page.locator('#latency-plot rect').count()).to.be.above(20)
    expect(await page.locator('#throughput-plot polyline').count()).to.equal(1)
    expect(await page.locator('#places-plot .tick').count()).to.equal(64)
    expect(await page.locator('#latency-plot svg').getAttribute('aria-label')).to.match(
      /^Latency of 64 reads: median .* ms/,
    )
    const rows = page.locator('#proof-rows tr')
    expect(await rows.count()).to.equal(64)
    expect(await rows.getByText('suffix range').count()).to.be.at.least(1)
    expect(await page.locator('#sent').textContent()).to.match(/MiB$/)
    expect(faults).to.deep.equal([])
  })

  it('names the chunk that is not what the manifest says, and only that', async () => {
    const file = join(chunks, '00000004.bin')
    const good = readFileSync(file)
    const bad = Buffer.from(good)
    bad[1000]! ^= 1
    writeFileSync(file, bad)
    try {
      const {page} = await visit()
      expect(await prove(page, 'debian12')).to.match(/: 6[01] verified .*, [34] wrong\.$/)
      for (const fault of await page.locator('#proof-faults li').allInnerTexts())
        expect(fault).to.match(
          /^Chunk 4 \(.*by its own address: SHA-256 is [0-9a-f]{64}, the manifest/,
        )
      expect(await page.locator('#latency-plot .cross').count()).to.be.within(3, 4)
    } finally {
      writeFileSync(file, good)
    }
  })

  it('reads an image of 20 GB without digests, at both ends and in between', async () => {
    const {page, faults} = await visit()
    expect(await prove(page, 'large', {reads: '16'})).to.match(
      /^16 reads, 16 MiB at .*: headers and lengths checked, nothing wrong\.$/,
    )
    expect(await page.locator('#proof-rows tr').allTextContents()).to.satisfy((rows: string[]) =>
      rows.some((row) => row.includes('19,999,999,999')),
    )
    expect(await prove(page, 'empty')).to.equal('empty is empty: there is nothing to read.')
    expect(faults).to.deep.equal([])
  })

  it('shows the throughput while it reads, and stops when told', async () => {
    const {page} = await visit()
    await page.getByLabel('Reads', {exact: true}).selectOption('1024')
    await page.getByRole('button', {name: 'Read and check'}).click()
    await page.locator('#rate', {hasText: /[KMG]iB\/s$/}).waitFor()
    expect(await page.locator('#now-plot svg').getAttribute('aria-label')).to.match(
      /^Throughput of the last 60 seconds: now .*\/s, at most .*\/s$/,
    )
    await page.getByRole('button', {name: 'Stop'}).click()
    expect(await verdict(page)).to.match(/^Stopped after \d+ of 1024 reads/)
  })

  it('fits a telephone, also opened and with results', async () => {
    const {page} = await visit({viewport: {width: 360, height: 740}, hasTouch: true})
    const width = () => page.evaluate('document.documentElement.scrollWidth')
    expect(await width()).to.equal(360)
    for (const details of await page.getByText('Addresses').all()) await details.click()
    await prove(page, 'debian12')
    await page.getByText('Every read as a table').click()
    expect(await width()).to.equal(360)
    await page.setViewportSize({width: 320, height: 740})
    expect(await width()).to.equal(320)
    await page.setViewportSize({width: 360, height: 740})
    // A finger needs 24 by 24 pixels (WCAG 2.2, 2.5.8).
    for (const control of await page.locator('button, select, input, summary').all()) {
      const box = await control.boundingBox()
      if (box) expect(Math.min(box.width, box.height)).to.be.at.least(24)
    }
    await page.screenshot({path: artifact('page-360.png'), fullPage: true})
  })

  for (const colorScheme of ['light', 'dark'] as const)
    it(`has enough contrast everywhere in ${colorScheme} colours`, async () => {
      const {page} = await visit({colorScheme, viewport: {width: 1280, height: 800}})
      await page.getByText('Addresses').first().click()
      await prove(page, 'debian12')
      await page.getByText('Every read as a table').click()
      expect(await page.evaluate(`${looks}; poorContrasts()`)).to.deep.equal([])
      const paper = await page.evaluate('getComputedStyle(document.body).backgroundColor')
      expect(paper).to.equal(colorScheme === 'dark' ? 'rgb(20, 23, 26)' : 'rgb(251, 250, 247)')
      await page.getByText('Every read as a table').click()
      await page.screenshot({path: artifact(`page-1280-${colorScheme}.png`), fullPage: true})
    })

  it('moves nothing for who wants no motion', async () => {
    const behaviour = 'getComputedStyle(document.documentElement).scrollBehavior'
    const still = await visit({reducedMotion: 'reduce'})
    expect(await still.page.evaluate(behaviour)).to.equal('auto')
  })

  it('can be used by keyboard alone, and shows where one is', async () => {
    const {page} = await visit()
    const focus = () =>
      page.evaluate<{name: string; isSeen: boolean}>(`(() => {
        const {activeElement: at} = document
        const {outlineStyle, outlineWidth} = getComputedStyle(at)
        const box = at.getBoundingClientRect()
        return {
          name: at.getAttribute('aria-label') ?? at.labels?.[0]?.textContent ?? at.textContent.trim(),
          isSeen: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 && box.width > 0 && box.top > -5,
        }
      })()`)
    const press = async (key: string): Promise<string> => {
      await page.keyboard.press(key)
      const {name, isSeen} = await focus()
      expect(isSeen, `focus on ${name}`).to.equal(true)
      return name
    }
    expect(await press('Tab')).to.equal('Skip to the images')
    await page.keyboard.press('Enter')
    expect(await press('Tab')).to.equal('Prove streaming of debian12')
    expect(await press('Tab')).to.equal('Addresses of debian12')
    await page.keyboard.press('Enter')
    expect(await press('Tab')).to.equal('Copy URL of debian12')
    await page.keyboard.press('Shift+Tab')
    await page.keyboard.press('Shift+Tab')
    await page.keyboard.press('Enter')
    // It has brought us to the form, with the image chosen.
    expect((await focus()).name).to.equal('Read and check')
    await page.keyboard.press('Enter')
    expect(await verdict(page)).to.match(/64 verified/)
    const before = ['At once', 'Reads', 'Check against', 'Image']
    for (const name of before) expect(await press('Shift+Tab')).to.equal(name)
    for (let presses = 0, name = ''; name !== 'Version'; presses++) {
      expect(presses).to.be.below(20)
      name = await press('Tab')
    }
  })

  it('has a name for everything that can be used or seen, landmarks, and headings in order', async () => {
    const {page, context} = await visit()
    await page.getByText('Addresses').first().click()
    await prove(page, 'debian12', {reads: '16'})
    await page.getByText('Every read as a table').click()
    const nodes = await accessibilityTree(await context.newCDPSession(page))
    const needNames = [
      'button',
      'link',
      'combobox',
      'searchbox',
      'textbox',
      'image',
      'img',
      'progressbar',
    ]
    const named = nodes.filter(({role}) => needNames.includes(role))
    expect(named.length).to.be.above(20)
    expect(named.filter(({name}) => name.trim() === '')).to.deep.equal([])
    const roles = nodes.map(({role}) => role)
    expect(roles).to.include.members(['banner', 'main', 'contentinfo', 'list', 'status', 'table'])
    const names = nodes.filter(({role}) => role === 'region').map(({name}) => name)
    expect(names).to.include.members(['Now', 'Images', 'Prove streaming'])

    const levels = await page.evaluate<number[]>(
      '[...document.querySelectorAll("h1, h2, h3")].map((one) => Number(one.tagName[1]))',
    )
    expect(levels[0]).to.equal(1)
    expect(levels.every((level, i) => i === 0 || level <= levels[i - 1]! + 1)).to.equal(true)
    const ids = '[...document.querySelectorAll("[id]")].map(({id}) => id)'
    const all = await page.evaluate<string[]>(ids)
    expect(new Set(all).size).to.equal(all.length)
  })

  it('filters many images', async () => {
    const many = join(scene.dir, 'many')
    mkdirSync(many)
    for (let i = 10; i < 22; i++) writeFileSync(join(many, `disk${i}.img`), 'x'.repeat(i))
    const other = await startServe(scene, ['--images-root', many])
    const {page} = await visit({url: `${other.url}/`})
    expect(await page.locator('#images-list > li:visible').count()).to.equal(12)
    await page.getByLabel('Filter').fill(' DISK2')
    expect(await page.locator('#images-list > li:visible h3').allTextContents()).to.deep.equal([
      'disk20.img',
      'disk21.img',
    ])
  })

  it('says what to do where there are no images yet', async () => {
    const none = join(scene.dir, 'none')
    mkdirSync(none)
    const other = await startServe(scene, ['--images-root', none])
    const page = await (await open()).newPage()
    await page.goto(`${other.url}/`)
    await page.getByText('None yet.').waitFor()
    expect(await page.getByRole('button', {name: 'Read and check'}).isDisabled()).to.equal(true)
    writeFileSync(join(none, 'first.img'), 'x'.repeat(600))
    await page.getByRole('heading', {name: 'first.img'}).waitFor()
    expect(await prove(page, 'first.img', {reads: '16'})).to.match(/^16 reads.*nothing wrong/)
  })

  it('says that the server is gone, and goes on when it is back', async () => {
    const other = await startServe(scene, ['--images-root', images])
    const {page} = await visit({url: `${other.url}/`})
    other.running.kill('SIGTERM')
    await other.running.exited
    await page.getByText('The server does not answer').waitFor()
    await startServe(scene, ['--images-root', images, '--listen-addr', `127.0.0.1:${other.port}`])
    await page.locator('#notice').waitFor({state: 'hidden'})
  })

  it('shows private images that need a lease to who has a token, and reads them', async () => {
    const secret = join(scene.dir, 'secret')
    const tokens = join(scene.dir, 'tokens')
    const token = 'a-token-for-leases-0123456789'
    writeFileSync(secret, 's'.repeat(40), {mode: 0o600})
    writeFileSync(tokens, `${token}\n`, {mode: 0o600})
    const files = ['--lease-secret-file', secret, '--lease-token-file', tokens]
    const other = await startServe(scene, ['--images-root', images, ...files])
    const {page, faults} = await visit({url: `${other.url}/`})
    expect(await prove(page, 'debian12', {reads: '16'})).to.match(/nothing wrong/)
    expect(await page.locator('body').innerText()).not.to.match(/\blarge\b/)

    const field = page.getByLabel('Token for private images')
    await field.fill('another-token-0123456789012345')
    await field.blur()
    await page.waitForResponse((response) => response.url().endsWith('/ui/images.json'))
    expect(await page.locator('body').innerText()).not.to.match(/\blarge\b/)

    await field.fill(token)
    await field.blur()
    await page.locator('#images-list > li', {hasText: 'large'}).waitFor()
    expect(await prove(page, 'large', {reads: '16'})).to.match(/nothing wrong/)
    expect(faults).to.deep.equal([])
  })

  it('works by HTTPS and HTTP/2', async () => {
    const ca = makeTestCa(scene.dir)
    writeFileSync(join(scene.dir, 'tls.key'), ca.key, {mode: 0o600})
    writeFileSync(join(scene.dir, 'tls.pem'), ca.cert)
    const files = [
      '--tls-cert',
      join(scene.dir, 'tls.pem'),
      '--tls-key',
      join(scene.dir, 'tls.key'),
    ]
    const other = await startServe(scene, ['--images-root', images, ...files])
    const url = `https://127.0.0.1:${other.port}/`
    const {page, faults} = await visit({url, ignoreHTTPSErrors: true})
    const protocol = 'performance.getEntriesByType("navigation")[0].nextHopProtocol'
    expect(await page.evaluate(protocol)).to.equal('h2')
    expect(await prove(page, 'debian12')).to.match(/64 verified .*nothing wrong/)
    expect(faults).to.deep.equal([])
  })

  it('is not there for programs, and not at all when it is turned off', async () => {
    const ask = async (url: string, accept: string) => {
      const response = await fetch(url, {headers: {accept}})
      return [response.status, (await response.arrayBuffer()).byteLength]
    }
    expect(await ask(`${serving.url}/`, '*/*')).to.deep.equal([404, 0])
    const off = await startServe(scene, ['--images-root', images, '--no-page'])
    for (const path of ['/', '/ui/page.js', '/ui/status.json', '/ui/images.json'])
      expect(await ask(`${off.url}${path}`, 'text/html'), path).to.deep.equal([404, 0])
  })
})

type Node = {role: string; name: string}

/** What a screen reader is told, without what it passes over. */
async function accessibilityTree(session: CDPSession): Promise<Node[]> {
  const {nodes} = await session.send('Accessibility.getFullAXTree')
  return nodes
    .filter(({ignored}) => !ignored)
    .map(({role, name}) => ({role: String(role?.value), name: String(name?.value ?? '')}))
}
