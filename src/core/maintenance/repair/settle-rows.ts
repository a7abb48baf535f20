import {listBlobs, removeBlob} from '../../db/blobs.ts'
import {listPlaced} from '../../db/images.ts'
import {getOpenRun} from '../../db/runs.ts'
import type {ImageName} from '../../ids.ts'
import type {ImageState} from '../../image.ts'
import type {MaintenanceContext} from '../context.ts'
import {setBack} from './finding.ts'
import {lookAt} from './trees.ts'

/**
 * Makes the rows of a database true that comes from another time or place: blobs that are not here are forgotten, and
 * each image goes back to where the files that are here let it go on from. Nothing but the database is changed, and
 * nobody else has it open.
 */
export async function settleRows(
  maintenance: MaintenanceContext,
): Promise<{image: ImageName; from: ImageState; to: ImageState; reason: string}[]> {
  const {database, blobs, node} = maintenance
  const {db} = database
  for (const {digest, size_bytes: sizeBytes} of await listBlobs(db))
    if ((await blobs.stat(digest))?.sizeBytes !== sizeBytes) await removeBlob(db, digest)
  const changed = []
  const facts = {lostBlobs: new Set<never>(), goneOwners: new Set<never>()}
  for (const image of await listPlaced(db, node)) {
    const wrong = image.goal === 'REMOVED' ? undefined : await lookAt(maintenance, image, facts)
    const run = await getOpenRun(db, image.id, node)
    const isSettled = image.state === image.goal || image.state === 'FAILED' || image.held
    if (!wrong && (run ? run.goal === image.goal : isSettled)) continue
    const change = {to: wrong?.to ?? image.state, reason: wrong?.problem ?? 'it had no run'}
    await db.transaction().execute(async (trx) => {
      await setBack(maintenance, trx, image, change)
    })
    if (wrong)
      changed.push({image: image.name, from: image.state, to: wrong.to, reason: wrong.problem})
  }
  return changed
}
