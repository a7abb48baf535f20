/** Headers, extended headers and their records that are wrong or that parsers read differently. */
import {archive, base256, entry, file, header, longName, pax} from '../tar-builder.ts'
import type {Attack} from './attack.ts'

export const headersAttacks: Attack[] = [
  {
    title: 'a wrong checksum in the second header',
    bytes: archive(file('a'), entry({name: 'b', checksum: 1})),
    expect: {all: 'bad'},
    says: /checksum/,
  },
  {
    title: 'a wrong checksum in the first header',
    bytes: archive(entry({name: 'b', checksum: 1})),
    expect: {all: 'bad'},
    says: /checksum/,
  },
  {
    title: 'a checksum that is no number',
    bytes: archive(file('a'), entry({name: 'b', checksum: 'xyz'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a checksum counted with signed bytes',
    bytes: (() => {
      const name = Buffer.from('caf\xe9', 'latin1')
      const right = Number.parseInt(header({name}).toString('latin1', 148, 154), 8)
      return archive(file('a'), entry({name, checksum: right - 256}))
    })(),
    expect: {all: 'bad'},
  },
  {
    title: 'a negative size (CVE-2026-59874)',
    bytes: archive(file('a'), entry({name: 'b', size: base256(-512n, 12)})),
    expect: {all: 'bad'},
    says: /negative/,
  },
  {
    title: 'an enormous size',
    bytes: archive(entry({name: 'b', size: base256(1n << 80n, 12)})),
    expect: {all: 'bad'},
  },
  {
    title: 'a size of many terabytes',
    bytes: archive(entry({name: 'b', size: base256(1n << 45n, 12)})),
    expect: {all: 'unsafe'},
    says: /larger than .*--max-file-size/,
  },
  {
    title: 'a base-256 size with other bits in its first byte',
    bytes: archive(entry({name: 'b', size: Buffer.from([0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])})),
    expect: {all: 'bad'},
  },
  {
    title: 'a size with something after the digits',
    bytes: archive(entry({name: 'b', size: '0000001\x00001'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a size of minus one in octal',
    bytes: archive(entry({name: 'b', size: '-0000000001'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a missing size',
    bytes: archive(entry({name: 'b', size: '            '})),
    expect: {all: 'bad'},
  },
  {
    title: 'a file with a device number that is none, where Python ends the archive',
    bytes: archive(file('a'), file('hidden', 'x', {deviceMajor: '0x1f'})),
    expect: {all: 'bad'},
    says: /device major/,
  },
  {
    title: 'an owner of spaces',
    bytes: archive(file('a', 'x', {uid: '        '})),
    expect: {all: 'bad'},
    says: /blank/,
  },
  {
    title: 'a name with bytes after its NUL',
    bytes: archive(file('good\0/../../bad', 'x')),
    expect: {all: 'bad'},
  },
  {
    title: 'an unknown magic',
    bytes: archive(file('a'), entry({name: 'b', magic: Buffer.from('ustar\x0001')})),
    expect: {all: 'bad'},
  },
  {
    title: 'a prefix in a GNU header, which some parsers join',
    bytes: archive(file('passwd', 'x', {magic: 'gnu', prefix: 'etc'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a prefix in an old header, which some parsers join',
    bytes: archive(file('passwd', 'x', {magic: 'v7', prefix: 'etc'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a file whose name ends with a slash',
    bytes: archive(file('a/', 'body')),
    expect: {all: 'bad'},
  },
  {
    title: 'a directory with a body',
    bytes: archive(entry({name: 'a', type: '5', body: file('hidden', 'x')})),
    expect: {all: 'bad'},
  },
  {
    title: 'a symbolic link with a body',
    bytes: archive(entry({name: 'a', type: '2', linkName: 'b', body: file('hidden', 'x')})),
    expect: {all: 'bad'},
  },
  {
    title: 'a PAX size against the header’s (CVE-2025-62518)',
    bytes: archive(pax([['size', '1024']]), entry({name: 'a', size: 0}), file('hidden', 'x')),
    expect: {all: 'bad'},
    says: /header says 0 bytes/,
  },
  {
    title: 'a PAX size of zero against a body',
    bytes: archive(pax([['size', '0']]), file('a', 'body')),
    expect: {all: 'bad'},
  },
  {
    title: 'a PAX header before a GNU long name (CVE-2026-53655)',
    bytes: archive(pax([['size', '4']]), longName('long'), file('a', 'body', {magic: 'gnu'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a GNU long name before a PAX header',
    bytes: archive(longName('long'), pax([['path', 'other']]), file('a', 'body')),
    expect: {all: 'bad'},
  },
  {
    title: 'two PAX headers for one entry',
    bytes: archive(pax([['path', 'a']]), pax([['path', 'b']]), file('c', 'x')),
    expect: {all: 'bad'},
  },
  {
    title: 'two GNU long names for one entry',
    bytes: archive(longName('a'), longName('b'), file('c', 'x', {magic: 'gnu'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a PAX header with one key twice',
    bytes: archive(
      pax([
        ['path', 'a'],
        ['path', 'b'],
      ]),
      file('c', 'x'),
    ),
    expect: {all: 'bad'},
    says: /twice/,
  },
  {
    title: 'a PAX header without an entry',
    bytes: archive(file('a'), pax([['path', 'a']])),
    expect: {all: 'bad'},
  },
  {
    title: 'a global PAX header that sets a path',
    bytes: archive(pax([['path', '../../x']], {type: 'g'}), file('a', 'x')),
    expect: {all: 'bad'},
    says: /global/,
  },
  {
    title: 'a global PAX header that sets a size',
    bytes: archive(pax([['size', '0']], {type: 'g'}), file('a', 'x')),
    expect: {all: 'bad'},
  },
  {
    title: 'a global PAX header inside an entry',
    bytes: archive(pax([['path', 'b']]), pax([['comment', 'x']], {type: 'g'}), file('a', 'x')),
    expect: {all: 'bad'},
  },
  ...(
    [
      ['a record without a length', 'path=x\n'],
      ['a record with a length of zero', '0 path=x\n'],
      ['a record longer than the header', '99 path=x\n'],
      ['a record shorter than itself (CVE-2026-59875)', '7 path=x\n'],
      ['a record with a leading zero', '010 path=x\n'],
      ['a record with a sign', '+9 path=x\n'],
      ['a record without an equals sign', '8 pathx\n'],
      ['a record without a key', '5 =x\n'],
      ['a record that does not end with a newline', '9 path=xy'],
      ['an endless length (CVE-2026-59871)', `${'9'.repeat(400)} path=x\n`],
      ['NULs after the records', '10 path=x\n\0\0\0'],
      ['a size that is no number', '12 size=-1\n\n'],
      ['an empty path', '8 path=\n'],
    ] as const
  ).map(([title, body]): Attack => ({
    title: `a PAX header with ${title}`,
    bytes: archive(pax(Buffer.from(body)), file('a', 'x')),
    expect: {all: 'bad'},
  })),
  {
    title: 'a PAX header of two megabytes',
    bytes: archive(pax([['comment', 'x'.repeat(2 << 20)]]), file('a', 'x')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'seventy PAX headers of a megabyte each',
    bytes: (() => {
      const one = Buffer.concat([pax([['comment', 'x'.repeat((1 << 20) - 100)]]), file('a')])
      return archive(...Array.from({length: 70}, () => one))
    })(),
    expect: {all: 'unsafe'},
    says: /extended headers to more than/,
  },
  {
    title: 'a GNU long name that is empty',
    bytes: archive(longName(''), file('a', 'x', {magic: 'gnu'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a GNU long name without its NUL, which some read on into the padding',
    bytes: archive(
      entry({name: '././@LongLink', type: 'L', magic: 'gnu', size: 3, body: 'abcdef'}),
      file('a', 'x', {magic: 'gnu'}),
    ),
    expect: {all: 'bad'},
    says: /NUL/,
  },
  {
    title: 'a GNU long name with bytes after its NUL',
    bytes: archive(longName('good\0../../bad'), file('a', 'x', {magic: 'gnu'})),
    expect: {all: 'bad'},
  },
]
