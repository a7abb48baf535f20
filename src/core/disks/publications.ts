/**
 * Disks that are ACTIVE, as `serve` finds them: a folder with one JSON file for each, and beside it the disk's bytes
 * under the id of the tree they were made as. The JSON file is what makes a disk visible, and comes and goes by one
 * rename; so a reader needs no database, and no right but to read this folder.
 */
import {
  copyFileSync,
  chmodSync,
  constants,
  linkSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import {dirname, join} from 'node:path'
import type {Digest} from '../digest.ts'
import {fromSystemError, systemCode} from '../errors.ts'
import {syncDirectoryNow, syncFileNow} from '../syscalls/durable.ts'
import {failpoint} from '../failpoint.ts'
import {readSmallFile} from '../small-file.ts'
import type {StoreDisk} from '../stream.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

type Note = {schema: string; name: string; file: string; size: number; sha256: Digest}

const SCHEMA = 'imgstore.disk.v1'
const FILE = /^[0-9A-Za-z-]{1,64}\.raw$/

/** What a file of the folder is for; undefined for what imgstore did not put there. */
export function parsePublicationName(
  file: string,
): {kind: 'note' | 'bytes' | 'temporary'; name: string} | undefined {
  const match = /^(.+)\.(json|raw|tmp)$/.exec(file)
  const kinds = {json: 'note', raw: 'bytes', tmp: 'temporary'} as const
  if (match?.[1] === undefined) return undefined
  return {kind: kinds[match[2] as keyof typeof kinds], name: match[1]}
}

/**
 * Shows a disk: `source` under `treeId`, without a copy where the file system links. Synchronous: it runs behind the
 * journal's fence.
 *
 * Guarantees: idempotent; durable when it returns; a reader sees the disk that was shown before, or this one, whole.
 * Errors: no_space, io_failed, permission_denied.
 */
export function publishDisk(
  dir: string,
  disk: {name: string; treeId: string; source: string; size: number; sha256: Digest},
): void {
  const file = `${disk.treeId}.raw`
  const note: Note = {
    schema: SCHEMA,
    name: disk.name,
    file,
    size: disk.size,
    sha256: disk.sha256,
  }
  const notePath = join(dir, `${disk.name}.json`)
  try {
    if (makeDirectories(dir) !== undefined) syncDirectoryNow(dirname(dir))
    // Whoever serves may be another user, whatever the umask here is.
    chmodSync(dir, 0o755)
    linkBytes(disk.source, join(dir, file))
    failpoint('disks.linked')
    const temporary = join(dir, `${disk.name}.tmp`)
    writeFileSync(temporary, `${JSON.stringify(note)}\n`, {flush: true})
    chmodSync(temporary, 0o644)
    const before = readNote(notePath)
    renameSync(temporary, notePath)
    syncDirectoryNow(dir)
    failpoint('disks.published')
    if (before !== undefined && before.file !== file) rmSync(join(dir, before.file), {force: true})
  } catch (error) {
    throw fromSystemError(error, notePath, 'write')
  }
}

function linkBytes(source: string, target: string): void {
  // Whoever serves may be another user; nobody is to write.
  chmodSync(source, 0o444)
  try {
    linkSync(source, target)
  } catch (error) {
    const code = systemCode(error)
    if (code === 'EEXIST') {
      const [old, fresh] = [statSync(target), statSync(source)]
      if (old.ino === fresh.ino && old.dev === fresh.dev) return
      rmSync(target)
      linkBytes(source, target)
      return
    }
    if (code !== 'EMLINK' && code !== 'EPERM' && code !== 'EXDEV') throw error
    const temporary = target.replace(/\.raw$/, '.tmp')
    rmSync(temporary, {force: true})
    copyFileSync(source, temporary, constants.COPYFILE_FICLONE)
    syncFileNow(temporary)
    renameSync(temporary, target)
  }
}

/**
 * Takes a disk out of sight, with the bytes that its note names and those of `treeId`: a note that is cut names nothing.
 * Who has it open reads on: its bytes go when the last of them is done. Idempotent. Returns whether there was a note.
 *
 * Errors: io_failed, permission_denied.
 */
export function withdrawDisk(
  dir: string,
  {name, treeId}: {name: string; treeId?: string | undefined},
): boolean {
  const notePath = join(dir, `${name}.json`)
  try {
    const note = readNote(notePath)
    const isShown = statOf(notePath) !== undefined
    rmSync(join(dir, `${name}.tmp`), {force: true})
    if (isShown) {
      rmSync(notePath, {force: true})
      syncDirectoryNow(dir)
      failpoint('disks.withdrawn')
    }
    for (const file of new Set([note?.file, treeId && `${treeId}.raw`]))
      if (file) rmSync(join(dir, file), {force: true})
    return isShown
  } catch (error) {
    throw fromSystemError(error, notePath, 'remove')
  }
}

/** The disk of that name, if it is shown. */
export function readPublication(dir: string, name: string): StoreDisk | undefined {
  const note = readNote(join(dir, `${name}.json`))
  return note && toDisk(dir, note)
}

/**
 * Reads the folder: a function that gives what is shown now, and looks closer only when the folder has changed. A
 * folder that is not there, or a note that cannot be read, shows nothing.
 */
export function openPublications(dir: string): () => readonly StoreDisk[] {
  let seen: string | undefined
  let disks: readonly StoreDisk[] = []
  return () => {
    const found = statOf(dir)
    const version = found && `${found.dev}:${found.ino}:${found.mtimeNs}`
    // A folder that changed a moment ago may change again within the clock's step, and look the same.
    const isSettled =
      found !== undefined && BigInt(Date.now()) * 1_000_000n - found.mtimeNs > 50_000_000n
    if (version !== undefined && version === seen) return disks
    disks = found === undefined ? [] : readAll(dir)
    seen = isSettled ? version : undefined
    return disks
  }
}

function readAll(dir: string): readonly StoreDisk[] {
  let names: string[]
  try {
    names = readdirSync(dir)
  } catch {
    return []
  }
  return names
    .filter((name) => name.endsWith('.json'))
    .toSorted()
    .flatMap((name) => {
      const note = readNote(join(dir, name))
      return note === undefined || `${note.name}.json` !== name ? [] : [toDisk(dir, note)]
    })
}

function toDisk(dir: string, note: Note): StoreDisk {
  const {name, size, sha256} = note
  return {id: name, name, isPublic: true, path: join(dir, note.file), size, sha256}
}

function readNote(path: string): Note | undefined {
  try {
    const note = JSON.parse(readSmallFile(path)) as Partial<Note>
    const isWhole =
      note.schema === SCHEMA &&
      typeof note.name === 'string' &&
      typeof note.file === 'string' &&
      FILE.test(note.file) &&
      Number.isSafeInteger(note.size) &&
      /^[0-9a-f]{64}$/.test(String(note.sha256))
    return isWhole ? (note as Note) : undefined
  } catch {
    return undefined
  }
}

function statOf(path: string): {dev: bigint; ino: bigint; mtimeNs: bigint} | undefined {
  return statSync(path, {bigint: true, throwIfNoEntry: false})
}
