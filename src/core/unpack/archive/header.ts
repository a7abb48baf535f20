/**
 * One 512-byte tar header, read strictly. What two well-known parsers read differently is malformed here,
 * because an archive that means one thing to a scanner and another to an unpacker is an attack.
 */
import {createRequire} from 'node:module'
import type {Header as TarHeader} from 'tar'
import {fail} from '../../errors.ts'
import {readNumber, readPlainOctal} from './number.ts'

export const BLOCK_BYTES = 512

export type HeaderFormat = 'v7' | 'ustar' | 'gnu'

/** The fields as the block holds them; names are byte strings. */
export type RawHeader = {
  format: HeaderFormat
  /** The type flag, `'0'` also where the block holds a NUL. */
  type: string
  /** Whether the type flag was a NUL, the old way to say "file" (or, with a slash at the end of the name, "directory"). */
  isOldType: boolean
  name: string
  linkName: string
  mode: number
  uid: number
  gid: number
  sizeBytes: number
  mtimeSeconds: number
}

/** Whether a block is all zeros, as the end of an archive is written. */
export function isZeroBlock(block: Buffer, start: number): boolean {
  // Most blocks that are not zero say so in their first byte.
  if (block[start] !== 0) return false
  return isZero(block, start, start + BLOCK_BYTES)
}

let viewed: Buffer | undefined
let viewedBase = 0
let words: Int32Array = new Int32Array(0)

/**
 * The memory that a buffer lies in, as words; `viewedBase` is where it begins there. Made once for each chunk: asking a
 * buffer for its memory is a call into the engine.
 */
function wordsOf(block: Buffer): Int32Array {
  if (viewed !== block) {
    viewed = block
    viewedBase = block.byteOffset
    words = new Int32Array(block.buffer, 0, block.buffer.byteLength >> 2)
  }
  return words
}

/** Whether bytes `from` … `to` of a block are all zeros. */
function isZero(block: Buffer, from: number, to: number): boolean {
  let at = from
  const view = wordsOf(block)
  const base = viewedBase
  while (at < to && ((base + at) & 3) !== 0) if (block[at++] !== 0) return false
  // Most of a header is zeros, so they are looked at four by four.
  for (; at + 4 <= to; at += 4) if (view[(base + at) >> 2] !== 0) return false
  while (at < to) if (block[at++] !== 0) return false
  return true
}

/** The sum of a header's bytes with the checksum field counted as spaces. */
export function headerSum(block: Buffer, start: number): number {
  let sum = 0
  const view = wordsOf(block)
  const first = viewedBase + start
  if ((first & 3) === 0) {
    // Four bytes at a time, in two lanes of 16 bits: 128 words of two bytes each reach 65,280 at most, so no lane
    // overflows. A third of the time of a header was spent here otherwise.
    const end = (first + BLOCK_BYTES) >> 2
    let lanes = 0
    for (let at = first >> 2; at < end; at++) {
      const word = view[at] ?? 0
      // Kept an integer of 32 bits, which the compiler needs no check for.
      lanes = (lanes + (word & 0x00ff00ff) + ((word >>> 8) & 0x00ff00ff)) | 0
    }
    sum = (lanes & 0xffff) + (lanes >>> 16)
  } else {
    for (let at = start; at < start + BLOCK_BYTES; at++) sum += block[at] ?? 0
  }
  for (let at = start + 148; at < start + 156; at++) sum += 0x20 - (block[at] ?? 0)
  return sum
}

/** Whether a block carries the checksum of its own bytes; says nothing else about it. */
export function hasValidSum(block: Buffer, start: number): boolean {
  try {
    return readNumber(block, start + 148, 8, 'checksum', 0) === headerSum(block, start)
  } catch {
    return false
  }
}

/** A NUL-ended or full field as a byte string. Parsers cut at the NUL in different ways, so nothing may follow it. */
function readString(
  block: Buffer,
  start: number,
  length: number,
  field: string,
  offset: number,
): string {
  const end = start + length
  let at = start
  while (at < end && block[at] !== 0) at++
  if (!isZero(block, at, end)) {
    throw fail('bad_archive', {offset, reason: `its ${field} field has bytes after its end`})
  }
  return at === start ? '' : block.toString('latin1', start, at)
}

