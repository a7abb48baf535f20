/** Sparse maps in the four forms that GNU tar has written. */
import {archive, directory, endMark, entry, file, header, padded, pax} from '../tar-builder.ts'
import type {Attack} from './attack.ts'

const sparsePax = (map: string, blocks: number, size = 100): [string, string][] => [
  ['GNU.sparse.size', String(size)],
  ['GNU.sparse.numblocks', String(blocks)],
  ['GNU.sparse.map', map],
]

export const sparseAttacks: Attack[] = [
  {
    title: 'a sparse map that overlaps',
    bytes: archive(pax(sparsePax('0,10,5,10', 2)), file('s', 'x'.repeat(20))),
    expect: {all: 'bad'},
    says: /overlaps/,
  },
  {
    title: 'a sparse map that descends',
    bytes: archive(pax(sparsePax('50,10,0,10', 2)), file('s', 'x'.repeat(20))),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse map beyond the file',
    bytes: archive(pax(sparsePax('95,10', 1)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse map with more data than is stored',
    bytes: archive(pax(sparsePax('0,50', 1)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse map with another count',
    bytes: archive(pax(sparsePax('0,10', 3)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
  },
  {
    title: 'a sparse map that is not numbers',
    bytes: archive(pax(sparsePax('0,1e1', 1)), file('s', 'x'.repeat(10))),
    expect: {all: 'bad'},
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
    bytes: archive(pax(sparsePax('0,0', 1, 2 ** 50)), file('s')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a sparse directory',
    bytes: archive(pax(sparsePax('0,0', 1)), directory('s')),
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
