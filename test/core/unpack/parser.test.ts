import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../src/core/errors.ts'
import type {Entry} from '../../../src/core/unpack/archive/entry.ts'
import {headerSum} from '../../../src/core/unpack/archive/header.ts'
import {ArchiveParser} from '../../../src/core/unpack/archive/parser.ts'
import {splitPaxRecords} from '../../../src/core/unpack/archive/pax.ts'
import {
  archive,
  base256,
  directory,
  entry,
  file,
  hardlink,
  header,
  longName,
  padded,
  pax,
  paxRecord,
  symlink,
} from '../../support/tar-builder.ts'

type Parsed = {entry: Entry; body: string}

/** Parses bytes cut at `cuts`; each entry with its data. */
function parse(bytes: Buffer, cuts: readonly number[] = []): Parsed[] {
  const found: Parsed[] = []
  const parser = new ArchiveParser({
    begin: (begun) => {
      found.push({entry: begun, body: ''})
      return true
    },
    write: (chunk, start, end) => {
      const last = found.at(-1)
      if (last) last.body += chunk.toString('latin1', start, end)
    },
    finish: () => undefined,
    warn: () => undefined,
  })
  let from = 0
  for (const cut of [...new Set(cuts)].sort((a, b) => a - b)) {
    parser.push(Buffer.from(bytes.subarray(from, cut)))
    from = cut
  }
  parser.push(bytes.subarray(from))
  parser.end()
  return found
}

function first(bytes: Buffer): Entry {
  const found = parse(bytes)[0]
  if (found === undefined) throw new Error('no entry')
  return found.entry
}

const sample = archive(
  pax([['comment', 'made by git']], {type: 'g'}),
  directory('./'),
  file('a', 'hello'),
  pax([
    ['path', 'long/'.repeat(40) + 'name'],
    ['mtime', '1700000000.123456789'],
  ]),
  file('long', 'x'.repeat(1500)),
  longName('gnu/'.repeat(40) + 'name'),
  longName('target/'.repeat(20), 'K'),
  symlink('short', 'short', {magic: 'gnu'}),
  hardlink('h', 'a'),
  pax([
    ['GNU.sparse.major', '1'],
    ['GNU.sparse.minor', '0'],
    ['GNU.sparse.name', 'holes'],
    ['GNU.sparse.realsize', '4096'],
  ]),
  entry({
    name: 'GNUSparseFile.1/holes',
    body: Buffer.concat([
      padded('2\n0\n512\n4093\n3\n'),
      Buffer.alloc(512, 'a'),
      Buffer.from('def'),
    ]),
  }),
)

describe('the checksum of a header', () => {
  it('is the sum of its bytes wherever the block lies in memory', () => {
    const block = fc.uint8Array({minLength: 512, maxLength: 512})
    fc.assert(
      fc.property(block, fc.integer({min: 0, max: 9}), (bytes, start) => {
        const buffer = Buffer.alloc(600)
        buffer.set(bytes, start)
        const expected = bytes.reduce(
          (sum, byte, at) => sum + (at >= 148 && at < 156 ? 32 : byte),
          0,
        )
        expect(headerSum(buffer, start)).to.equal(expected)
        expect(headerSum(Buffer.alloc(512, 0xff), 0)).to.equal(504 * 255 + 8 * 32)
      }),
      {verbose: true},
    )
  })
})

