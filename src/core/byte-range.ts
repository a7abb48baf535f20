/**
 * The `Range` header of one request, read against the size of one image.
 *
 * Source: RFC 9110 section 14, narrowed and bounded as the streaming specification says (section 2.3).
 */

/** Bounds on a header that anybody can send (streaming specification, section 7). */
export const rangeBounds = {
  /** Of the whole value, before it is trimmed. */
  valueBytesMax: 8192,
  /** Comma-separated ranges in it. */
  specsMax: 1000,
  /** Characters of one number, leading zeros included. */
  digitsMax: 64,
} as const

/** Bytes `start` to `end`, both included, both inside the image. */
export type ByteRange = {readonly start: number; readonly end: number}

/**
 * Why there is no single range to send:
 * - `other_unit`: not in bytes, to be ignored
 * - `too_large`: more text or more ranges than anybody needs
 * - `malformed`: not a range
 * - `several`: well-formed, but more than one
 * - `unsatisfiable`: well-formed, but no byte of the image is in it
 */
export type RangeRefusal = 'other_unit' | 'too_large' | 'malformed' | 'several' | 'unsatisfiable'

/** Largest number that fits in 64 bits: what a client may write as "to the end". */
const numberMax = 2n ** 64n - 1n
const malformedNumber = -1
const comma = 0x2c
const hyphen = 0x2d

/**
 * Reads a `Range` value against an image of `size` bytes (0 … 2^53-1).
 *
 * Shape: `text` is a header value as Node gives it, one character a byte. Numbers up to 2^64-1 are compared exactly.
 * Guarantees: syntax comes first: a malformed list is `malformed` though its first range could be satisfied.
 * Cost: linear in the text, which is cut off at 8192 bytes; one small object for a plain `bytes=a-b`.
 */
export function parseRange(text: string, size: number): ByteRange | RangeRefusal {
  if (text.length > rangeBounds.valueBytesMax) return 'too_large'
  const equals = text.indexOf('=')
  if (equals < 0) return 'malformed'
  if (!isBytesUnit(text, equals)) return 'other_unit'
  let first: ByteRange | RangeRefusal = 'malformed'
  let specCount = 0
  let from = equals + 1
  for (;;) {
    if (++specCount > rangeBounds.specsMax) return 'too_large'
    const to = endOfSpec(text, from)
    const found = readSpec(text, skipBlanks(text, from, to), skipBlanksBack(text, from, to), size)
    if (found === 'malformed') return found
    if (specCount === 1) first = found
    if (to === text.length) break
    from = to + 1
  }
  return specCount > 1 ? 'several' : first
}

function isBytesUnit(text: string, equals: number): boolean {
  if (text.startsWith('bytes=')) return true
  return text.slice(0, equals).trim().toLowerCase() === 'bytes'
}

function endOfSpec(text: string, from: number): number {
  for (let i = from; i < text.length; i++) if (text.charCodeAt(i) === comma) return i
  return text.length
}

/** One of `a-b`, `a-` and `-n` in the text from `from` to `to`, without blanks around it. */
function readSpec(
  text: string,
  from: number,
  to: number,
  size: number,
): ByteRange | 'malformed' | 'unsatisfiable' {
  let dash = from
  while (dash < to && text.charCodeAt(dash) !== hyphen) dash++
  if (dash >= to) return 'malformed'
  const startTo = skipBlanksBack(text, from, dash)
  const endFrom = skipBlanks(text, dash + 1, to)
  if (startTo === from) {
    const suffix = readNumber(text, endFrom, to)
    if (suffix === malformedNumber || suffix === 0) return 'malformed'
    if (size === 0) return 'unsatisfiable'
    return {start: Math.max(0, size - suffix), end: size - 1}
  }
  const start = readNumber(text, from, startTo)
  if (start === malformedNumber) return 'malformed'
  if (endFrom === to) return start < size ? {start, end: size - 1} : 'unsatisfiable'
  const end = readNumber(text, endFrom, to)
  if (end === malformedNumber || end < start) return 'malformed'
  // Both may have been cut to the largest safe number: then only the digits tell which is larger.
  if (end === Number.MAX_SAFE_INTEGER && end === start)
    if (BigInt(text.slice(endFrom, to)) < BigInt(text.slice(from, startTo))) return 'malformed'
  return start < size ? {start, end: Math.min(end, size - 1)} : 'unsatisfiable'
}

/** A number of digits alone; what is past the largest safe number, and so past any image, becomes that number. */
function readNumber(text: string, from: number, to: number): number {
  if (from >= to || to - from > rangeBounds.digitsMax) return malformedNumber
  let value = 0
  for (let i = from; i < to; i++) {
    const digit = text.charCodeAt(i) - 0x30
    if (digit < 0 || digit > 9) return malformedNumber
    value = value * 10 + digit
  }
  // Exact as long as it is safe: the steps before it were smaller.
  if (value <= Number.MAX_SAFE_INTEGER) return value
  return BigInt(text.slice(from, to)) > numberMax ? malformedNumber : Number.MAX_SAFE_INTEGER
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09
}

function skipBlanks(text: string, from: number, to: number): number {
  let at = from
  while (at < to && isBlank(text.charCodeAt(at))) at++
  return at
}

function skipBlanksBack(text: string, from: number, to: number): number {
  let at = to
  while (at > from && isBlank(text.charCodeAt(at - 1))) at--
  return at
}
