/** Sparse maps in the four forms that GNU tar has written. */
import {archive, directory, endMark, entry, file, header, padded, pax} from '../tar-builder.ts'
import {type Attack, holds} from './attack.ts'

const sparsePax = (map: string, blocks: number, size = 100): [string, string][] => [
  ['GNU.sparse.size', String(size)],
  ['GNU.sparse.numblocks', String(blocks)],
  ['GNU.sparse.map', map],
]

/** A header of GNU's oldest form; `map` has up to four pairs of offset and length. */
function oldSparse(map: number[], size: number): Buffer {
  const field = (value: number): string => `${value.toString(8).padStart(11, '0')}\0`
  const stored = map.filter((_, index) => index % 2 === 1).reduce((sum, length) => sum + length, 0)
  return header({
    name: 's',
    type: 'S',
    magic: 'gnu',
    size: stored,
    patch: [
      {at: 386, bytes: map.map(field).join('')},
      {at: 483, bytes: field(size)},
    ],
  })
}

export const sparseAttacks: Attack[] = [
  {
    title: 'a sparse map that overlaps',
    bytes: archive(pax(sparsePax('0,512,5,10', 2, 600)), file('s', 'x'.repeat(522))),
    expect: {all: 'bad'},
    says: /overlaps/,
  },
  {
    title: 'a sparse map that descends',
    bytes: archive(pax(sparsePax('600,512,0,512', 2, 2000)), file('s', 'x'.repeat(1024))),
    expect: {all: 'bad'},
    says: /descends/,
  },
  {
    title: 'a sparse map beyond the file',
    bytes: archive(pax(sparsePax('95,10', 1)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
    says: /leaves the file/,
  },
  {
    title: 'a sparse map with more data than is stored',
    bytes: archive(pax(sparsePax('0,50,100,0', 2)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
    says: /covers 50 bytes but 10/,
  },
  {
    title: 'a sparse map with another count',
    bytes: archive(pax(sparsePax('90,10', 3)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
    says: /another length/,
  },
  {
    title: 'a sparse map that is not numbers',
    bytes: archive(pax(sparsePax('90,1e1', 1)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
    says: /not numbers/,
  },
  {
    title: 'sparse pairs out of order',
    bytes: archive(
      pax([
        ['GNU.sparse.size', '100'],
        ['GNU.sparse.numblocks', '1'],
        ['GNU.sparse.numbytes', '10'],
        ['GNU.sparse.offset', '0'],
      ]),
      file('s', 'x'.repeat(10)),
    ),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse map that goes on inside a block of its data, in records',
    bytes: archive(pax(sparsePax('0,10,90,10', 2)), file('s', 'x'.repeat(20))),
    expect: {all: 'bad'},
    says: /inside a block/,
  },
  {
    title: 'a sparse map that goes on inside a block of its data, before it',
    bytes: archive(
      pax([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 's'],
        ['GNU.sparse.realsize', '3000'],
      ]),
      entry({
        name: 's',
        body: Buffer.concat([
          padded('3\n0\n513\n1000\n511\n2000\n1000\n'),
          Buffer.alloc(2024, 'x'),
        ]),
      }),
    ),
    expect: {all: 'bad'},
    says: /inside a block/,
  },
  {
    title: 'a sparse map that goes on inside a block of its data, in an old header',
    bytes: archive(oldSparse([0, 600, 1000, 400], 1400), padded('x'.repeat(1000))),
    expect: {all: 'bad'},
    says: /inside a block/,
  },
  {
    title: 'an old sparse header with as many blocks of its data',
    bytes: archive(oldSparse([0, 512, 1000, 400], 1400), padded('x'.repeat(912)), file('a', 'x')),
    expect: {all: 'ok'},
    tree: [holds('s', 'x'.repeat(512) + '\0'.repeat(488) + 'x'.repeat(400)), holds('a', 'x')],
  },
  {
    title: 'a sparse map that ends before its file',
    bytes: archive(pax(sparsePax('0,10', 1)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
    says: /ends at 10 of 100 bytes/,
  },
  {
    title: 'a sparse map of nothing for a file of something',
    bytes: archive(pax(sparsePax('', 0)), file('s')),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse file of nothing',
    bytes: archive(pax(sparsePax('0,0', 1, 0)), file('s')),
    expect: {all: 'ok'},
    tree: [holds('s', '')],
  },
  {
    title: 'an endless sparse map before the data (CVE-2026-32288)',
    bytes: archive(
      pax([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 's'],
        ['GNU.sparse.realsize', '100'],
      ]),
      file('s', `99999999\n${'1\n'.repeat(2 << 20)}`),
    ),
    expect: {all: 'bad'},
    says: /too long/,
  },
  {
    title: 'an old sparse header whose extensions never end (CVE-2025-58183)',
    bytes: (() => {
      const extension = Buffer.alloc(512)
      extension.write('00000000000\x0000000000000\0', 0, 'latin1')
      extension[504] = 1
      const head = header({
        name: 's',
        type: 'S',
        magic: 'gnu',
        patch: [
          {at: 482, bytes: '\x01'},
          {at: 483, bytes: '00000000144\0'},
        ],
      })
      return Buffer.concat([head, ...Array.from({length: 3000}, () => extension), endMark])
    })(),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse file of a petabyte',
    bytes: archive(pax(sparsePax(`${2 ** 50},0`, 1, 2 ** 50)), file('s')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a sparse directory',
    bytes: archive(pax(sparsePax('100,0', 1)), directory('s')),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse name with ".."',
    bytes: archive(
      pax([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', '../secret'],
        ['GNU.sparse.realsize', '1'],
      ]),
      entry({name: 's', body: Buffer.concat([padded('1\n0\n1\n'), Buffer.from('x')])}),
    ),
    expect: {all: 'unsafe'},
  },
]
