/**
 * Entity tags: what a client compares its copy with. A strong one promises the same bytes; a weak one (`W/"…"`) only
 * the same meaning, and never lets a range be joined to an older one.
 *
 * Source: RFC 9110 section 8.8.3; streaming specification, sections 1.7 and 1.13.
 */
import {createHash} from 'node:crypto'
import type {Digest} from './digest.ts'

const second = 1_000_000_000n
export const etagBytesMax = 1024

/** The strong tag of a file: its size and modification time. An unknown time counts as zero. */
export function defaultEtag(size: number, modifiedNs: bigint | undefined): string {
  return `"${sizeAndTime(size, modifiedNs)}"`
}

/** The weak tag that stands in for one that cannot be sent. */
export function weakEtag(size: number, modifiedNs: bigint | undefined): string {
  return `W/"${sizeAndTime(size, modifiedNs)}"`
}

function sizeAndTime(size: number, modifiedNs: bigint | undefined): string {
  const ns = modifiedNs ?? 0n
  return `${size.toString(16)}-${(ns / second).toString(16)}-${(ns % second).toString(16)}`
}

/** The strong tag of content whose SHA-256 is known. */
export function digestEtag(digest: Digest): string {
  return `"sha256-${digest}"`
}

/** What is wrong with a tag, as words that follow "it"; undefined when it can be sent. */
export function etagProblem(text: string): string | undefined {
  if (text === '') return 'is empty'
  if (text.length > etagBytesMax) return `is longer than ${etagBytesMax} bytes`
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code > 0x7e) return 'has a character that is not printable ASCII'
    if (code <= 0x20) return 'has white space or a control character'
  }
  const opaque = /^(?:[Ww]\/)?"(.*)"$/.exec(text)?.[1]
  if (opaque === undefined) return 'is not of the form "…" or W/"…"'
  return opaque.includes('"') ? 'has a quote inside' : undefined
}

/** The tag if it can be sent, and else the weak one of size and time: always the same for the same file. */
export function safeEtag(etag: string, size: number, modifiedNs: bigint | undefined): string {
  return etagProblem(etag) === undefined ? etag : weakEtag(size, modifiedNs)
}

export function isWeakEtag(etag: string): boolean {
  return etag.startsWith('W/') || etag.startsWith('w/')
}

/**
 * Whether one of the tags of an `If-Match` or `If-None-Match` value is `etag`: `weak` looks past `W/` on both sides,
 * `strong` takes no weak tag on either. `*` matches any. Commas inside a quoted tag are part of it.
 *
 * Cost: linear in the text, without copies.
 * Source: RFC 9110 sections 8.8.3.2, 13.1.1 and 13.1.2.
 */
export function matchesEtag(text: string, etag: string, comparison: 'weak' | 'strong'): boolean {
  if (text === etag) return comparison === 'weak' || !isWeakEtag(etag)
  if (text.trim() === '*') return true
  if (comparison === 'strong' && isWeakEtag(etag)) return false
  const opaque = isWeakEtag(etag) ? etag.slice(2) : etag
  let from = 0
  while (from < text.length) {
    const to = endOfTag(text, from)
    if (isTag(text, from, to, opaque, comparison)) return true
    from = to + 1
  }
  return false
}

/** Where the list element that begins at `from` ends: at the next comma outside quotes. */
function endOfTag(text: string, from: number): number {
  let isQuoted = false
  for (let i = from; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === 0x22) isQuoted = !isQuoted
    else if (code === 0x2c && !isQuoted) return i
  }
  return text.length
}

function isTag(
  text: string,
  from: number,
  to: number,
  opaque: string,
  comparison: 'weak' | 'strong',
): boolean {
  let start = from
  let end = to
  while (start < end && isBlank(text.charCodeAt(start))) start++
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--
  if (text.startsWith('W/', start) || text.startsWith('w/', start)) {
    if (comparison === 'strong') return false
    start += 2
  }
  return end - start === opaque.length && text.startsWith(opaque, start)
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09
}

/**
 * The strong tag of a list: the same for the same images in any order, another when an id, a tag, a size or a time
 * differs.
 *
 * Source: streaming specification, section 1.7.
 */
export function listEtag(
  images: readonly {id: string; etag: string; size: number; modifiedNs: bigint | undefined}[],
): string {
  const hash = createHash('sha256')
  const number = Buffer.alloc(16)
  // Ids are ASCII, so that the order of characters is that of bytes.
  for (const image of [...images].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))) {
    hash.update(`${image.id}\0${image.etag}\0`)
    number.writeBigUInt64LE(BigInt(image.size))
    hash.update(number.subarray(0, 8))
    if (image.modifiedNs !== undefined) {
      const ns = BigInt.asUintN(128, image.modifiedNs)
      number.writeBigUInt64LE(ns & (2n ** 64n - 1n), 0)
      number.writeBigUInt64LE(ns >> 64n, 8)
      hash.update(number)
    }
    hash.update('\0')
  }
  return `"images-${hash.digest('hex').slice(0, 32)}"`
}
