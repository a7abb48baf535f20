/** Tells disk images apart by their bytes, and what of theirs must not be trusted to a converter. */
import {fail} from '../../errors.ts'
import {describe, isTarStart} from '../archive/format.ts'

export type DiskFormat = 'raw' | 'qcow2' | 'vhd'

/** Bytes at the beginning and at the end of a file that `recogniseDisk` wants to see. */
export const DISK_HEAD_BYTES = 4096
export const DISK_TAIL_BYTES = 512

const MAGIC_QCOW2 = 0x5146_49fb
const INCOMPATIBLE_CORRUPT = 1n << 1n
const INCOMPATIBLE_DATA_FILE = 1n << 2n
const VHD_FIXED = 2
const VHD_DYNAMIC = 3
const VHD_DIFFERENCING = 4

/** `sizeBytes` is what a guest sees. */
export type Disk = {format: DiskFormat; sizeBytes: number}

/**
 * What a file of `fileBytes` with this head and tail is. Anything unknown is raw: a raw disk may begin with any bytes.
 *
 * Guarantees: a qcow2 or VHD that refers to another file (a backing file, an external data file, a parent) is refused:
 * whoever converted it would read that file.
 * Errors: source_not_image, bad_disk.
 * Source: qemu's docs/interop/qcow2, section "Header"; Virtual Hard Disk Image Format Specification 1.0, "Hard Disk
 * Footer Format".
 */
export function recogniseDisk(head: Buffer, tail: Buffer, fileBytes: number): Disk {
  if (fileBytes === 0) throw fail('source_not_image', {what: 'nothing at all'})
  if (head.length >= 4 && head.readUInt32BE(0) === MAGIC_QCOW2) return readQcow2(head)
  const footer = [tail, head].find((at) => at.toString('latin1', 0, 8) === 'conectix')
  if (footer !== undefined) return readVhd(footer)
  refuseOthers(head)
  return {format: 'raw', sizeBytes: fileBytes}
}

function readQcow2(head: Buffer): Disk {
  const bad = (reason: string): Error => fail('bad_disk', {format: 'qcow2', reason})
  if (head.length < 104) throw bad('its header is cut short')
  const version = head.readUInt32BE(4)
  if (version !== 2 && version !== 3) throw bad(`version ${version} is unknown`)
  if (head.readBigUInt64BE(8) !== 0n)
    throw bad('it has a backing file; flatten it first: qemu-img convert -O qcow2 IN OUT')
  if (head.readUInt32BE(32) !== 0) throw bad('it is encrypted')
  const features = version === 3 ? head.readBigUInt64BE(72) : 0n
  if (features & INCOMPATIBLE_DATA_FILE) throw bad('its data is in another file')
  if (features & INCOMPATIBLE_CORRUPT) throw bad('it is marked as corrupt')
  return {format: 'qcow2', sizeBytes: sizeFrom(head.readBigUInt64BE(24), bad)}
}

function readVhd(footer: Buffer): Disk {
  const bad = (reason: string): Error => fail('bad_disk', {format: 'VHD', reason})
  if (footer.length < 512) throw bad('its footer is cut short')
  const kind = footer.readUInt32BE(60)
  if (kind === VHD_DIFFERENCING) throw bad('it needs a parent disk; merge the two first')
  if (kind !== VHD_FIXED && kind !== VHD_DYNAMIC) throw bad(`disk type ${kind} is unknown`)
  return {format: 'vhd', sizeBytes: sizeFrom(footer.readBigUInt64BE(48), bad)}
}

function sizeFrom(size: bigint, bad: (reason: string) => Error): number {
  if (size === 0n) throw bad('it has no bytes')
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(`${size} bytes are too many`)
  return Number(size)
}

/** Formats that would be served as bytes nobody can use, and what is certainly no disk. */
function refuseOthers(head: Buffer): void {
  const text = head.toString('latin1', 0, 64)
  const formats: [boolean, string][] = [
    [text.startsWith('KDMV') || text.startsWith('# Disk DescriptorFile'), 'VMDK'],
    [text.startsWith('vhdxfile'), 'VHDX'],
    [head.length >= 68 && head.readUInt32LE(64) === 0xbeda_107f, 'VDI'],
    [text.startsWith('AEROSPAR'), 'AEROSPAR'],
    [text.startsWith('QED\0'), 'QED'],
  ]
  const found = formats.find(([isIt]) => isIt)
  if (found) {
    const reason =
      'only raw, qcow2 and VHD are read; convert it first: qemu-img convert -O raw IN OUT'
    throw fail('bad_disk', {format: found[1], reason})
  }
  if (head.toString('latin1', 257, 262) === 'ustar' && isTarStart(head))
    throw fail('bad_disk', {
      format: 'tar',
      reason: 'it is an archive; fetch it without --kind disk',
    })
  const what = describe(head)
  if (what === 'an HTML page' || what === 'an XML document' || what === 'a zip file')
    throw fail('source_not_image', {what})
}
