/**
 * Starts the page.
 *
 * @import {Listing, Manner} from './images.js'
 */
import {credentials} from './credentials.js'
import {byId, setText} from './dom.js'
import {filterImages, showImages} from './images.js'
import {startLive} from './live.js'
import {chooseImage, offerImages, server, startViewer} from './viewer.js'

const listEveryMs = 3000

/** @type {Manner} */
let manner = {requiresRange: false, needsLease: false}
/** @type {Listing | undefined} */
let listing
let listedMs = -Infinity
let isListing = false

/** @type {Map<string, string>} */
const notices = new Map()

/**
 * Shows that something is amiss, or no longer is.
 *
 * @param {string} about
 * @param {string | undefined} text
 */
function notice(about, text) {
  if (text === undefined) notices.delete(about)
  else notices.set(about, text)
  const place = byId('notice', HTMLElement)
  place.hidden = notices.size === 0
  setText(place, [...notices.values()].join(' '))
}

async function list() {
  if (isListing) return
  isListing = true
  listedMs = performance.now()
  try {
    const response = await fetch('ui/images.json', {cache: 'no-cache', headers: credentials()})
    /** @type {unknown} */
    const json = await response.json()
    const answer = /** @type {Listing | {error: string}} */ (json)
    if ('error' in answer) {
      notice('images', `${answer.error[0]?.toUpperCase() ?? ''}${answer.error.slice(1)}.`)
      return
    }
    notice('images', undefined)
    const isNew = JSON.stringify(answer) !== JSON.stringify(listing)
    listing = answer
    if (isNew) offerImages(listing.images)
    show()
  } catch {
    // The live figures find the same, and say it.
  } finally {
    isListing = false
  }
}

function show() {
  if (listing) showImages(listing, manner, chooseImage)
}

setText(byId('host', HTMLElement), location.host)
byId('filter', HTMLInputElement).addEventListener('input', filterImages)
byId('token', HTMLInputElement).addEventListener('change', () => void list())
startViewer()
startLive({
  onStatus(status) {
    server.rangeBytesMax = status.max_range_bytes
    server.needsLease = status.needs_lease
    const next = {requiresRange: status.requires_range, needsLease: status.needs_lease}
    if (JSON.stringify(next) !== JSON.stringify(manner)) {
      manner = next
      byId('token-field', HTMLElement).hidden = !next.needsLease
      show()
      if (listing) offerImages(listing.images)
    }
    if (performance.now() - listedMs > listEveryMs) void list()
  },
  onReach(isReached) {
    notice(
      'server',
      isReached ? undefined : 'The server does not answer; trying again each second.',
    )
  },
})
