/**
 * What a backup is: a plain tar that any tar program reads, of regular files in this order.
 *
 *   backup.json     who made it and when
 *   store.db        the database, whole and at rest
 *   blobs/<sha256>.tar
 *   contents.json   names, sizes and SHA-256 of all before it; without it a backup is cut off
 *
 * Source: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Extensions" (sizes from 8 GiB on in base 256).
 */
import {fail} from '../errors.ts'
import {isNodeIdText} from '../ids.ts'

export const BACKUP_FORMAT = 'imgstore.backup.v1'
export const BLOCK_BYTES = 512
export const headName = 'backup.json'
export const databaseName = 'store.db'
export const contentsName = 'contents.json'

/** The first file of a backup. */
export type BackupHead = {
  format: typeof BACKUP_FORMAT
  createdAt: string
  /** The host that made it, as its database knows it. */
  node: string
  hostname: string
  hasBlobs: boolean
}

export type BackupEntry = {name: string; sizeBytes: number; sha256: string}

/** The digest in the name of a blob, or undefined for any other name. */
export function digestIn(name: string): string | undefined {
  return /^blobs\/([0-9a-f]{64})\.tar$/.exec(name)?.[1]
}

/** From so many bytes on eleven octal digits are too few. */
const octalSizeMax = 8 ** 11

export function encodeHeader(entry: {name: string; sizeBytes: number; mtimeS: number}): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES)
  const octal = (value: number, at: number, length: number): void => {
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1')
  }
  block.write(entry.name, 0, 100, 'latin1')
  octal(0o600, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  if (entry.sizeBytes < octalSizeMax) octal(entry.sizeBytes, 124, 12)
  else {
    block[124] = 0x80
    block.writeBigUInt64BE(BigInt(entry.sizeBytes), 128)
  }
  octal(entry.mtimeS, 136, 12)
  block.write('0', 156, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  block.write(`${checksumOf(block).toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}

/**
 * Reads a header as `encodeHeader` writes it; undefined for a block of zeros, which ends the archive. Anything that a
 * backup has no use for (links, devices, long names, other owners of names) is refused.
 *
 * Errors: backup_invalid.
 */
export function decodeHeader(
  path: string,
  block: Buffer,
): {name: string; sizeBytes: number} | undefined {
  if (block.every((byte) => byte === 0)) return undefined
  const refuse = (reason: string): Error => fail('backup_invalid', {path, reason})
  if (block.toString('latin1', 257, 265) !== 'ustar\x0000')
    throw refuse('it is no backup of imgstore')
  const given = /^([0-7]{1,7})[\0 ]/.exec(block.toString('latin1', 148, 156))?.[1]
  if (given === undefined || Number.parseInt(given, 8) !== checksumOf(block))
    throw refuse('the checksum of a header is wrong')
  const type = block[156]
  if (type !== 0x30 && type !== 0) throw refuse('it holds something that is no plain file')
  const isBare = block.subarray(157, 257).every((byte) => byte === 0)
  const isShort = block.subarray(345, 500).every((byte) => byte === 0)
  if (!isBare || !isShort) throw refuse('a header has more in it than a name')
  const name = textOf(block.subarray(0, 100))
  const sizeBytes = sizeOf(block.subarray(124, 136))
  if (name === undefined || sizeBytes === undefined) throw refuse('a header cannot be read')
  return {name, sizeBytes}
}

/** Source: pax, "chksum": the sum of all bytes, with blanks in the place of the sum itself. */
function checksumOf(block: Buffer): number {
  let sum = 8 * 0x20
  for (let i = 0; i < BLOCK_BYTES; i++) if (i < 148 || i >= 156) sum += block[i] ?? 0
  return sum
}

function textOf(field: Buffer): string | undefined {
  const end = field.indexOf(0)
  const text = field.toString('latin1', 0, end < 0 ? field.length : end)
  return /^[\x21-\x7e]+$/.test(text) ? text : undefined
}

function sizeOf(field: Buffer): number | undefined {
  if (field[0] === 0x80) {
    if (field.readUIntBE(1, 3) !== 0) return undefined
    const size = field.readBigUInt64BE(4)
    return size <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(size) : undefined
  }
  const match = /^([0-7]{1,11})[\0 ]/.exec(field.toString('latin1'))
  return match?.[1] === undefined ? undefined : Number.parseInt(match[1], 8)
}

/** Zeros behind a file up to the next whole block. */
export function paddingOf(sizeBytes: number): number {
  return -sizeBytes & (BLOCK_BYTES - 1)
}

/** Errors: backup_invalid. */
export function parseHead(path: string, text: string): BackupHead {
  const head = parseObject(path, headName, text)
  const {format, created_at: createdAt, node, hostname, has_blobs: hasBlobs} = head
  if (format !== BACKUP_FORMAT)
    throw fail('backup_invalid', {path, reason: `its format is not ${BACKUP_FORMAT}`})
  const isWhole =
    [createdAt, node, hostname].every((value) => typeof value === 'string') &&
    typeof hasBlobs === 'boolean' &&
    isNodeIdText(String(node))
  if (!isWhole) throw fail('backup_invalid', {path, reason: `${headName} lacks something`})
  return {format, createdAt, node, hostname, hasBlobs} as BackupHead
}

export function formatHead(head: BackupHead): string {
  const {createdAt, hasBlobs, ...rest} = head
  return `${JSON.stringify({...rest, created_at: createdAt, has_blobs: hasBlobs})}\n`
}

export function formatContents(entries: readonly BackupEntry[]): string {
  const files = entries.map(({name, sizeBytes, sha256}) => ({name, size: sizeBytes, sha256}))
  return `${JSON.stringify({files})}\n`
}

export function parseObject(path: string, name: string, text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>
  } catch {
    // As anything else that is no object.
  }
  throw fail('backup_invalid', {path, reason: `${name} cannot be read`})
}
