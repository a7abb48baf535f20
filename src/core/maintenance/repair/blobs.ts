/** Rows of blobs and their files. A file that is not as its row says is read: its name is its digest. */
import {getBlob, listBlobs, putBlob, removeBlob} from '../../db/blobs.ts'
import {digestsInUse, listPlaced} from '../../db/images.ts'
import {listRuns} from '../../db/runs.ts'
import type {Digest} from '../../digest.ts'
import type {MaintenanceContext} from '../context.ts'
import type {Finding, RepairFacts} from './finding.ts'

export async function* wrongBlobs(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
): AsyncIterable<Finding> {
  yield* wrongRows(maintenance, facts)
  yield* missingRows(maintenance, facts)
}

async function* wrongRows(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
): AsyncIterable<Finding> {
  const {database, blobs} = maintenance
  for (const {digest, size_bytes: sizeBytes} of await listBlobs(database.db)) {
    const file = await blobs.stat(digest)
    const path = blobs.pathOf(digest)
    if (!file) {
      yield {
        kind: 'row',
        path,
        problem: 'the database has this blob, and the file is gone',
        action: 'the row was removed',
        mend: () => forgetLost(maintenance, digest),
      }
    } else if (file.sizeBytes !== sizeBytes) {
      const problem = `the blob has ${file.sizeBytes} bytes, not the ${sizeBytes} of its row`
      yield await judge(maintenance, facts, digest, problem)
    }
  }
}

async function forgetLost(maintenance: MaintenanceContext, digest: Digest): Promise<boolean> {
  const {database, blobs} = maintenance
  return await database.db.transaction().execute(async (trx) => {
    if ((await blobs.stat(digest)) || !(await getBlob(trx, digest))) return false
    await removeBlob(trx, digest)
    return true
  })
}

/** Files that images need and that no row has. Those that a run is about to enter are its own. */
async function* missingRows(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
): AsyncIterable<Finding> {
  const {database, blobs, node} = maintenance
  const known = new Set((await listBlobs(database.db)).map(({digest}) => digest))
  const used = await digestsInUse(database.db)
  const open = await listRuns(database.db, {node, isOpen: true, limit: 100_000})
  const early = (await listPlaced(database.db, node))
    .filter((image) => ['NEW', 'DOWNLOADING'].includes(image.state))
    .map((image) => image.digest)
  const fetched = new Set(open.map((run) => run.digest).filter((each) => early.includes(each)))
  for await (const {kind, digest} of blobs.list()) {
    if (kind !== 'blob' || digest === undefined) continue
    if (known.has(digest) || !used.has(digest) || fetched.has(digest)) continue
    yield await judge(maintenance, facts, digest, 'the database does not have this blob')
  }
}

/** Reads a blob: what is right is entered, what is not goes to quarantine. */
async function judge(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
  digest: Digest,
  problem: string,
): Promise<Finding> {
  const {database, blobs, clock} = maintenance
  const found = await blobs.verify(digest)
  const path = blobs.pathOf(digest)
  if (found.ok) {
    return {
      kind: 'row',
      path,
      problem: `${problem}; its bytes are right`,
      action: 'the row was corrected',
      mend: async () => {
        await putBlob(database.db, digest, found.sizeBytes, clock.now())
        return true
      },
    }
  }
  facts.lostBlobs.add(digest)
  return {
    kind: 'blob',
    path,
    problem: `${problem}; its bytes are not what its name says`,
    action: 'moved to quarantine',
    mend: async () => {
      await removeBlob(database.db, digest)
      return (await blobs.quarantine(digest)) !== undefined
    },
  }
}
