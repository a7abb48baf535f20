/** SQLite's error codes as ours. */
import {closeSync, constants, openSync, readSync, rmSync} from 'node:fs'
import {fail, fromSystemError, systemCode, type ImgstoreError} from '../errors.ts'
import {MiB} from '../limits.ts'

/** What went wrong with the database file, or undefined for anything else (a constraint, a wrong statement). */
export function codedDatabaseError(error: unknown, path: string): ImgstoreError | undefined {
  const code = systemCode(error) ?? ''
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) {
    return fail('store_busy', {path}, {cause: error})
  }
  // The second: the index of the log beside the database could not be made larger, which takes no more than room.
  if (code === 'SQLITE_FULL' || code === 'SQLITE_IOERR_SHMSIZE') {
    return fail('no_space', {path}, {cause: error})
  }
  if (code.startsWith('SQLITE_READONLY')) {
    return (
      whyRefused(error, path, 'write') ??
      fail('permission_denied', {path, action: 'write'}, {cause: error})
    )
  }
  if (code === 'SQLITE_NOTADB' || code.startsWith('SQLITE_CORRUPT')) {
    const unreadable = whyNotRead(path)
    if (unreadable) return fromSystemError(unreadable, path, 'read')
    const reason = error instanceof Error ? error.message : 'not a database'
    return fail('store_invalid', {path, reason}, {cause: error})
  }
  if (code.startsWith('SQLITE_CANTOPEN')) {
    // It, or what SQLite keeps beside it, could not be opened a moment ago.
    const reason = `it could not be opened (${code})`
    return whyRefused(error, path, 'open') ?? fail('io_failed', {path, reason})
  }
  if (code.startsWith('SQLITE_IOERR')) {
    const reason = `${error instanceof Error ? error.message : ''} (${code})`
    return fail('io_failed', {path, reason}, {cause: error})
  }
  return undefined
}

/** SQLite keeps the system's reason to itself, so the file is tried once more, and one beside it, as it keeps there. */
function whyRefused(error: unknown, path: string, action: string): ImgstoreError | undefined {
  const beside = `${path}-probe-${process.pid}`
  try {
    closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT, 0o644))
    closeSync(openSync(beside, constants.O_RDWR | constants.O_CREAT, 0o644))
    rmSync(beside, {force: true})
    return undefined
  } catch (reason) {
    if (['EIO', 'ENOSPC', 'EDQUOT', 'EROFS'].includes(systemCode(reason) ?? ''))
      return fromSystemError(reason, path, action)
    return fail('permission_denied', {path, action}, {cause: error})
  }
}

/** SQLite calls a file malformed that the disk does not give back; undefined for one that can be read to its end. */
function whyNotRead(path: string): unknown {
  try {
    const file = openSync(path, 'r')
    try {
      const piece = Buffer.allocUnsafe(MiB)
      while (readSync(file, piece) > 0);
      return undefined
    } finally {
      closeSync(file)
    }
  } catch (error) {
    return systemCode(error) === 'EIO' ? error : undefined
  }
}

/** Any error met while opening the database at `path`. */
export function fromDatabaseError(error: unknown, path: string): ImgstoreError {
  return codedDatabaseError(error, path) ?? fromSystemError(error, path, 'open')
}
