/**
 * Content-addressed files.
 *
 * Vocabulary: a *blob* is a whole file whose SHA-256 is its name. A *part* is the beginning of one, still growing.
 * A *note* says where a part comes from, so that the next attempt can ask the same source for the rest.
 */
import {randomBytes} from 'node:crypto'
import {readdir, rename, rm, stat} from 'node:fs/promises'
import {join} from 'node:path'
import type {Digest} from '../digest.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {makeDirectory, syncDirectory, syncFile} from '../syscalls/durable.ts'
import {blobName, blobsDirOf, noteName, partName, plainName, quarantineDirOf} from './layout.ts'
import {parseBlobFileName, plainNoteName, type BlobFileKind} from './layout.ts'
import {PartHashes} from './part-hashes.ts'
import {beginPlain, readPlainNote, removePlainParts} from './plain.ts'
import type {PlainNote, PlainWriter} from './plain.ts'
import type {HashFileOptions} from './read.ts'
import {hashPath, verifyBlobFile, type VerifyResult} from './verify.ts'
import {beginPart, type BeginPartOptions, type PartWriter} from './write.ts'

export type {PartNote, PartWriter} from './write.ts'
export type {PlainNote, PlainWriter} from './plain.ts'
export type {BlobFileKind} from './layout.ts'
export type {VerifyResult} from './verify.ts'

/** One file of the blobs or quarantine directory. */
export type BlobFile = {
  kind: BlobFileKind
  /** Its name in its directory. */
  name: string
  path: string
  digest?: Digest
  sizeBytes: number
  mtimeMs: number
}

/** Blobs on disk, by digest. Nothing here decides what is needed: that is the caller's. */
export type BlobStore = {
  pathOf(digest: Digest): string
  partPathOf(digest: Digest): string
  /** The plain tar made from a compressed blob; it goes with the blob. */
  plainPathOf(digest: Digest): string
  statPlain(digest: Digest): Promise<{sizeBytes: number; mtimeMs: number} | undefined>
  removePlain(digest: Digest): Promise<boolean>
  /** Begins the plain tar of a blob that is on its way, and removes what others began. Errors: no_space, io_failed, permission_denied. */
  beginPlain(digest: Digest): Promise<PlainWriter>
  /**
   * The note of a plain tar that is there with the size in it; undefined for one without a note, whose bytes nobody
   * vouches for.
   */
  notedPlain(digest: Digest): Promise<PlainNote | undefined>
  /** Removes the note of a plain tar: nothing is made from that any more. */
  forgetPlain(digest: Digest): Promise<void>
  /** Removes the plain tars of a blob that were begun and not finished. */
  removePlainParts(digest: Digest): Promise<void>
  /** Digest and size of any file, read from the disk. */
  hash(path: string, options?: HashFileOptions): Promise<{digest: Digest; sizeBytes: number}>
  /** Size and time of a finished blob, or undefined when there is none. */
  stat(digest: Digest): Promise<{sizeBytes: number; mtimeMs: number} | undefined>
  /** Size of a part that an earlier attempt left, or undefined. */
  statPart(digest: Digest): Promise<{sizeBytes: number; mtimeMs: number} | undefined>
  beginPart(digest: Digest, options: BeginPartOptions): Promise<PartWriter>
  /** Every file in the blobs and quarantine directories, in no order. Files that vanish meanwhile are left out. */
  list(): AsyncIterable<BlobFile>
  /**
   * Makes a file the blob of that digest: whole, on the disk and found right by the caller, in this file system. What
   * is there gives way. Durable when it returns. Errors: no_space, io_failed.
   */
  adopt(digest: Digest, path: string): Promise<void>
  /** Deletes a blob and the plain tar made from it, durably; false when there was none. */
  remove(digest: Digest): Promise<boolean>
  /** Deletes a part with its note and copies; false when there was none. A writer that still has it open writes into nothing. */
  removePart(digest: Digest): Promise<boolean>
  /** Makes sure that a blob that is there stays there: file and name are flushed. Errors: io_failed. */
  settle(digest: Digest): Promise<void>
  /** Moves a blob out of the way to `<store>/quarantine/<sha256>.tar[.N]` and returns the new path, or undefined when there was none. */
  quarantine(digest: Digest): Promise<string | undefined>
  /** Hashes a blob from the disk. Errors: blob_damaged when it is missing. */
  verify(digest: Digest, options?: HashFileOptions): Promise<VerifyResult>
}

async function statFile(path: string): Promise<{sizeBytes: number; mtimeMs: number} | undefined> {
  try {
    const found = await stat(path)
    return found.isFile() ? {sizeBytes: found.size, mtimeMs: found.mtimeMs} : undefined
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw fromSystemError(error, path, 'read')
  }
}

