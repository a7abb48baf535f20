/** Leftovers that no row knows of, and whose age alone tells that nobody makes them any more. */
import {readdirSync, statSync} from 'node:fs'
import {join} from 'node:path'
import {restoreLockOf, stagedPathOf} from '../db/open.ts'
import {isPublishing, listPublishingLeftovers, whileNobodyPublishes} from '../disks/leftovers.ts'
import type {Layout} from '../layout.ts'
import {removeFile, type Candidate} from './candidate.ts'
import type {MaintenanceContext} from './context.ts'
import {diskUsage} from './disk-usage.ts'

/** What publishing left in the images root: that is a person's directory, so nothing else there is looked at. */
export async function* halfPublished(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  const {clock} = maintenance
  const {imagesRoot, staleAfterMs} = maintenance.settings()
  for (const {path, imageDir, changedAtMs} of listPublishingLeftovers(imagesRoot)) {
    if (clock.now() - changedAtMs < staleAfterMs || isPublishing(imageDir)) continue
    yield {
      kind: 'publishing',
      path,
      sizeBytes: await diskUsage(path),
      reason: 'publishing it was cut off',
      remove: () => whileNobodyPublishes(imageDir, () => maintenance.removeTree(path)),
    }
  }
}

/** Drafts of the id of this host that nobody linked into place, and what a restore left that was cut off. */
export async function* drafts(maintenance: MaintenanceContext): AsyncIterable<Candidate> {
  const {clock, layout, database} = maintenance
  const {staleAfterMs} = maintenance.settings()
  for (const {path, changedAtMs} of [...listDrafts(layout), ...listStaged(database.path)]) {
    if (clock.now() - changedAtMs < staleAfterMs) continue
    const sizeBytes = await diskUsage(path)
    yield {kind: 'draft', path, sizeBytes, reason: 'left behind', remove: () => removeFile(path)}
  }
}

/** While a restore is at work nobody has the database open, so what is there is of one that is not. */
function listStaged(databasePath: string): {path: string; changedAtMs: number}[] {
  if (databasePath === ':memory:') return []
  const staged = stagedPathOf(databasePath)
  const paths = ['', '-wal', '-shm', '-journal'].map((end) => `${staged}${end}`)
  return [...paths, restoreLockOf(databasePath)].flatMap((path) => {
    const found = statSync(path, {throwIfNoEntry: false})
    return found ? [{path, changedAtMs: found.mtimeMs}] : []
  })
}

function listDrafts(layout: Layout): {path: string; changedAtMs: number}[] {
  let names: string[]
  try {
    names = readdirSync(layout.store)
  } catch {
    return []
  }
  return names
    .filter((name) => /^node-id\.\d+\.[0-9A-Z]{26}$/.test(name))
    .flatMap((name) => {
      const path = join(layout.store, name)
      const found = statSync(path, {throwIfNoEntry: false})
      return found ? [{path, changedAtMs: found.mtimeMs}] : []
    })
}
