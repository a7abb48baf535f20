/**
 * Damaged archives by the million, each made again from its seed alone. Most are nearly right, because what is quite
 * wrong is refused at the first check and tests nothing behind it.
 */
import {gzipSync, zstdCompressSync} from 'node:zlib'
import {
  archive,
  base256,
  device,
  directory,
  endMark,
  entry,
  type EntryFields,
  fifo,
  file,
  hardlink,
  header,
  longName,
  padded,
  pax,
  paxRecord,
  symlink,
} from '../tar-builder.ts'
import {Random} from './random.ts'

export const fuzzKinds = ['header', 'pax', 'sparse', 'links', 'blocks', 'raw', 'framing'] as const
export type FuzzKind = (typeof fuzzKinds)[number]

export type FuzzCase = {kind: FuzzKind; bytes: Buffer}

/** A place outside every root that absolute names aim at; it must never come to be. */
export const fuzzCanary = '/tmp/imgstore-fuzz-canary'

const up = '../'.repeat(20)
const names = [
  ...['a', 'b', 'c', 'a/b', 'a/b/c', 'd/', './', '.', './a', 'a//b', 'b/c/d', 'l', 'l/x', 'l/m/x'],
  ...['..', '../x', 'a/../b', 'a/..', '/a', '//a', '', ' ', '\n', 'a\\b', 'a\0b', '.wh.a', '.wh.'],
  ...['caf\u00e9', 'ss', 'ß', 'A', 'x'.repeat(99), 'x'.repeat(100), 'n'.repeat(255)],
  ...[`${up}tmp/imgstore-fuzz-canary`, fuzzCanary, 'proc/self/root/x', '\x1b[2J', '\u202e'],
]
const longNames = [
  ...['x'.repeat(256), 'd/'.repeat(255) + 'f', 'd/'.repeat(300), 'p/'.repeat(2047) + 'f'],
  ...['y/'.repeat(80) + 'z', '/'.repeat(5000), 'e'.repeat(5000), `${'a/'.repeat(60)}../x`],
]
const targets = [
  ...['a', 'b', 'a/b', '.', '..', '../x', '/', '/etc', fuzzCanary, 'l', 'l/x', 'm', './l', 'a/..'],
  ...['../../..', '/proc/self/root', 'a/../../b', 'n'.repeat(100), 'd/', 'a\0b', '\xff\xfe'],
  ...['l/l/l/l', 'm/../..', 'b/c/../../..'],
]
const types = [...Array.from('01234567SLKxgDMNVXA8'), '\0', '\x01', '\xff', ' ']
const numbers: (number | string | Buffer)[] = [
  ...[0, 1, 7, 0o644, 0o4755, 511, 512, 513, 1000, 0o7777777],
  ...['', ' ', '77777777', '777777777777', '-1', '0x1f', '+7', '1 2', '8', '       7', '7\0\x007'],
  ...[base256(0n, 12), base256(1n, 12), base256(-1n, 12), base256(512n, 8), base256(1n << 40n, 12)],
  ...[base256(1n << 53n, 12), base256((1n << 53n) - 1n, 12), base256(1n << 62n, 12)],
  ...[Buffer.alloc(12, 0xff), Buffer.from([0x80]), Buffer.from([0xc0, 1]), Buffer.alloc(12, 0x20)],
]

const decimals = [
  ...['0', '1', '5', '100', '512', '4096', '-1', '+1', '01', '', ' ', '1e3', '0x10', '1.5'],
  ...['9007199254740991', '9007199254740992', '18446744073709551616', '8589934592', '9'.repeat(30)],
]
const keys = [
  ...[
    'path',
    'linkpath',
    'size',
    'uid',
    'gid',
    'mtime',
    'atime',
    'comment',
    'hdrcharset',
    'charset',
  ],
  ...['SCHILY.xattr.user.a', 'SCHILY.xattr.user.overlay.x', 'SCHILY.xattr.', 'SCHILY.devmajor'],
  ...[
    'SCHILY.devminor',
    'LIBARCHIVE.xattr.user.a',
    'LIBARCHIVE.xattr.%00',
    'SCHILY.xattr.trusted.t',
  ],
  ...['GNU.sparse.major', 'GNU.sparse.minor', 'GNU.sparse.name', 'GNU.sparse.realsize'],
  ...['GNU.sparse.size', 'GNU.sparse.numblocks', 'GNU.sparse.map', 'GNU.sparse.offset'],
  ...['GNU.sparse.numbytes', 'GNU.volume.label', 'GNU.dumpdir', '__proto__', 'constructor', 'x=y'],
]

