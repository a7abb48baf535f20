/** What the unpacker's two processes say to each other. The child handles hostile bytes, so its words are checked. */
import {errorTable, type ErrorCode, ImgstoreError, fail} from '../errors.ts'
import type {Profile, UnpackLimits} from '../limits.ts'
import type {ArchiveFormat} from './archive/format.ts'
import type {UnpackWarning} from './warnings.ts'

export type UnpackJob = {
  blobPath: string
  targetDir: string
  profile: Profile
  limits: UnpackLimits
}

export type UnpackProgress = {readBytes: number; entries: number}

export type UnpackResult = {
  format: ArchiveFormat
  /** Entries of any kind. */
  entries: number
  /** Regular files. */
  files: number
  /** Their sizes together, holes included. */
  totalBytes: number
  /** Whether the kernel held the unpacker to its directory (Landlock). */
  isConfined: boolean
  /** The first hundred; `warningsTotal` counts all. */
  warnings: UnpackWarning[]
  warningsTotal: number
}

export type ChildMessage =
  | {kind: 'progress'; progress: UnpackProgress}
  | {kind: 'done'; result: UnpackResult}
  | {kind: 'failed'; code: string; details: Record<string, unknown>}

/** The error that a child reported, as it was there. */
export function errorFromChild(message: {
  code: string
  details: Record<string, unknown>
}): ImgstoreError {
  if (!Object.hasOwn(errorTable, message.code)) {
    return fail('unpack_failed', {reason: 'the unpacker reported something unknown'})
  }
  return new ImgstoreError(message.code as ErrorCode, message.details)
}
