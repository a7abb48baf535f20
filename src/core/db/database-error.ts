import {fail, fromSystemError, systemCode} from '../errors.ts'

/** SQLite's errors as ours. What only a bug can cause (a broken constraint, wrong SQL) passes through as it is. */
export function fromDatabaseError(error: unknown, path: string): Error {
  const code = systemCode(error) ?? ''
  if (/^SQLITE_(BUSY|LOCKED)/.test(code)) return fail('store_busy', {path}, {cause: error})
  if (code === 'SQLITE_FULL') return fail('no_space', {path}, {cause: error})
  if (code.startsWith('SQLITE_READONLY')) {
    return fail('permission_denied', {path, action: 'write'}, {cause: error})
  }
  if (code.startsWith('SQLITE_CANTOPEN')) {
    return fail('permission_denied', {path, action: 'open'}, {cause: error})
  }
  if (code === 'SQLITE_NOTADB' || code.startsWith('SQLITE_CORRUPT')) {
    const reason = error instanceof Error ? error.message : 'not a database'
    return fail('store_invalid', {path, reason}, {cause: error})
  }
  if (code.startsWith('SQLITE_IOERR'))
    return fail('io_failed', {path, reason: code}, {cause: error})
  if (code.startsWith('SQLITE_') && error instanceof Error) return error
  return fromSystemError(error, path, 'open')
}
