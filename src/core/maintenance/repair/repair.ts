/**
 * Finds what contradicts itself in a store and mends it.
 *
 * Order matters: the database and the host's id first, as all else is judged by them; then who is at work; then blobs,
 * then the images that stand on them; and last what nothing needs any more, as `cleanup` does it.
 *
 * The danger: a worker may be at work meanwhile. What has a live lease is left alone, and everything else is looked up
 * again and mended behind the database's write lock, which every step of a worker takes, too.
 */
import {readdirSync} from 'node:fs'
import {hasKnownImages} from '../../db/images.ts'
import {errorToJson, fail, fromSystemError, ImgstoreError, toImgstoreError} from '../../errors.ts'
import {failpoint} from '../../failpoint.ts'
import {cleanup} from '../cleanup.ts'
import type {MaintenanceContext} from '../context.ts'
import {wrongBlobs} from './blobs.ts'
import {wrongDirectories, wrongNode} from './directories.ts'
import type {Finding, RepairFacts, RepairItem} from './finding.ts'
import {wrongImages} from './images.ts'
import {wrongDatabase, wrongRuns} from './rows.ts'

export type {RepairItem, RepairKind} from './finding.ts'
export type RepairReport = {
  isDryRun: boolean
  /** Whether nothing is left to mend. */
  isSound: boolean
  items: RepairItem[]
}

/**
 * Mends what faults did to the store.
 *
 * Guarantees: a dry run changes nothing; a second run finds nothing but what could not be mended (its `error` says
 * why); images that somebody works on are left alone; what was written into an image is never removed while the image
 * is there. An image whose bytes are lost is set back so that its next run makes or fetches them again.
 * Errors: store_invalid when the database itself is damaged.
 */
export async function repair(
  maintenance: MaintenanceContext,
  options: {isDryRun: boolean; settleNode: () => Promise<void>},
): Promise<RepairReport> {
  const {isDryRun} = options
  if (!(await isRightDatabase(maintenance))) return {isDryRun, isSound: true, items: []}
  const items: RepairItem[] = []
  const facts: RepairFacts = {lostBlobs: new Set(), goneOwners: new Set()}
  const stages = [
    wrongDatabase(maintenance),
    wrongNode(maintenance, options.settleNode),
    wrongDirectories(maintenance),
    wrongRuns(maintenance, facts),
    wrongBlobs(maintenance, facts),
    wrongImages(maintenance, facts),
  ]
  for (const stage of stages)
    for await (const finding of stage) {
      const item = await settle(finding, isDryRun)
      if (item) items.push(item)
    }
  items.push(...(await leftovers(maintenance, isDryRun)))
  return {isDryRun, isSound: items.every((item) => item.done), items}
}

/**
 * False when there is neither a database nor anything else to mend. Trees that no database knows are no leftovers: it
 * is the database that is lost, or not the one that was meant.
 */
async function isRightDatabase({database, layout, settings}: MaintenanceContext): Promise<boolean> {
  const path = settings().db
  const hasTrees = [layout.images, layout.overlays].some(hasEntries)
  const isThere = database.path !== ':memory:'
  if (isThere && (!hasTrees || (await hasKnownImages(database.db)))) return true
  if (!isThere && !hasTrees) return false
  const reason = `${isThere ? 'it has never known an image' : 'it is not there'}, and the store ${layout.store} holds some`
  throw fail('store_invalid', {path, reason})
}

function hasEntries(dir: string): boolean {
  try {
    return readdirSync(dir).length > 0
  } catch {
    return false
  }
}

async function settle(finding: Finding, isDryRun: boolean): Promise<RepairItem | undefined> {
  const {mend, ...item} = finding
  if (isDryRun) return {...item, done: false}
  try {
    if (!(await mend())) return undefined
    failpoint('maintenance.mended')
    return {...item, done: true}
  } catch (error) {
    const known = toImgstoreError(error)
    // Of a damaged database nothing else can be judged.
    if (finding.kind === 'database') throw known
    if (error instanceof ImgstoreError || !(error instanceof Error) || !('code' in error))
      return {...item, done: false, error: errorToJson(known)}
    const coded = fromSystemError(error, item.path ?? '', 'mend')
    return {...item, done: false, error: errorToJson(coded)}
  }
}

async function leftovers(
  maintenance: MaintenanceContext,
  isDryRun: boolean,
): Promise<RepairItem[]> {
  const {items} = await cleanup(maintenance, {isDryRun})
  return items.map(({kind, path, reason, error}) => ({
    kind,
    path,
    problem: reason,
    action: kind === 'mount' ? 'unmounted and removed' : 'removed',
    done: !isDryRun && error === undefined,
    ...(error === undefined ? {} : {error}),
  }))
}
