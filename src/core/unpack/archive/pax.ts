/**
 * PAX extended headers (POSIX.1-2024, pax, "pax Interchange Format"), by the letter: `LENGTH KEY=VALUE\n`, where
 * LENGTH counts the whole record. Parsers have been led apart by every looseness here.
 */
import {fail} from '../../errors.ts'
import {parseDecimal, parseTime} from './number.ts'
import type {Segment, Xattr} from './entry.ts'
import {archiveBounds} from '../../limits.ts'

export type PaxSparse = {
  /** 0: the map is in the records. 1: it comes before the data. */
  major: 0 | 1
  realSizeBytes: number
  name: string | undefined
  segments: Segment[] | undefined
}

/** What one extended header says about the next entry. Names are byte strings. */
export type PaxHeader = {
  path?: string
  linkPath?: string
  sizeBytes?: number
  uid?: number
  gid?: number
  mtime?: {seconds: number; nanoseconds: number}
  deviceMajor?: number
  deviceMinor?: number
  xattrs: Xattr[]
  sparse?: PaxSparse
  /** Keys that were understood to be harmless but not applied. */
  ignoredKeys: string[]
}

/** No file system keeps so many (ext4 holds a block of them); it bounds the search for repeated names. */
const XATTRS_MAX = 256

export type PaxRecord = {key: string; value: Buffer}

/**
 * Splits the body of an extended header into its records.
 *
 * Errors: bad_archive.
 */
export function splitPaxRecords(body: Buffer, offset: number): PaxRecord[] {
  const bad = (reason: string) => fail('bad_archive', {offset, reason})
  const records: PaxRecord[] = []
  let at = 0
  while (at < body.length) {
    let digit = at
    let length = 0
    while (digit < body.length && digit - at < 8) {
      const value = (body[digit] ?? 0) - 0x30
      if (value < 0 || value > 9) break
      length = length * 10 + value
      digit++
    }
    if (digit === at || body[at] === 0x30 || body[digit] !== 0x20) {
      throw bad('its extended header has a record without a length')
    }
    const end = at + length
    if (end > body.length || end < digit + 3 || body[end - 1] !== 0x0a) {
      throw bad('its extended header has a record whose length is wrong')
    }
    const equals = body.indexOf(0x3d, digit + 1)
    if (equals === -1 || equals >= end - 1 || equals === digit + 1) {
      throw bad('its extended header has a record without a key')
    }
    const key = body.toString('latin1', digit + 1, equals)
    if (key.includes('\0') || key.includes('\n'))
      throw bad('its extended header has a key with a control character')
    records.push({key, value: body.subarray(equals + 1, end - 1)})
    at = end
  }
  return records
}

/** Keys that say nothing about the tree; any other that is not applied is worth a warning. */
const silentKeys =
  /^(comment|atime|ctime|uname|gname|hdrcharset|charset|LIBARCHIVE\.(creationtime|symlinktype)|SCHILY\.(dev|ino|nlink))$/

/**
 * Reads one extended header.
 *
 * Errors: bad_archive (also for a key that other parsers would apply and this one does not know), unsafe_archive.
 */
export function parsePax(body: Buffer, offset: number): PaxHeader {
  const header: PaxHeader = {xattrs: [], ignoredKeys: []}
  let sparse: Map<string, string> | undefined
  const pairs: number[] = []
  const seen = new Set<string>()
  const bad = (reason: string) => fail('bad_archive', {offset, reason})
  for (const {key, value} of splitPaxRecords(body, offset)) {
    const isPair = key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes'
    if (seen.has(key) && !isPair) throw bad(`its extended header says ${key} twice`)
    seen.add(key)
    if (isPair) {
      // Format 0.0 gives the map as alternating records; any other order has no meaning.
      const expected = pairs.length % 2 === 0 ? 'GNU.sparse.offset' : 'GNU.sparse.numbytes'
      if (key !== expected) throw bad('its sparse map is out of order')
      pairs.push(needDecimal(key, value, offset))
    } else if (key.startsWith('GNU.sparse.')) {
      sparse ??= new Map()
      sparse.set(key.slice('GNU.sparse.'.length), needText(key, value, offset))
    } else if (!applyXattr(header, key, value, offset)) {
      applyKey(header, key, value, offset)
    }
  }
  if (sparse !== undefined || pairs.length > 0) {
    header.sparse = readSparse(sparse ?? new Map<string, string>(), pairs, offset)
  }
  return header
}

function needText(key: string, value: Buffer, offset: number): string {
  if (value.length === 0) {
    throw fail('bad_archive', {offset, reason: `its extended header has an empty ${key}`})
  }
  if (value.includes(0)) {
    throw fail('bad_archive', {offset, reason: `its extended header has a NUL in ${key}`})
  }
  return value.toString('latin1')
}

function needDecimal(key: string, value: Buffer, offset: number): number {
  const number = parseDecimal(value.toString('latin1'))
  if (number === undefined) {
    throw fail('bad_archive', {
      offset,
      reason: `its extended header has a ${key} that is not a number`,
    })
  }
  return number
}

