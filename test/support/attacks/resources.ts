/** Archives that ask for more than they are: of disk, memory, time, names. */
import {gzipSync, zstdCompressSync} from 'node:zlib'
import {GiB, KiB, MiB} from '../../../src/core/limits.ts'
import {
  archive,
  directory,
  endMark,
  file,
  hardlink,
  longName,
  pax,
  symlink,
} from '../tar-builder.ts'
import {type Attack, deep, holds} from './attack.ts'

const times = (count: number, make: (index: number) => Buffer): Buffer =>
  Buffer.concat(Array.from({length: count}, (_, index) => make(index)))

/** A zstd frame that says it needs a window of two gibibytes. */
const hugeWindow = Buffer.from('28b52ffd00a8010000', 'hex')

const sparseGiB = (size: number): Buffer =>
  pax([
    ['GNU.sparse.size', String(size)],
    ['GNU.sparse.numblocks', '1'],
    ['GNU.sparse.map', `${size - 5},5`],
  ])

export const resourceAttacks: Attack[] = [
  {
    title: 'a gzip bomb',
    bytes: () => gzipSync(archive(file('zeros', Buffer.alloc(99 * MiB))), {level: 9}),
    limits: {ratioMax: 100},
    expect: {all: 'unsafe'},
    says: /--max-ratio/,
  },
  {
    title: 'a zstd bomb behind the end of the archive',
    bytes: () => zstdCompressSync(Buffer.concat([archive(file('a')), Buffer.alloc(99 * MiB)])),
    limits: {ratioMax: 100},
    expect: {all: 'unsafe'},
    says: /--max-ratio/,
  },
  {
    title: 'a gzip bomb in a gzip file',
    bytes: () => gzipSync(gzipSync(archive(file('zeros', Buffer.alloc(20 * MiB))))),
    expect: {all: 'no image'},
  },
  {
    title: 'a zstd frame with a window of two gibibytes',
    bytes: Buffer.concat([hugeWindow, Buffer.alloc(100)]),
    expect: {all: 'bad'},
  },
  {
    title: 'a hundred thousand empty gzip members',
    bytes: () => {
      const empty = gzipSync('')
      return Buffer.concat([gzipSync(archive(file('a', 'x'))), times(100_000, () => empty)])
    },
    expect: {all: 'ok'},
    tree: [holds('a', 'x')],
  },
  {
    title: 'zstd frames of nothing without an end',
    bytes: () => {
      const empty = zstdCompressSync('')
      return Buffer.concat([zstdCompressSync(archive(file('a', 'x'))), times(150_000, () => empty)])
    },
    expect: {all: 'bad'},
    says: /tiny frames/,
    isLarge: true,
  },
  {
    title: 'one directory of 12,000 entries',
    bytes: () => Buffer.concat([times(12_000, (index) => file(`d/${index}`)), endMark]),
    expect: {strict: 'unsafe', all: 'ok'},
    tree: [holds('d/11999', '')],
    isLarge: true,
  },
  {
    title: 'more entries than are allowed',
    bytes: () => Buffer.concat([times(1001, (index) => directory(`d${index}`)), endMark]),
    limits: {filesMax: 1000},
    expect: {all: 'unsafe'},
    says: /--max-files/,
  },
  {
    title: 'a hundred directories for each entry, none of them an entry',
    bytes: () =>
      Buffer.concat([times(20, (index) => file(`${index}/${'d/'.repeat(45)}f`)), endMark]),
    limits: {filesMax: 100, depthMax: 100},
    expect: {all: 'unsafe'},
    says: /have no entry.*--max-files/,
  },
  {
    title: 'a link of two thousand components, passed again and again',
    bytes: archive(
      longName('./'.repeat(2000), 'K'),
      symlink('a', 'x', {magic: 'gnu'}),
      ...Array.from({length: 30}, (_, index) => file(`${'a/'.repeat(30)}${index}`, 'x')),
    ),
    expect: {all: 'ok'},
    tree: [holds('29', 'x')],
  },
  {
    title: 'a link that makes a path of two thousand directories',
    bytes: archive(longName(deep(2000), 'K'), symlink('a', 'x', {magic: 'gnu'}), file('a/f', 'x')),
    expect: {all: 'unsafe'},
    says: /deep/,
  },
  {
    title: 'fifty thousand unknown PAX keys',
    bytes: () => {
      const records = Array.from({length: 50_000}, (_, index) => [`k${index}`, 'v'] as const)
      return archive(pax(records), file('a', 'x'))
    },
    expect: {all: 'ok'},
    tree: [holds('a', 'x')],
    warns: 'pax_key_ignored',
  },
  {
    title: 'a sparse map of forty thousand pieces',
    bytes: () => {
      const map = Array.from({length: 40_000}, (_, index) => `${index * 1024},512`).join(',')
      const records: [string, string][] = [
        ['GNU.sparse.size', String(40_000 * 1024 - 512)],
        ['GNU.sparse.numblocks', '40000'],
        ['GNU.sparse.map', map],
      ]
      return archive(pax(records), file('s', Buffer.alloc(40_000 * 512, 'x')))
    },
    expect: {all: 'ok'},
    tree: [['s', {sizeBytes: 40_000 * 1024 - 512}]],
  },
  {
    title: 'a sparse file of ten gibibytes',
    bytes: archive(sparseGiB(10 * GiB), file('s', 'tail!')),
    limits: {fileBytesMax: 100 * MiB},
    expect: {all: 'unsafe'},
    says: /--max-file-size/,
  },
  {
    title: 'a thousand sparse files that are too large together',
    bytes: () => {
      const one = Buffer.concat([sparseGiB(64 * MiB), file('s', 'tail!')])
      return Buffer.concat([times(1000, () => one), endMark])
    },
    limits: {totalBytesMax: GiB},
    expect: {all: 'unsafe'},
    says: /--max-total-size/,
  },
  {
    title: 'a file that is one byte too large',
    bytes: archive(file('a', Buffer.alloc(KiB + 1))),
    limits: {fileBytesMax: KiB},
    expect: {all: 'unsafe'},
    says: /--max-file-size/,
  },
  {
    title: 'two thousand links to one file',
    bytes: () => {
      const more = times(1999, (index) => hardlink(`h/${index}`, 'f'))
      return Buffer.concat([file('f', 'x'), more, endMark])
    },
    expect: {all: 'ok'},
    tree: [['h/1998', {file: 'x', links: 2000}]],
  },
  {
    title: 'more links to one file than a file system keeps',
    bytes: () => {
      const more = times(65_000, (index) => hardlink(`h/${index}`, 'f'))
      return Buffer.concat([file('f', 'x'), more, endMark])
    },
    expect: {all: 'unsafe'},
    says: /links to one file|--max-files/,
    isLarge: true,
  },
]