describe('the tar parser', () => {
  it('reads names from every place that holds one', () => {
    expect(
      parse(sample).map(({entry: {kind, name, linkTarget}}) => [kind, name, linkTarget]),
    ).to.deep.equal([
      ['directory', './', ''],
      ['file', 'a', ''],
      ['file', 'long/'.repeat(40) + 'name', ''],
      ['symlink', 'gnu/'.repeat(40) + 'name', 'target/'.repeat(20)],
      ['hardlink', 'h', 'a'],
      ['file', 'holes', ''],
    ])
  })

  it('reads the map of a sparse file and only then its data', () => {
    const found = parse(sample).at(-1)
    expect(found?.entry).to.deep.include({
      sizeBytes: 4096,
      storedBytes: 515,
      segments: [
        {offset: 0, length: 512},
        {offset: 4093, length: 3},
      ],
    })
    expect(found?.body).to.equal(`${'a'.repeat(512)}def`)
  })

  it('gives the same entries however the bytes are cut', () => {
    const whole = parse(sample)
    fc.assert(
      fc.property(fc.array(fc.integer({min: 0, max: sample.length}), {maxLength: 40}), (cuts) => {
        expect(parse(sample, cuts)).to.deep.equal(whole)
      }),
      {verbose: true},
    )
    const everyByte = Array.from({length: sample.length}, (_, index) => index)
    expect(parse(sample, everyByte)).to.deep.equal(whole)
  })

  it('refuses the sample cut short anywhere', () => {
    for (let length = 1; length < sample.length - 512; length += 61) {
      expect(() => parse(sample.subarray(0, length)), `${length} bytes`).to.throw(
        ImgstoreError,
        /malformed/,
      )
    }
  })

  it('says where in the archive the fault lies', () => {
    const bytes = archive(file('a', 'x'), entry({name: 'b', checksum: 7}))
    expect(() => parse(bytes))
      .to.throw(ImgstoreError)
      .with.property('details')
      .that.deep.includes({offset: 1024})
  })

  it('never answers a damaged header with anything but a reason', () => {
    // Each run changes some bytes of a header and mends its checksum, so that the damage is looked at.
    const original = header({name: 'dir/file', size: 3, mode: 0o4755, uid: 1000, gid: 1000})
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({min: 0, max: 511}), fc.integer({min: 0, max: 255})), {
          minLength: 1,
          maxLength: 6,
        }),
        (changes) => {
          const block = Buffer.from(original)
          for (const [at, byte] of changes) block[at] = byte
          block.fill(' ', 148, 156)
          const sum = block.reduce((total, byte) => total + byte, 0)
          block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
          try {
            const [found] = parse(archive(block, padded('abc')))
            // A larger size may swallow the first block of the end mark and leave the second.
            if (found && found.entry.storedBytes > 1024) throw new Error('it has read past the end')
          } catch (error) {
            expect(error).to.be.instanceOf(ImgstoreError)
            expect((error as ImgstoreError).code).to.be.oneOf(['bad_archive', 'unsafe_archive'])
          }
        },
      ),
      {verbose: true, numRuns: 2000},
    )
  })

  it('refuses a header with a device number that nobody can read, whatever its type', () => {
    const patch = [{at: 329, bytes: Buffer.from('80ffffffffffffff', 'hex')}]
    expect(() => parse(archive(file(Buffer.from([0x7f]), '', {patch})))).to.throw(
      ImgstoreError,
      /device major number/,
    )
  })

  it('refuses a header of metadata with an owner that is no number, as Python ends the archive there', () => {
    const patch = [{at: 108, bytes: Buffer.from('/000000')}]
    const meta = entry({
      name: 'PaxHeaders/entry',
      type: 'x',
      body: Buffer.from('11 path=ab\n'),
      patch,
    })
    expect(() => parse(archive(meta, file('a', 'x')))).to.throw(ImgstoreError, /owner/)
  })

  it('reads a prefix before the name', () => {
    expect(first(archive(file('name', 'x', {prefix: 'usr/lib'}))).name).to.equal('usr/lib/name')
    const full = 'p'.repeat(155)
    expect(first(archive(file('n'.repeat(100), 'x', {prefix: full}))).name).to.equal(
      `${full}/${'n'.repeat(100)}`,
    )
  })

  it('takes an old file whose name ends with a slash for a directory', () => {
    const old = first(archive(entry({name: 'old/', type: '\0', magic: 'v7'})))
    expect(old.kind).to.equal('directory')
  })

  it('reads a size past eleven octal digits from base-256 or from a PAX header', () => {
    // Only the header is parsed: ten gigabytes do not follow.
    const sizes: number[] = []
    const size = 10 * 2 ** 30
    for (const bytes of [
      header({name: 'a', size: base256(BigInt(size), 12)}),
      Buffer.concat([pax([['size', String(size)]]), header({name: 'a', size: 0})]),
      Buffer.concat([
        pax([['size', String(size)]]),
        header({name: 'a', size: base256(BigInt(size), 12)}),
      ]),
    ]) {
      new ArchiveParser({
        begin: (begun) => sizes.push(begun.sizeBytes) > 0,
        write: () => undefined,
        finish: () => undefined,
        warn: () => undefined,
      }).push(bytes)
    }
    expect(sizes).to.deep.equal([size, size, size])
  })

  it('keeps nanoseconds, large owners and attributes of PAX headers', () => {
    const bytes = archive(
      pax([
        ['mtime', '-1.5'],
        ['uid', '4000000000'],
        ['gid', '2097152'],
        ['SCHILY.xattr.user.a', Buffer.from([0, 10, 255])],
        ['LIBARCHIVE.xattr.user.b%20c', 'AAH/'],
        ['LIBARCHIVE.xattr.user.a', 'AAr/'],
      ]),
      file('a'),
    )
    const found = first(bytes)
    expect(found).to.deep.include({
      mtimeSeconds: -2,
      mtimeNanoseconds: 500_000_000,
      uid: 4_000_000_000,
      gid: 2_097_152,
    })
    expect(found.xattrs.map(({name, value}) => [name, value.toString('hex')])).to.deep.equal([
      ['user.a', '000aff'],
      ['user.b c', '0001ff'],
    ])
  })

  it('reads back every PAX record it is given', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.stringMatching(/^[a-z.]{1,20}$/), fc.uint8Array({maxLength: 120})), {
          maxLength: 10,
        }),
        (records) => {
          const body = Buffer.concat(
            records.map(([key, value]) => paxRecord(key, Buffer.from(value))),
          )
          const read = splitPaxRecords(body, 0)
          expect(read.map(({key, value}) => [key, [...value]])).to.deep.equal(
            records.map(([key, value]) => [key, [...value]]),
          )
        },
      ),
      {verbose: true},
    )
  })

  it('answers any PAX body with records or bad_archive', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[0-9 =\na-z]{1,40}$/), (text) => {
        try {
          const body = Buffer.from(text)
          const total = splitPaxRecords(body, 0).reduce((sum, {key, value}) => {
            return sum + paxRecord(key, value).length
          }, 0)
          expect(total).to.equal(body.length)
        } catch (error) {
          expect(error).to.be.instanceOf(ImgstoreError).with.property('code', 'bad_archive')
        }
      }),
      {verbose: true, numRuns: 1000},
    )
  })
})
