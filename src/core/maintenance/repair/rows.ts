/** Rows that contradict one another, and owners and runs that nobody stands behind any more. */
import {hostname} from 'node:os'
import {listUnplacedImages, removeImageRow} from '../../db/images.ts'
import {addNode, listUnknownNodes} from '../../db/owners.ts'
import {cancelRun, listOrphanRuns, listStrandedRuns, unstrandRun} from '../../db/runs.ts'
import {fail} from '../../errors.ts'
import type {MaintenanceContext} from '../context.ts'
import type {Finding, RepairFacts} from './finding.ts'

const HOUR_MS = 3_600_000
/** No lease is longer (`IMGSTORE_LEASE`), and no source may ask for a longer wait. */
const longestLeaseMs = HOUR_MS
const longestWaitMs = 25 * HOUR_MS

/**
 * The database file itself. What only indexes lost is made again from the tables; anything else ends the repair.
 *
 * Errors: store_invalid, with what to do.
 */
export async function* wrongDatabase(maintenance: MaintenanceContext): AsyncIterable<Finding> {
  const {database} = maintenance
  const {path} = database
  if (path === ':memory:') return
  const words = database.integrityCheck()
  if (words.length > 0) {
    if (!words.every(isOfIndex)) throw damaged(path, words)
    yield {
      kind: 'database',
      path,
      problem: `an index is damaged: ${words[0] ?? ''}`,
      action: 'indexes made again from the tables',
      mend: () => {
        database.reindex()
        const left = database.integrityCheck()
        if (left.length > 0) throw damaged(path, left)
        return Promise.resolve(true)
      },
    }
  }
  yield* lostReferences(maintenance)
}

/** What `pragma integrity_check` says of indexes whose tables are whole. Source: SQLite, pragma.html#pragma_integrity_check. */
const isOfIndex = (words: string): boolean =>
  /^(row \d+ missing from index|wrong # of entries in index|non-unique entry in index) /.test(words)

function damaged(path: string, words: string[]): Error {
  const reason = `it is damaged (${words.slice(0, 3).join('; ')})`
  return fail('store_invalid', {path, reason})
}

/** Rows whose parent row is gone. */
async function* lostReferences(maintenance: MaintenanceContext): AsyncIterable<Finding> {
  const {database, clock} = maintenance
  const {path} = database
  // A host's own row holds nothing but its name: it is put back, as everything of that host hangs on it.
  for (const node of await listUnknownNodes(database.db)) {
    yield {
      kind: 'row',
      path,
      problem: `host ${node} has images and is not known`,
      action: 'entered again',
      mend: async () => {
        await addNode(database.db, node, node === maintenance.node ? hostname() : '', clock.now())
        return true
      },
    }
  }
  const orphans = database.orphanRows()
  if (orphans > 0) {
    yield {
      kind: 'row',
      path,
      problem: `${orphans} ${orphans === 1 ? 'row is' : 'rows are'} of an image or a host that is gone`,
      action: 'removed',
      mend: () => Promise.resolve(database.removeOrphanRows() > 0),
    }
  }
  for (const image of await listUnplacedImages(database.db)) {
    yield {
      kind: 'row',
      path,
      image: image.name,
      problem: 'the image is on no host',
      action: 'removed',
      mend: () => removeImageRow(database.db, image.id),
    }
  }
}

/** Owners that are dead, with their runs; and runs that wait for nobody. Those of other hosts are left to them. */
export async function* wrongRuns(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
): AsyncIterable<Finding> {
  const {database, node, clock, settings} = maintenance
  for (const gone of await maintenance.findGoneOwners()) {
    const {owner, isDead} = gone
    if (isDead) facts.goneOwners.add(owner.id)
    yield {
      kind: 'owner',
      problem: `${owner.kind} ${owner.pid} on ${owner.hostname} ${isDead ? 'is dead' : 'has been silent for long'}`,
      action: isDead ? 'forgotten, and its runs freed' : 'forgotten; its leases run out',
      mend: async () => {
        await maintenance.freeGoneOwner(gone)
        return true
      },
    }
  }
  for (const run of await listOrphanRuns(database.db, node)) {
    yield {
      kind: 'run',
      image: run.image,
      problem: `run ${run.id} is ${run.status}, and its image is gone`,
      action: 'canceled',
      mend: async () => {
        await cancelRun(database.db, run.id, clock.now())
        return true
      },
    }
  }
  const now = clock.now()
  const until = {leasedUntil: now + 2 * longestLeaseMs, dueUntil: now + 2 * longestWaitMs}
  for (const run of await listStrandedRuns(database.db, node, until)) {
    yield {
      kind: 'run',
      image: run.image,
      problem: `run ${run.id} is ${run.status} until a time that is too far off`,
      action: run.status === 'running' ? 'its lease ends soon unless it is renewed' : 'due now',
      mend: async () => {
        await unstrandRun(database.db, run.id, {now: clock.now(), leaseMs: settings().leaseMs})
        return true
      },
    }
  }
}