function needNumber(
  block: Buffer,
  start: number,
  length: number,
  field: string,
  offset: number,
): number {
  const value = readNumber(block, start, length, field, offset)
  if (value === undefined) throw fail('bad_archive', {offset, reason: `its ${field} is missing`})
  if (value < 0) throw fail('bad_archive', {offset, reason: `its ${field} is negative`})
  return value
}

const MAGIC_USTA = Buffer.from('usta').readUInt32LE(0)
const MAGIC_R_POSIX = Buffer.from('r\x0000').readUInt32LE(0)
const MAGIC_R_GNU = Buffer.from('r  \0').readUInt32LE(0)

function readFormat(block: Buffer, start: number, offset: number): HeaderFormat {
  const head = block.readUInt32LE(start + 257)
  const tail = block.readUInt32LE(start + 261)
  if (head === MAGIC_USTA) {
    if (tail === MAGIC_R_POSIX) return 'ustar'
    if (tail === MAGIC_R_GNU) return 'gnu'
  } else if (head === 0 && tail === 0) {
    return 'v7'
  }
  throw fail('bad_archive', {offset, reason: 'its header has an unknown magic'})
}

/** Types whose header describes the next entry and carries only a size that matters. */
const metaTypes = new Set(['x', 'g', 'L', 'K'])

/**
 * Reads and checks the header at `start`; `offset` is where it lies in the archive, for messages.
 *
 * Errors: bad_archive.
 */
export function readHeader(block: Buffer, start: number, offset: number): RawHeader {
  // Every number is read first in the one form that nobody misreads, which nearly all have.
  const plainSum = readPlainOctal(block, start + 148, 8)
  const sum = plainSum >= 0 ? plainSum : readNumber(block, start + 148, 8, 'checksum', offset)
  if (sum !== headerSum(block, start)) {
    throw fail('bad_archive', {offset, reason: 'its header has a wrong checksum'})
  }
  const format = readFormat(block, start, offset)
  const flag = block[start + 156] ?? 0
  const type = flag === 0 ? '0' : String.fromCharCode(flag)
  const isMeta = metaTypes.has(type)
  let name = readString(block, start, 100, 'name', offset)
  if (format === 'ustar') {
    const prefix = readString(block, start + 345, 155, 'prefix', offset)
    if (prefix !== '') name = `${prefix}/${name}`
    needZeros(block, start + 500, start + 512, offset)
  } else if (type !== 'S') {
    // GNU keeps other things here, and some parsers take any of it for a prefix of the name.
    needZeros(block, start + 345, start + 512, offset)
  }
  const linkName = readString(block, start + 157, 100, 'link name', offset)
  const mode = readPlainOctal(block, start + 100, 8)
  const uid = readPlainOctal(block, start + 108, 8)
  const gid = readPlainOctal(block, start + 116, 8)
  const size = readPlainOctal(block, start + 124, 12)
  const mtime = readPlainOctal(block, start + 136, 12)
  const header: RawHeader = {
    format,
    type,
    isOldType: flag === 0,
    name,
    linkName,
    mode: 0,
    uid: 0,
    gid: 0,
    sizeBytes: size,
    mtimeSeconds: 0,
  }
  const isPlain = (plainSum | mode | uid | gid) >= 0 && size >= 0 && mtime >= 0
  if (isPlain && !isMeta) {
    header.mode = mode
    header.uid = uid
    header.gid = gid
    header.mtimeSeconds = mtime
  } else if (!isPlain) {
    readOddNumbers(header, block, start, offset)
  }
  if (isMeta) needMetaFields(block, start, offset)
  needDeviceFields(block, start, offset)
  if (!isPlain || !isPlainText(name)) checkBySecondReader(block, start, header, offset)
  return header
}

/** The numbers of a header that has some in a form out of the ordinary. */
function readOddNumbers(header: RawHeader, block: Buffer, start: number, offset: number): void {
  const isMeta = metaTypes.has(header.type)
  header.mode = isMeta ? 0 : needNumber(block, start + 100, 8, 'mode', offset)
  header.uid = isMeta
    ? 0
    : (readNumber(block, start + 108, 8, 'owner', offset) ??
      blank(block, start + 108, 'owner', offset))
  header.gid = isMeta
    ? 0
    : (readNumber(block, start + 116, 8, 'group', offset) ??
      blank(block, start + 116, 'group', offset))
  header.sizeBytes = needNumber(block, start + 124, 12, 'size', offset)
  header.mtimeSeconds = isMeta
    ? 0
    : (readNumber(block, start + 136, 12, 'time', offset) ??
      blank(block, start + 136, 'time', offset))
}

