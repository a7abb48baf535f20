/** The image writer by itself: trees made by hand or by chance, read back by a reader of its own. */
import {createHash} from 'node:crypto'
import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../../src/core/errors.ts'
import type {Segment, Xattr} from '../../../../src/core/unpack/archive/entry.ts'
import {crc32c} from '../../../../src/core/unpack/erofs/format.ts'
import {type ErofsOptions, writeErofs} from '../../../../src/core/unpack/erofs/image.ts'
import {ErofsTree, ROOT} from '../../../../src/core/unpack/erofs/tree.ts'
import {ErofsReader} from '../../../support/erofs-reader.ts'

const uuid = Buffer.alloc(16, 7)
const plain = {uid: 0, gid: 0, mtime: {seconds: 5, nanoseconds: 6}, xattrs: [] as Xattr[]}
const newTree = (): ErofsTree => new ErofsTree({...plain, mode: 0o40755})

function write(tree: ErofsTree, devices: Buffer[] = [], more: Partial<ErofsOptions> = {}): Buffer {
  const parts: Buffer[] = []
  const options: ErofsOptions = {
    uuid,
    devices: devices.map((device) => ({blocks: Math.ceil(device.length / 512)})),
    readDevice: (device, position, buffer) => {
      devices[device - 1]?.copy(buffer, 0, position, position + buffer.length)
    },
    ...more,
  }
  const summary = writeErofs(tree, options, (chunk) => parts.push(Buffer.from(chunk)))
  const image = Buffer.concat(parts)
  expect(summary.sizeBytes).to.equal(image.length)
  return image
}

function addFile(tree: ErofsTree, name: string, data: {size: number; at: number; device?: number}) {
  const inode = tree.addInode({...plain, mode: 0o100644})
  tree.inodes.size[inode] = data.size
  tree.setData(inode, data.device ?? 1, data.at)
  tree.addName(ROOT, name, inode)
  return inode
}

const bytes = (length: number, seed = 1): Buffer => {
  const buffer = Buffer.alloc(length)
  for (let at = 0; at < length; at++) buffer[at] = (at * 7 + (at >> 8) * 13 + seed) & 255 || 1
  return buffer
}

