/**
 * A raw disk image in one file, read chunk by chunk.
 *
 * The dangers: the file is written to while it is read (a machine still runs on it), and what is published is then of
 * no moment at all; and it is no raw image but another format, whose bytes mean nothing to a machine.
 */
import {constants} from 'node:fs'
import {open, type FileHandle} from 'node:fs/promises'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {KiB} from '../limits.ts'
import {dataExtents, isAllZero, type Extent} from './extents.ts'

export const sectorBytes = 512

/** One chunk as it was read. `extents` are the parts of `bytes` that are worth writing; all else in it is zero. */
export type ReadChunk =
  {isZero: true} | {isZero: false; bytes: Buffer<ArrayBuffer>; extents: Extent[]}

export type RawDisk = {
  readonly path: string
  /** Bytes; a multiple of 512, above zero. */
  readonly sizeBytes: number
  /** Bytes that were read so far; those in holes never are. */
  readonly readBytes: number
  /**
   * Reads `length` bytes from `start` on; `buffer` takes them, and belongs to the answer until the caller is done.
   *
   * Errors: file_changed when the file ends before; io_failed.
   */
  read(start: number, length: number, buffer: Buffer<ArrayBuffer>): Promise<ReadChunk>
  /** Errors: file_changed when the file is no longer what was opened. */
  checkUnchanged(): Promise<void>
  close(): Promise<void>
}

/**
 * Opens a raw disk image.
 *
 * Errors: disk_not_found, disk_unfit (not a regular file, another format, an impossible size), permission_denied,
 * io_failed.
 */
export async function openRawDisk(path: string): Promise<RawDisk> {
  const file = await openFile(path)
  try {
    const found = await file.stat({bigint: true})
    if (!found.isFile()) throw fail('disk_unfit', {path, reason: 'it is not a regular file'})
    const size = Number(found.size)
    const format = await sniffFormat(file, size)
    if (format !== undefined)
      throw fail('disk_unfit', {path, reason: `it is ${format}, and only raw images are published`})
    if (size === 0) throw fail('disk_unfit', {path, reason: 'it is empty'})
    if (!Number.isSafeInteger(size)) throw fail('disk_unfit', {path, reason: 'it is too large'})
    if (size % sectorBytes !== 0) {
      const missing = sectorBytes - (size % sectorBytes)
      const reason = `its size of ${size} bytes is not a multiple of ${sectorBytes} (${missing} bytes are missing)`
      throw fail('disk_unfit', {path, reason})
    }
    return new FileDisk(path, file, {size, mtimeNs: found.mtimeNs, ctimeNs: found.ctimeNs})
  } catch (error) {
    await file.close()
    throw fromSystemError(error, path, 'read')
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    // Without O_NONBLOCK a pipe under this name would keep us waiting for somebody to write.
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR')
      throw fail('disk_not_found', {place: path, what: 'no file'}, {cause: error})
    throw fromSystemError(error, path, 'read')
  }
}

const firstBytes = 512
const magics: readonly {at: number; bytes: Buffer; name: string}[] = [
  {at: 0, bytes: Buffer.from('QFI\u00fb', 'latin1'), name: 'a qcow2 image'},
  {at: 0, bytes: Buffer.from('conectix'), name: 'a VHD image'},
  {at: 0, bytes: Buffer.from('vhdxfile'), name: 'a VHDX image'},
  {at: 0, bytes: Buffer.from('KDMV'), name: 'a VMDK image'},
  {at: 0, bytes: Buffer.from('# Disk DescriptorFile'), name: 'a VMDK description'},
  {at: 64, bytes: Buffer.from([0x7f, 0x10, 0xda, 0xbe]), name: 'a VDI image'},
  {at: 0, bytes: Buffer.from('AEROSPAR'), name: 'an AEROSPAR image'},
]

/**
 * What the file is instead of a raw image; undefined when nothing speaks against it.
 *
 * Source: QEMU's docs/interop/qcow2; the VHD, VHDX, VMDK and VDI formats; streaming specification, section 11.
 */
async function sniffFormat(file: FileHandle, sizeBytes: number): Promise<string | undefined> {
  const head = Buffer.alloc(firstBytes)
  await file.read(head, 0, firstBytes, 0)
  for (const {at, bytes, name} of magics)
    if (head.subarray(at, at + bytes.length).equals(bytes)) return name
  // A VHD of fixed size is a raw image with a footer behind it.
  const foot = Buffer.alloc(8)
  if (sizeBytes >= firstBytes) await file.read(foot, 0, foot.length, sizeBytes - firstBytes)
  return foot.equals(Buffer.from('conectix')) ? 'a VHD image of fixed size' : undefined
}

type Identity = {size: number; mtimeNs: bigint; ctimeNs: bigint}

// A read that crosses a small hole costs less than another turn through the thread pool.
const gapBytesMax = 64 * KiB

class FileDisk implements RawDisk {
  readonly path: string
  readonly sizeBytes: number
  readBytes = 0
  readonly #file: FileHandle
  readonly #opened: Identity

  constructor(path: string, file: FileHandle, opened: Identity) {
    this.path = path
    this.sizeBytes = opened.size
    this.#file = file
    this.#opened = opened
  }

  async read(start: number, length: number, buffer: Buffer<ArrayBuffer>): Promise<ReadChunk> {
    const extents = [...joined(dataExtents(this.#file.fd, start, start + length))]
    const bytes = buffer.subarray(0, length)
    let end = 0
    for (const extent of extents) {
      extent.start -= start
      extent.end -= start
      bytes.fill(0, end, extent.start)
      await this.#fill(bytes.subarray(extent.start, extent.end), start + extent.start)
      end = extent.end
    }
    bytes.fill(0, end)
    const worthy = extents.filter((extent) => !isAllZero(bytes.subarray(extent.start, extent.end)))
    return worthy.length === 0 ? {isZero: true} : {isZero: false, bytes, extents: worthy}
  }

  async #fill(part: Buffer<ArrayBuffer>, position: number): Promise<void> {
    for (let done = 0; done < part.length;) {
      let count: number
      try {
        ;({bytesRead: count} = await this.#file.read(
          part,
          done,
          part.length - done,
          position + done,
        ))
      } catch (error) {
        throw fromSystemError(error, this.path, 'read')
      }
      if (count === 0) throw fail('file_changed', {path: this.path, reason: 'it became shorter'})
      done += count
      this.readBytes += count
    }
  }

  async checkUnchanged(): Promise<void> {
    const now = await this.#file.stat({bigint: true})
    const {size, mtimeNs, ctimeNs} = this.#opened
    if (now.size !== BigInt(size))
      throw fail('file_changed', {
        path: this.path,
        reason: `it had ${size} bytes and has ${now.size}`,
      })
    // The change time tells also of writes whose modification time was set back.
    if (now.mtimeNs !== mtimeNs || (now.ctimeNs !== ctimeNs && now.nlink > 0n))
      throw fail('file_changed', {path: this.path, reason: 'it was written to'})
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** Extents with small gaps between them as one. */
function* joined(extents: Iterable<Extent>): Generator<Extent> {
  let last: Extent | undefined
  for (const extent of extents) {
    if (last !== undefined && extent.start - last.end <= gapBytesMax) last.end = extent.end
    else {
      if (last !== undefined) yield last
      last = {...extent}
    }
  }
  if (last !== undefined) yield last
}
