/** Disk images for tests: a raw one with data and holes, and what qemu-img and compressors make of it. */
import {spawnSync} from 'node:child_process'
import {createHash, randomBytes} from 'node:crypto'
import {closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync} from 'node:fs'
import {join} from 'node:path'
import {gzipSync, zstdCompressSync} from 'node:zlib'

export const sha256Of = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** 8 MiB: a boot sector, some data in the middle, zeros. */
export function rawDisk(sizeBytes = 8 * 1024 ** 2): Buffer {
  const bytes = Buffer.alloc(sizeBytes)
  bytes.writeUInt16BE(0x55aa, 510)
  randomBytes(100_000).copy(bytes, 3_000_000)
  return bytes
}

export type DiskForm =
  'raw' | 'raw.gz' | 'raw.zst' | 'qcow2' | 'qcow2.zst' | 'vhd' | 'fixed.vhd' | 'qcow2 version 2'
export const diskForms: readonly DiskForm[] = [
  'raw',
  'raw.gz',
  'raw.zst',
  'qcow2',
  'qcow2.zst',
  'vhd',
  'fixed.vhd',
  'qcow2 version 2',
]

export function packDisk(dir: string, raw: Buffer, form: DiskForm): Buffer {
  switch (form) {
    case 'raw':
      return raw
    case 'raw.gz':
      return gzipSync(raw)
    case 'raw.zst':
      return zstdCompressSync(raw)
    case 'qcow2':
      return qemuImg(dir, raw, ['-O', 'qcow2'])
    case 'qcow2 version 2':
      return qemuImg(dir, raw, ['-O', 'qcow2', '-o', 'compat=0.10'])
    case 'qcow2.zst':
      return zstdCompressSync(qemuImg(dir, raw, ['-O', 'qcow2']))
    case 'vhd':
      return qemuImg(dir, raw, ['-O', 'vpc', '-o', 'force_size'])
    case 'fixed.vhd':
      return qemuImg(dir, raw, ['-O', 'vpc', '-o', 'subformat=fixed,force_size'])
  }
}

function qemuImg(dir: string, raw: Buffer, args: string[]): Buffer {
  const [from, to] = [join(dir, 'from.raw'), join(dir, 'to.img')]
  writeFileSync(from, raw)
  const run = spawnSync('qemu-img', ['convert', '-f', 'raw', ...args, from, to], {encoding: 'utf8'})
  if (run.status !== 0) throw new Error(`qemu-img: ${run.error?.message ?? run.stderr}`)
  return readFileSync(to)
}

/** A file of `sizeBytes` with some data at its places, and holes. */
export function sparseFile(
  path: string,
  sizeBytes: number,
  data: readonly {at: number; bytes: Buffer}[],
): void {
  const fd = openSync(path, 'w')
  try {
    ftruncateSync(fd, sizeBytes)
    for (const {at, bytes} of data) writeSync(fd, bytes, 0, bytes.length, at)
  } finally {
    closeSync(fd)
  }
}
