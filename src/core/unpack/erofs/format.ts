/**
 * The EROFS on-disk format: numbers and records, all little-endian. Only what this writer uses: flat, inline and
 * chunk-based layouts, extended attributes, a device table, the superblock's checksum.
 *
 * Source: Linux, Documentation/filesystems/erofs.rst; the format's own documentation, "Core on-disk format".
 */

/** A block: the unit of data addresses. That of a tar, so that an address can be anywhere a file's data begins. */
export const BLOCK_BITS = 9
export const BLOCK_BYTES = 512
/** Inodes are numbered by where they are, in units of this. */
export const SLOT_BYTES = 32
export const COMPACT_BYTES = 32
export const EXTENDED_BYTES = 64
export const DIRENT_BYTES = 12
export const NAME_BYTES_MAX = 255

const SUPER_OFFSET = 1024
const SUPER_BYTES = 128
export const DEVICE_SLOT_BYTES = 128
/** Devices stand right behind the superblock; their place is given in units of their size. */
const DEVICE_TABLE_SLOT = (SUPER_OFFSET + SUPER_BYTES) / DEVICE_SLOT_BYTES
const DEVICE_TAG_BYTES = 64
const MAGIC = 0xe0f5e1e2

const COMPAT_SUPER_CHECKSUM = 0x1
const COMPAT_MTIME = 0x2
const INCOMPAT_CHUNKED_FILE = 0x4
const INCOMPAT_DEVICE_TABLE = 0x8

/** How an inode's data is found: one run of blocks; the same with its tail behind the inode; by a table of chunks. */
export const LAYOUT_PLAIN = 0
export const LAYOUT_INLINE = 2
export const LAYOUT_CHUNKS = 4

/** In a chunk's format: its table has entries of eight bytes that name a device, not just addresses. */
export const CHUNK_INDEXES = 0x20
export const CHUNK_BITS_MAX = 31
/** The address of a chunk that is a hole. */
export const NO_BLOCK = 0xffff_ffff

export const S_IFMT = 0o170000
export const S_IFIFO = 0o010000
export const S_IFCHR = 0o020000
export const S_IFDIR = 0o040000
export const S_IFBLK = 0o060000
export const S_IFREG = 0o100000
export const S_IFLNK = 0o120000

/** The type that a directory entry tells of an inode. */
export function entryType(mode: number): number {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return 1
    case S_IFDIR:
      return 2
    case S_IFCHR:
      return 3
    case S_IFBLK:
      return 4
    case S_IFIFO:
      return 5
    default:
      return 7
  }
}

/** A device number as inodes hold it: 12 bits of major, 20 bits of minor; undefined for what does not fit. */
export function encodeDevice(major: number, minor: number): number | undefined {
  if (major > 0xfff || minor > 0xf_ffff) return undefined
  return ((minor & 0xff) | (major << 8) | ((minor & 0xfff00) << 12)) >>> 0
}

export function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}

/** 64 bits of a whole number that may be negative, and may be past 32 bits. */
export function put64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32LE(value >>> 0, at)
  buffer.writeUInt32LE(Math.floor(value / 2 ** 32) >>> 0, at + 4)
}

export type InodeRecord = {
  isExtended: boolean
  layout: number
  /** Bytes of attributes behind the inode. */
  xattrBytes: number
  mode: number
  links: number
  sizeBytes: number
  /** By the layout and type: first block, chunk format, device number. */
  place: number
  serial: number
  uid: number
  gid: number
  mtimeSeconds: number
  mtimeNanoseconds: number
}

