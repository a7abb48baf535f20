/** SQLite's error codes as ours. */
import {fail, fromSystemError, systemCode, type ImgstoreError} from '../errors.ts'

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
    return fail('permission_denied', {path, action: 'write'}, {cause: error})
  }
  if (code === 'SQLITE_NOTADB' || code.startsWith('SQLITE_CORRUPT')) {
    const reason = error instanceof Error ? error.message : 'not a database'
    return fail('store_invalid', {path, reason}, {cause: error})
  }
  if (code.startsWith('SQLITE_CANTOPEN')) {
    return fail('permission_denied', {path, action: 'open'}, {cause: error})
  }
  if (code.startsWith('SQLITE_IOERR')) {
    const reason = `${error instanceof Error ? error.message : ''} (${code})`
    return fail('io_failed', {path, reason}, {cause: error})
  }
  return undefined
}

/** Any error met while opening the database at `path`. */
export function fromDatabaseError(error: unknown, path: string): ImgstoreError {
  return codedDatabaseError(error, path) ?? fromSystemError(error, path, 'open')
}
