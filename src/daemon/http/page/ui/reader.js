/**
 * Reads an image piece by piece, as a streaming client does, and checks each piece.
 *
 * @import {Manifest, Read} from './reads.js'
 *
 * @typedef {object} Target
 * @property {string} url of the image's bytes, absolute
 * @property {number} size
 * @property {string} etag
 * @property {number} rangeBytesMax
 * @property {{url: string, manifest: Manifest}} [chunked]
 *
 * @typedef {object} Reading times in milliseconds since the first read began
 * @property {number} index
 * @property {Read} read
 * @property {number} startMs
 * @property {number} firstByteMs when the answer's header was there
 * @property {number} endMs
 * @property {number} bytes
 * @property {number} retries
 * @property {'verified' | 'read' | 'wrong' | 'failed'} verdict `read`: all is well, but there is no digest to check
 * @property {string} [reason]
 *
 * @typedef {object} Tools
 * @property {typeof fetch} fetch
 * @property {(bytes: Uint8Array<ArrayBuffer>) => Promise<string>} digest
 * @property {(ms: number) => Promise<unknown>} sleep
 */
import {chunkUrl, isPassing, judge, rangeRequests} from './reads.js'

const triesMax = 5
const firstWaitMs = 100
const tryTimeoutMs = 30_000

/**
 * Makes `count` reads, `atOnce` at a time, and hands each to `onReading` as it ends. Resolves after the last, or soon
 * after `signal` aborts; a read that the abort cut off is not handed on.
 *
 * @param {object} o
 * @param {Target} o.target
 * @param {(index: number) => Read} o.pick
 * @param {number} o.count
 * @param {number} o.atOnce
 * @param {Tools} o.tools
 * @param {AbortSignal} o.signal
 * @param {(reading: Reading) => void} o.onReading
 */
export async function readAll({target, pick, count, atOnce, tools, signal, onReading}) {
  const beganMs = performance.now()
  let next = 0
  const work = async () => {
    while (next < count && !signal.aborted) {
      const index = next++
      const reading = await readOne({target, read: pick(index), index, beganMs, tools, signal})
      if (reading) onReading(reading)
    }
  }
  await Promise.all(Array.from({length: Math.min(atOnce, count)}, work))
}

/**
 * @param {{target: Target, read: Read, index: number, beganMs: number, tools: Tools, signal: AbortSignal}} o
 * @returns {Promise<Reading | undefined>} undefined when `signal` cut it off
 */
async function readOne({target, read, index, beganMs, tools, signal}) {
  const startMs = performance.now() - beganMs
  const failed = {index, read, startMs, bytes: 0, verdict: /** @type {const} */ ('failed')}
  for (let retries = 0; ; retries++) {
    const triedMs = performance.now()
    const tried = await tryRead(target, read, tools, signal)
    // Cut off now or during the wait before: then the try failed at once.
    if (signal.aborted) return undefined
    const endMs = performance.now() - beganMs
    const times = {startMs: triedMs - beganMs, endMs, retries}
    if ('problem' in tried) {
      const {problem, mayPass} = tried
      if (!mayPass || retries + 1 === triesMax)
        return {...failed, ...times, firstByteMs: endMs, reason: problem}
      await tools.sleep(firstWaitMs * 2 ** retries)
      continue
    }
    const {bytes, firstByteMs} = tried
    const done = {index, read, ...times, firstByteMs: firstByteMs - beganMs, bytes: bytes.length}
    // After the clock was read: the digest is the client's own work.
    if (read.sha256 === undefined) return {...done, verdict: 'read'}
    const actual = await tools.digest(bytes)
    if (actual === read.sha256) return {...done, verdict: 'verified'}
    const reason = `SHA-256 is ${actual}, the manifest says ${read.sha256}`
    return {...done, verdict: 'wrong', reason}
  }
}

/**
 * @typedef {{bytes: Uint8Array<ArrayBuffer>, firstByteMs: number} | {problem: string, mayPass: boolean}} Tried
 */

/**
 * One try at all requests of one read.
 *
 * @param {Target} target
 * @param {Read} read
 * @param {Tools} tools
 * @param {AbortSignal} signal
 * @returns {Promise<Tried>}
 */
async function tryRead(target, read, tools, signal) {
  const bytes = new Uint8Array(read.end - read.start + 1)
  let firstByteMs = 0
  for (const request of requestsOf(target, read)) {
    const cut = new AbortController()
    try {
      const response = await tools.fetch(request.url, {
        headers: request.headers,
        // The browser's own copy would prove nothing about the server.
        cache: 'no-store',
        signal: AbortSignal.any([signal, cut.signal, AbortSignal.timeout(tryTimeoutMs)]),
      })
      firstByteMs ||= performance.now()
      const problem = judge(response, request.wanted)
      if (problem !== undefined) {
        // The rest of it may be the whole image.
        cut.abort()
        return {problem, mayPass: isPassing(response.status)}
      }
      const part = new Uint8Array(await response.arrayBuffer())
      if (part.length !== request.length)
        return {problem: `${part.length} bytes came of ${request.length}`, mayPass: true}
      bytes.set(part, request.at)
    } catch (error) {
      return {problem: `the connection failed (${String(error)})`, mayPass: true}
    }
  }
  return {bytes, firstByteMs}
}

/**
 * @param {Target} target
 * @param {Read} read
 */
function requestsOf(target, read) {
  const length = read.end - read.start + 1
  if (read.by === 'chunk' && target.chunked) {
    const {url, manifest} = target.chunked
    const wanted = {bytes: length}
    return [{url: chunkUrl(url, manifest, read.chunk ?? 0), headers: {}, wanted, at: 0, length}]
  }
  return rangeRequests(read, target.rangeBytesMax).map(({header, range}) => ({
    url: target.url,
    // If-Range only works with a strong tag; with a weak one the answer would be the whole image.
    headers: {
      range: header,
      ...(target.etag.startsWith('"') && {'if-range': target.etag}),
    },
    wanted: {range, size: target.size, etag: target.etag},
    at: range.start - read.start,
    length: range.end - range.start + 1,
  }))
}
