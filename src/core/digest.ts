import {fail} from './errors.ts'

/** A SHA-256 digest as 64 lower-case hexadecimal digits, without a prefix. Made by `parseDigest` only. */
export type Digest = string & {readonly brand: 'Digest'}

const pattern = /^(?:sha256:)?([0-9a-f]{64})$/i

/**
 * Reads a digest as a person or a service writes it: 64 hexadecimal digits in any case, `sha256:` in front or not.
 *
 * Errors: invalid_digest.
 */
export function parseDigest(text: string): Digest {
  const hex = pattern.exec(text)?.[1]
  if (hex === undefined) throw fail('invalid_digest', {digest: text})
  return hex.toLowerCase() as Digest
}

/** The digest with its algorithm in front, as the OCI image specification writes it (descriptor.md, "Digests"). */
export function formatDigest(digest: Digest): string {
  return `sha256:${digest}`
}