/** Those that most entries may have, so that what comes after them is reached. */
const calmKeys = ['path', 'linkpath', 'uid', 'gid', 'mtime', 'atime', 'comment'].concat(
  Array.from({length: 8}, (_, index) => `SCHILY.xattr.user.${index}`),
)

/** Case number `seed`. */
export function fuzzCase(seed: number): FuzzCase {
  const random = new Random(seed)
  const kind = random.pick(fuzzKinds)
  return {kind, bytes: makers[kind](random)}
}

const makers: Record<FuzzKind, (random: Random) => Buffer> = {
  header: (random) => {
    const parts = Array.from({length: 1 + random.below(3)}, () => headerEntry(random))
    return ended(random, parts)
  },
  pax: (random) => {
    const parts: Buffer[] = []
    for (let count = 1 + random.below(2); count > 0; count--) {
      const body = paxBody(random)
      const type = random.oneIn(20) ? 'g' : 'x'
      if (body.length > 0 || random.oneIn(20)) parts.push(pax(body, {type}))
      if (random.oneIn(15)) parts.push(longName(anyName(random), random.pick(['L', 'K'])))
      parts.push(headerEntry(random, 4))
    }
    return ended(random, parts)
  },
  sparse: (random) => ended(random, [file('before', 'x'), ...sparseEntry(random)]),
  links: (random) => {
    const count = 2 + random.below(8)
    return archive(...Array.from({length: count}, () => linkEntry(random)))
  },
  blocks: (random) => shuffledBlocks(random, sampleBytes),
  raw: (random) => damaged(random, sampleBytes, 1 + random.below(8)),
  framing: (random) => framed(random),
}

const anyName = (random: Random): string =>
  random.oneIn(12) ? random.pick(longNames) : random.pick(names)

/** An entry of which most is right. */
function headerEntry(random: Random, wrong = 2): Buffer {
  const body = random.oneIn(3) ? random.bytes(random.below(1200)) : Buffer.alloc(0)
  const fields: EntryFields = {name: Buffer.from(anyName(random), 'latin1'), body}
  if (random.oneIn(2)) fields.type = random.pick(types)
  if (random.oneIn(3)) fields.linkName = random.pick(targets)
  if (random.oneIn(3)) fields.magic = random.pick(['ustar', 'gnu', 'v7'] as const)
  if (random.oneIn(12)) fields.magic = random.bytes(8)
  if (random.oneIn(8)) fields.prefix = anyName(random)
  for (const field of ['mode', 'uid', 'gid', 'size', 'mtime', 'deviceMajor', 'checksum'] as const) {
    if (random.oneIn(wrong * 8)) fields[field] = random.pick(numbers)
  }
  if (random.oneIn(wrong * 2)) {
    const patch = {at: random.below(512), bytes: random.bytes(1 + random.below(12))}
    // The checksum is made after the patch, so that the damage is looked at.
    fields.patch = [patch]
  }
  return entry(fields)
}

function ended(random: Random, parts: Buffer[]): Buffer {
  switch (random.below(12)) {
    case 0:
      return Buffer.concat(parts)
    case 1:
      return Buffer.concat([...parts, Buffer.alloc(512), ...parts])
    case 2:
      return Buffer.concat([...parts, endMark, random.bytes(random.below(600))])
    case 3: {
      const whole = archive(...parts)
      return whole.subarray(0, random.below(whole.length))
    }
    default:
      return archive(...parts)
  }
}

function fittingValue(random: Random, key: string): string {
  if (/path|name/.test(key)) return anyName(random)
  if (/^(comment|SCHILY.xattr|hdrcharset|charset|__|cons)/.test(key)) return 'value'
  if (key.startsWith('LIBARCHIVE.xattr')) return random.pick(['dmFsdWU', 'dmFsdWU=', '*', ''])
  if (key.endsWith('time')) return random.pick(['1', '-1.5', '1700000000.123456789', '0.', '1e9'])
  if (key === 'GNU.sparse.map') return random.pick(['', '0,5', '0,5,10,5', '5,0', '0', '0,'])
  return String(random.below(3))
}

function paxBody(random: Random): Buffer {
  const records: Buffer[] = []
  const isCalm = random.oneIn(2)
  for (let count = 1 + random.below(5); count > 0; count--) {
    const key = random.pick(isCalm ? calmKeys : keys)
    const value = random.oneIn(isCalm ? 40 : 6) ? random.pick(decimals) : fittingValue(random, key)
    const record = paxRecord(key, Buffer.from(value, 'latin1'))
    if (!random.oneIn(isCalm ? 100 : 10)) {
      records.push(record)
      continue
    }
    const text = record.toString('latin1')
    const length = random.pick([...decimals, '7', '8', '9', '99999999', '999999999'])
    records.push(Buffer.from(text.replace(/^[0-9]+/, length), 'latin1'))
  }
  const body = Buffer.concat(records)
  return random.oneIn(isCalm ? 50 : 10) ? damaged(random, body, 1 + random.below(3)) : body
}

