/** What `cleanup` may remove. */
import {rm} from 'node:fs/promises'
import type {ErrorJson} from '../errors.ts'

export type CleanupKind =
  | 'blob'
  | 'plain'
  | 'part'
  | 'staging'
  | 'tree'
  | 'overlay'
  | 'mount'
  | 'disk'
  | 'quarantine'
  | 'publishing'
  | 'draft'
export type CleanupItem = {
  kind: CleanupKind
  path: string
  /** Bytes on disk that its removal frees. */
  sizeBytes: number
  reason: string
  /** Why it could not be removed. */
  error?: ErrorJson
}

/** Something that can go; `remove` returns false when it turned out to be needed after all. */
export type Candidate = Omit<CleanupItem, 'error'> & {remove: () => Promise<boolean>}

export async function removeFile(path: string): Promise<boolean> {
  await rm(path, {force: true})
  return true
}
