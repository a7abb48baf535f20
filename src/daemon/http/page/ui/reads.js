/**
 * What the viewer reads and what it expects: chunk manifests, the choice of ranges, the judgement of an answer. Nothing
 * here knows a browser.
 *
 * @typedef {{start: number, end: number}} Range `end` is the last byte itself
 *
 * @typedef {object} Manifest
 * @property {number} totalSize
 * @property {number} chunkSize
 * @property {number} chunkCount
 * @property {number} chunkIndexWidth
 * @property {(string | undefined)[] | undefined} digests one a chunk, lower-case hex
 *
 * @typedef {object} Read
 * @property {'range' | 'chunk'} by a byte range of the image, or a chunk's own URL
 * @property {number} start
 * @property {number} end the last byte itself
 * @property {number} [chunk] its index
 * @property {string} [sha256] what the bytes must give
 * @property {boolean} [isSuffix] asked for as so many last bytes
 */

const chunkCountMax = 500_000
const chunkBytesMax = 64 * 1024 * 1024

/** @type {(value: unknown, min: number, max?: number) => value is number} */
const isCount = (value, min, max = Number.MAX_SAFE_INTEGER) =>
  Number.isSafeInteger(value) && Number(value) >= min && Number(value) <= max

/**
 * Checks a chunk manifest (docs/formats has the rules) and gives what reading needs of it, or says what is wrong.
 *
 * @param {unknown} json
 * @returns {Manifest | string}
 */
export function checkManifest(json) {
  if (typeof json !== 'object' || json === null) return 'it is not an object'
  const manifest = /** @type {Record<string, unknown>} */ (json)
  const {totalSize, chunkSize, chunkCount, chunkIndexWidth, chunks} = manifest
  if (manifest['schema'] !== 'aero.chunked-disk-image.v1') return 'its schema is another one'
  if (!isCount(totalSize, 512) || totalSize % 512 !== 0) return 'totalSize is wrong'
  if (!isCount(chunkSize, 512, chunkBytesMax) || chunkSize % 512 !== 0) return 'chunkSize is wrong'
  if (!isCount(chunkCount, 1, chunkCountMax) || chunkCount !== Math.ceil(totalSize / chunkSize))
    return 'chunkCount is wrong'
  if (!isCount(chunkIndexWidth, String(chunkCount - 1).length, 32))
    return 'chunkIndexWidth is wrong'
  const checked = {totalSize, chunkSize, chunkCount, chunkIndexWidth, digests: undefined}
  if (chunks === undefined) return checked
  if (!Array.isArray(chunks) || chunks.length !== chunkCount) return 'chunks has another length'

  /** @type {(string | undefined)[]} */
  const digests = []
  for (const [index, chunk] of /** @type {unknown[]} */ (chunks).entries()) {
    const name = `chunks[${index}]`
    if (typeof chunk !== 'object' || chunk === null) return `${name} is not an object`
    const {size, sha256} = /** @type {Record<string, unknown>} */ (chunk)
    const {start, end} = chunkRange(checked, index)
    if (size !== undefined && size !== end - start + 1) return `${name}.size is wrong`
    if (
      sha256 !== undefined &&
      (typeof sha256 !== 'string' || !/^\s*[0-9a-f]{64}\s*$/i.test(sha256))
    )
      return `${name}.sha256 is wrong`
    digests.push(sha256?.trim().toLowerCase())
  }
  return {...checked, digests}
}

/**
 * The bytes of one chunk; the last may be short.
 *
 * @param {Pick<Manifest, 'totalSize' | 'chunkSize'>} manifest
 * @param {number} index
 * @returns {Range}
 */
export function chunkRange({totalSize, chunkSize}, index) {
  const start = index * chunkSize
  return {start, end: Math.min(start + chunkSize, totalSize) - 1}
}

/**
 * The address of a chunk: relative to the manifest's, whose query it keeps.
 *
 * @param {string} manifestUrl absolute
 * @param {Pick<Manifest, 'chunkIndexWidth'>} manifest
 * @param {number} index
 */
export function chunkUrl(manifestUrl, {chunkIndexWidth}, index) {
  const url = new URL(`chunks/${String(index).padStart(chunkIndexWidth, '0')}.bin`, manifestUrl)
  url.search = new URL(manifestUrl).search
  return url.href
}

/**
 * Chooses what to read next: first the start of the image, then its end by a suffix range, then places at random.
 * With a manifest every read is one whole chunk, in turn by range and by its own URL, and each chunk is read once before
 * any is read again.
 *
 * @param {object} o
 * @param {number} o.size of the image, more than 0
 * @param {Manifest} [o.manifest]
 * @param {number} o.readBytes length of a read without a manifest
 * @param {() => number} o.random 0 … 1, without 1
 * @returns {(index: number) => Read}
 */
