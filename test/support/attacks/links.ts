/** Symbolic and hard links as a way out of the root, or into what is there already. */
import {archive, directory, entry, fifo, file, hardlink, longName, symlink} from '../tar-builder.ts'
import {type Attack, holds, lacks, links, up} from './attack.ts'

export const linksAttacks: Attack[] = [
  {
    title: 'writing through a planted absolute link (CVE-2021-32803)',
    bytes: archive(symlink('d', '/'), file('d/imgstore-canary', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('imgstore-canary', 'x')],
  },
  {
    title: 'writing through a planted ".." link',
    bytes: archive(symlink('d', '..'), file('d/img-evil/file', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('img-evil/file', 'x')],
  },
  {
    title: 'writing through many ".."',
    bytes: archive(symlink('d', `${up}tmp`), file('d/imgstore-canary', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('tmp/imgstore-canary', 'x')],
  },
  {
    title: 'two links that leave only together',
    bytes: archive(
      directory('p/q/r'),
      symlink('p/q/r/up', '../../..'),
      symlink('out', 'p/q/r/up/../secret'),
    ),
    expect: {image: 'ok', all: 'unsafe'},
    says: /out of the tree/,
  },
  {
    title: 'writing through two links that leave only together',
    bytes: archive(
      directory('p/q/r'),
      symlink('p/q/r/up', '../../..'),
      symlink('out', 'p/q/r/up/..'),
      file('out/secret', 'x'),
    ),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('secret', 'x')],
  },
  {
    title: 'a link that leaves once its target appears later',
    bytes: archive(symlink('out', 'a/b/../../..'), symlink('a', 'c/d'), directory('c/d/b')),
    expect: {image: 'ok', all: 'unsafe'},
  },
  {
    title: 'links that go round',
    bytes: archive(symlink('a', 'b'), symlink('b', 'a')),
    expect: {all: 'ok'},
  },
  {
    title: 'writing through links that go round',
    bytes: archive(symlink('a', 'b'), symlink('b', 'a'), file('a/x', 'x')),
    expect: {all: 'unsafe'},
    says: /40 symbolic links/,
  },
  {
    title: 'writing through a link to itself with a growing path',
    bytes: archive(symlink('a', 'a/a/a/a'), file('a/x', 'x')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a link, then a file of the same name (CVE-2018-20834)',
    bytes: archive(symlink('f', 'target'), file('target', 'old'), file('f', 'new')),
    expect: {all: 'ok'},
    tree: [holds('f', 'new'), holds('target', 'old')],
  },
  {
    title: 'an outward link, then a file of the same name',
    bytes: archive(symlink('f', '../secret'), file('f', 'new')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('f', 'new')],
  },
  {
    title: 'a link, then a directory of the same name and a file in it',
    bytes: archive(directory('b'), symlink('a', 'b'), directory('a'), file('a/x', 'x')),
    expect: {all: 'ok'},
    tree: [holds('a/x', 'x'), lacks('b/x')],
  },
  {
    title: 'a directory, held open, replaced by a link',
    bytes: archive(directory('a'), symlink('a', '../img-evil'), file('a/file', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('img-evil/file', 'x')],
  },
  {
    title: 'a directory that was written into replaced by a link',
    bytes: archive(file('a/x', 'x'), symlink('a', '../img-evil')),
    expect: {all: 'unsafe'},
    says: /not empty|out of the tree/,
  },
  {
    title: 'writing through /proc/self/root',
    bytes: archive(symlink('r', '/proc/self/root'), file('r/tmp/imgstore-canary', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('proc/self/root/tmp/imgstore-canary', 'x')],
  },
  {
    title: 'a file below a file',
    bytes: archive(file('a', 'x'), file('a/b', 'y')),
    expect: {all: 'unsafe'},
    says: /not a directory/,
  },
  {
    title: 'a file below a FIFO, which must not block',
    bytes: archive(fifo('a'), file('a/b', 'y')),
    needsNodes: true,
    expect: {all: 'unsafe'},
  },
  {
    title: 'a link with an empty target',
    bytes: archive(symlink('a', '')),
    expect: {all: 'bad'},
  },
  {
    title: 'a link with a target of 5,000 bytes',
    bytes: archive(longName('t'.repeat(5000), 'K'), symlink('a', 't', {magic: 'gnu'})),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a hard link outside',
    bytes: archive(hardlink('a', '../secret')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a hard link to an absolute path',
    bytes: archive(hardlink('a', '/etc/passwd')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a hard link through a symbolic link (CVE-2026-26960)',
    bytes: archive(symlink('d', '..'), hardlink('a', 'd/secret')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a hard link to a symbolic link, then a file over it',
    bytes: archive(symlink('s', 'x'), hardlink('h', 's'), file('h', 'new')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('h', 'new'), links('s', 'x'), lacks('x')],
  },
  {
    title: 'a hard link to itself',
    bytes: archive(file('a', 'x'), hardlink('a', 'a')),
    expect: {all: 'unsafe'},
    says: /itself/,
  },
  {
    title: 'a hard link to itself by another spelling',
    bytes: archive(symlink('s', 'd'), file('d/a', 'x'), hardlink('s/a', './d//a')),
    expect: {all: 'unsafe'},
    says: /itself/,
  },
  {
    title: 'a hard link to a directory',
    bytes: archive(directory('d'), hardlink('a', 'd')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a hard link to the root',
    bytes: archive(hardlink('a', '.')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a hard link to something later',
    bytes: archive(hardlink('a', 'b'), file('b', 'x')),
    expect: {all: 'unsafe'},
    says: /not in the archive before/,
  },
  {
    title: 'a hard link with a body',
    bytes: archive(file('b', 'x'), entry({name: 'a', type: '1', linkName: 'b', body: 'body'})),
    expect: {all: 'bad'},
  },
  {
    title: 'a later file over one of two hard links',
    bytes: archive(file('a', 'old'), hardlink('b', 'a'), file('b', 'new')),
    expect: {all: 'ok'},
    tree: [holds('a', 'old'), holds('b', 'new')],
  },
  {
    title: 'a directory entry that names a link (chmod through it, CVE-2021-32760)',
    bytes: archive(symlink('d', '../img-evil'), directory('d', {mode: 0o777})),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [['d', {directory: true}]],
  },
]
