/**
 * Reads an EROFS image and checks its structure on the way. Written from the format's description alone and sharing
 * nothing with the writer, so that a mistake would have to be made twice.
 */
import {createHash} from 'node:crypto'
import {expect} from 'chai'

const BLOCK = 512
const types: Record<number, number> = {1: 8, 2: 4, 3: 2, 4: 6, 5: 1, 7: 10}
const prefixes: Record<number, string> = {
  1: 'user.',
  2: 'system.posix_acl_access',
  3: 'system.posix_acl_default',
  4: 'trusted.',
  6: 'security.',
}

export type ReadInode = {
  number: number
  isExtended: boolean
  layout: number
  mode: number
  uid: number
  gid: number
  links: number
  size: number
  seconds: number
  nanoseconds: number
  device: number
  xattrs: Map<string, Buffer>
  content: () => Buffer
  /** Ranges of a chunked file that are holes. */
  holes: [number, number][]
}

export class ErofsReader {
  readonly image: Buffer
  readonly devices: Buffer[]
  readonly rootNumber: number
  readonly inodeTotal: number
  readonly uuid: string
  readonly tags: string[] = []
  readonly features: number
  private readonly metaAt: number
  private readonly xattrsAt: number
  private readonly time: {seconds: number; nanoseconds: number}
  private readonly slots: {blocks: number; first: number}[] = []

  constructor(image: Buffer, devices: Buffer[]) {
    this.image = image
    this.devices = devices
    const sb = image.subarray(1024, 1152)
    expect(sb.readUInt32LE(0).toString(16)).to.equal('e0f5e1e2')
    const block = Buffer.from(image.subarray(1024, 1024 + BLOCK))
    block.writeUInt32LE(0, 4)
    expect(sb.readUInt32LE(4), 'checksum').to.equal(crc32c(block))
    expect(sb.readUInt32LE(8) & 1, 'the checksum feature').to.equal(1)
    expect(sb.readUInt8(12)).to.equal(9)
    expect(image.length % BLOCK).to.equal(0)
    expect(sb.readUInt32LE(36), 'blocks').to.equal(image.length / BLOCK)
    this.rootNumber = sb.readUInt16LE(14)
    this.inodeTotal = Number(sb.readBigUInt64LE(16))
    this.time = {seconds: Number(sb.readBigInt64LE(24)), nanoseconds: sb.readUInt32LE(32)}
    this.metaAt = sb.readUInt32LE(40) * BLOCK
    this.xattrsAt = sb.readUInt32LE(44) * BLOCK
    this.uuid = sb.toString('hex', 48, 64)
    this.features = sb.readUInt32LE(80)
    const count = sb.readUInt16LE(86)
    expect(count).to.equal(devices.length)
    for (let index = 0; index < count; index++) {
      const slot = image.subarray((sb.readUInt16LE(88) + index) * 128)
      this.tags.push(slot.toString('latin1', 0, 64).replace(/\0+$/, ''))
      this.slots.push({blocks: slot.readUInt32LE(64), first: slot.readUInt32LE(68)})
    }
  }