function sparseNumber(random: Random): string {
  return random.oneIn(8) ? random.pick(decimals) : String(random.below(6) * 512)
}

/** A map that often ascends and often is right. */
function sparseMap(random: Random): {pairs: string[]; storedBytes: number} {
  const pairs: string[] = []
  let at = 0
  let storedBytes = 0
  for (let count = random.below(8); count > 0; count--) {
    at += random.below(3) * 100
    const length = random.oneIn(8) ? random.below(4) * 50 : random.below(3) * 512
    pairs.push(String(at), String(length))
    at += length
    storedBytes += length
  }
  if (!random.oneIn(8)) pairs.push('10000', '0')
  if (pairs.length > 0 && random.oneIn(4)) pairs[random.below(pairs.length)] = sparseNumber(random)
  return {pairs, storedBytes}
}

function sparseEntry(random: Random): Buffer[] {
  const {pairs, storedBytes} = sparseMap(random)
  const data = Buffer.alloc(random.oneIn(8) ? random.below(2000) : storedBytes, 'x')
  const size = random.oneIn(8) ? sparseNumber(random) : '10000'
  const count = random.oneIn(10) ? sparseNumber(random) : String(pairs.length / 2)
  const name = random.oneIn(3) ? anyName(random) : 's'
  switch (random.below(4)) {
    case 0: {
      const records: [string, string][] = [
        ['GNU.sparse.size', size],
        ['GNU.sparse.numblocks', count],
      ]
      for (let at = 0; at < pairs.length; at += 2) {
        records.push(['GNU.sparse.offset', pairs[at] ?? ''])
        records.push(['GNU.sparse.numbytes', pairs[at + 1] ?? ''])
      }
      return [pax(records), file('s', data)]
    }
    case 1: {
      const records: [string, string][] = [
        ['GNU.sparse.size', size],
        ['GNU.sparse.numblocks', count],
        ['GNU.sparse.map', pairs.join(',')],
        ['GNU.sparse.name', name === '' ? 's' : name],
      ]
      return [pax(records), file('s', data)]
    }
    case 2: {
      const text = `${[count, ...pairs].join('\n')}\n`
      const map = random.oneIn(8) ? damaged(random, Buffer.from(text), 1) : Buffer.from(text)
      const records: [string, string][] = [
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', name],
        ['GNU.sparse.realsize', size],
      ]
      return [pax(records), entry({name: 's', body: Buffer.concat([padded(map), data])})]
    }
    default:
      return [oldSparse(random, pairs, size, data)]
  }
}

function sparseField(text: string): Buffer {
  const field = Buffer.alloc(12)
  field.write(/^[0-9]{1,15}$/.test(text) ? Number(text).toString(8).padStart(11, '0') : text)
  return field
}

/** GNU's oldest form: four pairs in the header, then blocks of twenty-one. */
function oldSparse(random: Random, pairs: string[], size: string, data: Buffer): Buffer {
  const fields = pairs.map(sparseField)
  const extension = Buffer.alloc(512)
  Buffer.concat(fields.slice(8)).copy(extension)
  if (random.oneIn(6)) extension[504] = random.below(3)
  const hasMore = random.oneIn(6) ? random.below(50) : fields.length > 8 ? 1 : 0
  const head = header({
    name: 's',
    type: 'S',
    magic: random.oneIn(10) ? 'ustar' : 'gnu',
    size: data.length,
    patch: [
      {at: 386, bytes: Buffer.concat(fields.slice(0, 8))},
      {at: 482, bytes: Buffer.from([hasMore])},
      {at: 483, bytes: sparseField(size)},
    ],
  })
  return Buffer.concat([head, ...(hasMore > 0 ? [extension] : []), padded(data)])
}

/** Entries of few names and many targets, so that they meet. */
function linkEntry(random: Random): Buffer {
  const short = ['a', 'b', 'l', 'm', 'a/b', 'l/x', 'l/m', 'l/m/x', 'b/c/d', 'm/../x', './l', 'a/l']
  const name = random.oneIn(10) ? anyName(random) : random.pick(short)
  const target = random.oneIn(3) ? random.pick(targets) : random.pick(short)
  switch (random.below(8)) {
    case 0:
    case 1:
      if (random.oneIn(5)) {
        const long = longName(random.pick(longNames), 'K')
        return Buffer.concat([long, symlink(name, 'x', {magic: 'gnu'})])
      }
      return symlink(name, target)
    case 2:
      return hardlink(name, target)
    case 3:
    case 4:
      return file(name, 'x'.repeat(random.below(20)))
    case 5:
      return random.oneIn(2) ? fifo(name) : device(name, 'character', 1, 3)
    case 6: {
      const xattr = 'v'.repeat(random.oneIn(20) ? 60_000 : 5)
      return Buffer.concat([pax([['SCHILY.xattr.user.a', xattr]]), file(name, 'x')])
    }
    default:
      return directory(name, {mode: random.pick([0o755, 0o000, 0o7777, 0o500])})
  }
}