/** Writes an inode at `at` of a buffer that is zero there; a compact one has no time of its own. */
export function putInode(buffer: Buffer, at: number, inode: InodeRecord): void {
  buffer.writeUInt16LE((inode.isExtended ? 1 : 0) | (inode.layout << 1), at)
  // The header of twelve bytes counts as one, then each four bytes.
  buffer.writeUInt16LE(inode.xattrBytes === 0 ? 0 : (inode.xattrBytes - 12) / 4 + 1, at + 2)
  buffer.writeUInt16LE(inode.mode, at + 4)
  buffer.writeUInt32LE(inode.place, at + 16)
  buffer.writeUInt32LE(inode.serial, at + 20)
  if (!inode.isExtended) {
    buffer.writeUInt16LE(inode.links, at + 6)
    buffer.writeUInt32LE(inode.sizeBytes, at + 8)
    buffer.writeUInt16LE(inode.uid, at + 24)
    buffer.writeUInt16LE(inode.gid, at + 26)
    return
  }
  put64(buffer, inode.sizeBytes, at + 8)
  buffer.writeUInt32LE(inode.uid, at + 24)
  buffer.writeUInt32LE(inode.gid, at + 28)
  put64(buffer, inode.mtimeSeconds, at + 32)
  buffer.writeUInt32LE(inode.mtimeNanoseconds, at + 40)
  buffer.writeUInt32LE(inode.links, at + 44)
}

export type DeviceRecord = {blocks: number; firstBlock: number; tag: string}

export type Superblock = {
  rootNumber: number
  inodes: number
  /** Time of every compact inode. */
  timeSeconds: number
  timeNanoseconds: number
  /** Of the image itself. */
  blocks: number
  sharedXattrsBlock: number
  uuid: Buffer
  hasChunks: boolean
  devices: readonly DeviceRecord[]
}

/** Bytes of everything before the first inode. */
export function headBytes(devices: number): number {
  return alignUp(SUPER_OFFSET + SUPER_BYTES + devices * DEVICE_SLOT_BYTES, BLOCK_BYTES)
}

/** The beginning of the image: superblock and devices. */
export function makeHead(superblock: Superblock): Buffer {
  const head = Buffer.alloc(headBytes(superblock.devices.length))
  const at = SUPER_OFFSET
  head.writeUInt32LE(MAGIC, at)
  head.writeUInt32LE(COMPAT_SUPER_CHECKSUM | COMPAT_MTIME, at + 8)
  head.writeUInt8(BLOCK_BITS, at + 12)
  head.writeUInt16LE(superblock.rootNumber, at + 14)
  put64(head, superblock.inodes, at + 16)
  put64(head, superblock.timeSeconds, at + 24)
  head.writeUInt32LE(superblock.timeNanoseconds, at + 32)
  head.writeUInt32LE(superblock.blocks, at + 36)
  head.writeUInt32LE(superblock.sharedXattrsBlock, at + 44)
  superblock.uuid.copy(head, at + 48, 0, 16)
  const features =
    (superblock.hasChunks ? INCOMPAT_CHUNKED_FILE : 0) |
    (superblock.devices.length > 0 ? INCOMPAT_DEVICE_TABLE : 0)
  head.writeUInt32LE(features, at + 80)
  head.writeUInt16LE(superblock.devices.length, at + 86)
  head.writeUInt16LE(DEVICE_TABLE_SLOT, at + 88)
  for (const [index, device] of superblock.devices.entries()) {
    const slot = at + SUPER_BYTES + index * DEVICE_SLOT_BYTES
    head.write(device.tag.slice(0, DEVICE_TAG_BYTES), slot, 'latin1')
    head.writeUInt32LE(device.blocks, slot + 64)
    head.writeUInt32LE(device.firstBlock, slot + 68)
  }
  // Of the block that the superblock begins, with the field itself as zero.
  head.writeUInt32LE(crc32c(head.subarray(at, at + BLOCK_BYTES)), at + 4)
  return head
}

const crcTable = new Uint32Array(256)
for (let value = 0; value < 256; value++) {
  let sum = value
  for (let bit = 0; bit < 8; bit++) sum = (sum & 1) === 0 ? sum >>> 1 : (sum >>> 1) ^ 0x82f63b78
  crcTable[value] = sum >>> 0
}

/** CRC-32C as EROFS takes it: started with all ones, not inverted at the end. */
export function crc32c(bytes: Buffer): number {
  let sum = 0xffff_ffff
  for (const byte of bytes) sum = (sum >>> 8) ^ (crcTable[(sum ^ byte) & 0xff] ?? 0)
  return sum >>> 0
}