describe('the EROFS writer', () => {
  it('sums with CRC-32C', () => {
    // Its check value (RFC 3720, section B.4 has others) is inverted at the end, ours is not.
    expect((crc32c(Buffer.from('123456789')) ^ 0xffff_ffff) >>> 0).to.equal(0xe3069283)
  })

  it('writes an empty tree', () => {
    const reader = new ErofsReader(write(newTree()), [])
    expect([...reader.list()]).to.deep.equal([['', '40755 0:0 mtime 5000000006']])
    expect(reader.uuid).to.equal('07'.repeat(16))
    expect(reader.features).to.equal(0)
  })

  it('puts the root first, and compact inodes where nothing is lost', () => {
    const tree = newTree()
    addFile(tree, 'a', {size: 0, at: 0})
    const other = tree.addInode({...plain, mode: 0o100600, uid: 70_000})
    tree.addName(ROOT, 'b', other)
    const late = tree.addInode({...plain, mode: 0o100600, mtime: {seconds: 5, nanoseconds: 7}})
    tree.addName(ROOT, 'c', late)
    const reader = new ErofsReader(write(tree), [])
    const root = reader.inode(reader.rootNumber)
    const kinds = reader.entries(root, root.number).map(({number}) => reader.inode(number))
    expect(kinds.map((inode) => inode.isExtended)).to.deep.equal([false, true, true])
    expect(kinds.every((inode) => inode.number > root.number)).to.equal(true)
    expect(kinds[1]).to.include({uid: 70_000, nanoseconds: 6})
  })

  it('takes the time that is asked for as that of compact inodes', () => {
    const tree = newTree()
    const buildTime = {seconds: -1, nanoseconds: 999_999_999}
    const reader = new ErofsReader(write(tree, [], {buildTime}), [])
    expect(reader.inode(reader.rootNumber)).to.include({isExtended: true, seconds: 5})
    const same = new ErofsTree({...plain, mode: 0o40755, mtime: buildTime})
    const compact = new ErofsReader(write(same, [], {buildTime}), [])
    expect(compact.inode(compact.rootNumber)).to.include({isExtended: false, seconds: -1})
  })

  it('sorts names by their bytes, dots among them, over many blocks', () => {
    const tree = newTree()
    const names = [
      '!',
      '-',
      '..a',
      '.a',
      '/'.replace('/', '0'),
      'Z',
      'a',
      '\x7f',
      '\xc3\xa4',
      '\xff',
    ]
    names.push('n'.repeat(255), 'm'.repeat(255), 'm'.repeat(254))
    for (let index = 0; index < 1000; index++) names.push(`name-${index}`)
    for (const name of names) addFile(tree, name, {size: 0, at: 0})
    const reader = new ErofsReader(write(tree), [])
    const listed = [...reader.list().keys()].slice(1)
    expect(listed).to.deep.equal([...names].sort())
  })

  it('keeps links of every length', () => {
    const tree = newTree()
    const lengths = [1, 300, 415, 416, 447, 448, 449, 511, 512, 513, 4095]
    for (const length of lengths) {
      const inode = tree.addInode({...plain, mode: 0o120777, mtime: {seconds: 1, nanoseconds: 1}})
      tree.setText(inode, 't/'.repeat(2048).slice(0, length))
      tree.addName(ROOT, `to-${length}`, inode)
    }
    const lines = new ErofsReader(write(tree), []).list()
    for (const length of lengths) {
      expect(lines.get(`to-${length}`)).to.include(
        ` -> ${'t/'.repeat(2048).slice(0, length)} links`,
      )
    }
  })

  it('shares attributes that several inodes carry, and large ones', () => {
    const tree = newTree()
    const label = {name: 'security.label', value: Buffer.from('x'.repeat(100))}
    const large = {name: 'user.large', value: bytes(65_535)}
    const long = {name: `user.${'n'.repeat(250)}`, value: Buffer.alloc(0)}
    const empty = {name: 'trusted.empty', value: Buffer.alloc(0)}
    const acl = {name: 'system.posix_acl_access', value: Buffer.from('acl')}
    for (let index = 0; index < 100; index++) {
      const xattrs = index === 50 ? [label, large, long, empty, acl] : [label]
      tree.addName(ROOT, `f${index}`, tree.addInode({...plain, mode: 0o100644, xattrs}))
    }
    const image = write(tree)
    expect(image.length).to.be.below(65_535 + 16 * 1024)
    const lines = new ErofsReader(image, []).list({xattrs: true})
    const hex = (xattr: Xattr): string => `${xattr.name}=${xattr.value.toString('hex')}`
    expect(lines.get('f7')).to.satisfy((line: string) => line.endsWith(hex(label)))
    for (const xattr of [label, large, long, empty, acl]) {
      expect(lines.get('f50')).to.include(hex(xattr))
    }
  })

  it('keeps more attributes than pointers fit', () => {
    const tree = newTree()
    const xattrs = Array.from({length: 300}, (_, i) => ({
      name: `user.a${i}`,
      value: bytes(300, i),
    }))
    tree.addName(ROOT, 'a', tree.addInode({...plain, mode: 0o100644, xattrs}))
    tree.addName(ROOT, 'b', tree.addInode({...plain, mode: 0o100644, xattrs}))
    const lines = new ErofsReader(write(tree), []).list({xattrs: true})
    for (const name of ['a', 'b']) expect(lines.get(name)?.match(/user\.a/g)).to.have.length(300)
  })

  it('finds files in several devices', () => {
    const devices = [bytes(512 * 9, 1), bytes(512 * 3, 2), bytes(700, 3)]
    const tree = newTree()
    addFile(tree, 'one', {size: 1000, at: 512 * 7})
    addFile(tree, 'two', {size: 1536, at: 0, device: 2})
    addFile(tree, 'three', {size: 700, at: 0, device: 3})
    const sha = (buffer: Buffer): string => createHash('sha256').update(buffer).digest('hex')
    const check = (reader: ErofsReader): void => {
      const lines = reader.list()
      expect(lines.get('one')).to.include(sha(devices[0]?.subarray(3584, 4584) ?? uuid))
      expect(lines.get('two')).to.include(sha(devices[1] ?? uuid))
      expect(lines.get('three')).to.include(sha(devices[2] ?? uuid))
    }
    const layers = devices.map((device, i) => ({
      blocks: Math.ceil(device.length / 512),
      tag: `sha256:${i}`,
    }))
    const reader = new ErofsReader(write(tree, devices, {devices: layers}), devices)
    expect(reader.tags).to.deep.equal(['sha256:0', 'sha256:1', 'sha256:2'])
    check(reader)
    // Together past the 2 TiB of one space of addresses: files name their device then.
    const huge = layers.map((layer) => ({...layer, blocks: 0x7000_0000}))
    check(new ErofsReader(write(tree, devices, {devices: huge}), devices))
  })

  it('refuses a device past 2 TiB', () => {
    const devices = [{blocks: 2 ** 32}]
    expect(() => write(newTree(), [], {devices}))
      .to.throw(ImgstoreError)
      .with.property('code', 'unsafe_archive')
  })

  it('keeps the holes of a file past 4 GiB, with a small table', () => {
    const device = bytes(4096 + 512)
    const tree = newTree()
    const inode = addFile(tree, 'sparse', {size: 6 * 2 ** 30, at: 0})
    tree.segments.set(inode, [{offset: 5 * 2 ** 30, length: 4096}])
    const image = write(tree, [device])
    expect(image.length).to.be.below(1 << 20)
    const reader = new ErofsReader(image, [device])
    const root = reader.inode(reader.rootNumber)
    const [entry] = reader.entries(root, root.number)
    const file = reader.inode(entry?.number ?? 0)
    expect(file).to.include({size: 6 * 2 ** 30, layout: 4})
  })

  it('gives the same bytes for the same tree, and again from one tree', () => {
    const make = (): ErofsTree => {
      const tree = newTree()
      const xattrs = [{name: 'user.a', value: Buffer.from('b')}]
      for (let i = 0; i < 2000; i++) {
        const name = `f${(i * 7919) % 2000}`
        tree.addName(ROOT, name, tree.addInode({...plain, mode: 0o100644, uid: i, xattrs}))
      }
      return tree
    }
    const first = make()
    const image = write(first)
    expect(write(first).equals(image)).to.equal(true)
    expect(write(make()).equals(image)).to.equal(true)
  })
})

