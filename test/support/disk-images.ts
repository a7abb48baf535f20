/** Small disk images with known bytes, and what publishing made of them. */
import {createHash, randomFillSync} from 'node:crypto'
import {closeSync, ftruncateSync, openSync, readFileSync, readdirSync, writeSync} from 'node:fs'
import {join} from 'node:path'
import type {ChunkManifest} from '../../src/core/chunk-map.ts'
import {openDisks, type PublishOptions} from '../../src/core/streams/disks.ts'
import {resolveSettings, type Settings} from '../../src/core/settings.ts'

/** Settings without any of the host's; waits between attempts are short. */
export function diskSettings(env: Record<string, string> = {}): Settings {
  return resolveSettings({
    env: {IMGSTORE_RETRY_WAIT: '10ms', ...env},
    dataDir: '/nonexistent',
    cwd: '/nonexistent',
  }).settings
}

/** Makes a sparse file of `sizeBytes` with `parts` written at their offsets. */
export function makeDisk(
  path: string,
  sizeBytes: number,
  parts: readonly {at: number; bytes: Uint8Array}[] = [],
): void {
  const fd = openSync(path, 'w')
  try {
    ftruncateSync(fd, sizeBytes)
    for (const {at, bytes} of parts) writeSync(fd, bytes, 0, bytes.length, at)
  } finally {
    closeSync(fd)
  }
}

export function randomBytesOf(length: number): Buffer {
  return randomFillSync(Buffer.alloc(length))
}

export const sha256 = (bytes: Uint8Array): string =>
  createHash('sha256').update(bytes).digest('hex')

/** Publishes with the options that a test does not care about filled in. */
export async function publish(
  disk: string,
  imagesRoot: string,
  changes: Partial<PublishOptions> = {},
  settings = diskSettings(),
) {
  return await openDisks(settings).publish({
    disk,
    imagesRoot,
    chunkSize: 4096,
    isForced: false,
    hasMeta: true,
    isLatest: false,
    signal: new AbortController().signal,
    ...changes,
  })
}

export async function verify(
  place: string,
  options: {readsData?: boolean; settings?: Settings} = {},
) {
  return await openDisks(options.settings ?? diskSettings()).verify({
    place,
    readsData: options.readsData ?? true,
    signal: new AbortController().signal,
  })
}

export function readManifest(dir: string): ChunkManifest {
  return JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8')) as ChunkManifest
}

/** The bytes of all chunks, in order. */
export function joinChunks(dir: string): Buffer {
  const names = readdirSync(join(dir, 'chunks')).toSorted()
  return Buffer.concat(names.map((name) => readFileSync(join(dir, 'chunks', name))))
}

/** Every path below a directory, sorted; chunks left out. */
export function namesBelow(dir: string): string[] {
  return readdirSync(dir, {recursive: true, encoding: 'utf8'})
    .filter((name) => !name.includes('chunks/'))
    .toSorted()
}
