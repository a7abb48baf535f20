/**
 * Four readers of the same archive, made at random but right in form: GNU tar, bsdtar, Python's tarfile and ours. Either
 * all see the same members, or ours refuses. An archive that means one thing here and another there is an attack.
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../src/core/errors.ts'
import type {Entry} from '../../src/core/unpack/archive/entry.ts'
import {ArchiveParser} from '../../src/core/unpack/archive/parser.ts'
import {fuzzCase} from '../support/fuzz/cases.ts'
import {requires} from '../support/requires.ts'
import {
  archive,
  base256,
  directory,
  type EntryFields,
  entry,
  fifo,
  file,
  hardlink,
  longName,
  pax,
  symlink,
} from '../support/tar-builder.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {testSeed} from '../support/seed.ts'

/** What all four can say about a member. */
type Seen = {type: string; name: string; size: number; link: string}

const letters: Readonly<Record<string, string>> = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  hardlink: 'h',
  character: 'c',
  block: 'b',
  fifo: 'p',
}

/** Names as the other programs print them without care for slashes at their ends. */
const bare = (name: string): string => name.replace(/\/+$/, '')

function ours(bytes: Buffer): Seen[] | 'refused' {
  const seen: Seen[] = []
  const parser = new ArchiveParser({
    begin: (found: Entry) => {
      const {kind, name, sizeBytes, linkTarget} = found
      seen.push({type: letters[kind] ?? '?', name: bare(name), size: sizeBytes, link: linkTarget})
      return false
    },
    write: () => undefined,
    finish: () => undefined,
    warn: () => undefined,
  })
  try {
    parser.push(bytes)
    parser.end()
    return seen
  } catch (error) {
    if (error instanceof ImgstoreError) return 'refused'
    throw error
  }
}

/** `tar -tv` of either program, which say links and sizes in nearly the same way. */
function listed(program: 'tar' | 'bsdtar', path: string): Seen[] | string {
  const gnu = ['--quoting-style=literal', '--no-quote-chars=', '--numeric-owner', '-P']
  const args = ['-tvf', path, ...(program === 'tar' ? gnu : ['--numeric-owner'])]
  const run = spawnSync(program, args, {encoding: 'latin1', env: {LC_ALL: 'C', TZ: 'UTC'}})
  if (run.status !== 0) return `failed: ${run.stderr}`
  return run.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (program === 'tar' ? readGnu(line) : readBsd(line)))
}

function readGnu(line: string): Seen {
  // A device has its numbers where others have their size.
  const match = /^(.)\S+ \S+ +(\d+)(?:,\d+)? \S+ \S+ (.*)$/.exec(line)
  if (match === null) throw new Error(`GNU tar said ${JSON.stringify(line)}`)
  return splitLink(match[1] ?? '', match[3] ?? '', isDevice(match[1]) ? 0 : Number(match[2]))
}

function readBsd(line: string): Seen {
  const match = /^(.)\S+ +\d+ +\S+ +\S+ +(\d+)(?:, *\d+)? +\S+ +\S+ +\S+ (.*)$/.exec(line)
  if (match === null) throw new Error(`bsdtar said ${JSON.stringify(line)}`)
  return splitLink(match[1] ?? '', match[3] ?? '', isDevice(match[1]) ? 0 : Number(match[2]))
}

const isDevice = (type: string | undefined): boolean => type === 'c' || type === 'b'

function splitLink(type: string, rest: string, size: number): Seen {
  for (const [mark, kind] of [
    [' -> ', 'l'],
    [' link to ', 'h'],
  ] as const) {
    const at = rest.indexOf(mark)
    if (at === -1) continue
    const isHere = kind === 'l' ? type === 'l' : type === 'h' || type === '-'
    if (!isHere) continue
    return {type: kind, name: bare(rest.slice(0, at)), size: 0, link: rest.slice(at + mark.length)}
  }
  return {type: type === 'C' ? '-' : type, name: bare(rest), size, link: ''}
}

