/** What looks like an attack and is what real root filesystems are made of: it must come out right. */
import {
  archive,
  base256,
  directory,
  file,
  hardlink,
  longName,
  padded,
  entry,
  pax,
  symlink,
} from '../tar-builder.ts'
import {type Attack, holds, lacks, links} from './attack.ts'

const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1')

export const rightArchives: Attack[] = [
  {
    title: 'a merged /usr: entries below bin land in usr/bin',
    bytes: archive(directory('usr/bin'), symlink('bin', 'usr/bin'), file('bin/sh', 'x')),
    expect: {all: 'ok'},
    tree: [links('bin', 'usr/bin'), holds('usr/bin/sh', 'x')],
  },
  {
    title: 'a merged /usr with an absolute link',
    bytes: archive(directory('usr/lib'), symlink('lib', '/usr/lib'), file('lib/so', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [links('lib', '/usr/lib'), holds('usr/lib/so', 'x')],
  },
  {
    title: 'links with ".." that stay inside',
    bytes: archive(
      symlink('etc/alternatives/awk', '../../usr/bin/mawk'),
      file('usr/bin/mawk', 'x'),
    ),
    expect: {all: 'ok'},
    tree: [links('etc/alternatives/awk', '../../usr/bin/mawk')],
  },
  {
    title: 'setuid, setgid and sticky',
    bytes: archive(
      file('su', 'x', {mode: 0o4755}),
      file('wall', 'x', {mode: 0o2755}),
      directory('tmp', {mode: 0o1777}),
    ),
    expect: {all: 'ok'},
    tree: [
      ['su', {file: 'x', mode: {strict: 0o755, image: 0o4755, data: 0o755}}],
      ['wall', {file: 'x', mode: {strict: 0o755, image: 0o2755, data: 0o755}}],
      ['tmp', {directory: true, mode: {strict: 0o755, image: 0o1777, data: 0o777}}],
    ],
  },
  {
    title: 'a directory closed to all, with children after and before it',
    bytes: archive(
      file('d/before', 'x'),
      directory('d', {mode: 0o500}),
      file('d/after', 'y'),
      directory('closed', {mode: 0}),
    ),
    expect: {all: 'ok'},
    tree: [
      holds('d/before', 'x'),
      holds('d/after', 'y'),
      ['d', {directory: true, mode: {strict: 0o755, image: 0o500, data: 0o500}}],
    ],
  },
  {
    title: 'a forest of hard links',
    bytes: archive(
      file('a', 'one'),
      hardlink('b', 'a'),
      hardlink('d/c', 'b'),
      file('x', 'two'),
      hardlink('y', './x'),
    ),
    expect: {all: 'ok'},
    tree: [
      ['a', {file: 'one', links: 3}],
      ['d/c', {file: 'one', links: 3}],
      ['y', {file: 'two', links: 2}],
    ],
  },
  {
    title: 'a hard link to an absolute name of the archive',
    bytes: archive(file('a', 'x'), hardlink('b', '/a')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [['b', {file: 'x', links: 2}]],
  },
  {
    title: 'a hard link with a trailing slash',
    bytes: archive(file('a', 'x'), hardlink('b', 'a/')),
    expect: {all: 'bad'},
  },
  {
    title: 'duplicates, of which the last wins',
    bytes: archive(
      file('a', 'first'),
      symlink('a', 'b'),
      file('a', 'second'),
      directory('e'),
      file('e', 'third'),
    ),
    expect: {all: 'ok'},
    tree: [holds('a', 'second'), holds('e', 'third'), lacks('b')],
  },
  {
    title: 'names of PAX and GNU past a hundred bytes',
    bytes: archive(
      pax([['path', `${'p/'.repeat(100)}f`]]),
      file('f', 'x'),
      longName(`${'g/'.repeat(100)}f`),
      file('f', 'y', {magic: 'gnu'}),
    ),
    expect: {all: 'ok'},
    tree: [holds(`${'p/'.repeat(100)}f`, 'x'), holds(`${'g/'.repeat(100)}f`, 'y')],
  },
  {
    title: 'a name of 255 bytes',
    bytes: archive(longName('n'.repeat(255)), file('n', 'x', {magic: 'gnu'})),
    expect: {all: 'ok'},
    tree: [holds('n'.repeat(255), 'x')],
  },
  {
    title: 'names in UTF-8 and in Latin-1, also as targets',
    bytes: archive(
      file('grüße/日本', 'x'),
      pax([['path', latin1('gr\xfc\xdfe')]]),
      file('x', 'y'),
      symlink('link', latin1('gr\xfc\xdfe')),
    ),
    expect: {all: 'ok'},
    tree: [holds('grüße/日本', 'x'), holds(latin1('gr\xfc\xdfe'), 'y')],
  },
  {
    title: 'a backslash and a space, which are names here',
    bytes: archive(file('..\\..\\x', 'x'), file(' ', 'y'), file('c:', 'z')),
    expect: {all: 'ok'},
    tree: [holds('..\\..\\x', 'x'), holds(' ', 'y'), holds('c:', 'z')],
  },
  {
    title: 'an owner in base-256 and a time before 1970',
    bytes: archive(
      file('a', 'x', {uid: base256(3_000_000n, 8), mtime: base256(-5n, 12), magic: 'gnu'}),
    ),
    expect: {all: 'ok'},
    tree: [holds('a', 'x')],
  },
  {
    title: 'a contiguous file, which is a file',
    bytes: archive(entry({name: 'a', type: '7', body: 'x'})),
    expect: {all: 'ok'},
    tree: [holds('a', 'x')],
  },
  {
    title: 'an old directory, told by its slash',
    bytes: archive(entry({name: 'd/', type: '\0', magic: 'v7'}), file('d/a', 'x')),
    expect: {all: 'ok'},
    tree: [['d', {directory: true}], holds('d/a', 'x')],
  },
  {
    title: 'a sparse file whose map stands before its data',
    bytes: archive(
      pax([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 's'],
        ['GNU.sparse.realsize', '515'],
      ]),
      entry({
        name: 'GNUSparseFile.1/s',
        body: Buffer.concat([
          padded('2\n0\n512\n514\n1\n'),
          Buffer.alloc(512, 'a'),
          Buffer.from('b'),
        ]),
      }),
    ),
    expect: {all: 'ok'},
    tree: [holds('s', `${'a'.repeat(512)}\0\0b`)],
  },
  {
    title: 'attributes that speak to overlayfs are not kept',
    bytes: archive(
      pax([
        ['SCHILY.xattr.trusted.overlay.opaque', 'y'],
        ['SCHILY.xattr.user.overlay.redirect', '/etc'],
      ]),
      directory('d'),
      pax([['SCHILY.xattr.trusted.overlay.metacopy', '']]),
      file('f', 'x'),
    ),
    expect: {all: 'ok'},
    tree: [
      ['d', {directory: true, without: /overlay/}],
      ['f', {file: 'x', without: /overlay/}],
    ],
  },
  {
    title: 'a link to a name that is too long, which leads to nothing',
    bytes: archive(longName('n'.repeat(300), 'K'), symlink('l', 'x', {magic: 'gnu'})),
    expect: {all: 'ok'},
    tree: [links('l', 'n'.repeat(300))],
  },
  {
    title: 'writing through a link to a name that is too long',
    bytes: archive(
      longName('n'.repeat(300), 'K'),
      symlink('l', 'x', {magic: 'gnu'}),
      file('l/x', 'x'),
    ),
    expect: {all: 'unsafe'},
    says: /too long/,
  },
  {
    title: 'a hard link through a link to a name that is too long',
    bytes: archive(
      longName('n'.repeat(300), 'K'),
      symlink('l', 'x', {magic: 'gnu'}),
      hardlink('h', 'l/x'),
    ),
    expect: {all: 'unsafe'},
  },
  {
    title: 'an attribute that the file system cannot keep',
    bytes: archive(pax([['SCHILY.xattr.user.big', 'x'.repeat(60_000)]]), file('a', 'x')),
    expect: {all: 'ok'},
    tree: [holds('a', 'x')],
  },
  {
    title: 'a PAX key with an escape sequence, said twice',
    bytes: archive(
      pax([
        ['\x1b[2Jkey', 'x'],
        ['\x1b[2Jkey', 'y'],
      ]),
      file('a', 'x'),
    ),
    expect: {all: 'bad'},
    says: /^[^\x00-\x1f]*\\u001b\[2Jkey[^\x00-\x1f]*$/,
  },
]