/** One of everything that is right. */
const sampleBytes = archive(
  pax([['comment', 'made by git']], {type: 'g'}),
  directory('./'),
  file('a', 'hello'),
  pax([
    ['path', 'long/'.repeat(40) + 'name'],
    ['mtime', '1700000000.123456789'],
    ['SCHILY.xattr.user.a', 'value'],
  ]),
  file('long', 'x'.repeat(1500)),
  longName('gnu/'.repeat(40) + 'name'),
  longName('target/'.repeat(20), 'K'),
  symlink('short', 'short', {magic: 'gnu'}),
  hardlink('h', 'a'),
  pax([
    ['GNU.sparse.major', '1'],
    ['GNU.sparse.minor', '0'],
    ['GNU.sparse.name', 'holes'],
    ['GNU.sparse.realsize', '4096'],
  ]),
  entry({
    name: 'GNUSparseFile.1/holes',
    body: Buffer.concat([padded('2\n0\n512\n4093\n3\n'), Buffer.alloc(515, 'abcdef')]),
  }),
  file('big', '', {size: base256(0n, 12), magic: 'gnu'}),
)

function shuffledBlocks(random: Random, bytes: Buffer): Buffer {
  const blocks: Buffer[] = []
  for (let at = 0; at < bytes.length; at += 512) blocks.push(bytes.subarray(at, at + 512))
  for (let count = 1 + random.below(4); count > 0; count--) {
    const from = random.below(blocks.length)
    const to = random.below(blocks.length)
    const block = blocks[from] ?? endMark
    switch (random.below(5)) {
      case 0:
        blocks.splice(from, 1)
        break
      case 1:
        blocks.splice(to, 0, block)
        break
      case 2:
        blocks[to] = block
        break
      case 3:
        blocks.splice(to, 0, headerEntry(random))
        break
      default:
        blocks[from] = mended(damaged(random, block, 1 + random.below(3)))
    }
    if (blocks.length === 0) blocks.push(endMark)
  }
  return Buffer.concat(blocks)
}

/** A block with the checksum that it would have as a header. */
function mended(block: Buffer): Buffer {
  if (block.length !== 512) return block
  const copy = Buffer.from(block)
  copy.fill(' ', 148, 156)
  let sum = 0
  for (const byte of copy) sum += byte
  copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return copy
}

/** Some bytes changed, put in, taken out or cut off. */
function damaged(random: Random, bytes: Buffer, count: number): Buffer {
  let copy = Buffer.from(bytes)
  for (; count > 0 && copy.length > 0; count--) {
    const at = random.below(copy.length)
    switch (random.below(8)) {
      case 0:
        copy = Buffer.concat([copy.subarray(0, at), copy.subarray(at + 1 + random.below(600))])
        break
      case 1:
        copy = Buffer.concat([
          copy.subarray(0, at),
          random.bytes(random.below(600)),
          copy.subarray(at),
        ])
        break
      case 2:
        copy = copy.subarray(0, at)
        break
      case 3:
        copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8))
        break
      default:
        copy[at] = random.pick([0, 0x20, 0x30, 0x37, 0x2f, 0x2e, 0x0a, 0x3d, 0x80, 0xff])
    }
  }
  return copy
}

const skippable = Buffer.from('532a4d1803000000aabbcc', 'hex')
const gzipped = gzipSync(sampleBytes)
const zstded = zstdCompressSync(sampleBytes)
const emptyGzip = gzipSync('')
const emptyZstd = zstdCompressSync('')

/** Compressed data of several members or frames, damaged between and inside. */
function framed(random: Random): Buffer {
  const isGzip = random.oneIn(2)
  const pieces: Buffer[] = []
  for (let count = 1 + random.below(4); count > 0; count--) {
    switch (random.below(5)) {
      case 0:
        pieces.push(isGzip ? emptyGzip : emptyZstd)
        break
      case 1:
        pieces.push(isGzip ? Buffer.alloc(random.below(40)) : skippable)
        break
      default:
        pieces.push(isGzip ? gzipped : zstded)
    }
  }
  if (random.oneIn(8)) pieces.push(random.bytes(random.below(20)))
  const whole = Buffer.concat(pieces)
  return random.oneIn(4) ? whole : damaged(random, whole, 1 + random.below(4))
}
