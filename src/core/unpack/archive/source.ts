/**
 * The bytes of a blob, decompressed, chunk by chunk, handed to a synchronous consumer. Decompression runs on
 * libuv's threads while the consumer works on the chunk before: both cores are used without a queue that grows.
 */
import {type ChildProcess, spawn} from 'node:child_process'
import {existsSync, readSync} from 'node:fs'
import type {Readable, Transform} from 'node:stream'
import {setImmediate as turn} from 'node:timers/promises'
import {createGunzip, createZstdDecompress} from 'node:zlib'
import {fail, fromSystemError, systemCode} from '../../errors.ts'
import {KiB, MiB} from '../../limits.ts'
import type {ArchiveFormat} from './format.ts'
import {ZstdFrames} from './zstd-frames.ts'

export type Blob = {
  fd: number
  path: string
  sizeBytes: number
  /** Of a blob that is still coming; for gzip and zstd. */
  growth?: {
    /** Resolves with how many bytes there are when they are more than `position`, or when no more will come. */
    reach(position: number): Promise<number>
    /** Nobody wants more: `reach` does not wait any longer. */
    stop(): void
  }
}

/** Takes each chunk; `readBytes` is how much of the blob it took to get there. The chunk may be reused afterwards. */
export type Consume = (chunk: Buffer, readBytes: number) => void

// Node's default of 16 KiB makes gunzip take twice the time; above these sizes nothing is gained.
const GUNZIP_CHUNK_BYTES = 256 * KiB
const ZSTD_CHUNK_BYTES = 512 * KiB
// What was read is still in the processor's cache when it is written: two thirds of the time of 1 MiB.
const PLAIN_CHUNK_BYTES = 256 * KiB
const TURN_BYTES = 4 * MiB
// Where data is skipped, little is read in vain after a header.
const SKIPPING_CHUNK_BYTES = 64 * KiB
const INPUT_CHUNK_BYTES = 256 * KiB
const INPUTS_MAX = 3
const OUTPUTS_MAX = 4

// Each frame is a write of its own (zstd-frames.ts) and takes 34 µs however little it holds (measured, 100,000 empty
// ones). Writers that cut at files make frames of some hundred bytes; only an attack makes a great many smaller ones.
const ZSTD_FRAMES_FREE = 100_000
const ZSTD_FRAME_BYTES_MIN = 128

/** Says after a chunk how many of the next bytes, of which there are `left`, are not wanted; for plain archives only. */
export type Skip = (left: number) => number

/**
 * Reads the whole blob, but for what `skip` says.
 *
 * Errors: bad_archive (damaged compression), compression_unsupported, io_failed, and what `consume` throws.
 */
export async function readBlob(
  blob: Blob,
  format: ArchiveFormat,
  consume: Consume,
  skip?: Skip,
): Promise<void> {
  switch (format) {
    case 'tar':
      return readPlain(blob, consume, skip)
    case 'gzip':
      return readGzip(blob, consume)
    case 'zstd':
      return readZstd(blob, consume)
    case 'xz':
    case 'bzip2':
      return readByProgram(blob, format, consume)
  }
}

/** Reads into `buffer` from `position` until it is full or the blob ends. */
export function readFully(blob: Blob, buffer: Buffer, position: number): number {
  let count = 0
  while (count < buffer.length) {
    let got: number
    try {
      got = readSync(blob.fd, buffer, count, buffer.length - count, position + count)
    } catch (error) {
      throw fromSystemError(error, blob.path, 'read')
    }
    if (got === 0) break
    count += got
  }
  return count
}

/** As readFully, but waits at the end of a blob that grows. */
async function readNext(blob: Blob, buffer: Buffer, position: number): Promise<number> {
  if (!blob.growth) return readFully(blob, buffer, position)
  const left = Math.max(0, (await blob.growth.reach(position)) - position)
  return readFully(blob, buffer.subarray(0, left), position)
}

