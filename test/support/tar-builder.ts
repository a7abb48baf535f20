/** Makes tar archives byte by byte, right ones and wrong ones; nothing is checked, so that any header can be made. */

/** Text is UTF-8; bytes are taken as they are. */
export type Bytes = string | Buffer
/** A number is written as octal digits with a NUL at the end; text and bytes fill the field as they are. */
export type NumberField = number | Bytes

export type HeaderFields = {
  name?: Bytes
  mode?: NumberField
  uid?: NumberField
  gid?: NumberField
  size?: NumberField
  mtime?: NumberField
  /** Default: the right sum. */
  checksum?: NumberField
  type?: string
  linkName?: Bytes
  /** The eight bytes of magic and version. */
  magic?: 'ustar' | 'gnu' | 'v7' | Buffer
  uname?: Bytes
  gname?: Bytes
  deviceMajor?: NumberField
  deviceMinor?: NumberField
  prefix?: Bytes
  /** Bytes put over the finished block before the checksum is made. */
  patch?: {at: number; bytes: Bytes}[]
}

const magics = {ustar: 'ustar\x0000', gnu: 'ustar  \0', v7: '\0\0\0\0\0\0\0\0'}

function bytesOf(value: Bytes): Buffer {
  return typeof value === 'string' ? Buffer.from(value, 'utf8') : value
}

function putBytes(block: Buffer, at: number, length: number, value: Bytes): void {
  bytesOf(value).copy(block, at, 0, length)
}

function putNumber(block: Buffer, at: number, length: number, value: NumberField): void {
  if (typeof value === 'number') {
    putBytes(block, at, length, value.toString(8).padStart(length - 1, '0'))
  } else putBytes(block, at, length, value)
}

/** One 512-byte header. */
export function header(fields: HeaderFields): Buffer {
  const block = Buffer.alloc(512)
  const magic = fields.magic ?? 'ustar'
  putBytes(block, 0, 100, fields.name ?? '')
  putNumber(block, 100, 8, fields.mode ?? 0o644)
  putNumber(block, 108, 8, fields.uid ?? 0)
  putNumber(block, 116, 8, fields.gid ?? 0)
  putNumber(block, 124, 12, fields.size ?? 0)
  putNumber(block, 136, 12, fields.mtime ?? 1_700_000_000)
  block.fill(' ', 148, 156)
  putBytes(block, 156, 1, fields.type ?? '0')
  putBytes(block, 157, 100, fields.linkName ?? '')
  putBytes(block, 257, 8, typeof magic === 'string' ? Buffer.from(magics[magic], 'latin1') : magic)
  putBytes(block, 265, 32, fields.uname ?? '')
  putBytes(block, 297, 32, fields.gname ?? '')
  if (magic !== 'v7') {
    putNumber(block, 329, 8, fields.deviceMajor ?? 0)
    putNumber(block, 337, 8, fields.deviceMinor ?? 0)
  }
  putBytes(block, 345, 155, fields.prefix ?? '')
  for (const {at, bytes} of fields.patch ?? []) putBytes(block, at, 512 - at, bytes)
  const sum = block.reduce((total, byte) => total + byte, 0)
  if (fields.checksum === undefined) {
    putBytes(block, 148, 8, `${sum.toString(8).padStart(6, '0')}\0 `)
  } else {
    block.fill(0, 148, 156)
    putNumber(block, 148, 8, fields.checksum)
  }
  return block
}

/** A body with the padding that fills its last block. */
export function padded(body: Bytes): Buffer {
  const bytes = bytesOf(body)
  return Buffer.concat([bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)])
}

export type EntryFields = HeaderFields & {body?: Bytes}

/** A header and its body; the size is the body's unless it is given. */
export function entry(fields: EntryFields): Buffer {
  const body = bytesOf(fields.body ?? '')
  return Buffer.concat([header({size: body.length, ...fields}), padded(body)])
}

export function file(name: Bytes, body: Bytes = '', more: HeaderFields = {}): Buffer {
  return entry({name, body, ...more})
}

export function directory(name: Bytes, more: HeaderFields = {}): Buffer {
  return entry({name, type: '5', mode: 0o755, ...more})
}

export function symlink(name: Bytes, target: Bytes, more: HeaderFields = {}): Buffer {
  return entry({name, type: '2', linkName: target, mode: 0o777, ...more})
}

export function hardlink(name: Bytes, target: Bytes, more: HeaderFields = {}): Buffer {
  return entry({name, type: '1', linkName: target, ...more})
}

export function fifo(name: Bytes, more: HeaderFields = {}): Buffer {
  return entry({name, type: '6', ...more})
}

export function device(
  name: Bytes,
  kind: 'character' | 'block',
  major: number,
  minor: number,
  more: HeaderFields = {},
): Buffer {
  return entry({
    name,
    type: kind === 'character' ? '3' : '4',
    deviceMajor: major,
    deviceMinor: minor,
    ...more,
  })
}

/** One PAX record with its right length, which counts itself. */
export function paxRecord(key: Bytes, value: Bytes): Buffer {
  const rest = Buffer.concat([
    Buffer.from(' '),
    bytesOf(key),
    Buffer.from('='),
    bytesOf(value),
    Buffer.from('\n'),
  ])
  let length = rest.length + 1
  while (String(length).length + rest.length !== length) {
    length = String(length).length + rest.length
  }
  return Buffer.concat([Buffer.from(String(length)), rest])
}

/** An extended header for the next entry (`x`), or for all (`g`). A list allows repeated keys; bytes are taken as the body. */
export function pax(
  records: readonly (readonly [Bytes, Bytes])[] | Buffer,
  more: EntryFields = {},
): Buffer {
  const body = Buffer.isBuffer(records)
    ? records
    : Buffer.concat(records.map(([key, value]) => paxRecord(key, value)))
  return entry({name: 'PaxHeaders/entry', type: 'x', body, ...more})
}

/** GNU's header for a name (`L`) or link target (`K`) past 100 bytes. */
export function longName(name: Bytes, type: 'L' | 'K' = 'L', more: EntryFields = {}): Buffer {
  const body = Buffer.concat([bytesOf(name), Buffer.alloc(1)])
  return entry({name: '././@LongLink', type, magic: 'gnu', mode: 0, mtime: 0, body, ...more})
}

/** The two zero blocks at the end of an archive. */
export const endMark = Buffer.alloc(1024)

/** Entries with the end mark. */
export function archive(...parts: Buffer[]): Buffer {
  return Buffer.concat([...parts, endMark])
}

/** A number in base-256, as GNU tar writes what eleven octal digits cannot say. */
export function base256(value: bigint, length: number): Buffer {
  const field = Buffer.alloc(length)
  let rest = value
  for (let at = length - 1; at > 0; at--) {
    field[at] = Number(rest & 0xffn)
    rest >>= 8n
  }
  field[0] = value < 0n ? 0xff : 0x80
  return field
}