type Node =
  | {kind: 'file'; size: number; cuts: number[]; pad: number}
  | {kind: 'directory'; children: Record<string, Node>}
  | {kind: 'link'; text: string}
  | {kind: 'device'; number: number}
type Meta = {mode: number; uid: number; seconds: number; nanoseconds: number; xattr: number}

const names = fc.oneof(
  fc.string({
    minLength: 1,
    maxLength: 12,
    unit: fc.constantFrom('a', 'b', 'c', '.', '-', '!', '~', '\xe9', '\xff'),
  }),
  fc.integer({min: 200, max: 255}).map((length) => 'n'.repeat(length)),
)
const {node} = fc.letrec<{node: Node}>((tie) => ({
  node: fc.oneof(
    {depthSize: 'small', withCrossShrink: true},
    fc.record({
      kind: fc.constant('file' as const),
      size: fc.oneof(fc.integer({min: 0, max: 3000}), fc.integer({min: 0, max: 200_000})),
      cuts: fc.array(
        fc.oneof(
          fc.nat(3000),
          fc.nat(200_000),
          fc.nat(390).map((n) => n * 512),
        ),
        {
          maxLength: 12,
        },
      ),
      pad: fc.oneof(fc.constant(0), fc.nat(600)),
    }),
    fc.record({
      kind: fc.constant('link' as const),
      text: fc
        .string({minLength: 1, maxLength: 900, unit: 'binary-ascii'})
        .map((t) => t.replaceAll('\0', '/')),
    }),
    fc.record({kind: fc.constant('device' as const), number: fc.nat(0xffff_ffff)}),
    fc.record({
      kind: fc.constant('directory' as const),
      children: fc.dictionary(names, tie('node'), {maxKeys: 40}),
    }),
  ),
}))
const meta: fc.Arbitrary<Meta> = fc.record({
  mode: fc.nat(0o7777),
  uid: fc.oneof(fc.constant(0), fc.nat(0xffff_fffe)),
  seconds: fc.oneof(fc.constant(5), fc.integer({min: -(2 ** 40), max: 2 ** 40})),
  nanoseconds: fc.oneof(fc.constant(6), fc.nat(999_999_999)),
  xattr: fc.nat(5),
})