function applyKey(header: PaxHeader, key: string, value: Buffer, offset: number): void {
  switch (key) {
    case 'path':
      header.path = needText(key, value, offset)
      return
    case 'linkpath':
      header.linkPath = needText(key, value, offset)
      return
    case 'size':
      header.sizeBytes = needDecimal(key, value, offset)
      return
    case 'uid':
      header.uid = needDecimal(key, value, offset)
      return
    case 'gid':
      header.gid = needDecimal(key, value, offset)
      return
    case 'SCHILY.devmajor':
      header.deviceMajor = needDecimal(key, value, offset)
      return
    case 'SCHILY.devminor':
      header.deviceMinor = needDecimal(key, value, offset)
      return
    case 'mtime': {
      const time = parseTime(value.toString('latin1'))
      if (time === undefined) {
        throw fail('bad_archive', {
          offset,
          reason: 'its extended header has a time that is not one',
        })
      }
      header.mtime = time
      return
    }
    // Among the silent keys, but in most headers.
    case 'atime':
    case 'ctime':
      return
    default:
      if (key.startsWith('GNU.')) {
        // Dump directories and volumes: the entry is a part of something that is not here.
        throw fail('bad_archive', {offset, reason: `its extended header has the key ${key}`})
      }
      if (!silentKeys.test(key)) header.ignoredKeys.push(key)
  }
}

/** Returns false when the key is not one of an extended attribute. */
function applyXattr(header: PaxHeader, key: string, value: Buffer, offset: number): boolean {
  let name: string
  let content: Buffer
  if (key.startsWith('SCHILY.xattr.')) {
    name = key.slice('SCHILY.xattr.'.length)
    content = Buffer.from(value)
  } else if (key.startsWith('LIBARCHIVE.xattr.')) {
    name = decodePercent(key.slice('LIBARCHIVE.xattr.'.length))
    const text = value.toString('latin1')
    content = Buffer.from(text, 'base64')
    if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
      throw fail('bad_archive', {offset, reason: `its attribute ${name} is not base64`})
    }
  } else {
    return false
  }
  if (name === '' || name.length > 255 || name.includes('\0')) {
    throw fail('bad_archive', {
      offset,
      reason: 'it has an extended attribute with an impossible name',
    })
  }
  if (content.length > archiveBounds.xattrValueBytesMax) {
    throw fail('unsafe_archive', {
      entry: header.path ?? '',
      offset,
      rule: `has an extended attribute of more than ${archiveBounds.xattrValueBytesMax} bytes`,
    })
  }
  // bsdtar writes each attribute in both ways.
  const other = header.xattrs.find((xattr) => xattr.name === name)
  if (other === undefined) {
    if (header.xattrs.length >= XATTRS_MAX) {
      throw fail('unsafe_archive', {
        entry: header.path ?? '',
        offset,
        rule: `has more than ${XATTRS_MAX} extended attributes`,
      })
    }
    header.xattrs.push({name, value: content})
  } else if (!other.value.equals(content)) {
    throw fail('bad_archive', {offset, reason: `it has two values for the attribute ${name}`})
  }
  return true
}

function decodePercent(text: string): string {
  return text.replaceAll(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  )
}

const sparseKeys = new Set(['major', 'minor', 'name', 'realsize', 'size', 'numblocks', 'map'])

/** GNU's three PAX sparse formats: 0.0 (pairs of records), 0.1 (one map record), 1.0 (map before the data). */
function readSparse(records: Map<string, string>, pairs: number[], offset: number): PaxSparse {
  const bad = (reason: string) => fail('bad_archive', {offset, reason})
  for (const key of records.keys()) {
    if (!sparseKeys.has(key)) throw bad(`its sparse header has the unknown key ${key}`)
  }
  const number = (key: string): number | undefined => {
    const text = records.get(key)
    if (text === undefined) return undefined
    const value = parseDecimal(text)
    if (value === undefined) throw bad(`its sparse ${key} is not a number`)
    return value
  }
  const major = number('major') ?? 0
  const minor = number('minor') ?? (records.has('map') ? 1 : 0)
  const name = records.get('name')
  const hasMap = records.has('map')
  if (major === 1 && minor === 0) {
    const realSizeBytes = number('realsize')
    const isMixed = hasMap || pairs.length > 0 || records.has('size') || records.has('numblocks')
    if (realSizeBytes === undefined || isMixed) throw bad('its sparse header mixes formats')
    return {major: 1, realSizeBytes, name, segments: undefined}
  }
  if (major !== 0 || minor > 1) throw bad('its sparse format is unknown')
  const size = number('size')
  const count = number('numblocks')
  if (size === undefined || count === undefined || records.has('realsize')) {
    throw bad('its sparse header is incomplete')
  }
  let numbers = pairs
  if (hasMap) {
    if (pairs.length > 0) throw bad('its sparse header has two maps')
    numbers = []
    const text = records.get('map') ?? ''
    for (const part of text === '' ? [] : text.split(',')) {
      const value = parseDecimal(part)
      if (value === undefined) throw bad('its sparse map is not numbers')
      numbers.push(value)
    }
  }
  if (numbers.length !== count * 2) throw bad('its sparse map has another length than it says')
  const segments: Segment[] = []
  for (let i = 0; i < numbers.length; i += 2) {
    segments.push({offset: numbers[i] ?? 0, length: numbers[i + 1] ?? 0})
  }
  return {major: 0, realSizeBytes: size, name, segments}
}

/**
 * Checks a global extended header, which would change every later entry. Only what changes nothing is accepted
 * (`comment`, as git writes it): parsers disagree about the rest.
 *
 * Errors: bad_archive.
 */
export function checkGlobalPax(body: Buffer, offset: number): void {
  for (const {key} of splitPaxRecords(body, offset)) {
    if (key !== 'comment') {
      throw fail('bad_archive', {
        offset,
        reason: `a global extended header sets ${key}, which parsers apply differently`,
      })
    }
  }
}
