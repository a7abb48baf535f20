/** SHA-256 of chunks, off the main thread. */
import {createHash, webcrypto} from 'node:crypto'
import type {Digest} from '../digest.ts'
import {feedZeros} from './extents.ts'

/**
 * The digest of a whole chunk, made in the thread pool while the event loop goes on.
 *
 * Cost: one copy of the bytes, and one pass.
 */
export async function digestOf(bytes: Uint8Array<ArrayBuffer>): Promise<Digest> {
  const hash = await webcrypto.subtle.digest('SHA-256', bytes)
  return Buffer.from(hash).toString('hex') as Digest
}

const ofZeros = new Map<number, Digest>()

/** The digest of so many zeros; made once for each of the last few lengths. */
export function digestOfZeros(length: number): Digest {
  const known = ofZeros.get(length)
  if (known !== undefined) return known
  const hash = createHash('sha256')
  feedZeros(length, (zeros) => hash.update(zeros))
  const digest = hash.digest('hex') as Digest
  if (ofZeros.size >= 16) ofZeros.clear()
  ofZeros.set(length, digest)
  return digest
}
