/** Tells by its first bytes what a blob is; names and content types lie. */
import {BLOCK_BYTES, hasValidSum, isZeroBlock} from './header.ts'

export type ArchiveFormat = 'tar' | 'gzip' | 'zstd' | 'xz' | 'bzip2'

export type Sniffed =
  | {kind: 'archive'; format: ArchiveFormat}
  | {kind: 'unsupported'; format: string}
  | {kind: 'other'; what: string}

const archive = (format: ArchiveFormat): Sniffed => ({kind: 'archive', format})
const other = (what: string): Sniffed => ({kind: 'other', what})

/** Bytes that `sniff` wants to see, fewer only when the blob has no more. */
export const SNIFF_BYTES = 4096

export function sniff(head: Buffer): Sniffed {
  if (head.length === 0) return other('nothing at all')
  const compressed = sniffCompression(head)
  if (compressed !== undefined) return compressed
  if (isTarStart(head)) return archive('tar')
  return other(describe(head))
}

function starts(head: Buffer, hex: string, at = 0): boolean {
  return head.toString('hex', at, at + hex.length / 2) === hex
}

function sniffCompression(head: Buffer): Sniffed | undefined {
  if (starts(head, '1f8b')) return archive('gzip')
  if (starts(head, '28b52ffd')) return archive('zstd')
  // A skippable frame may stand before the first one (RFC 8878, section 3.1.2).
  if (head.length >= 4 && (head.readUInt32LE(0) & 0xffff_fff0) === 0x184d_2a50) {
    return archive('zstd')
  }
  if (starts(head, 'fd377a585a00')) return archive('xz')
  if (/^BZh[1-9]$/.test(head.toString('latin1', 0, 4))) {
    if (starts(head, '314159265359', 4) || starts(head, '177245385090', 4)) return archive('bzip2')
  }
  if (starts(head, '04224d18')) return {kind: 'unsupported', format: 'lz4'}
  if (starts(head, '4c5a4950')) return {kind: 'unsupported', format: 'lzip'}
  if (starts(head, '1f9d')) return {kind: 'unsupported', format: 'compress'}
  if (starts(head, '5d00008000')) return {kind: 'unsupported', format: 'lzma'}
  if (starts(head, '894c5a4f')) return {kind: 'unsupported', format: 'lzop'}
  return undefined
}

/** A header with a valid checksum, one that at least says "ustar" (its fault is then told), or the zeros of an empty archive. */
export function isTarStart(head: Buffer): boolean {
  if (head.length < BLOCK_BYTES) return false
  if (head.toString('latin1', 257, 262) === 'ustar') return true
  return isZeroBlock(head, 0) || hasValidSum(head, 0)
}

/** What a blob that is no archive seems to be, for the message. */
export function describe(head: Buffer): string {
  const text = head
    .toString('latin1', 0, 512)
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart()
    .toLowerCase()
  if (/^(<!doctype html|<html|<head|<body|<!--)/.test(text)) return 'an HTML page'
  if (text.startsWith('<?xml')) return text.includes('<html') ? 'an HTML page' : 'an XML document'
  if (starts(head, '504b0304') || starts(head, '504b0506')) return 'a zip file'
  if (starts(head, '377abcaf271c')) return 'a 7-Zip file'
  if (starts(head, '514649fb')) return 'a qcow2 disk image'
  if (starts(head, '68737173')) return 'a squashfs image'
  if (starts(head, '7f454c46')) return 'an ELF program'
  if (text.startsWith('!<arch>')) return 'an ar archive (perhaps a Debian package)'
  if (starts(head, 'edabeedb')) return 'an RPM package'
  if (text.startsWith('070701') || text.startsWith('070707')) return 'a cpio archive'
  if (starts(head, '55aa', 510)) return 'a disk image'
  if (/^[[{]/.test(text)) return 'a JSON document'
  return isText(head) ? 'text' : 'something else'
}

function isText(head: Buffer): boolean {
  for (const byte of head) {
    if (byte < 0x20 && byte !== 0x09 && byte !== 0x0a && byte !== 0x0d && byte !== 0x0c) {
      return false
    }
  }
  return true
}