async function* listDirectory(dir: string, kind?: BlobFileKind): AsyncIterable<BlobFile> {
  let names: string[]
  try {
    names = await readdir(dir)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return
    throw fromSystemError(error, dir, 'list')
  }
  for (const name of names) {
    const path = join(dir, name)
    const found = await statFile(path)
    if (!found) continue
    // A quarantined name is a blob's with a number behind it.
    const parsed = parseBlobFileName(kind ? name.replace(/\.\d+$/, '') : name)
    yield {...parsed, ...found, name, path, kind: kind ?? parsed.kind}
  }
}

async function unlinkDurably(dir: string, name: string): Promise<boolean> {
  const path = join(dir, name)
  try {
    await rm(path)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw fromSystemError(error, path, 'remove')
  }
  await syncDirectory(dir)
  return true
}

async function moveToQuarantine(storeDir: string, digest: Digest): Promise<string | undefined> {
  const blobsDir = blobsDirOf(storeDir)
  const quarantineDir = quarantineDirOf(storeDir)
  const source = join(blobsDir, blobName(digest))
  if ((await statFile(source)) === undefined) return undefined
  await makeDirectory(quarantineDir)
  let target = join(quarantineDir, blobName(digest))
  for (let n = 1; (await statFile(target)) !== undefined; n++) {
    target = join(quarantineDir, `${blobName(digest)}.${n}`)
  }
  try {
    await rename(source, target)
    failpoint('blobs.quarantined')
    await syncDirectory(quarantineDir)
    await syncDirectory(blobsDir)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw fromSystemError(error, source, 'move')
  }
  return target
}

async function removePartFiles(blobsDir: string, digest: Digest): Promise<boolean> {
  let wasRemoved = false
  for await (const file of listDirectory(blobsDir)) {
    if (file.digest !== digest || !['part', 'plain-part', 'sidecar'].includes(file.kind)) continue
    await rm(file.path, {force: true})
    wasRemoved ||= file.kind === 'part'
  }
  return wasRemoved
}

/** The blobs of one store. Touches the disk only when used; the directories are made when first needed. */
export function openBlobs(storeDir: string): BlobStore {
  const blobsDir = blobsDirOf(storeDir)
  const pathOf = (digest: Digest): string => join(blobsDir, blobName(digest))
  const partPathOf = (digest: Digest): string => join(blobsDir, partName(digest))
  const hashes = new PartHashes()
  const plainPathOf = (digest: Digest): string => join(blobsDir, plainName(digest))
  const statPlain: BlobStore['statPlain'] = (digest) => statFile(plainPathOf(digest))
  // The note first: a tar without one is only of no use, the other way round the next one would get a wrong note.
  const removePlain = async (digest: Digest): Promise<boolean> => {
    await rm(join(blobsDir, plainNoteName(digest)), {force: true})
    return await unlinkDurably(blobsDir, plainName(digest))
  }
  return {
    pathOf,
    partPathOf,
    stat: (digest) => statFile(pathOf(digest)),
    statPart: (digest) => statFile(partPathOf(digest)),
    beginPart: (digest, options) => {
      // A name as copies have it: whoever finds it later knows what it is.
      const own = options.isPrivate === true ? `.copy-${randomBytes(6).toString('hex')}` : ''
      const partPath = `${partPathOf(digest)}${own}`
      const notePath = own === '' ? join(blobsDir, noteName(digest)) : `${partPath}.json`
      const blobPath = pathOf(digest)
      return beginPart({digest, blobsDir, blobPath, partPath, notePath, hashes}, options)
    },
    async *list() {
      yield* listDirectory(blobsDir)
      yield* listDirectory(quarantineDirOf(storeDir), 'quarantine')
    },
    plainPathOf,
    statPlain,
    removePlain,
    beginPlain: (digest) => beginPlain(blobsDir, digest),
    async notedPlain(digest) {
      const note = readPlainNote(blobsDir, digest)
      return note && (await statPlain(digest))?.sizeBytes === note.sizeBytes ? note : undefined
    },
    forgetPlain: (digest) => rm(join(blobsDir, plainNoteName(digest)), {force: true}),
    removePlainParts: (digest) => removePlainParts(blobsDir, digest),
    hash: async (path, hashOptions) => await hashPath(path, hashOptions),
    async adopt(digest, path) {
      await makeDirectory(blobsDir)
      try {
        await rename(path, pathOf(digest))
      } catch (error) {
        throw fromSystemError(error, pathOf(digest), 'write')
      }
      await syncDirectory(blobsDir)
    },
    async remove(digest) {
      await removePlain(digest)
      return await unlinkDurably(blobsDir, blobName(digest))
    },
    removePart: (digest) => removePartFiles(blobsDir, digest),
    async settle(digest) {
      await syncFile(pathOf(digest))
      await syncDirectory(blobsDir)
    },
    quarantine: (digest) => moveToQuarantine(storeDir, digest),
    async verify(digest, options) {
      if ((await statFile(pathOf(digest))) === undefined) {
        throw fail('blob_damaged', {digest, reason: 'the file is missing'})
      }
      return verifyBlobFile(pathOf(digest), digest, options)
    },
  }
}
