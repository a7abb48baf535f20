/** The names in the paths of the streaming surface: what they may be, and how they are read from a raw path. */

/** Bounds on a path segment as it was sent, checked before it is decoded (streaming specification, section 7). */
export const segmentBounds = {
  /** An image id or a version: 128 bytes, each written as `%41` at worst. */
  idBytesMax: 3 * 128,
  /** A chunk name: 36 bytes. */
  chunkNameBytesMax: 3 * 36,
} as const

const idPattern = /^[A-Za-z0-9._-]{1,128}$/
const chunkNamePattern = /^[0-9]{1,32}\.bin$/

/** Whether the text is an image id or a version: both fit to be one path component. */
export function isStreamId(text: string): boolean {
  return idPattern.test(text) && text !== '.' && text !== '..'
}

/** What an id or a version may be, as words that follow "it must be". */
export const streamIdRule = '1 to 128 of the characters A-Z a-z 0-9 . _ -, and not "." or ".."'

/** Whether the text names a chunk. `0.bin` and `00000000.bin` are different chunks. */
export function isChunkName(text: string): boolean {
  return chunkNamePattern.test(text)
}

const utf8 = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true})

/**
 * Percent-decodes one captured path segment, once. An escape that is none (`%zz`) stays as it is.
 *
 * Shape: `raw` is a piece of a request target as Node gives it, one character a byte. Undefined: the bytes are not UTF-8.
 * Source: streaming specification, section 1.2.
 */
export function decodeSegment(raw: string): string | undefined {
  if (isPlain(raw)) return raw
  const bytes = Buffer.alloc(raw.length)
  let length = 0
  for (let i = 0; i < raw.length; i++) {
    const escaped = raw[i] === '%' ? /^[0-9A-Fa-f]{2}$/.exec(raw.slice(i + 1, i + 3)) : null
    bytes[length++] = escaped ? Number.parseInt(escaped[0], 16) : raw.charCodeAt(i)
    if (escaped) i += 2
  }
  try {
    return utf8.decode(bytes.subarray(0, length))
  } catch {
    return undefined
  }
}

function isPlain(raw: string): boolean {
  for (let i = 0; i < raw.length; i++) {
    const code = raw.charCodeAt(i)
    if (code === 0x25 || code > 0x7f) return false
  }
  return true
}
