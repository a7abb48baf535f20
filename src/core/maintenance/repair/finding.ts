import {addRun, cancelRun, getLease, getOpenRun} from '../../db/runs.ts'
import {addEvent} from '../../db/events.ts'
import {updatePlacement, type PlacedImage} from '../../db/images.ts'
import type {Query} from '../../db/query.ts'
import type {Digest} from '../../digest.ts'
import type {ErrorJson} from '../../errors.ts'
import type {ImageName, OwnerId} from '../../ids.ts'
import type {ImageState, RunSummary} from '../../image.ts'
import type {CleanupKind} from '../candidate.ts'
import type {MaintenanceContext} from '../context.ts'

export type RepairKind =
  CleanupKind | 'database' | 'node' | 'directory' | 'owner' | 'run' | 'row' | 'image' | 'shown'

/** One inconsistency, and what was done about it. */
export type RepairItem = {
  kind: RepairKind
  path?: string
  image?: ImageName
  /** What is wrong, in words. */
  problem: string
  /** What mends it, in words. */
  action: string
  /** False in a dry run, and for what could not be mended. */
  done: boolean
  /** Why it could not be mended. */
  error?: ErrorJson
}

/** Something to be mended; `mend` looks again and returns false when there is nothing to do any more. */
export type Finding = Omit<RepairItem, 'done' | 'error'> & {mend: () => Promise<boolean>}

/** What one stage tells the next, so that a dry run finds what the real one would. */
export type RepairFacts = {
  /** Blobs that are there and are not what their name says. */
  lostBlobs: Set<Digest>
  /** Owners of whom it is known that they work no more. */
  goneOwners: Set<OwnerId>
}

/** Whether somebody may be at work on a run: such an image is left alone. */
export async function isAtWork(
  q: Query,
  run: RunSummary | undefined,
  now: number,
  facts: RepairFacts,
): Promise<boolean> {
  if (run?.status !== 'running') return false
  const lease = await getLease(q, run.id)
  if (lease === undefined || facts.goneOwners.has(lease.owner)) return false
  return (lease.expiresAt ?? 0) > now
}

/** Moves an image to another state (or leaves it there) with a new run towards its goal. Inside the caller's transaction. */
export async function setBack(
  maintenance: Pick<MaintenanceContext, 'node' | 'clock'>,
  trx: Query,
  image: PlacedImage,
  change: {to: ImageState; reason: string},
): Promise<void> {
  const {node, clock} = maintenance
  const now = clock.now()
  const open = await getOpenRun(trx, image.id, node)
  if (open) {
    await cancelRun(trx, open.id, now)
    const {id: run, attempt, epoch} = open
    const event = {run, image: image.name, node, at: now, attempt, epoch, from: image.state}
    await addEvent(trx, {...event, kind: 'canceled'})
  }
  const {to, reason} = change
  await updatePlacement(trx, image.id, node, {state: to, held: null}, now)
  const {id: imageId, name, digest, goal} = image
  const run = await addRun(trx, {imageId, image: name, node, digest, goal, now})
  if (to === image.state) return
  await addEvent(trx, {
    run,
    image: name,
    node,
    at: now,
    kind: 'mended',
    attempt: 1,
    epoch: 0,
    from: image.state,
    to,
    detail: {reason},
  })
}