/** A field without digits is 0 when it is empty; of spaces GNU tar makes an error and others 0. */
function blank(block: Buffer, start: number, field: string, offset: number): number {
  if (block[start] === 0) return 0
  throw fail('bad_archive', {
    offset,
    reason: `its ${field} is blank, which parsers read differently`,
  })
}

/** The device numbers of a device's header. */
export function readDevice(
  block: Buffer,
  start: number,
  offset: number,
): {major: number; minor: number} {
  return {
    major: needNumber(block, start + 329, 8, 'device major number', offset),
    minor: needNumber(block, start + 337, 8, 'device minor number', offset),
  }
}

function needZeros(block: Buffer, from: number, to: number, offset: number): void {
  if (!isZero(block, from, to)) {
    throw fail('bad_archive', {
      offset,
      reason: 'its header has bytes where its format has none, which parsers read differently',
    })
  }
}

/** The same holds for the fields of a header that only describes the next one: nobody needs them, Python reads them. */
function needMetaFields(block: Buffer, start: number, offset: number): void {
  readNumber(block, start + 100, 8, 'mode', offset)
  readNumber(block, start + 108, 8, 'owner', offset)
  readNumber(block, start + 116, 8, 'group', offset)
  readNumber(block, start + 136, 12, 'time', offset)
}

/**
 * The device fields must be numbers or empty whatever the type: Python's tarfile reads them always, and takes a header
 * where they are not for the end of the archive, which would hide what follows from it.
 */
function needDeviceFields(block: Buffer, start: number, offset: number): void {
  for (let at = start + 329; at < start + 345; at++) {
    const byte = block[at]
    if (byte === 0 || byte === 0x30) continue
    readNumber(block, start + 329, 8, 'device major number', offset)
    readNumber(block, start + 337, 8, 'device minor number', offset)
    return
  }
}

/** Whether a name is printable ASCII alone. */
function isPlainText(name: string): boolean {
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i)
    if (code < 0x20 || code > 0x7e) return false
  }
  return true
}

let secondReader: typeof TarHeader | undefined

/**
 * Has the `tar` package read the same block, and refuses what it reads differently. Asked only about headers
 * out of the ordinary (4 µs each, measured; loading it costs 15 ms).
 */
function checkBySecondReader(
  block: Buffer,
  start: number,
  header: RawHeader,
  offset: number,
): void {
  if (secondReader === undefined) {
    const require = createRequire(import.meta.url)
    secondReader = (require('tar') as {Header: typeof TarHeader}).Header
  }
  let second: TarHeader
  try {
    second = new secondReader(block, start)
  } catch (error) {
    const reason = 'its header is one that other parsers cannot read'
    throw fail('bad_archive', {offset, reason}, {cause: error})
  }
  const differ = (field: string): never => {
    throw fail('bad_archive', {
      offset,
      reason: `its ${field} field is one that parsers read differently`,
    })
  }
  if (!second.cksumValid) differ('checksum')
  if (second.size !== undefined && second.size !== header.sizeBytes) {
    // The tar package gives every directory size 0, whatever its header says.
    if (header.type !== '5' && !header.name.endsWith('/')) differ('size')
  }
  if (metaTypes.has(header.type)) return
  if (second.mode !== undefined && second.mode !== header.mode) differ('mode')
  if (second.uid !== undefined && second.uid !== header.uid) differ('owner')
  if (second.gid !== undefined && second.gid !== header.gid) differ('group')
  if (second.mtime !== undefined) {
    const time = second.mtime.getTime()
    // A Date holds 8.64e15 ms; beyond it the other reader has no answer.
    if (!Number.isNaN(time) && time !== header.mtimeSeconds * 1000) differ('time')
  }
  if (/^[\x20-\x7e]*$/.test(header.name) && second.path !== header.name) differ('name')
}
