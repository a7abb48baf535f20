/** Where an archive ends, or seems to. */
import {archive, file, pax, paxRecord} from '../tar-builder.ts'
import {type Attack, holds} from './attack.ts'

export const endsAttacks: Attack[] = [
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
    tree: [holds('a', 'x')],
    warns: 'lone_zero_block',
  },
  {
    title: 'much padding after the end',
    bytes: Buffer.concat([archive(file('a', 'x')), Buffer.alloc(3 << 20)]),
    expect: {all: 'ok'},
    tree: [holds('a', 'x')],
  },
  {
    title: 'a single PAX record of a kilobyte that claims to be the file',
    bytes: archive(pax(paxRecord('path', 'p'.repeat(200)), {type: 'x'}), file('a', 'x')),
    expect: {all: 'ok'},
    tree: [holds('p'.repeat(200), 'x')],
  },
]
