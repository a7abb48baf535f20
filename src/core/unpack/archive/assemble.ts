/** Joins a header with the extended headers before it into one entry, refusing every contradiction between them. */
import {fail} from '../../errors.ts'
import {type Entry, type EntryKind, displayName, noXattrs} from './entry.ts'
import {readDevice, type RawHeader} from './header.ts'
import {readNumber} from './number.ts'
import type {PaxHeader} from './pax.ts'
import {HEADER_SEGMENTS, readOldSegments} from './sparse.ts'

/** Extended headers read since the last entry. */
export type MetaHeaders = {
  pax?: PaxHeader
  longName?: string
  longLink?: string
}

type Warn = {warn(code: string, entry: string, message: string): void}

/** The largest size that eleven octal digits can say; past it a PAX record or base-256 must. */
const OCTAL_SIZE_MAX = 8 ** 11 - 1
const ID_MAX = 0xffff_fffe
const kinds: Readonly<Record<string, EntryKind>> = {
  '0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
}

/**
 * Makes the entry of one header. A sparse map that follows the header is added by the parser.
 *
 * Errors: bad_archive.
 */
export function makeEntry(
  header: RawHeader,
  meta: MetaHeaders,
  block: Buffer,
  start: number,
  offset: number,
  sink: Warn,
): Entry {
  const bad = (reason: string) => fail('bad_archive', {offset, reason})
  const pax = meta.pax
  const name = pax?.sparse?.name ?? pax?.path ?? meta.longName ?? header.name
  const kind = kindOf(header, name, offset)
  const storedBytes = sizeOf(header, pax, offset)
  if (kind !== 'file' && storedBytes !== 0) {
    throw bad(`it is a ${kindName(kind)} with a body, which parsers read differently`)
  }
  const linkTarget = pax?.linkPath ?? meta.longLink ?? header.linkName
  const isLink = kind === 'hardlink' || kind === 'symlink'
  if (isLink && linkTarget === '') throw bad('it is a link without a target')
  if (kind === 'hardlink' && linkTarget.endsWith('/')) {
    // Some drop the slash, others ask the kernel, which finds no directory there.
    throw bad('it is a hard link whose target ends with a slash, which parsers read differently')
  }
  if (header.mode > 0o177777) throw bad('its mode is beyond every real mode')
  const uid = pax?.uid ?? header.uid
  const gid = pax?.gid ?? header.gid
  if (uid < 0 || uid > ID_MAX || gid < 0 || gid > ID_MAX) {
    throw bad('its owner is beyond every real owner')
  }
  if (pax !== undefined) {
    for (const key of pax.ignoredKeys) {
      sink.warn('pax_key_ignored', displayName(name), `${key} is not applied`)
    }
  }
  const entry: Entry = {
    kind,
    name,
    linkTarget: isLink ? linkTarget : '',
    mode: header.mode & 0o7777,
    uid,
    gid,
    mtimeSeconds: pax?.mtime?.seconds ?? header.mtimeSeconds,
    mtimeNanoseconds: pax?.mtime?.nanoseconds ?? 0,
    sizeBytes: storedBytes,
    storedBytes,
    segments: undefined,
    deviceMajor: 0,
    deviceMinor: 0,
    xattrs: pax?.xattrs ?? noXattrs,
    offset,
  }
  if (kind === 'character' || kind === 'block') addDevice(entry, pax, block, start)
  addSparse(entry, header, pax, block, start)
  return entry
}

function kindOf(header: RawHeader, name: string, offset: number): EntryKind {
  const kind = kinds[header.type]
  if (kind === undefined) {
    const shown = displayName(header.type)
    throw fail('bad_archive', {offset, reason: `its type ${JSON.stringify(shown)} is unknown`})
  }
  if (kind !== 'directory' && name.endsWith('/')) {
    // Before there was a type for directories, a slash at the end of a name made one.
    if (kind === 'file' && header.isOldType) return 'directory'
    throw fail('bad_archive', {
      offset,
      reason: `it is a ${kindName(kind)} whose name ends with a slash, which parsers read differently`,
    })
  }
  return kind
}

function kindName(kind: EntryKind): string {
  switch (kind) {
    case 'character':
      return 'character device'
    case 'block':
      return 'block device'
    case 'fifo':
      return 'FIFO'
    case 'symlink':
      return 'symbolic link'
    case 'hardlink':
      return 'hard link'
    case 'file':
    case 'directory':
      return kind
  }
}

/** CVE-2025-62518: a parser that takes the other one of two sizes finds other entries in the same bytes. */
function sizeOf(header: RawHeader, pax: PaxHeader | undefined, offset: number): number {
  const size = pax?.sizeBytes
  if (size === undefined || size === header.sizeBytes) return header.sizeBytes
  // Writers put 0 into the header when the size does not fit there.
  if (header.sizeBytes === 0 && size > OCTAL_SIZE_MAX) return size
  throw fail('bad_archive', {
    offset,
    reason: `its header says ${header.sizeBytes} bytes and its extended header ${size}`,
  })
}

function addDevice(entry: Entry, pax: PaxHeader | undefined, block: Buffer, start: number): void {
  const {major, minor} = readDevice(block, start, entry.offset)
  const isOther =
    (pax?.deviceMajor !== undefined && pax.deviceMajor !== major) ||
    (pax?.deviceMinor !== undefined && pax.deviceMinor !== minor)
  if (isOther) {
    throw fail('bad_archive', {
      offset: entry.offset,
      reason: 'its header and its extended header name different devices',
    })
  }
  // Twelve and twenty bits: the kernel makes no other.
  if (major > 0xfff || minor > 0xf_ffff) {
    throw fail('bad_archive', {
      offset: entry.offset,
      reason: 'its device is beyond every real device',
    })
  }
  entry.deviceMajor = major
  entry.deviceMinor = minor
}

function addSparse(
  entry: Entry,
  header: RawHeader,
  pax: PaxHeader | undefined,
  block: Buffer,
  start: number,
): void {
  const {offset} = entry
  const bad = (reason: string) => fail('bad_archive', {offset, reason})
  const sparse = pax?.sparse
  if (header.type === 'S') {
    if (sparse !== undefined) throw bad('it has two sparse maps')
    if (header.format !== 'gnu') throw bad('it is a GNU sparse file in another format')
    const size = readNumber(block, start + 483, 12, 'real size', offset)
    if (size === undefined || size < 0) throw bad('its real size is missing')
    const segments = entry.segments ?? []
    readOldSegments(block, start + 386, HEADER_SEGMENTS, segments, offset)
    entry.segments = segments
    entry.sizeBytes = size
  } else if (sparse !== undefined) {
    if (entry.kind !== 'file') throw bad('it is sparse but not a file')
    entry.sizeBytes = sparse.realSizeBytes
    entry.segments = sparse.segments
  }
}