const pythonProgram = `
import json, sys, tarfile
for path in sys.stdin.read().split():
    try:
        seen = []
        with tarfile.open(path, 'r:', encoding='latin-1', errorlevel=2) as opened:
            for m in opened:
                kind = ('h' if m.islnk() else 'l' if m.issym() else 'd' if m.isdir() else 'p' if m.isfifo()
                        else 'c' if m.ischr() else 'b' if m.isblk() else '-' if m.isreg() else '?')
                seen.append({'type': kind, 'name': m.name, 'size': m.size if kind == '-' else 0,
                             'link': m.linkname if kind in 'hl' else ''})
        print(json.dumps(seen))
    except Exception:
        print(json.dumps('failed'))
`

/** One process for many archives, because starting Python takes longer than its work. */
function pythons(paths: string[]): (Seen[] | 'failed')[] {
  const out = execFileSync('python3', ['-c', pythonProgram], {
    input: paths.join('\n'),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  return out
    .trim()
    .split('\n')
    .map((line) => {
      const seen = JSON.parse(line) as Seen[] | 'failed'
      if (seen === 'failed') return seen
      // It decodes records of PAX as UTF-8, whatever it is told, and gives text; ours are bytes.
      return seen.map((one) => ({...one, name: bare(one.name)}))
    })
}

// Printable ASCII without what the listings themselves use; the battery has the rest.
const word = fc.stringMatching(/^[a-zA-Z0-9._+@,=-]{1,12}$/).filter((text) => !/^\.+$/.test(text))
const path = fc.array(word, {minLength: 1, maxLength: 4}).map((parts) => parts.join('/'))
const longPath = fc
  .array(word, {minLength: 12, maxLength: 40})
  .map((parts) => parts.join('/'))
  .filter((text) => text.length > 100)
const anyPath = fc.oneof({weight: 4, arbitrary: path}, {weight: 1, arbitrary: longPath})
const body = fc.integer({min: 0, max: 1500}).map((size) => Buffer.alloc(size, 'x'))
const magic = fc.constantFrom<'ustar' | 'gnu' | 'v7'>('ustar', 'gnu', 'v7')
const numberField = fc.oneof(
  fc.integer({min: 0, max: 0o7777777}),
  fc.integer({min: 0, max: 2 ** 31}).map((value) => base256(BigInt(value), 8)),
  fc.constantFrom('0000000\0', '     17 ', '00000017', '        '),
)
const fields = fc
  .record({magic, uid: numberField, mtime: fc.integer({min: 0, max: 2 ** 31 - 1})})
  .map((more): EntryFields => more)

/** Members as writers make them, with the headers before them. */
const plainMember: fc.Arbitrary<Buffer> = fc.oneof(
  fc.tuple(path, body, fields).map(([name, data, more]) => file(name, data, more)),
  fc.tuple(path, fields).map(([name, more]) => directory(`${name}/`, more)),
  fc
    .tuple(path, anyPath, fields)
    .map(([name, target, more]) =>
      target.length <= 100
        ? symlink(name, target, more)
        : Buffer.concat([pax([['linkpath', target]]), symlink(name, 'cut', more)]),
    ),
  fc.tuple(path, path, fields).map(([name, target, more]) => hardlink(name, target, more)),
  path.map((name) => fifo(name)),
  fc
    .tuple(longPath, body)
    .map(([name, data]) => Buffer.concat([pax([['path', name]]), file('cut', data)])),
  fc
    .tuple(longPath, body)
    .map(([name, data]) => Buffer.concat([longName(name), file('cut', data, {magic: 'gnu'})])),
  fc.tuple(path, path, body).map(([prefix, name, data]) => file(name, data, {prefix})),
  fc
    .tuple(path, body)
    .map(([name, data]) => Buffer.concat([pax([['size', String(data.length)]]), file(name, data)])),
)

/** What parsers are known to read each in its own way. */
const doubtfulMember: fc.Arbitrary<Buffer> = fc.oneof(
  fc.tuple(path, body).map(([name, data]) => file(`${name}/`, data)),
  fc
    .tuple(path, body, body)
    .map(([name, one, two]) =>
      Buffer.concat([pax([['size', String(two.length)]]), file(name, one)]),
    ),
  fc
    .tuple(path, body, fc.constantFrom('1', '2', '3', '5', '6'))
    .map(([name, data, type]) => entry({name, type, linkName: 'target', body: data})),
  fc
    .tuple(path, path, body)
    .map(([one, two, data]) =>
      Buffer.concat([longName(one), pax([['path', two]]), file('cut', data, {magic: 'gnu'})]),
    ),
  fc
    .tuple(path, path, body)
    .map(([one, two, data]) =>
      Buffer.concat([pax([['path', one]]), pax([['path', two]]), file('cut', data)]),
    ),
  path.map((name) => pax([['path', name]], {type: 'g'})),
  fc
    .tuple(path, fc.constantFrom('D', 'M', 'N', 'V', 'Z', '7', '\0'))
    .map(([name, type]) => entry({name, type, magic: 'gnu'})),
)

const member = fc.oneof({weight: 9, arbitrary: plainMember}, {weight: 1, arbitrary: doubtfulMember})

const CASES = 600

describe('four readers of one archive', function () {
  requires('program:tar', 'program:bsdtar', 'program:python3')
  this.timeout(300_000)

  it('see the same members, or ours refuses', () =>
    withTempDir((dir) => {
      const seed = testSeed() | 0
      console.log(`    seed ${seed}`)
      const samples = fc.sample(fc.array(member, {minLength: 1, maxLength: 5}), {
        numRuns: CASES,
        seed,
      })
      const archives = samples.map((parts) => archive(...parts))
      mkdirSync(join(dir, 'a'))
      const paths = archives.map((bytes, index) => {
        const name = join(dir, 'a', `${index}.tar`)
        writeFileSync(name, bytes)
        return name
      })
      const python = pythons(paths)
      let agreed = 0
      let refused = 0
      const different: unknown[] = []
      for (const [index, bytes] of archives.entries()) {
        const mine = ours(bytes)
        if (mine === 'refused') {
          refused++
          continue
        }
        agreed++
        const name = paths[index] ?? ''
        const readers = {
          'GNU tar': listed('tar', name),
          bsdtar: listed('bsdtar', name),
          Python: python[index],
        }
        for (const [reader, seen] of Object.entries(readers)) {
          const differs = JSON.stringify(seen) !== JSON.stringify(mine)
          if (differs) different.push({archive: index, reader, seen, mine})
        }
      }
      console.log(`    ${agreed} agreed, ${refused} refused`)
      expect(different, `seed ${seed}`).to.deep.equal([])
      expect(agreed).to.be.greaterThan(CASES / 10)
      expect(refused).to.be.greaterThan(CASES / 10)
    }))

  it('see the same members in what is damaged and yet accepted', () =>
    withTempDir((dir) => {
      const seed = testSeed()
      console.log(`    seed ${seed}`)
      const accepted: {seed: number; mine: Seen[]; path: string}[] = []
      for (let at = seed; accepted.length < CASES; at++) {
        const {kind, bytes} = fuzzCase(at)
        if (kind === 'framing') continue
        const mine = ours(bytes)
        // Python decodes names of PAX as UTF-8, and says other things about names that are not ASCII.
        if (mine === 'refused' || !mine.every(({name, link}) => isAscii(name + link))) continue
        const path = join(dir, `${at}.tar`)
        writeFileSync(path, bytes)
        accepted.push({seed: at, mine, path})
      }
      const python = pythons(accepted.map(({path}) => path))
      const different = accepted
        .map((one, index) => ({seed: one.seed, mine: one.mine.map(noSize), python: python[index]}))
        .filter(({mine, python: seen}) => {
          const theirs = seen === 'failed' || seen === undefined ? seen : seen.map(noSize)
          return JSON.stringify(theirs) !== JSON.stringify(mine)
        })
      expect(different).to.deep.equal([])
    }))
})

const isAscii = (text: string): boolean => /^[\x20-\x7e]*$/.test(text)

/** Of what is no file the others give the size that the header claims, or 0. */
const noSize = (one: Seen): Seen => (one.type === '-' ? one : {...one, size: 0})