export function makePicker({size, manifest, readBytes, random}) {
  if (manifest) return makeChunkPicker(size, manifest, random)
  const length = Math.min(size, readBytes)
  return (index) => {
    if (index === 0) return {by: 'range', start: 0, end: length - 1}
    if (index === 1) return {by: 'range', start: size - length, end: size - 1, isSuffix: true}
    const start = Math.floor(random() * (size - length + 1))
    return {by: 'range', start, end: start + length - 1}
  }
}

/**
 * @param {number} size
 * @param {Manifest} manifest
 * @param {() => number} random
 * @returns {(index: number) => Read}
 */
function makeChunkPicker(size, manifest, random) {
  const {chunkCount, digests} = manifest
  const order = shuffled(chunkCount, random)
  // A chunked form of another size than the image (an expanded qcow2, say) has other bytes at the same places.
  const isSameDisk = size === manifest.totalSize
  return (index) => {
    const pass = Math.floor(index / chunkCount)
    const place = index % chunkCount
    const chunk = order[place] ?? 0
    const sha256 = digests?.[chunk]
    const isByRange = isSameDisk && (place + pass) % 2 === 1
    return {
      by: isByRange ? 'range' : 'chunk',
      ...chunkRange(manifest, chunk),
      chunk,
      ...(sha256 !== undefined && {sha256}),
      ...(isByRange && chunk === chunkCount - 1 && {isSuffix: true}),
    }
  }
}

/**
 * 0 … count-1: the first, the last, then the others in some order.
 *
 * @param {number} count
 * @param {() => number} random
 */
function shuffled(count, random) {
  const order = Array.from({length: count}, (_, index) => index)
  const swap = (/** @type {number} */ a, /** @type {number} */ b) => {
    const kept = order[a] ?? 0
    order[a] = order[b] ?? 0
    order[b] = kept
  }
  if (count > 1) swap(1, count - 1)
  for (let left = count - 1; left > 2; left--) swap(left, 2 + Math.floor(random() * (left - 1)))
  return order
}

/**
 * The value of `Range` for each request that a read takes: more than one where the server limits their length.
 *
 * @param {Read} read
 * @param {number} rangeBytesMax
 * @returns {{header: string, range: Range}[]}
 */
export function rangeRequests({start, end, isSuffix}, rangeBytesMax) {
  const most = Math.max(1, rangeBytesMax)
  if (isSuffix && end - start < most)
    return [{header: `bytes=-${end - start + 1}`, range: {start, end}}]
  return Array.from({length: Math.ceil((end - start + 1) / most)}, (_, index) => {
    const from = start + index * most
    const to = Math.min(from + most - 1, end)
    return {header: `bytes=${from}-${to}`, range: {start: from, end: to}}
  })
}

/**
 * What is wrong with an answer, in words; undefined when it is what a streaming client needs.
 *
 * @param {{status: number, headers: Pick<Headers, 'get'>}} answer
 * @param {{range: Range, size: number, etag: string} | {bytes: number}} wanted a range of the image, or a whole chunk
 * @returns {string | undefined}
 */
export function judge({status, headers}, wanted) {
  const isRange = 'range' in wanted
  const etag = headers.get('etag')
  if (isRange && status === 200 && etag !== wanted.etag) return 'the image has changed'
  if (status !== (isRange ? 206 : 200)) return meaning(status)
  if (isRange) {
    const {start, end} = wanted.range
    const expected = `bytes ${start}-${end}/${wanted.size}`
    const contentRange = headers.get('content-range')
    if (contentRange !== expected)
      return `Content-Range is ${contentRange ?? 'missing'}, expected ${expected}`
    if (etag !== wanted.etag) return 'the image has changed: its ETag is another one'
  }
  const bytes = isRange ? wanted.range.end - wanted.range.start + 1 : wanted.bytes
  if (Number(headers.get('content-length')) !== bytes)
    return `Content-Length is ${headers.get('content-length') ?? 'missing'}, expected ${bytes}`
  if ((headers.get('content-encoding') ?? 'identity').trim().toLowerCase() !== 'identity')
    return 'the answer is encoded: something on the way compresses it'
  if (!/(^|[\s,])no-transform([\s,]|$)/i.test(headers.get('cache-control') ?? ''))
    return 'Cache-Control lacks no-transform: something on the way rewrites it'
  return undefined
}

/** @param {number} status */
function meaning(status) {
  switch (status) {
    case 200:
      return 'answered with the whole image instead of a range'
    case 401:
    case 403:
      return 'refused: the image needs a lease'
    case 404:
      return 'not found'
    case 412:
    case 416:
      return `the image has changed (answer ${status})`
    case 413:
      return 'longer than the server allows'
    case 429:
      return 'the server is busy with as many reads as it allows'
    default:
      return `answer ${status}`
  }
}

/** Whether the same request may do better a moment later. @param {number} status */
export const isPassing = (status) => status === 408 || status === 429 || status >= 500
