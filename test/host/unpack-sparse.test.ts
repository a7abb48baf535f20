/**
 * Sparse files as four readers make them: GNU tar, bsdtar, Python's tarfile and ours, from maps in all the forms that
 * GNU tar has written. Either all make the same content, or ours refuses.
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import type {Entry} from '../../src/core/unpack/archive/entry.ts'
import {ArchiveParser} from '../../src/core/unpack/archive/parser.ts'
import {Random} from '../support/fuzz/random.ts'
import {requires} from '../support/requires.ts'
import {testSeed} from '../support/seed.ts'
import {archive, entry, file, header, padded, pax} from '../support/tar-builder.ts'
import {withTempDir} from '../support/temp-dir.ts'

const forms = ['0.0', '0.1', '1.0', 'old'] as const
const CASES = 80

/** A map that ascends, half of the time as writers make it, and what is stored of it. */
function sparseArchive(random: Random): Buffer {
  const isUsual = random.oneIn(2)
  const length = (): number =>
    isUsual || random.oneIn(2) ? random.below(4) * 512 : random.below(1500)
  const map: number[] = []
  let end = 0
  for (let count = 1 + random.below(4); count > 0; count--) {
    const piece = count === 1 ? random.below(1500) : length()
    end += random.below(3) * random.pick([512, 300])
    map.push(end, piece)
    end += piece
  }
  const size = end + (random.oneIn(2) ? random.below(2000) : 0)
  if (isUsual || random.oneIn(2)) map.push(size, 0)
  const stored = map.filter((_, index) => index % 2 === 1).reduce((sum, piece) => sum + piece, 0)
  // No byte is NUL, so that data is told from holes.
  const data = random.bytes(stored).map((byte) => byte | 1)
  return archive(...inForm(random.pick(forms), map, size, data), file('after', 'after'))
}

function inForm(
  form: (typeof forms)[number],
  map: number[],
  size: number,
  data: Uint8Array,
): Buffer[] {
  const body = Buffer.from(data)
  const count = String(map.length / 2)
  const first: [string, string][] = [
    ['GNU.sparse.size', String(size)],
    ['GNU.sparse.numblocks', count],
  ]
  switch (form) {
    case '0.0': {
      const keys = ['GNU.sparse.offset', 'GNU.sparse.numbytes']
      const pairs = map.map((value, at): [string, string] => [keys[at % 2] ?? '', String(value)])
      return [pax([...first, ...pairs]), file('s', body)]
    }
    case '0.1':
      return [pax([...first, ['GNU.sparse.map', map.join(',')]]), file('s', body)]
    case '1.0': {
      const records: [string, string][] = [
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 's'],
        ['GNU.sparse.realsize', String(size)],
      ]
      const text = padded(Buffer.from(`${[count, ...map].join('\n')}\n`))
      return [pax(records), entry({name: 's', body: Buffer.concat([text, body])})]
    }
    case 'old': {
      const field = (value: number): string => `${value.toString(8).padStart(11, '0')}\0`
      const fields = map.map(field)
      const extension = Buffer.alloc(512)
      extension.write(fields.slice(8).join(''), 'latin1')
      const patch = [
        {at: 386, bytes: fields.slice(0, 8).join('')},
        {at: 482, bytes: fields.length > 8 ? '\x01' : '\0'},
        {at: 483, bytes: field(size)},
      ]
      const head = header({name: 's', type: 'S', magic: 'gnu', size: body.length, patch})
      return [head, ...(fields.length > 8 ? [extension] : []), padded(body)]
    }
  }
}

/** The contents of the files by name, or that ours refuses. */
function ours(bytes: Buffer): Map<string, Buffer> | 'refused' {
  const found = new Map<string, Buffer>()
  let current: Entry | undefined
  let stored: Buffer[] = []
  const parser = new ArchiveParser({
    begin: (begun) => {
      current = begun
      stored = []
      found.set(begun.name, Buffer.alloc(begun.sizeBytes))
      return begun.storedBytes > 0
    },
    write: (chunk, start, end) => stored.push(Buffer.from(chunk.subarray(start, end))),
    finish: () => {
      const data = Buffer.concat(stored)
      let at = 0
      const whole = [{offset: 0, length: data.length}]
      for (const {offset, length} of current?.segments ?? whole) {
        data.copy(found.get(current?.name ?? '') ?? Buffer.alloc(0), offset, at, at + length)
        at += length
      }
    },
    warn: () => undefined,
  })
  try {
    parser.push(bytes)
    parser.end()
    return found
  } catch (error) {
    if (error instanceof ImgstoreError) return 'refused'
    throw error
  }
}

const python = `
import sys, tarfile
for line in sys.stdin.read().split('\\n'):
    path, root = line.split('\\t')
    with tarfile.open(path) as opened:
        opened.extractall(root)
`

describe('four readers of sparse files', function () {
  requires('program:tar', 'program:bsdtar', 'program:python3')
  this.timeout(300_000)

  it('make the same content, or ours refuses', () =>
    withTempDir((dir) => {
      const seed = testSeed()
      console.log(`    seed ${seed}`)
      const readers = ['GNU tar', 'bsdtar', 'Python']
      const accepted: {at: number; path: string; mine: Map<string, Buffer>}[] = []
      const rootOf = (at: number, reader: string): string => join(dir, `${at}-${reader}`)
      let [refused, apart] = [0, 0]
      for (let at = 0; at < CASES; at++) {
        const bytes = sparseArchive(new Random(seed + at))
        const path = join(dir, `${at}.tar`)
        writeFileSync(path, bytes)
        for (const reader of readers) mkdirSync(rootOf(at, reader))
        const mine = ours(bytes)
        const {status} = spawnSync('tar', ['-xf', path, '-C', rootOf(at, 'GNU tar')])
        if (mine === 'refused') {
          refused++
          if (status !== 0 || !existsSync(join(rootOf(at, 'GNU tar'), 'after'))) apart++
          continue
        }
        execFileSync('bsdtar', ['-xf', path, '-C', rootOf(at, 'bsdtar')])
        accepted.push({at, path, mine})
      }
      // One process for all, because starting Python takes longer than its work.
      const input = accepted.map(({at, path}) => `${path}\t${rootOf(at, 'Python')}`).join('\n')
      execFileSync('python3', ['-c', python], {input})
      const different = accepted.flatMap(({at, mine}) =>
        readers.flatMap((reader) =>
          [...mine]
            .filter(
              ([name, content]) => !readFileSync(join(rootOf(at, reader), name)).equals(content),
            )
            .map(([name]) => `${seed + at}: ${reader} makes another ${name}`),
        ),
      )
      console.log(
        `    ${accepted.length} agreed, ${refused} refused, ${apart} of them broken for GNU tar`,
      )
      expect(different).to.deep.equal([])
      expect(accepted).to.have.length.greaterThan(CASES / 10)
      expect(refused).to.be.greaterThan(CASES / 10)
    }))
})
