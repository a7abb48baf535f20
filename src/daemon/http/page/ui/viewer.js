/**
 * The part of the page that proves streaming: its form, its run, its results.
 *
 * @import {Image} from './images.js'
 * @import {Target} from './reader.js'
 */
import {imageUrl, manifestUrl} from './addresses.js'
import {credentials} from './credentials.js'
import {byId, make, setText} from './dom.js'
import {formatBytes} from './figures.js'
import {versionName} from './images.js'
import {readAll} from './reader.js'
import {checkManifest, makePicker} from './reads.js'
import {Results} from './results.js'
import {sha256} from './sha256.js'

/** What the viewer must know of the server. */
export const server = {rangeBytesMax: 8 * 1024 * 1024, needsLease: false}

/** Most bytes that the reads under way may hold at once. */
const heldBytesMax = 128 * 1024 * 1024
const manifestBytesMax = 64 * 1024 * 1024
const plainValue = 'ranges'

/** @type {Map<string, Image>} */
let images = new Map()
/** @type {AbortController | undefined} */
let running

const select = (/** @type {string} */ id) => byId(id, HTMLSelectElement)

export function startViewer() {
  select('proof-image').addEventListener('change', showChoices)
  select('proof-check').addEventListener('change', showSizes)
  byId('proof-stop', HTMLButtonElement).addEventListener('click', () => running?.abort())
  byId('proof-form', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault()
    void run()
  })
}

/**
 * The images to choose from.
 *
 * @param {readonly Image[]} list
 */
export function offerImages(list) {
  const chosen = select('proof-image').value
  images = new Map(list.map((image) => [image.id, image]))
  const options = list.map((image) => {
    const label = `${image.id}, ${formatBytes(image.size_bytes)}`
    return make('option', {value: image.id}, label)
  })
  select('proof-image').replaceChildren(...options)
  if (images.has(chosen)) select('proof-image').value = chosen
  // Something to check against is the better proof.
  else
    select('proof-image').value =
      (list.find(({versions}) => versions.length > 0) ?? list[0])?.id ?? ''
  byId('proof-start', HTMLButtonElement).disabled = list.length === 0 || running !== undefined
  showChoices()
}

/**
 * Chooses an image and brings its form before the person.
 *
 * @param {Image} image
 */
export function chooseImage(image) {
  select('proof-image').value = image.id
  showChoices()
  byId('proof', HTMLElement).scrollIntoView()
  byId('proof-start', HTMLButtonElement).focus({preventScroll: true})
}

/** Of which image the choices are. */
let shownId = ''

function showChoices() {
  const image = images.get(select('proof-image').value)
  const chosen = image?.id === shownId ? select('proof-check').value : ''
  shownId = image?.id ?? ''
  const versions = image?.versions ?? []
  const options = versions.map((version) =>
    make('option', {value: `v${version}`}, `chunk digests, ${versionName(version)}`),
  )
  options.push(make('option', {value: plainValue}, 'headers and lengths'))
  select('proof-check').replaceChildren(...options)
  if (options.some(({value}) => value === chosen)) select('proof-check').value = chosen
  showSizes()
}

function showSizes() {
  // A digest is over a whole chunk.
  select('proof-size').disabled = select('proof-check').value !== plainValue
}

/** @param {string} text */
const tell = (text) => setText(byId('proof-status', HTMLElement), text)

async function run() {
  const image = images.get(select('proof-image').value)
  if (!image || running) return
  const abort = (running = new AbortController())
  byId('proof-start', HTMLButtonElement).disabled = true
  byId('proof-stop', HTMLButtonElement).disabled = false
  try {
    if (image.size_bytes === 0) tell(`${image.id} is empty: there is nothing to read.`)
    else await prove(image, abort.signal)
  } catch (error) {
    tell(abort.signal.aborted ? 'Stopped.' : error instanceof Error ? error.message : String(error))
  } finally {
    running = undefined
    byId('proof-start', HTMLButtonElement).disabled = false
    byId('proof-stop', HTMLButtonElement).disabled = true
  }
}

/**
 * @param {Image} image
 * @param {AbortSignal} signal
 */
async function prove(image, signal) {
  tell(`Reading ${image.id} …`)
  const target = await makeTarget(image, signal)
  const manifest = target.chunked?.manifest
  const count = Number(select('proof-count').value)
  const readBytes = Math.max(1, Math.min(Number(select('proof-size').value), server.rangeBytesMax))
  const heldBytes = manifest?.chunkSize ?? readBytes
  const atOnce = Math.max(
    1,
    Math.min(Number(select('proof-at-once').value), Math.floor(heldBytesMax / heldBytes)),
  )
  const pick = makePicker({
    size: image.size_bytes,
    readBytes,
    random: Math.random,
    ...(manifest && {manifest}),
  })
  const results = new Results({
    count,
    sizeBytes: manifest?.totalSize ?? image.size_bytes,
    hasDigests: manifest?.digests !== undefined,
  })
  await readAll({
    target,
    pick,
    count,
    atOnce,
    signal,
    tools: {
      fetch: (input, init) => fetch(input, init),
      digest: sha256,
      sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    },
    onReading: (reading) => results.add(reading),
  })
  tell(results.end(signal.aborted))
}

/**
 * @param {Image} image
 * @param {AbortSignal} signal
 * @returns {Promise<Target>}
 */
async function makeTarget(image, signal) {
  const {id, size_bytes: size, etag} = image
  const check = select('proof-check').value
  const version = check === plainValue ? undefined : check.slice(1)
  let url = imageUrl(document.baseURI, id)
  let query = ''
  if (server.needsLease && !image.public) {
    url = await askLease(url, signal)
    query = new URL(url).search
  }
  const plain = {url, size, etag, rangeBytesMax: server.rangeBytesMax}
  if (version === undefined) return plain
  const manifestAt = manifestUrl(document.baseURI, id, version) + query
  const response = await fetch(manifestAt, {cache: 'no-store', signal})
  if (!response.ok) throw new Error(`The chunk manifest cannot be read: answer ${response.status}.`)
  if (Number(response.headers.get('content-length')) > manifestBytesMax)
    throw new Error('The chunk manifest is longer than any client reads.')
  const manifest = checkManifest(await response.json())
  if (typeof manifest === 'string') throw new Error(`The chunk manifest is not valid: ${manifest}.`)
  return {...plain, chunked: {url: manifestAt, manifest}}
}

/**
 * The address of a private image that works for some minutes.
 *
 * @param {string} url of the image
 * @param {AbortSignal} signal
 */
async function askLease(url, signal) {
  const response = await fetch(`${url}/lease`, {method: 'POST', signal, headers: credentials()})
  if (response.status === 401 || response.status === 403)
    throw new Error('This image needs a lease, and the token does not get one.')
  if (response.status === 404) throw new Error('There is no such image any more.')
  if (!response.ok) throw new Error(`The lease failed: answer ${response.status}.`)
  /** @type {unknown} */
  const json = await response.json()
  const lease = /** @type {{url?: unknown}} */ (json)
  if (typeof lease.url !== 'string') throw new Error('The lease has no address.')
  // Behind a proxy the server may think of itself by another name; only the query is the lease.
  const leased = new URL(url)
  leased.search = new URL(lease.url, document.baseURI).search
  return leased.href
}
