/**
 * Where blobs live: `<store>/blobs/<sha256>.tar`. A download grows in `<sha256>.tar.tmp` (the part), beside it
 * `<sha256>.tar.tmp.json` (the note: from where, with which validator). Damaged blobs go to `<store>/quarantine`.
 * The plain tar of a compressed blob is `<sha256>.tar.raw`, and grows in `<sha256>.tar.raw.tmp-<hex>`.
 */
import {join} from 'node:path'
import type {Digest} from '../digest.ts'

export const blobsDirOf = (storeDir: string): string => join(storeDir, 'blobs')
export const quarantineDirOf = (storeDir: string): string => join(storeDir, 'quarantine')

export const blobName = (digest: Digest): string => `${digest}.tar`
export const partName = (digest: Digest): string => `${digest}.tar.tmp`
/** The plain tar that a compressed blob was decompressed into, for the images that are indexed from it. */
export const plainName = (digest: Digest): string => `${digest}.tar.raw`
export const noteName = (digest: Digest): string => `${digest}.tar.tmp.json`
/** What is known of the plain tar that was made while its blob came. */
export const plainNoteName = (digest: Digest): string => `${plainName(digest)}.json`
/** A plain tar in the making, and its note; `maker` tells its makers apart. */
export const plainPartName = (digest: Digest, maker: string): string =>
  `${plainName(digest)}.tmp-${maker}`

/** What a name in the blobs or quarantine directory stands for. */
export type BlobFileKind =
  'blob' | 'plain' | 'plain-note' | 'plain-part' | 'part' | 'sidecar' | 'quarantine' | 'other'

const namePattern =
  /^([0-9a-f]{64})\.tar(?:(\.tmp)(?:\.copy-[0-9a-f]+)?(\.json(?:\.[0-9a-f]+)?)?)?$/

/** Reads a name of the blobs directory; names that imgstore did not make are `other`. */
export function parseBlobFileName(name: string): {kind: BlobFileKind; digest?: Digest} {
  const plain = /^([0-9a-f]{64})\.tar\.raw(?:(\.json)|(\.tmp-[0-9a-f]+(?:\.json)?))?$/.exec(name)
  if (plain) {
    const kind = plain[2] ? 'plain-note' : plain[3] ? 'plain-part' : 'plain'
    return {kind, digest: plain[1] as Digest}
  }
  const match = namePattern.exec(name)
  if (!match) return {kind: 'other'}
  const digest = match[1] as Digest
  if (match[2] === undefined) return {kind: 'blob', digest}
  return {kind: match[3] === undefined ? 'part' : 'sidecar', digest}
}