async function readPlain(blob: Blob, consume: Consume, skip?: Skip): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(skip ? SKIPPING_CHUNK_BYTES : PLAIN_CHUNK_BYTES)
  let position = 0
  let sinceTurnBytes = 0
  for (;;) {
    const count = readFully(blob, buffer, position)
    if (count === 0) return
    position += count
    consume(count === buffer.length ? buffer : buffer.subarray(0, count), position)
    position += skip?.(blob.sizeBytes - position) ?? 0
    // Everything is synchronous, so the parent's going away is seen only here.
    sinceTurnBytes += count
    if (sinceTurnBytes < TURN_BYTES) continue
    sinceTurnBytes = 0
    await turn()
  }
}

async function readGzip(blob: Blob, consume: Consume): Promise<void> {
  const stream = createGunzip({
    chunkSize: GUNZIP_CHUNK_BYTES,
    readableHighWaterMark: OUTPUTS_MAX * GUNZIP_CHUNK_BYTES,
  } as Parameters<typeof createGunzip>[0])
  await decompress(blob, 'gzip', stream, (chunk) => [chunk], consume)
  // Gunzip stops at a zero byte after a member, as tapes are padded; anything else there is not ours to skip.
  const rest = Buffer.alloc(64 * KiB)
  for (let position = stream.bytesWritten; ;) {
    const count = await readNext(blob, rest, position)
    if (count === 0) return
    for (let at = 0; at < count; at++) {
      if (rest[at] !== 0) {
        throw fail('bad_archive', {
          offset: position + at,
          reason: 'the gzip data is followed by something else',
        })
      }
    }
    position += count
  }
}

async function readZstd(blob: Blob, consume: Consume): Promise<void> {
  const frames = new ZstdFrames()
  const stream = createZstdDecompress({
    chunkSize: ZSTD_CHUNK_BYTES,
    readableHighWaterMark: OUTPUTS_MAX * ZSTD_CHUNK_BYTES,
  } as Parameters<typeof createZstdDecompress>[0])
  let partsTotal = 0
  let bytesTotal = 0
  const cut = (chunk: Buffer): Buffer[] => {
    const parts = frames.split(chunk).filter((part) => !part.isSkippable)
    partsTotal += parts.length
    bytesTotal += chunk.length
    if (partsTotal > ZSTD_FRAMES_FREE + bytesTotal / ZSTD_FRAME_BYTES_MIN) {
      throw damaged('zstd', 'it is cut into too many tiny frames')
    }
    return parts.map((part) => chunk.subarray(part.start, part.end))
  }
  await decompress(blob, 'zstd', stream, cut, consume)
  if (!frames.isBetweenFrames) throw damaged('zstd', 'it is cut short')
}

function damaged(format: ArchiveFormat, reason: string, offset = 0, cause?: unknown) {
  return fail('bad_archive', {offset, reason: `the ${format} data is damaged: ${reason}`}, {cause})
}

/** Feeds the blob through `stream`, cut into pieces by `cut`, and its output to `consume`. */
async function decompress(
  blob: Blob,
  format: ArchiveFormat,
  stream: Transform & {bytesWritten: number},
  cut: (chunk: Buffer) => Buffer[],
  consume: Consume,
): Promise<void> {
  const drained = drain(stream, (chunk) => consume(chunk, stream.bytesWritten))
  let feedError: Error | undefined
  const feeding = feed(blob, stream, cut).catch((error: unknown) => {
    feedError = error instanceof Error ? error : new Error(String(error))
    stream.destroy(feedError)
  })
  try {
    await drained
  } catch (error) {
    if (feedError !== undefined) throw feedError
    const code = systemCode(error)
    if (code?.startsWith('Z_') || code?.startsWith('ZSTD_') || code === 'ERR_PADDING_2') {
      const reason = error instanceof Error ? error.message : String(error)
      throw damaged(format, reason, stream.bytesWritten, error)
    }
    throw error
  } finally {
    stream.destroy()
    if (!stream.readableEnded) blob.growth?.stop()
    await feeding
  }
}

