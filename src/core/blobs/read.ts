/** Reading blob files in pieces that leave the event loop free. */
import type {Hash} from 'node:crypto'
import {open, type FileHandle} from 'node:fs/promises'
import {constants} from 'node:fs'
import {fromSystemError} from '../errors.ts'
import {MiB} from '../limits.ts'

// One read of 1 MiB and its hash block the loop for 0.8 ms; smaller pieces cost a thread-pool hop each.
const pieceBytes = MiB

export type HashFileOptions = {
  signal?: AbortSignal
  /** Called after each piece with the bytes hashed so far. */
  onProgress?: (hashedBytes: number) => void
}

/** Feeds a whole open file to `hash` and returns how many bytes there were. Rejects with the signal's reason. */
export async function hashFile(
  file: FileHandle,
  hash: Hash,
  options: HashFileOptions = {},
): Promise<number> {
  const buffer = Buffer.allocUnsafe(pieceBytes)
  let position = 0
  while (true) {
    options.signal?.throwIfAborted()
    const {bytesRead} = await file.read(buffer, 0, pieceBytes, position)
    if (bytesRead === 0) return position
    hash.update(buffer.subarray(0, bytesRead))
    position += bytesRead
    options.onProgress?.(position)
  }
}

/**
 * Opens a file of the store for reading. A symbolic link in its place is refused.
 *
 * Errors: io_failed, permission_denied.
 */
export async function openForReading(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (error) {
    throw fromSystemError(error, path, 'read')
  }
}
