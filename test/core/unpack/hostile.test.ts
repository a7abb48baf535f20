/** The attack classes of docs/unpack.md, one archive each, with what every profile must make of it. */
import {existsSync, lstatSync, readFileSync, readlinkSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import type {Profile} from '../../../src/core/limits.ts'
import {
  archive,
  base256,
  device,
  directory,
  endMark,
  entry,
  fifo,
  file,
  hardlink,
  header,
  longName,
  padded,
  pax,
  paxRecord,
  symlink,
} from '../../support/tar-builder.ts'
import {withUnpacked} from '../../support/unpack-case.ts'

type Outcome = 'ok' | 'unsafe' | 'bad' | 'no image'

type Case = {
  title: string
  bytes: Buffer
  /** By profile; `all` for those not named. */
  expect: Partial<Record<Profile | 'all', Outcome>>
  /** What the refusal says. */
  says?: RegExp
  /** What an accepted tree looks like, in every profile that accepts. */
  tree?: (root: string) => void
  /** A warning that an accepting profile gives. */
  warns?: string
}

const profiles: Profile[] = ['strict', 'image', 'data']
const codes: Record<string, Outcome> = {
  unsafe_archive: 'unsafe',
  bad_archive: 'bad',
  source_not_image: 'no image',
}

function holds(path: string, body: string): (root: string) => void {
  return (root) => {
    expect(readFileSync(join(root, path), 'utf8')).to.equal(body)
    expect(lstatSync(join(root, path)).isFile()).to.equal(true)
  }
}

function lacks(path: string): (root: string) => void {
  return (root) => expect(existsSync(join(root, path))).to.equal(false)
}

const up = '../'.repeat(30)
const deep = (count: number): string => Array.from({length: count}, () => 'd').join('/')
const sparsePax = (map: string, blocks: number, size = 100): [string, string][] => [
  ['GNU.sparse.size', String(size)],
  ['GNU.sparse.numblocks', String(blocks)],
  ['GNU.sparse.map', map],
]

const paths: Case[] = [
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
    tree: holds('a..b/..c/d..', 'x'),
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
    tree: holds('etc/imgstore-canary', 'x'),
    warns: 'absolute_name',
    says: /absolute/,
  },
  {
    title: 'an absolute prefix',
    bytes: archive(file('canary', 'x', {prefix: '//etc'})),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('etc/canary', 'x'),
  },
  {
    title: 'doubled and dotted slashes',
    bytes: archive(file('a//b/././c', 'x')),
    expect: {all: 'ok'},
    tree: holds('a/b/c', 'x'),
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
    tree: (root) => {
      const name = Buffer.concat([Buffer.from(`${root}/`), Buffer.from('caf\xe9', 'latin1')])
      expect(readFileSync(name, 'utf8')).to.equal('x')
    },
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
    tree: (root) => {
      holds('Straße', '1')(root)
      holds('\u00e9', '3')(root)
      holds('e\u0301', '4')(root)
      expect(readlinkSync(join(root, 'A'))).to.equal('b')
      holds('a', '5')(root)
    },
  },
]

