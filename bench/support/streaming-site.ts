/** What bench/streaming.ts serves: one disk image and two chunked forms, every 4 KiB of them marked with their offset. */
import {randomBytes} from 'node:crypto'
import {spawnSync} from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {GiB, KiB, MiB} from '../../src/core/limits.ts'
import type {Site} from './streaming-peers.ts'

export const imageBytes = GiB
const chunkedBytes = 256 * MiB

/** A directory in memory where there is room, so that no disk is measured; removed by `remove`. */
export function makeSite(): Site & {remove(): void} {
  const shm = '/dev/shm'
  const found = existsSync(shm) ? statfsSync(shm) : undefined
  const hasRoom = found !== undefined && found.bavail * found.bsize > 3 * imageBytes
  const dir = mkdtempSync(join(hasRoom ? shm : tmpdir(), 'imgstore-bench-'))
  const root = join(dir, 'images')
  mkdirSync(root)
  writeMarked(join(root, 'disk'), 0, imageBytes)
  for (const [version, chunkBytes] of [
    ['1m', MiB],
    ['4m', 4 * MiB],
  ] as const) {
    const chunks = join(root, 'chunked', 'disk', version, 'chunks')
    mkdirSync(chunks, {recursive: true})
    for (let i = 0; i * chunkBytes < chunkedBytes; i++)
      writeMarked(join(chunks, `${String(i).padStart(8, '0')}.bin`), i * chunkBytes, chunkBytes)
  }
  return {root, dir, remove: () => rmSync(dir, {recursive: true, force: true})}
}

const noise = randomBytes(4 * KiB - 8)

/** Writes a file that is the part from `offset` on of one large marked image. */
function writeMarked(path: string, offset: number, length: number): void {
  const piece = Buffer.alloc(Math.min(length, MiB))
  const fd = openSync(path, 'w')
  for (let done = 0; done < length; done += piece.length) {
    for (let at = 0; at < piece.length; at += 4 * KiB) {
      piece.writeBigUInt64LE(BigInt(offset + done + at), at)
      noise.copy(piece, at + 8)
    }
    writeSync(fd, piece)
  }
  closeSync(fd)
}

/** A certificate for 127.0.0.1, in the site's directory. */
export function makeCertificate(dir: string): {cert: string; key: string} {
  const cert = join(dir, 'cert.pem')
  const key = join(dir, 'key.pem')
  const made = spawnSync('openssl', [
    ...[
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
    ],
    ...[
      '-keyout',
      key,
      '-out',
      cert,
      '-subj',
      '/CN=127.0.0.1',
      '-addext',
      'subjectAltName=IP:127.0.0.1',
    ],
  ])
  if (made.status !== 0) throw new Error(`openssl: ${String(made.stderr)}`)
  return {cert, key}
}