  inode(number: number): ReadInode {
    const at = this.metaAt + number * 32
    const raw = this.image.subarray(at)
    const format = raw.readUInt16LE(0)
    expect(format >> 4, 'unknown bits of an inode').to.equal(0)
    const isExtended = (format & 1) === 1
    const layout = (format >> 1) & 7
    const xattrCount = raw.readUInt16LE(2)
    const xattrBytes = xattrCount === 0 ? 0 : 12 + (xattrCount - 1) * 4
    const head = (isExtended ? 64 : 32) + xattrBytes
    const place = raw.readUInt32LE(16)
    const mode = raw.readUInt16LE(4)
    const size = isExtended ? Number(raw.readBigUInt64LE(8)) : raw.readUInt32LE(8)
    const holes: [number, number][] = []
    return {
      number,
      isExtended,
      layout,
      mode,
      size,
      holes,
      uid: isExtended ? raw.readUInt32LE(24) : raw.readUInt16LE(24),
      gid: isExtended ? raw.readUInt32LE(28) : raw.readUInt16LE(26),
      links: isExtended ? raw.readUInt32LE(44) : raw.readUInt16LE(6),
      seconds: isExtended ? Number(raw.readBigInt64LE(32)) : this.time.seconds,
      nanoseconds: isExtended ? raw.readUInt32LE(40) : this.time.nanoseconds,
      device: place,
      xattrs: this.readXattrs(at + (isExtended ? 64 : 32), xattrBytes),
      content: () => {
        if (layout === 0) return this.blocks(0, place, size)
        if (layout === 2) {
          const tail = size % BLOCK === 0 ? Math.min(size, BLOCK) : size % BLOCK
          const tailAt = at + head
          expect(tailAt % BLOCK, 'inline data is in one block').to.be.at.most(BLOCK - tail)
          const body = size > tail ? this.blocks(0, place, size - tail) : Buffer.alloc(0)
          return Buffer.concat([body, this.image.subarray(tailAt, tailAt + tail)])
        }
        expect(layout).to.equal(4)
        return this.chunks(at + head, place, size, holes)
      },
    }
  }

  private chunks(at: number, format: number, size: number, holes: [number, number][]): Buffer {
    const chunkBytes = 2 ** ((format & 31) + 9)
    const hasIndexes = (format & 32) !== 0
    const unit = hasIndexes ? 8 : 4
    const table = Math.ceil(at / unit) * unit
    const parts: Buffer[] = []
    for (let start = 0, index = 0; start < size; start += chunkBytes, index++) {
      const length = Math.min(chunkBytes, size - start)
      const entry = table + index * unit
      const block = this.image.readUInt32LE(hasIndexes ? entry + 4 : entry)
      if (block === 0xffff_ffff) {
        holes.push([start, start + length])
        parts.push(Buffer.alloc(length))
      } else {
        const device = hasIndexes ? this.image.readUInt16LE(entry + 2) : 0
        parts.push(this.blocks(device, block, length))
      }
    }
    return Buffer.concat(parts)
  }

  /** Bytes from a block on; device 0 is the space of all addresses. */
  private blocks(device: number, block: number, length: number): Buffer {
    if (length === 0) return Buffer.alloc(0)
    let source = this.image
    let first = 0
    if (device > 0) source = this.devices[device - 1] ?? Buffer.alloc(0)
    else {
      for (const [index, slot] of this.slots.entries()) {
        if (slot.first === 0 || block < slot.first || block >= slot.first + slot.blocks) continue
        source = this.devices[index] ?? Buffer.alloc(0)
        first = slot.first
      }
    }
    const at = (block - first) * BLOCK
    expect(at + length, 'data is inside its device').to.be.at.most(source.length)
    return source.subarray(at, at + length)
  }

  private readXattrs(at: number, bytes: number): Map<string, Buffer> {
    const found = new Map<string, Buffer>()
    if (bytes === 0) return found
    const take = (from: number): number => {
      const nameBytes = this.image.readUInt8(from)
      const prefix = prefixes[this.image.readUInt8(from + 1)] ?? '?'
      const valueBytes = this.image.readUInt16LE(from + 2)
      const value = from + 4 + nameBytes
      const name = prefix + this.image.toString('latin1', from + 4, value)
      expect(found.has(name), 'an attribute is there once').to.equal(false)
      found.set(name, this.image.subarray(value, value + valueBytes))
      return Math.ceil((4 + nameBytes + valueBytes) / 4) * 4
    }
    const shared = this.image.readUInt8(at + 4)
    for (let index = 0; index < shared; index++) {
      take(this.xattrsAt + this.image.readUInt32LE(at + 12 + 4 * index) * 4)
    }
    let from = at + 12 + 4 * shared
    while (from < at + bytes) from += take(from)
    expect(from).to.equal(at + bytes)
    return found
  }

