/** Rows for tests of the database: a node, an image with its placement and an open run. */
import {join} from 'node:path'
import type {Clock} from '../../src/core/clock.ts'
import {openJournal, type ImageJournal} from '../../src/core/db/journal.ts'
import {addImage, addPlacement, updatePlacement} from '../../src/core/db/images.ts'
import {openDatabase, type Database} from '../../src/core/db/open.ts'
import {addNode} from '../../src/core/db/owners.ts'
import {addRun} from '../../src/core/db/runs.ts'
import type {Digest} from '../../src/core/digest.ts'
import type {ImageName, NodeId, RunId} from '../../src/core/ids.ts'
import type {Goal, ImageState} from '../../src/core/image.ts'
import {FixedClock} from './fixed-clock.ts'
import {withTempDir} from './temp-dir.ts'

export const node = 'node-one' as NodeId

export type TempDatabase = {
  dir: string
  path: string
  database: Database
  clock: FixedClock
  journal: ImageJournal
  /** Enters an image with an open run. */
  add: (
    name: string,
    options?: AddOptions,
  ) => Promise<{imageId: number; run: RunId; digest: Digest}>
}

export type AddOptions = {digest?: string; goal?: Goal; state?: ImageState; dueAt?: number}

export async function withTempDatabase<T>(body: (context: TempDatabase) => Promise<T>): Promise<T> {
  return await withTempDir(async (dir) => {
    const path = join(dir, 'store.db')
    const database = await openDatabase(path)
    const clock = new FixedClock()
    try {
      await addNode(database.db, node, 'host', clock.now())
      return await body({
        dir,
        path,
        database,
        clock,
        journal: openJournal(database, node, clock),
        add: (name, options = {}) => addImageAndRun(database, clock, name, options),
      })
    } finally {
      await database.close()
    }
  })
}

export async function addImageAndRun(
  database: Database,
  clock: Clock,
  text: string,
  options: AddOptions,
): Promise<{imageId: number; run: RunId; digest: Digest}> {
  const name = text as ImageName
  const digest = (options.digest ?? name.padEnd(64, '0').slice(0, 64)) as Digest
  const goal = options.goal ?? 'ACTIVE'
  const now = clock.now()
  return await database.db.transaction().execute(async (trx) => {
    const imageId = await addImage(trx, {
      name,
      url: `http://host/${name}`,
      digest,
      kind: 'rootfs',
      now,
    })
    const placement = {imageId, node, goal, profile: 'strict' as const, limits: {}, now}
    await addPlacement(trx, {...placement, backend: 'auto', isBlobVerified: false})
    if (options.state) await updatePlacement(trx, imageId, node, {state: options.state}, now)
    const dueAt = options.dueAt ?? now
    const run = await addRun(trx, {imageId, image: name, node, digest, goal, now: dueAt})
    if (dueAt > now)
      await trx.updateTable('runs').set({status: 'waiting'}).where('id', '=', run).execute()
    return {imageId, run, digest}
  })
}