const links: Case[] = [
  {
    title: 'writing through a planted absolute link (CVE-2021-32803)',
    bytes: archive(symlink('d', '/'), file('d/imgstore-canary', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('imgstore-canary', 'x'),
  },
  {
    title: 'writing through a planted ".." link',
    bytes: archive(symlink('d', '..'), file('d/img-evil/file', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('img-evil/file', 'x'),
  },
  {
    title: 'writing through many ".."',
    bytes: archive(symlink('d', `${up}tmp`), file('d/imgstore-canary', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('tmp/imgstore-canary', 'x'),
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
    tree: holds('secret', 'x'),
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
    tree: (root) => {
      holds('f', 'new')(root)
      holds('target', 'old')(root)
    },
  },
  {
    title: 'an outward link, then a file of the same name',
    bytes: archive(symlink('f', '../secret'), file('f', 'new')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('f', 'new'),
  },
  {
    title: 'a link, then a directory of the same name and a file in it',
    bytes: archive(directory('b'), symlink('a', 'b'), directory('a'), file('a/x', 'x')),
    expect: {all: 'ok'},
    tree: (root) => {
      holds('a/x', 'x')(root)
      lacks('b/x')(root)
    },
  },
  {
    title: 'a directory, held open, replaced by a link',
    bytes: archive(directory('a'), symlink('a', '../img-evil'), file('a/file', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('img-evil/file', 'x'),
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
    tree: holds('proc/self/root/tmp/imgstore-canary', 'x'),
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
    tree: (root) => {
      holds('h', 'new')(root)
      expect(readlinkSync(join(root, 's'))).to.equal('x')
      lacks('x')(root)
    },
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
    bytes: archive(hardlink('a', './')),
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
    tree: (root) => {
      holds('a', 'old')(root)
      holds('b', 'new')(root)
    },
  },
  {
    title: 'a directory entry that names a link (chmod through it, CVE-2021-32760)',
    bytes: archive(symlink('d', '../img-evil'), directory('d', {mode: 0o777})),
    expect: {image: 'ok', all: 'unsafe'},
    tree: (root) => expect(lstatSync(join(root, 'd')).isDirectory()).to.equal(true),
  },
]

const types: Case[] = [
  {
    title: 'an overlay whiteout (device 0:0)',
    bytes: archive(device('w', 'character', 0, 0)),
    expect: {all: 'unsafe'},
    says: /device/,
  },
  {
    title: 'a device',
    bytes: archive(device('null', 'character', 1, 3)),
    expect: {image: 'ok', all: 'unsafe'},
  },
  {title: 'a FIFO', bytes: archive(fifo('f')), expect: {image: 'ok', all: 'unsafe'}},
  {
    title: 'a FIFO, then a file of the same name, which must not block',
    bytes: archive(fifo('f'), file('f', 'x')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: holds('f', 'x'),
  },
  {
    title: 'a device beyond every real one',
    bytes: archive(
      entry({name: 'd', type: '3', deviceMajor: base256(1n << 40n, 8), deviceMinor: 1}),
    ),
    expect: {all: 'bad'},
  },
  {
    title: 'trusted.overlay attributes',
    bytes: archive(
      pax([
        ['SCHILY.xattr.trusted.overlay.opaque', 'y'],
        ['SCHILY.xattr.user.overlay.redirect', '/etc'],
      ]),
      directory('d'),
    ),
    expect: {all: 'ok'},
  },
  {
    title: 'an extended attribute of 65 KiB',
    bytes: archive(pax([['SCHILY.xattr.user.big', 'x'.repeat(65 * 1024)]]), file('a')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a thousand extended attributes',
    bytes: archive(
      pax(Array.from({length: 1000}, (_, i) => [`SCHILY.xattr.user.n${i}`, 'x'] as const)),
      file('a'),
    ),
    expect: {all: 'unsafe'},
  },
  {
    title: 'an extended attribute without a name',
    bytes: archive(pax([['SCHILY.xattr.', 'x']]), file('a')),
    expect: {all: 'bad'},
  },
  {
    title: 'one attribute with two values in two spellings',
    bytes: archive(
      pax([
        ['SCHILY.xattr.user.a', 'x'],
        ['LIBARCHIVE.xattr.user.a', Buffer.from('y').toString('base64')],
      ]),
      file('a'),
    ),
    expect: {all: 'bad'},
  },
  {
    title: 'a malformed capability',
    bytes: archive(pax([['SCHILY.xattr.security.capability', 'nonsense']]), file('a', 'x')),
    expect: {all: 'ok'},
    tree: holds('a', 'x'),
  },
  {
    title: 'a malformed ACL',
    bytes: archive(pax([['SCHILY.xattr.system.posix_acl_access', 'nonsense']]), file('a', 'x')),
    expect: {all: 'ok'},
  },
  {
    title: 'an owner beyond every real one',
    bytes: archive(pax([['uid', '4294967295']]), file('a')),
    expect: {all: 'bad'},
  },
  {
    title: 'a negative owner',
    bytes: archive(file('a', '', {uid: base256(-1n, 8)})),
    expect: {all: 'bad'},
  },
  {
    title: 'a mode beyond every real one',
    bytes: archive(file('a', '', {mode: '7777777\0'})),
    expect: {all: 'bad'},
  },
  {
    title: 'times at the end of the universe',
    bytes: archive(
      pax([['mtime', '9007199254740991.999999999999']]),
      file('a', 'x'),
      pax([['mtime', '-9007199254740991.5']]),
      file('b', 'x'),
      file('c', 'x', {mtime: base256(-(1n << 50n), 12)}),
    ),
    expect: {all: 'ok'},
  },
  {
    title: 'a time that is not one',
    bytes: archive(pax([['mtime', '1e99']]), file('a')),
    expect: {all: 'bad'},
  },
  ...['D', 'M', 'N', 'V', 'X', 'A', 'Z', '8', '\x01'].map((type): Case => ({
    title: `the type flag ${JSON.stringify(type)}`,
    bytes: archive(entry({name: 'a', type, magic: 'gnu'})),
    expect: {all: 'bad'},
  })),
]

const headers: Case[] = [
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
  ).map(([title, body]): Case => ({
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
    title: 'a GNU long name with bytes after its NUL',
    bytes: archive(longName('good\0../../bad'), file('a', 'x', {magic: 'gnu'})),
    expect: {all: 'bad'},
  },
]

const sparse: Case[] = [
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

const ends: Case[] = [
  {
    title: 'no end mark',
    bytes: file('a', 'x'),
    expect: {all: 'bad'},
  },
  {
    title: 'a body cut short',
    bytes: archive(file('a', 'x'.repeat(2000))).subarray(0, 1500),
    expect: {all: 'bad'},
  },
  {title: 'half a header', bytes: archive(file('a')).subarray(0, 700), expect: {all: 'bad'}},
  {
    title: 'a PAX header cut short',
    bytes: archive(pax([['path', 'x'.repeat(800)]]), file('a')).subarray(0, 1100),
    expect: {all: 'bad'},
  },
  {
    title: 'garbage after the end',
    bytes: Buffer.concat([archive(file('a')), Buffer.from('garbage')]),
    expect: {all: 'bad'},
    says: /after its end/,
  },
  {
    title: 'a second archive after the end',
    bytes: Buffer.concat([archive(file('a', 'scanned')), archive(file('a', 'hidden'))]),
    expect: {all: 'bad'},
  },
  {
    title: 'an entry after one zero block',
    bytes: Buffer.concat([file('a'), Buffer.alloc(512), archive(file('b', 'hidden'))]),
    expect: {all: 'bad'},
  },
  {
    title: 'one zero block at the end',
    bytes: Buffer.concat([file('a', 'x'), Buffer.alloc(512)]),
    expect: {all: 'ok'},
    tree: holds('a', 'x'),
    warns: 'lone_zero_block',
  },
  {
    title: 'much padding after the end',
    bytes: Buffer.concat([archive(file('a', 'x')), Buffer.alloc(3 << 20)]),
    expect: {all: 'ok'},
    tree: holds('a', 'x'),
  },
  {
    title: 'a single PAX record of a kilobyte that claims to be the file',
    bytes: archive(pax(paxRecord('path', 'p'.repeat(200)), {type: 'x'}), file('a', 'x')),
    expect: {all: 'ok'},
    tree: holds('p'.repeat(200), 'x'),
  },
]

const groups = {paths, links, 'types and attributes': types, headers, 'sparse files': sparse, ends}

describe('hostile archives', () => {
  for (const [group, cases] of Object.entries(groups)) {
    describe(group, () => {
      for (const one of cases) {
        for (const profile of profiles) {
          const expected = one.expect[profile] ?? one.expect.all ?? 'ok'
          const verb = expected === 'ok' ? 'takes' : 'refuses'
          it(`${verb} ${one.title} (${profile})`, () => check(one, profile, expected))
        }
      }
    })
  }
})

async function check(one: Case, profile: Profile, expected: Outcome): Promise<void> {
  await withUnpacked({bytes: one.bytes, profile}, ({root, result, error}) => {
    const outcome = error === undefined ? 'ok' : codes[error.code]
    expect(outcome, error?.message).to.equal(expected)
    if (error === undefined) {
      one.tree?.(root)
      if (one.warns) expect(result?.warnings.map((warning) => warning.code)).to.include(one.warns)
    } else if (one.says) {
      expect(error.message).to.match(one.says)
    }
  })
}
