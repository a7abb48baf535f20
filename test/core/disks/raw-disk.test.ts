import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {openRawDisk} from '../../../src/core/disks/raw-disk.ts'
import {canSeekData} from '../../../src/core/syscalls/sparse.ts'
import {KiB, MiB} from '../../../src/core/limits.ts'
import {makeDisk, randomBytesOf} from '../../support/disk-images.ts'
import {rejection} from '../../support/source-options.ts'

describe('a raw disk image', () => {
  let dir = ''
  let path = ''
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    path = join(dir, 'disk.img')
  })
  afterEach(() => rmSync(dir, {recursive: true}))

  it('is read with its holes as zeros, and only its data from the file', async () => {
    const content = randomBytesOf(3 * KiB)
    makeDisk(path, 4 * MiB, [
      {at: MiB, bytes: content},
      {at: 3 * MiB, bytes: content},
    ])
    const disk = await openRawDisk(path)
    try {
      expect(disk.sizeBytes).to.equal(4 * MiB)
      const buffer = Buffer.alloc(2 * MiB, 7)
      const first = await disk.read(0, 2 * MiB, buffer)
      const expected = Buffer.alloc(2 * MiB)
      content.copy(expected, MiB)
      expect(first.isZero).to.equal(false)
      expect(buffer.equals(expected)).to.equal(true)
      expect(await disk.read(0, MiB, buffer)).to.deep.equal({isZero: true})
      expect(await disk.read(2 * MiB, 2 * MiB, buffer)).to.have.property('isZero', false)
      expect(buffer.equals(expected)).to.equal(true)
      expect(canSeekData()).to.equal(true)
      expect(disk.readBytes).to.be.at.most(128 * KiB)
    } finally {
      await disk.close()
    }
  })

  it('says of written zeros that they are zeros, too', async () => {
    writeFileSync(path, Buffer.alloc(64 * KiB))
    const disk = await openRawDisk(path)
    expect(await disk.read(0, 64 * KiB, Buffer.alloc(64 * KiB, 1))).to.deep.equal({isZero: true})
    expect(disk.readBytes).to.equal(64 * KiB)
    await disk.close()
  })

  it('tells apart data anywhere in a chunk, to the last byte', async () => {
    for (const at of [0, 1, 4095, 65_535, MiB, 2 * MiB - 1]) {
      writeFileSync(path, Buffer.alloc(2 * MiB))
      makeDisk(path, 2 * MiB, [{at, bytes: Buffer.from([1])}])
      const disk = await openRawDisk(path)
      const read = await disk.read(0, 2 * MiB, Buffer.alloc(2 * MiB))
      expect(read.isZero, String(at)).to.equal(false)
      await disk.close()
    }
  })

  it('is refused in another format, with what to do', async () => {
    const sector = (bytes: string | number[], at = 0): Buffer => {
      const whole = Buffer.alloc(1024)
      Buffer.from(bytes as string, 'latin1').copy(whole, at)
      return whole
    }
    const formats: [Buffer, string][] = [
      [sector('QFI\u00fb'), 'qcow2'],
      [sector('conectix'), 'VHD'],
      [sector('conectix', 512), 'VHD image of fixed size'],
      [sector('vhdxfile'), 'VHDX'],
      [sector('KDMV'), 'VMDK'],
      [sector([0x7f, 0x10, 0xda, 0xbe], 64), 'VDI'],
      [sector('AEROSPAR'), 'AEROSPAR'],
    ]
    for (const [bytes, name] of formats) {
      writeFileSync(path, bytes)
      const error = await rejection(openRawDisk(path))
      expect(error, name).to.include({code: 'disk_unfit', exit: 2})
      expect(String(error)).to.contain(name)
      expect(error).to.have.property('hint').that.contains('qemu-img convert -O raw')
    }
  })

  it('is refused empty, in half sectors, as a directory and when it is not there', async () => {
    writeFileSync(path, '')
    expect(String(await rejection(openRawDisk(path)))).to.contain('it is empty')
    writeFileSync(path, Buffer.alloc(1000))
    const odd = await rejection(openRawDisk(path))
    expect(odd).to.include({code: 'disk_unfit'})
    expect(String(odd)).to.contain('24 bytes are missing')
    expect(odd).to.have.property('hint').that.contains('truncate --size=%512')
    mkdirSync(join(dir, 'sub'))
    expect(await rejection(openRawDisk(join(dir, 'sub')))).to.include({code: 'disk_unfit'})
    expect(await rejection(openRawDisk(join(dir, 'no')))).to.include({
      code: 'disk_not_found',
      exit: 10,
    })
  })

  it('notices that it was written to, cut or lengthened, also when the time was set back', async () => {
    const changes: [string, () => void][] = [
      ['written to', () => writeFileSync(path, Buffer.alloc(8192, 2))],
      ['bytes and has', () => appendFileSync(path, 'x')],
      ['bytes and has', () => truncateSync(path, 4096)],
      [
        'written to',
        () => {
          writeFileSync(path, Buffer.alloc(8192, 3))
          utimesSync(path, 1, 1)
        },
      ],
    ]
    for (const [reason, change] of changes) {
      writeFileSync(path, Buffer.alloc(8192, 1))
      utimesSync(path, 1, 1)
      const disk = await openRawDisk(path)
      await disk.checkUnchanged()
      change()
      const error = await rejection(disk.checkUnchanged())
      expect(error).to.include({code: 'file_changed', exit: 11})
      expect(String(error)).to.contain(reason)
      await disk.close()
    }
  })

  it('ends reading when it has become shorter', async () => {
    writeFileSync(path, Buffer.alloc(8192, 1))
    const disk = await openRawDisk(path)
    truncateSync(path, 512)
    // Behind the new end there is a hole or nothing; what is still said to be data cannot be read.
    const read = disk.read(0, 8192, Buffer.alloc(8192)).then(() => disk.checkUnchanged())
    expect(await rejection(read)).to.include({code: 'file_changed'})
    await disk.close()
  })
})
