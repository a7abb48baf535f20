import {mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {zstdCompressSync} from 'node:zlib'
import {expect} from 'chai'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {diskLimits} from '../../../src/core/limits.ts'
import {recogniseDisk} from '../../../src/core/unpack/disk/recognise.ts'
import {makeDisk} from '../../../src/core/unpack/unpack.ts'
import {diskForms, packDisk, rawDisk, sha256Of} from '../../support/disk-image.ts'
import {requires} from '../../support/requires.ts'
import {withTempDir} from '../../support/temp-dir.ts'

async function failureOf(promise: Promise<unknown>): Promise<ImgstoreError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('it did not fail')
}

/** Makes a disk of these bytes in a directory of its own. */
function made(dir: string, bytes: Buffer, limits = diskLimits) {
  const blobPath = join(dir, 'a, b:c.blob')
  writeFileSync(blobPath, bytes)
  const staged = join(dir, 'staged')
  mkdirSync(staged, {recursive: true})
  const diskPath = join(staged, 'disk.raw')
  const make = (): ReturnType<typeof makeDisk> => makeDisk({blobPath, diskPath, limits})
  return {make, diskPath, left: () => readdirSync(staged)}
}

function qcow2Header(edit: (header: Buffer) => void): Buffer {
  const header = Buffer.alloc(4096)
  header.write('QFI\xfb', 'latin1')
  header.writeUInt32BE(3, 4)
  header.writeBigUInt64BE(1024n * 1024n, 24)
  edit(header)
  return header
}

describe('telling disk images apart', () => {
  const tail = Buffer.alloc(512)
  const code = (head: Buffer, end = tail, size = 1 << 20): string => {
    try {
      return recogniseDisk(head, end, size).format
    } catch (error) {
      if (error instanceof ImgstoreError) return `${error.code}: ${error.message}`
      throw error
    }
  }

  it('takes any bytes for a raw disk that are no other format', () => {
    for (const bytes of [Buffer.alloc(4096), Buffer.alloc(1), Buffer.from('eM', 'latin1')])
      expect(code(bytes)).to.equal('raw')
  })

  const refused: [string, Buffer, RegExp, Buffer?][] = [
    ['a backing file', qcow2Header((h) => h.writeBigUInt64BE(512n, 8)), /backing file/],
    ['data in another file', qcow2Header((h) => h.writeBigUInt64BE(4n, 72)), /another file/],
    ['corruption', qcow2Header((h) => h.writeBigUInt64BE(2n, 72)), /corrupt/],
    ['encryption', qcow2Header((h) => h.writeUInt32BE(1, 32)), /encrypted/],
    ['another version', qcow2Header((h) => h.writeUInt32BE(1, 4)), /version 1/],
    ['no bytes', qcow2Header((h) => h.writeBigUInt64BE(0n, 24)), /no bytes/],
    ['too many bytes', qcow2Header((h) => h.writeBigUInt64BE(1n << 60n, 24)), /too many/],
    ['a cut header', qcow2Header(() => undefined).subarray(0, 50), /cut short/],
    ['VMDK', Buffer.concat([Buffer.from('KDMV'), Buffer.alloc(100)]), /VMDK/],
    ['VHDX', Buffer.concat([Buffer.from('vhdxfile'), Buffer.alloc(100)]), /VHDX/],
    ['AEROSPAR', Buffer.concat([Buffer.from('AEROSPAR'), Buffer.alloc(100)]), /AEROSPAR/],
    ['a web page', Buffer.from('<!doctype html><html>'), /HTML/],
  ]
  for (const [what, head, reason] of refused) {
    it(`refuses ${what}`, () => {
      expect(code(head)).to.match(reason)
    })
  }

  it('refuses a VHD with a parent', () => {
    const footer = Buffer.alloc(512)
    footer.write('conectix', 'latin1')
    footer.writeUInt32BE(4, 60)
    expect(code(Buffer.alloc(4096), footer)).to.match(/parent/)
  })

  it('refuses nothing at all', () => {
    expect(code(Buffer.alloc(0), Buffer.alloc(0), 0)).to.match(/^source_not_image/)
  })
})

describe('making a raw disk', () => {
  requires('program:qemu-img')

  for (const form of diskForms) {
    it(`makes the same bytes of ${form}`, () =>
      withTempDir(async (dir) => {
        const raw = rawDisk()
        const {make, diskPath, left} = made(dir, packDisk(dir, raw, form))
        const result = await make()
        expect(result).to.include({sizeBytes: raw.length, isConfined: true})
        if (form === 'raw') {
          expect(result.isBlob).to.equal(true)
          expect(left()).to.deep.equal([])
          return
        }
        expect(result.digest).to.equal(sha256Of(raw))
        expect(readFileSync(diskPath).equals(raw)).to.equal(true)
        expect(left()).to.deep.equal(['disk.raw'])
        const {blocks} = statSync(diskPath)
        expect(blocks * 512, 'zeros are holes').to.be.lessThan(raw.length / 2)
      }))
  }

  it('refuses a disk larger than the limit, whatever its form, and leaves nothing', () =>
    withTempDir(async (dir) => {
      const limits = {...diskLimits, totalBytesMax: 4 * 1024 ** 2}
      for (const form of diskForms) {
        const {make, left} = made(dir, packDisk(dir, rawDisk(), form), limits)
        const failure = await failureOf(make())
        expect(failure.code, form).to.equal('unsafe_archive')
        expect(failure.message).to.match(/--max-total-size/)
        expect(left(), form).to.deep.equal([])
      }
    }))

  it('refuses more than the ratio allows', () =>
    withTempDir(async (dir) => {
      const bomb = zstdCompressSync(Buffer.alloc(80 * 1024 ** 2))
      const {make, left} = made(dir, bomb, {...diskLimits, ratioMax: 100})
      const failure = await failureOf(make())
      expect(failure.message).to.match(/--max-ratio/)
      expect(left()).to.deep.equal([])
    }))

  it('hands on what qemu-img says of a damaged image', () =>
    withTempDir(async (dir) => {
      const bytes = packDisk(dir, rawDisk(), 'qcow2')
      // The place of its tables.
      bytes.writeBigUInt64BE(12_345n, 40)
      const {make, left} = made(dir, bytes)
      const failure = await failureOf(make())
      expect(failure.code).to.equal('bad_disk')
      expect(failure.message).to.match(/qemu-img refused it/)
      expect(left()).to.deep.equal([])
    }))

  it('tells damaged compression', () =>
    withTempDir(async (dir) => {
      for (const form of ['raw.gz', 'raw.zst'] as const) {
        const bytes = packDisk(dir, rawDisk(), form)
        const {make, left} = made(dir, bytes.subarray(0, bytes.length - 10))
        expect((await failureOf(make())).code, form).to.equal('bad_archive')
        expect(left(), form).to.deep.equal([])
      }
    }))
})