/** Segments from sorted cuts: data from the first to the second, a hole to the third, and so on. */
function segmentsOf(cuts: number[], size: number): Segment[] {
  const sorted = [...new Set(cuts.map((cut) => Math.min(cut, size)))].sort((a, b) => a - b)
  const segments: Segment[] = []
  for (let at = 0; at + 1 < sorted.length; at += 2) {
    const [offset = 0, end = 0] = [sorted[at], sorted[at + 1]]
    segments.push({offset, length: end - offset})
  }
  return segments
}

describe('the EROFS writer, by chance', () => {
  it('writes trees that read back as they were', function () {
    this.timeout(120_000)
    const tree = fc.record({
      root: fc.dictionary(names, node, {maxKeys: 60}),
      metas: fc.array(meta, {minLength: 1, maxLength: 9}),
    })
    fc.assert(
      fc.property(tree, ({root, metas}) => {
        const made = build(root, metas)
        const image = write(made.tree, [made.device])
        const lines = new ErofsReader(image, [made.device]).list({xattrs: true})
        lines.delete('')
        expect(Object.fromEntries(lines)).to.deep.equal(Object.fromEntries(made.lines))
      }),
      {numRuns: 150},
    )
  })
})

function build(root: Record<string, Node>, metas: Meta[]) {
  const tree = newTree()
  const lines = new Map<string, string>()
  const data: Buffer[] = []
  let position = 0
  let count = 0
  const add = (directory: number, path: string, name: string, one: Node): void => {
    if (name === '.' || name === '..') return
    const {mode, uid, seconds, nanoseconds, xattr} = metas[count++ % metas.length] as Meta
    const xattrs = Array.from({length: xattr}, (_, i) => ({
      name: `user.x${i}`,
      value: bytes(i * 150),
    }))
    const type = {file: 0o100000, directory: 0o40000, link: 0o120000, device: 0o20000}[one.kind]
    const attributes = {mode: type | mode, uid, gid: uid, mtime: {seconds, nanoseconds}, xattrs}
    const inode = tree.addInode(attributes)
    tree.addName(directory, name, inode)
    const full = path === '' ? name : `${path}/${name}`
    const parts = [(type | mode).toString(8), `${uid}:${uid}`]
    const time = `mtime ${BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds)}`
    const attrs = xattrs.map((x) => `${x.name}=${x.value.toString('hex')}`)
    switch (one.kind) {
      case 'directory':
        parts.push(time)
        for (const [child, below] of Object.entries(one.children)) add(inode, full, child, below)
        break
      case 'link':
        tree.setText(inode, one.text)
        parts.push(`size ${one.text.length}`, time, `-> ${one.text}`, 'links 1')
        break
      case 'device':
        tree.inodes.value[inode] = one.number
        parts.push('size 0', time, `device ${one.number}`, 'links 1')
        break
      case 'file': {
        const content = Buffer.alloc(one.size)
        const isSparse = one.cuts.length > 0
        const segments = isSparse ? segmentsOf(one.cuts, one.size) : [{offset: 0, length: one.size}]
        // Anything but a whole block only where data is found by its segments.
        const pad = isSparse ? one.pad : Math.ceil(one.pad / 512) * 512
        const start = Math.ceil(position / 512) * 512 + pad
        data.push(Buffer.alloc(start - position))
        position = start
        for (const {offset, length} of segments) {
          const piece = bytes(length, count + offset)
          piece.copy(content, offset)
          data.push(piece)
          position += length
        }
        tree.inodes.size[inode] = one.size
        tree.setData(inode, 1, start)
        if (isSparse) tree.segments.set(inode, segments)
        const sha = createHash('sha256').update(content).digest('hex')
        parts.push(`size ${one.size}`, time, sha, 'links 1')
      }
    }
    lines.set(full, [...parts, ...attrs].join(' '))
  }
  for (const [name, one] of Object.entries(root)) add(ROOT, '', name, one)
  // A device is whole blocks.
  data.push(Buffer.alloc(512 - (position % 512)))
  return {tree, lines, device: Buffer.concat(data)}
}
