/**
 * Reads the plainest and most frequent form of a request's head: GET or HEAD of a path, without a body, on an HTTP/1.1
 * connection that stays open. Whatever is a little different is left to node:http, which knows all of it.
 */

export type RequestHead = {
  method: 'GET' | 'HEAD'
  /** Begins with a slash; not decoded. */
  target: string
  /** Names (in small letters) and values in turn, one character a byte. */
  rawHeaders: string[]
}

/** A longer one is left to node:http. */
export const plainHeadBytesMax = 8 * 1024

// Stricter than RFC 9112 sections 2 to 5: nothing beyond ASCII, no folded line, no bare CR or LF, no space before a colon.
const form =
  /^(GET|HEAD) (\/[A-Za-z0-9._~!$&'()*+,;=:@/%?-]*) HTTP\/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)*)\r\n$/

// What speaks of the connection or of a body.
const special = new Set([
  'connection',
  'content-length',
  'expect',
  'http2-settings',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/**
 * Reads a head that is there whole and has nothing behind it; undefined for anything else, bad or not.
 *
 * Shape: `text` has one character a byte.
 * Source: RFC 9112 sections 2 to 6.
 */
export function readRequestHead(text: string): RequestHead | undefined {
  const found = form.exec(text)
  if (!found) return undefined
  const lines = found[3] ?? ''
  const rawHeaders: string[] = []
  for (let at = 0; at < lines.length;) {
    const colon = lines.indexOf(':', at)
    const end = lines.indexOf('\r', colon)
    const name = lines.slice(at, colon).toLowerCase()
    const value = trimmed(lines, colon + 1, end)
    if (special.has(name) && (name !== 'connection' || value.toLowerCase() !== 'keep-alive'))
      return undefined
    rawHeaders.push(name, value)
    at = end + 2
  }
  return {method: found[1] as RequestHead['method'], target: found[2] ?? '', rawHeaders}
}

function trimmed(text: string, from: number, to: number): string {
  let start = from
  let end = to
  while (start < end && isBlank(text.charCodeAt(start))) start++
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

const isBlank = (code: number): boolean => code === 0x20 || code === 0x09
