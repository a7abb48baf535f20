import {removeBlob} from '../db/blobs.ts'
import {digestsInUse} from '../db/images.ts'
import type {Digest} from '../digest.ts'
import {failpoint} from '../failpoint.ts'
import type {MaintenanceContext} from './context.ts'

/**
 * Removes a blob unless an image that is not FAILED, or an open run, names it.
 *
 * Guarantees: looked up and removed behind the database's write lock, so no image can begin to need it in between.
 * Returns whether it was removed.
 */
export async function dropBlobIfUnused(
  maintenance: Pick<MaintenanceContext, 'database' | 'blobs'>,
  digest: Digest,
): Promise<boolean> {
  return await maintenance.database.db.transaction().execute(async (trx) => {
    if ((await digestsInUse(trx)).has(digest)) return false
    await removeBlob(trx, digest)
    const wasRemoved = await maintenance.blobs.remove(digest)
    failpoint('maintenance.blob_removed')
    return wasRemoved
  })
}
