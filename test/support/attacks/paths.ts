/** Names that aim outside the root, or that other systems take for one another. */
import {archive, directory, file, longName, pax, symlink} from '../tar-builder.ts'
import {type Attack, deep, holds, links, up} from './attack.ts'

export const pathsAttacks: Attack[] = [
  {
    title: 'a name with ".." at its start',
    bytes: archive(file('../img-evil/file', 'x')),
    expect: {all: 'unsafe'},
    says: /"\.\."/,
  },
  {
    title: 'a name with ".." in its middle',
    bytes: archive(file('a/../../secret', 'x')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a name with ".." at its end',
    bytes: archive(directory('a/..')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a name that only looks like ".."',
    bytes: archive(file('a..b/..c/d..', 'x')),
    expect: {all: 'ok'},
    tree: [holds('a..b/..c/d..', 'x')],
  },
  {
    title: '".." made by joining prefix and name',
    bytes: archive(file('./x', 'x', {prefix: 'a/..'})),
    expect: {all: 'unsafe'},
  },
  {
    title: 'an absolute name',
    bytes: archive(file('/etc/imgstore-canary', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('etc/imgstore-canary', 'x')],
    warns: 'absolute_name',
    says: /absolute/,
  },
  {
    title: 'an absolute prefix',
    bytes: archive(file('canary', 'x', {prefix: '//etc'})),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('etc/canary', 'x')],
  },
  {
    title: 'doubled and dotted slashes',
    bytes: archive(file('a//b/././c', 'x')),
    expect: {all: 'ok'},
    tree: [holds('a/b/c', 'x')],
  },
  {title: 'an empty name', bytes: archive(file('', 'x')), expect: {all: 'unsafe'}},
  {title: 'the root as a file', bytes: archive(file('.', 'x')), expect: {all: 'unsafe'}},
  {
    title: 'the root as a symbolic link (CVE-2021-29136)',
    bytes: archive(symlink('./', '/etc'), file('x', 'x')),
    expect: {all: 'bad'},
  },
  {
    title: 'the root as a symbolic link without a slash',
    bytes: archive(symlink('.', '/etc'), file('x', 'x')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a NUL in a PAX path',
    bytes: archive(pax([['path', 'good\0/../../bad']]), file('x', 'x')),
    expect: {all: 'bad'},
  },
  {
    title: 'a PAX path with ".."',
    bytes: archive(pax([['path', `${up}tmp/x`]]), file('x', 'x')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a GNU long name with ".."',
    bytes: archive(longName(`${up}tmp/x`), file('x', 'x', {magic: 'gnu'})),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a name of the sibling that has the root’s name as its prefix',
    bytes: archive(file('../img-evil/new', 'x')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a path 300 directories deep',
    bytes: archive(longName(`${deep(300)}/f`), file('f', 'x', {magic: 'gnu'})),
    expect: {all: 'unsafe'},
    says: /deep.*--max-depth/,
  },
  {
    title: 'a path 12,000 directories deep',
    bytes: archive(longName(`${deep(12_000)}/f`), file('f', 'x', {magic: 'gnu'})),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a path component of 256 bytes',
    bytes: archive(longName('n'.repeat(256)), file('f', 'x', {magic: 'gnu'})),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a name that is not UTF-8',
    bytes: archive(file(Buffer.from('caf\xe9', 'latin1'), 'x')),
    expect: {all: 'ok'},
    tree: [holds(Buffer.from('caf\xe9', 'latin1'), 'x')],
  },
  {
    title: 'control characters in a name',
    bytes: archive(file('a\x1b[2Jb\n', 'x')),
    expect: {all: 'ok'},
    warns: 'control_characters',
  },
  {
    title: 'names that fold together on other systems',
    bytes: archive(
      file('Straße', '1'),
      file('STRASSE', '2'),
      file('\u00e9', '3'),
      file('e\u0301', '4'),
      symlink('A', 'b'),
      file('a', '5'),
    ),
    expect: {all: 'ok'},
    tree: [
      holds('Straße', '1'),
      holds('\u00e9', '3'),
      holds('e\u0301', '4'),
      links('A', 'b'),
      holds('a', '5'),
    ],
  },
]
