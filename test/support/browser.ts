/** Debian's Chromium without a screen, in a place of its own, and no trace of it afterwards. */
import {expect} from 'chai'
import {mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {
  chromium,
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
} from 'playwright-core'

/** An origin that is not of this machine by its name, so that browsers do not trust it without HTTPS. */
export const plainHost = 'images.test'

/** Where pictures for people go: outside git, kept by CI when it names a place. */
export function artifact(name: string): string {
  const dir = process.env['CI_ARTIFACTS'] ?? resolve('.cache/artifacts')
  mkdirSync(dir, {recursive: true})
  return join(dir, name)
}

/** Call first in a `describe`: one browser for all its tests; each context is closed after its test. */
export function useBrowser(): (options?: BrowserContextOptions) => Promise<BrowserContext> {
  let dir: string | undefined
  let browser: Browser | undefined
  before('starts Chromium', async () => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    // Playwright itself keeps the profile and downloads where the process keeps temporary files.
    const kept = process.env['TMPDIR']
    process.env['TMPDIR'] = dir
    try {
      browser = await chromium.launch({
        executablePath: '/usr/bin/chromium',
        // The sandbox refuses to run as root, and what is opened here is our own.
        args: ['--no-sandbox', `--host-resolver-rules=MAP ${plainHost} 127.0.0.1`],
        env: {PATH: process.env['PATH'] ?? '', HOME: dir, TMPDIR: dir, LANG: 'C.UTF-8'},
      })
    } finally {
      if (kept === undefined) delete process.env['TMPDIR']
      else process.env['TMPDIR'] = kept
    }
  })
  afterEach('closes its windows', async () => {
    for (const context of browser?.contexts() ?? []) await context.close()
  })
  after('ends Chromium', async () => {
    await browser?.close()
    const place = dir
    if (place === undefined) return
    try {
      // Its helpers end by themselves once it is gone.
      for (let looks = 0; looks < 100 && processesOf(place).length > 0; looks++) await sleep(50)
      expect(processesOf(place), 'processes that Chromium left').to.deep.equal([])
    } finally {
      rmSync(place, {recursive: true, force: true, maxRetries: 5})
    }
  })
  return (options) => {
    if (!browser) throw new Error('there is no browser yet')
    return browser.newContext(options)
  }
}

/** Processes whose temporary files go to `dir`. */
function processesOf(dir: string): string[] {
  return readdirSync('/proc').filter((name) => {
    try {
      return (
        /^\d+$/.test(name) &&
        readFileSync(`/proc/${name}/environ`, 'utf8').includes(`TMPDIR=${dir}\0`)
      )
    } catch {
      return false // gone meanwhile, or another user's
    }
  })
}
