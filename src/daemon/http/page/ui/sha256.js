/**
 * SHA-256 in the browser. Browsers give SubtleCrypto only to pages from HTTPS or from the machine itself; for a page
 * that was opened over plain HTTP from another machine there is a slower one in plain JavaScript.
 *
 * Source: FIPS 180-4, sections 4.1.2, 5.1.1, 5.3.3 and 6.2.
 */

/**
 * The digest in lower-case hex.
 *
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<string>}
 */
export async function sha256(bytes) {
  const subtle = /** @type {SubtleCrypto | undefined} */ (globalThis.crypto.subtle)
  if (!subtle) return plainSha256(bytes)
  return hex(new Uint8Array(await subtle.digest('SHA-256', bytes)), 2)
}

/** @type {(values: Iterable<number>, digits: number) => string} */
const hex = (values, digits) =>
  Array.from(values, (value) => value.toString(16).padStart(digits, '0')).join('')

/** @param {number} count */
function primes(count) {
  /** @type {number[]} */
  const found = []
  for (let n = 2; found.length < count; n++)
    if (found.every((prime) => n % prime !== 0)) found.push(n)
  return found
}

/**
 * The first 32 bits of the fraction; doubles are exact enough for the primes in question.
 *
 * @param {number} value
 */
const fraction = (value) => ((value - Math.floor(value)) * 2 ** 32) | 0

const rounds = Int32Array.from(primes(64), (prime) => fraction(Math.cbrt(prime)))
const initial = Int32Array.from(primes(8), (prime) => fraction(Math.sqrt(prime)))
const words = new Int32Array(64)

/**
 * The digest in lower-case hex, without the browser's help.
 *
 * @param {Uint8Array} bytes
 */
export function plainSha256(bytes) {
  const state = initial.slice()
  const wholeBytes = bytes.length - (bytes.length % 64)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 0; at < wholeBytes; at += 64) compress(state, view, at)

  // The rest, one bit, zeros, and the length in bits.
  const rest = bytes.length - wholeBytes
  const tail = new Uint8Array(rest < 56 ? 64 : 128)
  tail.set(bytes.subarray(wholeBytes))
  tail[rest] = 0x80
  const tailView = new DataView(tail.buffer)
  tailView.setBigUint64(tail.length - 8, BigInt(bytes.length) * 8n)
  for (let at = 0; at < tail.length; at += 64) compress(state, tailView, at)

  return hex(Uint32Array.from(state), 8)
}

/** @type {(array: Int32Array, index: number) => number} */
const at = (array, index) => /** @type {number} */ (array[index])

/**
 * @param {Int32Array} state
 * @param {DataView} view
 * @param {number} offset
 */
function compress(state, view, offset) {
  for (let i = 0; i < 16; i++) words[i] = view.getInt32(offset + i * 4)
  for (let i = 16; i < 64; i++) {
    const w15 = at(words, i - 15)
    const w2 = at(words, i - 2)
    const s0 = ((w15 >>> 7) | (w15 << 25)) ^ ((w15 >>> 18) | (w15 << 14)) ^ (w15 >>> 3)
    const s1 = ((w2 >>> 17) | (w2 << 15)) ^ ((w2 >>> 19) | (w2 << 13)) ^ (w2 >>> 10)
    words[i] = (at(words, i - 16) + s0 + at(words, i - 7) + s1) | 0
  }
  let a = at(state, 0)
  let b = at(state, 1)
  let c = at(state, 2)
  let d = at(state, 3)
  let e = at(state, 4)
  let f = at(state, 5)
  let g = at(state, 6)
  let h = at(state, 7)
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + at(rounds, i) + at(words, i)) | 0
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
    h = g
    g = f
    f = e
    e = (d + t1) | 0
    d = c
    c = b
    b = a
    a = (t1 + t2) | 0
  }
  for (const [i, value] of [a, b, c, d, e, f, g, h].entries()) state[i] = at(state, i) + value
}
