/** What publishing a disk leaves behind in an images root when it is cut off: names with a tilde, which nobody serves. */
import {lstatSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {systemCode} from '../errors.ts'
import {hasFileCalls} from '../syscalls/files.ts'
import {acquireLock, isLocked} from '../syscalls/lock.ts'

/** In the name of everything that is being published. No image id or version has a tilde. */
export const stagingMark = '~publishing'

/** Held by whoever publishes an image, in the image's directory. */
export const publishLockName = `${stagingMark}.lock`

export type PublishingLeftover = {path: string; imageDir: string; changedAtMs: number}

/** Half-published places below `imagesRoot`, whoever may be at work in them. A root that is not there has none. */
export function listPublishingLeftovers(imagesRoot: string): PublishingLeftover[] {
  const chunked = join(imagesRoot, 'chunked')
  return namesIn(chunked).flatMap((id) => {
    const imageDir = join(chunked, id)
    return namesIn(imageDir)
      .filter((name) => name.includes(stagingMark) || name === 'latest.json~')
      .flatMap((name) => {
        const path = join(imageDir, name)
        const changedAtMs = newestOf(path)
        return changedAtMs === undefined ? [] : [{path, imageDir, changedAtMs}]
      })
  })
}

/** Whether somebody publishes in an image's directory, as far as it can be known. Changes nothing. */
export function isPublishing(imageDir: string): boolean {
  return !hasFileCalls() || isLocked(join(imageDir, publishLockName))
}

/**
 * Runs `body` while nobody publishes in an image's directory. False when somebody does, or when locks cannot be taken
 * here, so that it cannot be known.
 */
export async function whileNobodyPublishes(
  imageDir: string,
  body: () => Promise<void>,
): Promise<boolean> {
  if (!hasFileCalls()) return false
  const lock = acquireLock(join(imageDir, publishLockName))
  if (lock === undefined) return false
  try {
    await body()
  } finally {
    lock.release()
  }
  return true
}

/** The last change in a place: chunks are written below it. */
function newestOf(path: string): number | undefined {
  try {
    const found = lstatSync(path)
    const below = found.isDirectory() ? ['chunks'].map((name) => join(path, name)) : []
    const times = below.map((each) => lstatSync(each, {throwIfNoEntry: false})?.mtimeMs ?? 0)
    return Math.max(found.mtimeMs, ...times)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw error
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}