  /** Names and inodes of a directory, without the dots, which are checked. */
  entries(directory: ReadInode, parent: number): {name: string; number: number}[] {
    const content = directory.content()
    const all: {name: string; number: number; type: number}[] = []
    for (let at = 0; at < content.length; at += BLOCK) {
      const block = content.subarray(at, at + BLOCK)
      const count = block.readUInt16LE(8) / 12
      for (let index = 0; index < count; index++) {
        const from = block.readUInt16LE(index * 12 + 8)
        const isLast = index === count - 1
        const rest = isLast ? block.toString('latin1', from).replace(/\0.*$/s, '') : ''
        const end = isLast ? from + rest.length : block.readUInt16LE((index + 1) * 12 + 8)
        all.push({
          name: block.toString('latin1', from, end),
          number: Number(block.readBigUInt64LE(index * 12)),
          type: block.readUInt8(index * 12 + 10),
        })
      }
    }
    for (const [index, {name}] of all.entries()) {
      expect(name.length, 'a name').to.be.within(1, 255)
      const before = all[index - 1]
      if (before) expect(before.name < name, `${before.name} before ${name}`).to.equal(true)
    }
    for (const {number, type} of all) {
      expect((this.inode(number).mode >> 12) & 15, 'type').to.equal(types[type])
    }
    const dots = all.filter(({name}) => name === '.' || name === '..')
    expect(dots.map(({number}) => number)).to.deep.equal([directory.number, parent])
    return all.filter(({name}) => name !== '.' && name !== '..')
  }

  /** The whole tree, in the lines of listTree; checks counts of links and inodes. */
  list(options: {xattrs?: boolean} = {}): Map<string, string> {
    const lines = new Map<string, string>()
    const places = new Map<number, string[]>()
    let directories = 0
    const visit = (path: string, number: number, parent: number): void => {
      const inode = this.inode(number)
      const isDirectory = inode.mode >> 12 === 4
      lines.set(path, lineOf(inode, options))
      if (!isDirectory) {
        places.set(number, [...(places.get(number) ?? []), path])
        return
      }
      directories++
      let below = 0
      for (const entry of this.entries(inode, parent)) {
        if (this.inode(entry.number).mode >> 12 === 4) below++
        visit(path === '' ? entry.name : `${path}/${entry.name}`, entry.number, number)
      }
      expect(inode.links, `links of ${path}`).to.equal(2 + below)
    }
    visit('', this.rootNumber, this.rootNumber)
    for (const [number, paths] of places) {
      expect(this.inode(number).links, `links of ${paths.join(', ')}`).to.equal(paths.length)
      if (paths.length < 2) continue
      for (const path of paths) {
        lines.set(path, `${lines.get(path) ?? ''} same as ${paths.join(', ')}`)
      }
    }
    expect(this.inodeTotal).to.equal(directories + places.size)
    return lines
  }
}

function lineOf(inode: ReadInode, options: {xattrs?: boolean}): string {
  const type = inode.mode >> 12
  const isDirectory = type === 4
  const mtime = BigInt(inode.seconds) * 1_000_000_000n + BigInt(inode.nanoseconds)
  const parts = [
    inode.mode.toString(8),
    `${inode.uid}:${inode.gid}`,
    isDirectory ? '' : `size ${inode.size}`,
    `mtime ${mtime}`,
    type === 10 ? `-> ${inode.content().toString('latin1')}` : '',
    type === 8 ? createHash('sha256').update(inode.content()).digest('hex') : '',
    type === 2 || type === 6 ? `device ${inode.device}` : '',
    isDirectory ? '' : `links ${inode.links}`,
    ...(options.xattrs
      ? [...inode.xattrs].map(([name, value]) => `${name}=${value.toString('hex')}`).sort()
      : []),
  ]
  return parts.filter((part) => part !== '').join(' ')
}

function crc32c(bytes: Buffer): number {
  let sum = 0xffffffff
  for (const byte of bytes) {
    sum ^= byte
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (0x82f63b78 & -(sum & 1))
  }
  return sum >>> 0
}
