/** What is neither a file nor a directory, and attributes that nobody should get from an archive. */
import {archive, base256, device, directory, entry, fifo, file, pax} from '../tar-builder.ts'
import {type Attack, holds} from './attack.ts'

export const typesAttacks: Attack[] = [
  {
    title: 'a character device whose major number no kernel takes',
    bytes: archive(device('d', 'character', 4096, 1)),
    expect: {all: 'bad'},
    says: /beyond every real device/,
  },
  {
    title: 'a block device whose minor number no kernel takes',
    bytes: archive(device('d', 'block', 1, 2 ** 20)),
    expect: {all: 'bad'},
    says: /beyond every real device/,
  },
  {
    title: 'a device with the largest numbers that there are',
    bytes: archive(device('d', 'block', 4095, 2 ** 20 - 1)),
    expect: {image: 'ok', all: 'unsafe'},
    needsNodes: true,
  },
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
    tree: [holds('f', 'x')],
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
    tree: [holds('a', 'x')],
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
  ...['D', 'M', 'N', 'V', 'X', 'A', 'Z', '8', '\x01'].map((type): Attack => ({
    title: `the type flag ${JSON.stringify(type)}`,
    bytes: archive(entry({name: 'a', type, magic: 'gnu'})),
    expect: {all: 'bad'},
  })),
]
