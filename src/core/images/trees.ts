/**
 * Unpacked trees on disk: staged, published by one rename, discarded by a rename and a slow delete. A tree carries
 * a note with its id, so that whoever finds it knows which claim of which run made it, and that it is whole.
 */
import {existsSync, renameSync, rmdirSync, writeFileSync} from 'node:fs'
import {chmod, mkdir, readdir, rename, rm} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {makeDirectory, syncDirectoryNow} from '../syscalls/durable.ts'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import {newUlid, type ImageName, type RunId} from '../ids.ts'
import type {TreeBackend} from '../image.ts'
import type {Layout} from '../layout.ts'
import {parseTreeId, stagedPlainName, treeIdOf} from '../layout.ts'
import {readSmallFile} from '../small-file.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

export type TreeNote = {
  treeId: string
  digest: string
  profile: string
  entries: number
  /** Absent in notes from before there was a choice: `dir`. */
  backend?: TreeBackend
  /** SHA-256 of the EROFS image, and of the plain tar that a compressed blob was made into. */
  index?: {digest: string; sizeBytes: number}
  plain?: {digest: string; sizeBytes: number}
  /** SHA-256 of a disk's raw bytes. */
  disk?: {digest: string; sizeBytes: number}
}

/** The claim of a run that makes a tree. Trees of later ones belong to whoever took the run over. */
type Maker = {run: RunId; epoch: number}

/** Makes an empty directory to unpack into, and clears what earlier claims of the same run left. */
export async function stageTree(layout: Layout, maker: Maker): Promise<string> {
  const path = layout.stagedTree(treeIdOf(maker.run, maker.epoch))
  try {
    await makeDirectory(layout.staging, 0o700)
    await setAside(layout, maker)
    await mkdir(path, {mode: 0o700})
    const rootfs = join(path, 'rootfs')
    await mkdir(rootfs, {mode: 0o700})
    return rootfs
  } catch (error) {
    throw fromSystemError(error, path, 'make')
  }
}

/** Removes the staged trees of a claim and of earlier ones of its run. */
export async function discardStaged(layout: Layout, maker: Maker): Promise<void> {
  for (const path of await stagedOf(layout, maker)) await removeTree(path)
}

/**
 * Renames what earlier claims of a run staged and deletes it as far as it can be: an owner that slept past its lease
 * may wake and go on writing there, and a directory that fills again cannot be removed. Cleanup finds the rest.
 */
async function setAside(layout: Layout, maker: Maker): Promise<void> {
  for (const path of await stagedOf(layout, maker)) {
    const target = join(layout.staging, `old-${newUlid(Date.now())}`)
    try {
      await rename(path, target)
    } catch (error) {
      // Another claim of the run, earlier or later, is just doing the same.
      if (systemCode(error) === 'ENOENT') continue
      throw error
    }
    await removeTree(target).catch(() => undefined)
  }
}

async function stagedOf(layout: Layout, maker: Maker): Promise<string[]> {
  let names: string[]
  try {
    names = await readdir(layout.staging)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return []
    throw fromSystemError(error, layout.staging, 'read')
  }
  return names
    .filter((name) => {
      const made = parseTreeId(name)
      return made?.run === maker.run && made.epoch <= maker.epoch
    })
    .map((name) => join(layout.staging, name))
}

/** Writes the note that makes a staged tree whole; durable when it returns. */
export function noteTree(layout: Layout, note: TreeNote): void {
  const dir = layout.stagedTree(note.treeId)
  const path = join(dir, 'tree.json')
  try {
    writeFileSync(path, `${JSON.stringify(note)}\n`, {flush: true})
    syncDirectoryNow(dir)
    syncDirectoryNow(layout.staging)
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  }
}

/** The note of a published tree, or undefined when there is none or none that makes sense. Errors: io_failed. */
export function readTreeNote(layout: Layout, name: ImageName): TreeNote | undefined {
  const path = layout.treeNote(name)
  let text: string
  try {
    text = readSmallFile(path)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return undefined
    throw fromSystemError(error, path, 'read')
  }
  try {
    const note = JSON.parse(text) as Partial<TreeNote>
    return typeof note.treeId === 'string' ? (note as TreeNote) : undefined
  } catch {
    return undefined
  }
}

/**
 * Puts a staged tree in its place, whatever was there before. Synchronous: it runs behind the journal's fence.
 *
 * Guarantees: idempotent; the place holds a whole tree or none at any moment; durable when it returns.
 * Returns the path of what was replaced, to be deleted later.
 */
export function publishTree(
  layout: Layout,
  name: ImageName,
  treeId: string,
  now: number,
  plainPlace?: string,
): string | undefined {
  const place = layout.image(name)
  try {
    if (readTreeNote(layout, name)?.treeId === treeId) {
      // Whoever put it here may have died before its name was durable.
      syncDirectoryNow(layout.images)
      return undefined
    }
    if (makeDirectories(layout.images) !== undefined) syncDirectoryNow(dirname(layout.images))
    const staged = layout.stagedTree(treeId)
    if (!existsSync(join(staged, 'tree.json'))) {
      throw fail('io_failed', {path: staged, reason: 'the unpacked tree is gone'})
    }
    // The tar of an index first: an index without it is worth nothing, it alone does no harm.
    const plain = join(staged, stagedPlainName)
    if (plainPlace !== undefined && existsSync(plain)) {
      renameSync(plain, plainPlace)
      syncDirectoryNow(dirname(plainPlace))
      failpoint('images.plain_published')
    }
    const replaced = retire(layout, place, now)
    renameSync(staged, place)
    syncDirectoryNow(layout.images)
    syncDirectoryNow(layout.staging)
    return replaced
  } catch (error) {
    throw fromSystemError(error, place, 'write')
  }
}

/** Takes an image's tree, overlay and mount point out of sight. Synchronous, as publishTree. Returns what to delete. */
export function retireImage(layout: Layout, name: ImageName, now: number): string[] {
  try {
    const retired = [
      retire(layout, layout.image(name), now),
      retire(layout, layout.overlay(name), now),
    ]
    try {
      rmdirSync(layout.mountPoint(name))
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error
    }
    return retired.filter((path) => path !== undefined)
  } catch (error) {
    throw fromSystemError(error, layout.image(name), 'remove')
  }
}

function retire(layout: Layout, path: string, now: number): string | undefined {
  if (!existsSync(path)) return undefined
  makeDirectories(layout.staging, 0o700)
  const target = join(layout.staging, `old-${newUlid(now)}`)
  renameSync(path, target)
  return target
}

/** Deletes a tree of any modes; what is gone already is fine. */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, {recursive: true, force: true, maxRetries: 2}).catch(async (error: unknown) => {
      if (systemCode(error) !== 'EACCES') throw error
      // Whoever is not root is stopped by directories that an archive closed.
      await openDirectories(path)
      await rm(path, {recursive: true, force: true, maxRetries: 2})
    })
  } catch (error) {
    throw fromSystemError(error, path, 'remove')
  }
}

async function openDirectories(path: string): Promise<void> {
  await chmod(path, 0o700)
  for (const entry of await readdir(path, {withFileTypes: true}))
    if (entry.isDirectory()) await openDirectories(join(path, entry.name))
}
