import {createHash} from 'node:crypto'
import type {Digest} from '../digest.ts'
import {fromSystemError} from '../errors.ts'
import {hashFile, openForReading, type HashFileOptions} from './read.ts'

/** What a blob file really holds. */
export type VerifyResult =
  {ok: true; sizeBytes: number} | {ok: false; actual: Digest; sizeBytes: number}

/**
 * Hashes a blob file from the disk and compares it with its name.
 *
 * Errors: io_failed (also when it is not there), permission_denied; the signal's reason.
 * Cost: one pass over the file.
 */
export async function verifyBlobFile(
  path: string,
  digest: Digest,
  options: HashFileOptions = {},
): Promise<VerifyResult> {
  const {digest: actual, sizeBytes} = await hashPath(path, options)
  return actual === digest ? {ok: true, sizeBytes} : {ok: false, actual, sizeBytes}
}

/** Hashes a file from the disk. Errors and cost: as verifyBlobFile. */
export async function hashPath(
  path: string,
  options: HashFileOptions = {},
): Promise<{digest: Digest; sizeBytes: number}> {
  const file = await openForReading(path)
  try {
    const hash = createHash('sha256')
    const sizeBytes = await hashFile(file, hash, options)
    return {digest: hash.digest('hex') as Digest, sizeBytes}
  } catch (error) {
    options.signal?.throwIfAborted()
    throw fromSystemError(error, path, 'read')
  } finally {
    await file.close()
  }
}
