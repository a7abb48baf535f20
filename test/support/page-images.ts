/** Disk images for the streaming surface: sparse ones with bytes that can be foreseen, and their chunked form. */
import {createHash} from 'node:crypto'
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import {join} from 'node:path'

/**
 * Makes a file of `size` bytes that is empty but for 64 KiB of noise at each of `places`, derived from its place.
 * What goes past the end is cut.
 */
export function makeSparseImage(file: string, size: number, places: readonly number[]): void {
  const fd = openSync(file, 'w')
  try {
    ftruncateSync(fd, size)
    for (const place of places) {
      const bytes = noise(place).subarray(0, size - place)
      writeSync(fd, bytes, 0, bytes.length, place)
    }
  } finally {
    closeSync(fd)
  }
}

function noise(seed: number): Buffer {
  const parts = Array.from({length: 2048}, (_, index) =>
    createHash('sha256').update(`${seed}:${index}`).digest(),
  )
  return Buffer.concat(parts)
}

/** The bytes `start` … `end` (the last one itself) of a file, as the file system has them. */
export function readBytes(file: string, start: number, end: number): Buffer {
  const bytes = Buffer.alloc(end - start + 1)
  const fd = openSync(file, 'r')
  try {
    let at = 0
    while (at < bytes.length) {
      const got = readSync(fd, bytes, at, bytes.length - at, start + at)
      if (got === 0) throw new Error(`${file} ends before ${end}`)
      at += got
    }
    return bytes
  } finally {
    closeSync(fd)
  }
}

/** Writes the chunked form of `image` below an images directory, with digests; gives the directory of the chunks. */
export function writeChunked(
  root: string,
  o: {id: string; version: string; image: Buffer; chunkSize: number},
): string {
  const {id, version, image, chunkSize} = o
  const dir = join(root, 'chunked', id, version, 'chunks')
  mkdirSync(dir, {recursive: true})
  const chunkCount = Math.ceil(image.length / chunkSize)
  const chunks = Array.from({length: chunkCount}, (_, index) => {
    const bytes = image.subarray(index * chunkSize, (index + 1) * chunkSize)
    writeFileSync(join(dir, `${String(index).padStart(8, '0')}.bin`), bytes)
    return {size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex')}
  })
  const manifest = {
    schema: 'aero.chunked-disk-image.v1',
    imageId: id,
    version: version === '' ? 'flat' : version,
    mimeType: 'application/octet-stream',
    totalSize: image.length,
    chunkSize,
    chunkCount,
    chunkIndexWidth: 8,
    chunks,
  }
  writeFileSync(join(dir, '../manifest.json'), JSON.stringify(manifest))
  return dir
}
