/**
 * The list of images, kept fresh.
 *
 * @typedef {object} Image as /ui/images.json gives it
 * @property {string} id
 * @property {string} name
 * @property {string} [description]
 * @property {number} size_bytes
 * @property {string} etag
 * @property {number} [modified_ms]
 * @property {string} [sha256]
 * @property {boolean} public
 * @property {'catalog' | 'directory' | 'store'} origin
 * @property {string[]} versions
 *
 * @typedef {{images: Image[], images_total: number, left_out: string[]}} Listing
 *
 * @typedef {{requiresRange: boolean, needsLease: boolean}} Manner how the server gives images out
 */
import {curlLease, curlTail, curlWhole, imageUrl, manifestUrl} from './addresses.js'
import {byId, copyable, make, setText} from './dom.js'
import {formatBytes, formatCount} from './figures.js'

/** From so many on, there is a field to filter by. */
const filterFrom = 8
const origins = {
  catalog: 'from the catalog',
  directory: 'from the directory',
  store: 'from the store',
}

/** What stands in the list: each image's item, and what it was made of. @type {Map<string, {made: string, item: HTMLLIElement}>} */
let items = new Map()

/**
 * The name of a chunk version as a person reads it.
 *
 * @param {string} version
 */
export const versionName = (version) => (version === '' ? 'unversioned' : version)

/**
 * Shows the images. What has not changed stays as it is, opened and focused as it was.
 *
 * @param {Listing} listing
 * @param {Manner} manner
 * @param {(image: Image) => void} onProve
 */
export function showImages({images, images_total: total, left_out: leftOut}, manner, onProve) {
  /** @type {typeof items} */
  const next = new Map()
  for (const image of images) {
    const made = JSON.stringify([image, manner])
    const known = items.get(image.id)
    next.set(
      image.id,
      known?.made === made ? known : {made, item: makeItem(image, manner, onProve)},
    )
  }
  const list = byId('images-list', HTMLElement)
  const wanted = [...next.values()].map(({item}) => item)
  if (wanted.length !== list.children.length || wanted.some((item, i) => item !== list.children[i]))
    list.replaceChildren(...wanted)
  items = next

  const shown = images.length < total ? `the first ${formatCount(images.length)} of ` : ''
  setText(
    byId('images-count', HTMLElement),
    total === 0 ? '' : `${shown}${formatCount(total)}, ${formatBytes(sum(images))}`,
  )
  const empty = byId('images-empty', HTMLElement)
  empty.hidden = total > 0
  setText(empty, 'None yet. A file put into the directory of images is here a moment later.')
  byId('filter-field', HTMLElement).hidden = images.length < filterFrom
  const notice = byId('left-out', HTMLElement)
  notice.hidden = leftOut.length === 0
  setText(notice, `Left out, the server's log says why: ${leftOut.join(', ')}`)
  filterImages()
}

/** @param {readonly Image[]} images */
const sum = (images) => images.reduce((bytes, image) => bytes + image.size_bytes, 0)

/** Hides what the filter does not name. */
export function filterImages() {
  const field = byId('filter', HTMLInputElement)
  const text = byId('filter-field', HTMLElement).hidden ? '' : field.value.trim().toLowerCase()
  for (const {made, item} of items.values()) item.hidden = !made.toLowerCase().includes(text)
}

/**
 * @param {Image} image
 * @param {Manner} manner
 * @param {(image: Image) => void} onProve
 */
function makeItem(image, manner, onProve) {
  const {id, name} = image
  const title = make('h3', {}, name.trim() === '' ? id : name)
  if (name !== id && name.trim() !== '') title.append(' ', make('code', {}, id))
  const prove = make(
    'button',
    {type: 'button', 'aria-label': `Prove streaming of ${id}`},
    'Prove streaming',
  )
  prove.addEventListener('click', () => onProve(image))
  return make(
    'li',
    {},
    make('div', {class: 'head'}, title, prove),
    ...(image.description ? [make('p', {class: 'lead'}, image.description)] : []),
    makeFacts(image),
    make(
      'details',
      {},
      make('summary', {'aria-label': `Addresses of ${id}`}, 'Addresses'),
      ...makeLines(image, manner),
    ),
  )
}

/** @param {Image} image */
function makeFacts({size_bytes: bytes, public: isPublic, origin, modified_ms: ms, ...image}) {
  const exact = `${formatCount(bytes)} bytes`
  const human = formatBytes(bytes)
  const word = isPublic ? 'public' : 'private'
  const versions = image.versions.map((version) => make('code', {}, versionName(version)))
  const facts = [
    fact('State', make('span', {class: `state ${word}`}, word), small(origins[origin])),
    fact('Size', human, ...(human === exact ? [] : [small(exact)])),
    fact('Chunks', ...(versions.length > 0 ? versions : ['none'])),
  ]
  if (ms !== undefined) {
    const iso = new Date(ms).toISOString()
    const time = make('time', {datetime: iso}, iso.slice(0, 10), small(`${iso.slice(11, 16)} UTC`))
    facts.push(fact('Changed', time))
  }
  facts.push(long('ETag', image.etag))
  if (image.sha256 !== undefined) facts.push(long('SHA-256', image.sha256))
  return make('dl', {class: 'facts'}, ...facts)
}

/** @param {string} text */
const small = (text) => make('small', {}, ` ${text}`)

/**
 * @param {string} name
 * @param {(Node | string)[]} value
 */
const fact = (name, ...value) => make('div', {}, make('dt', {}, name), make('dd', {}, ...value))

/** Longer facts get a line of their own. */
const wideFrom = 40

/**
 * @param {string} name
 * @param {string} text
 */
function long(name, text) {
  const item = fact(name, make('code', {}, text))
  item.className = text.length > wideFrom ? 'wide' : 'long'
  return item
}

/**
 * @param {Image} image
 * @param {Manner} manner
 */
function makeLines({id, public: isPublic, versions}, {requiresRange, needsLease}) {
  const url = imageUrl(document.baseURI, id)
  const lines = [copyable('URL', url, id)]
  if (needsLease && !isPublic) lines.push(copyable('curl for a lease', curlLease(url), id))
  else {
    if (!requiresRange) lines.push(copyable('curl, all of it', curlWhole(url, id), id))
    lines.push(copyable('curl, its end', curlTail(url), id))
  }
  for (const version of versions) {
    const label = `chunk manifest, ${versionName(version)}`
    lines.push(copyable(label, manifestUrl(document.baseURI, id, version), id))
  }
  return lines
}