async function feed(
  blob: Blob,
  stream: Transform,
  cut: (chunk: Buffer) => Buffer[],
): Promise<void> {
  const free: Buffer[] = []
  for (let i = 0; i < INPUTS_MAX; i++) free.push(Buffer.allocUnsafeSlow(INPUT_CHUNK_BYTES))
  let wake: (() => void) | undefined
  const release = (buffer: Buffer): void => {
    free.push(buffer)
    wake?.()
  }
  stream.once('close', () => wake?.())
  let position = 0
  for (;;) {
    let buffer = free.pop()
    while (buffer === undefined) {
      await new Promise<void>((resolve) => (wake = resolve))
      if (stream.destroyed || stream.readableEnded) return
      buffer = free.pop()
    }
    const count = blob.growth
      ? await readNext(blob, buffer, position)
      : readFully(blob, buffer, position)
    if (count === 0) break
    position += count
    const pieces = cut(buffer.subarray(0, count))
    const whole = buffer
    if (pieces.length === 0) free.push(whole)
    for (const [index, piece] of pieces.entries()) {
      const isLast = index === pieces.length - 1
      // A stream that ended at a zero byte takes no more, and calls back with an error we need not hear.
      stream.write(piece, () => {
        if (isLast) release(whole)
      })
    }
  }
  stream.end()
}

/** Hands each chunk of a stream to `consume`, after the stream was given the chance to make the next. */
function drain(stream: Readable, consume: (chunk: Buffer) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const queue: Buffer[] = []
    let isScheduled = false
    let hasEnded = false
    let hasFailed = false
    const failed = (error: unknown): void => {
      hasFailed = true
      reject(error instanceof Error ? error : new Error(String(error)))
    }
    const work = (): void => {
      isScheduled = false
      if (hasFailed) return
      try {
        for (let chunk = queue.shift(); chunk !== undefined; chunk = queue.shift()) consume(chunk)
      } catch (error) {
        failed(error)
        stream.destroy()
        return
      }
      if (hasEnded) resolve()
      else stream.resume()
    }
    const schedule = (): void => {
      if (isScheduled) return
      isScheduled = true
      // Not at once: the decompressor starts its next piece of work when this callback returns.
      setImmediate(work)
    }
    stream.on('data', (chunk: Buffer) => {
      queue.push(chunk)
      if (queue.length >= OUTPUTS_MAX) stream.pause()
      schedule()
    })
    stream.on('end', () => {
      hasEnded = true
      schedule()
    })
    stream.on('error', (error) => {
      // What was decompressed before the damage goes first: it may hold a better reason to refuse.
      setImmediate(() => {
        work()
        if (!hasFailed) failed(error)
      })
    })
    stream.on('close', () => {
      if (!hasEnded && !hasFailed) setImmediate(() => failed(new Error('the stream was closed')))
    })
  })
}

/** Found by an absolute path, before any root filesystem exists, and never through PATH (CVE-2026-41567). */
export function findProgram(name: string): string | undefined {
  return [`/usr/bin/${name}`, `/bin/${name}`].find((path) => existsSync(path))
}

const programArguments = {
  // A decoder of xz may ask for 4 GiB; what `xz -9` makes needs 65 MiB.
  xz: ['--decompress', '--stdout', '--memlimit-decompress=128MiB'],
  bzip2: ['--decompress', '--stdout'],
}

async function readByProgram(blob: Blob, format: 'xz' | 'bzip2', consume: Consume): Promise<void> {
  const program = findProgram(format)
  if (program === undefined) {
    throw fail('compression_unsupported', {format, need: `the program /usr/bin/${format}`})
  }
  const child = spawn(program, programArguments[format], {
    stdio: [blob.fd, 'pipe', 'pipe'],
    env: {},
    cwd: '/',
  })
  let complaint = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    if (complaint.length < 1000) complaint += chunk.toString('latin1')
  })
  const ended = waitFor(child)
  try {
    // How far the program has read is not known; the whole blob is the most it can have taken.
    if (child.stdout) await drain(child.stdout, (chunk) => consume(chunk, blob.sizeBytes))
    const end = await ended
    if (end instanceof Error) {
      throw fail('compression_unsupported', {format, need: `a working ${program}`}, {cause: end})
    }
    if (end !== 0) throw damaged(format, complaint.trim().split('\n').at(-1) ?? 'it ends early')
  } finally {
    child.kill('SIGKILL')
    await ended
  }
}

function waitFor(child: ChildProcess): Promise<number | string | Error> {
  return new Promise((resolve) => {
    child.once('error', resolve)
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'unknown'))
  })
}
