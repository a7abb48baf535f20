/** The files of the page, as they lie in `ui/` beside this module (the build puts them beside its compiled form too). */
import {createHash} from 'node:crypto'
import {readFileSync, readdirSync} from 'node:fs'
import {extname, join} from 'node:path'
import {assert} from '../../../core/assert.ts'

export type Asset = {type: string; body: Buffer; etag: string}

export type Assets = {
  page: Asset
  /** Everything else, by the path that a browser asks for. */
  files: ReadonlyMap<string, Asset>
}

const types = new Map([
  ['.html', 'text/html; charset=utf-8'],
  ['.css', 'text/css; charset=utf-8'],
  ['.js', 'text/javascript; charset=utf-8'],
  ['.svg', 'image/svg+xml'],
])

/** Reads every file that a browser may ask for; throws when the installation lacks the page. */
export function readAssets(): Assets {
  const dir = join(import.meta.dirname, 'ui')
  const files = new Map<string, Asset>()
  let page: Asset | undefined
  for (const name of readdirSync(dir)) {
    const type = types.get(extname(name))
    if (type === undefined) continue
    const asset = makeAsset(type, readFileSync(join(dir, name)))
    if (name === 'page.html') page = asset
    else files.set(`/ui/${name}`, asset)
  }
  assert(page !== undefined, 'the program is installed with the files of its page')
  return {page, files}
}

/** With a strong tag made of the content. */
export function makeAsset(type: string, body: Buffer): Asset {
  const etag = `"${createHash('sha256').update(body).digest('hex').slice(0, 32)}"`
  return {type, body, etag}
}
