/** The id by which a database that many hosts share knows this one. Made once, kept in the store. */
import {linkSync, mkdirSync, rmSync, writeFileSync} from 'node:fs'
import {dirname} from 'node:path'
import {fail, fromSystemError, systemCode} from '../errors.ts'
import {newUlid, type NodeId} from '../ids.ts'
import {readSmallFile} from '../small-file.ts'

/**
 * Reads the id, or makes one. Many processes may do so at once: the first one's stays.
 *
 * Errors: store_invalid, permission_denied, no_space, io_failed.
 */
export function ensureNodeId(file: string, now: number): NodeId {
  const found = readNodeId(file)
  if (found !== undefined) return found
  const draft = `${file}.${process.pid}.${newUlid(now)}`
  try {
    mkdirSync(dirname(file), {recursive: true})
    writeFileSync(draft, `${newUlid(now)}\n`, {flush: true})
    try {
      linkSync(draft, file)
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error
    }
  } catch (error) {
    throw fromSystemError(error, file, 'write')
  } finally {
    rmSync(draft, {force: true})
  }
  const made = readNodeId(file)
  if (made === undefined)
    throw fail('store_invalid', {path: file, reason: 'the id of this host cannot be read back'})
  return made
}

export function readNodeId(file: string): NodeId | undefined {
  let text: string
  try {
    text = readSmallFile(file).trim()
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw fromSystemError(error, file, 'read')
  }
  if (!/^[A-Za-z0-9._-]{1,128}$/.test(text)) {
    throw fail('store_invalid', {path: file, reason: 'it does not hold the id of a host'})
  }
  return text as NodeId
}
