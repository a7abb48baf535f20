/**
 * Names that mean "deleted below" in a layer of an OCI image. In an archive of its own they mean nothing, and are kept
 * as the names that they are; overlayfs does not look at them.
 */
import {archive, directory, file, hardlink, symlink} from '../tar-builder.ts'
import {type Attack, holds, links} from './attack.ts'

export const whiteoutAttacks: Attack[] = [
  {
    title: 'a whiteout before and after what it names',
    bytes: archive(file('.wh.a'), file('a', 'x'), file('b', 'y'), file('.wh.b')),
    expect: {all: 'ok'},
    tree: [holds('a', 'x'), holds('b', 'y'), holds('.wh.a', ''), holds('.wh.b', '')],
  },
  {
    title: 'an opaque marker after its siblings',
    bytes: archive(file('d/a', 'x'), file('d/.wh..wh..opq')),
    expect: {all: 'ok'},
    tree: [holds('d/a', 'x'), holds('d/.wh..wh..opq', '')],
  },
  {
    title: 'whiteouts of nothing, of "." and of ".."',
    bytes: archive(file('.wh.'), file('.wh..'), file('.wh...')),
    expect: {all: 'ok'},
    tree: [holds('.wh.', ''), holds('.wh..', ''), holds('.wh...', '')],
  },
  {
    title: 'a whiteout through ".."',
    bytes: archive(file('../.wh.secret')),
    expect: {all: 'unsafe'},
  },
  {
    title: 'a whiteout below a planted link',
    bytes: archive(symlink('d', '..'), file('d/.wh.secret')),
    expect: {image: 'ok', all: 'unsafe'},
    tree: [holds('.wh.secret', '')],
  },
  {
    title: 'whiteouts that are a directory, a link and a hard link',
    bytes: archive(
      file('f', 'x'),
      directory('.wh.d'),
      symlink('.wh.l', 'f'),
      hardlink('.wh.h', 'f'),
    ),
    expect: {all: 'ok'},
    tree: [['.wh.d', {directory: true}], links('.wh.l', 'f'), holds('.wh.h', 'x')],
  },
  {
    title: 'leftovers of AUFS',
    bytes: archive(directory('.wh..wh.plnk'), file('.wh..wh.aufs'), file('.wh..wh.plnk/1.2', 'x')),
    expect: {all: 'ok'},
    tree: [holds('.wh..wh.plnk/1.2', 'x')],
  },
]
