import {execFileSync} from 'node:child_process'
import {randomBytes} from 'node:crypto'
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {gzipSync, zstdCompressSync} from 'node:zlib'
import {missing} from '../../support/requires.ts'
import {archive, directory, file} from '../../support/tar-builder.ts'
import {withUnpacked} from '../../support/unpack-case.ts'

const noise = randomBytes(700_000)
const plain = archive(directory('d'), file('d/noise', noise), file('d/small', 'hello'))
const half = 350_123

const outcomeOf = async (bytes: Buffer): Promise<string> => {
  let outcome = ''
  await withUnpacked({bytes}, ({root, result, error}) => {
    outcome = error ? `${error.code}: ${error.message}` : (result?.format ?? '')
    if (error) return
    expect(readFileSync(join(root, 'd/noise')).equals(noise)).to.equal(true)
    expect(readFileSync(join(root, 'd/small'), 'utf8')).to.equal('hello')
  })
  return outcome
}

const skippable = (bytes: number): Buffer => {
  const frame = Buffer.alloc(8 + bytes)
  frame.writeUInt32LE(0x184d2a53, 0)
  frame.writeUInt32LE(bytes, 4)
  return frame
}

describe('archive formats, told by content', () => {
  it('takes a plain tar', async () => {
    expect(await outcomeOf(plain)).to.equal('tar')
  })

  it('takes gzip, in one member or several, with zeros after it', async () => {
    expect(await outcomeOf(gzipSync(plain))).to.equal('gzip')
    const members = [plain.subarray(0, half), Buffer.alloc(0), plain.subarray(half)].map((part) =>
      gzipSync(part),
    )
    expect(await outcomeOf(Buffer.concat(members))).to.equal('gzip')
    expect(await outcomeOf(Buffer.concat([...members, Buffer.alloc(5000)]))).to.equal('gzip')
  })

  it('takes zstd, in one frame or several, with skippable frames between', async () => {
    expect(await outcomeOf(zstdCompressSync(plain))).to.equal('zstd')
    const frames = [plain.subarray(0, half), Buffer.alloc(0), plain.subarray(half)].map((part) =>
      zstdCompressSync(part),
    )
    expect(await outcomeOf(Buffer.concat(frames))).to.equal('zstd')
    const mixed = frames.flatMap((frame, i) => [skippable(i * 700_000), frame])
    expect(await outcomeOf(Buffer.concat([...mixed, skippable(3)]))).to.equal('zstd')
  })

  it('takes ten thousand tiny zstd frames', async () => {
    const parts: Buffer[] = []
    for (let at = 0; at < plain.length; at += 70) {
      parts.push(zstdCompressSync(plain.subarray(at, at + 70)))
    }
    expect(await outcomeOf(Buffer.concat(parts))).to.equal('zstd')
  })

  for (const [format, compress] of [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ] as const) {
    const packed = compress(plain)

    it(`refuses ${format} that is cut short`, async () => {
      for (const length of [6, 300, packed.length >> 1, packed.length - 1]) {
        expect(await outcomeOf(packed.subarray(0, length)), `${length}`).to.match(/^bad_archive/)
      }
    })

    it(`refuses ${format} followed by something else`, async () => {
      const garbage = Buffer.concat([packed, Buffer.from('something else')])
      expect(await outcomeOf(garbage)).to.match(/^bad_archive/)
      const later = Buffer.concat([packed, Buffer.alloc(300_000), Buffer.from('x')])
      expect(await outcomeOf(later)).to.match(/^bad_archive/)
    })
  }

  it('refuses gzip whose checksum is wrong', async () => {
    const packed = gzipSync(plain)
    packed.writeUInt32LE((packed.readUInt32LE(packed.length - 8) ^ 1) >>> 0, packed.length - 8)
    expect(await outcomeOf(packed)).to.match(/^bad_archive.*incorrect data check/)
  })

  for (const [program, format] of [
    ['xz', 'xz'],
    ['bzip2', 'bzip2'],
  ] as const) {
    it(`takes ${format} where the host has the program`, async function () {
      const reason = missing(`program:${program}`)
      if (reason !== undefined) {
        console.log(`    skipped: ${reason}`)
        this.skip()
      }
      const packed = execFileSync(program, ['-c'], {input: plain, maxBuffer: 1 << 24})
      expect(await outcomeOf(packed)).to.equal(format)
      expect(await outcomeOf(packed.subarray(0, packed.length - 9))).to.match(/^bad_archive/)
    })
  }

  const others: [string, Buffer, RegExp][] = [
    [
      'an HTML page',
      Buffer.from('\n<!DOCTYPE html>\n<html><body>404</body></html>'),
      /an HTML page/,
    ],
    ['a compressed HTML page', gzipSync('<html></html>'), /an HTML page \(compressed with gzip\)/],
    ['an XML error', Buffer.from('<?xml version="1.0"?><Error/>'), /an XML document/],
    ['a JSON error', Buffer.from('{"error": "no"}'), /a JSON document/],
    ['text', Buffer.from('not found\n'.repeat(200)), /text/],
    ['a zip file', Buffer.from('504b030414000000', 'hex'), /a zip file/],
    ['an ELF program', readFileSync(process.execPath).subarray(0, 10_000), /an ELF program/],
    ['nothing', Buffer.alloc(0), /nothing at all/],
    ['compressed nothing', gzipSync(''), /nothing at all \(compressed with gzip\)/],
    ['noise', noise, /something else|text/],
    ['gzip inside gzip', gzipSync(gzipSync(plain)), /compressed with gzip/],
  ]
  for (const [what, bytes, says] of others) {
    it(`says that ${what} is no archive`, async () => {
      const outcome = await outcomeOf(bytes)
      expect(outcome).to.match(/^source_not_image/)
      expect(outcome).to.match(says)
    })
  }

  it('says what compression it does not know', async () => {
    const lz4 = Buffer.from('04224d186440a700000000', 'hex')
    expect(await outcomeOf(lz4)).to.match(/^compression_unsupported.*lz4/)
  })

  it('takes an archive without entries', async () => {
    await withUnpacked({bytes: Buffer.alloc(10_240)}, ({result, error}) => {
      expect(error).to.equal(undefined)
      expect(result?.entries).to.equal(0)
    })
  })
})
