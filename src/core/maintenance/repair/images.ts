/** Images whose rows say what is not so: mounts first, then states. */
import {existsSync, renameSync} from 'node:fs'
import {join} from 'node:path'
import {getPlacedById, listPlaced, type PlacedImage} from '../../db/images.ts'
import {getOpenRun} from '../../db/runs.ts'
import {readPublication, withdrawDisk} from '../../disks/publications.ts'
import {fail, toImgstoreError} from '../../errors.ts'
import {failpoint} from '../../failpoint.ts'
import {newUlid} from '../../ids.ts'
import type {ImageState, RunSummary} from '../../image.ts'
import {findMounts, mountsBelow, readMountTable, type MountEntry} from '../../mounts/mount-table.ts'
import {unmountSync} from '../../mounts/mount.ts'
import {makeDirectories} from '../../syscalls/make-directories.ts'
import type {MaintenanceContext} from '../context.ts'
import {isAtWork, setBack, type Finding, type RepairFacts} from './finding.ts'
import {lookAt, mountsOverTree, mountsToTakeDown, type Wrong} from './trees.ts'

export async function* wrongImages(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
): AsyncIterable<Finding> {
  const {database, node, clock} = maintenance
  for (const image of await listPlaced(database.db, node)) {
    const run = await getOpenRun(database.db, image.id, node)
    if (await isAtWork(database.db, run, clock.now(), facts)) continue
    yield* wrongMounts(maintenance, facts, image, run)
    // Read again: what was mended may have changed it.
    const fresh = await getPlacedById(database.db, node, image.id)
    if (fresh) yield* wrongState(maintenance, facts, fresh)
  }
}

/** Mounts that the image's state does not have; one by one, the topmost first. */
function* wrongMounts(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
  image: PlacedImage,
  run: RunSummary | undefined,
): Iterable<Finding> {
  const {layout} = maintenance
  const found = strayMounts(maintenance, image, run)
  for (const {mountPoint, source} of found) {
    yield {
      kind: 'mount',
      path: mountPoint,
      image: image.name,
      problem: `${source} is mounted there, and the image is ${image.state}`,
      action: 'unmounted',
      mend: () =>
        whileIdle(maintenance, facts, image, (fresh, open) => {
          const [top] = strayMounts(maintenance, fresh, open).filter(
            (entry) => entry.mountPoint === mountPoint,
          )
          if (top === undefined) return false
          unmountSync(mountPoint)
          return true
        }),
    }
  }
  if (image.kind !== 'disk' || !isShownUnasked(maintenance, image, run)) return
  yield {
    kind: 'shown',
    path: join(layout.disks, `${image.name}.json`),
    image: image.name,
    problem: `the disk is shown, and it is ${image.state}`,
    action: 'taken out of sight',
    mend: () =>
      whileIdle(
        maintenance,
        facts,
        image,
        (fresh, open) =>
          isShownUnasked(maintenance, fresh, open) && withdrawDisk(layout.disks, fresh),
      ),
  }
}

/** On its way up, what is mounted or shown already is what the next step would make. */
function mayComeUp(image: PlacedImage, run: RunSummary | undefined): boolean {
  if (image.held !== undefined) return true
  return image.state === 'ACTIVATING' || (image.state === 'STORED' && run?.goal === 'ACTIVE')
}

function isShownUnasked(
  {layout}: MaintenanceContext,
  image: PlacedImage,
  run: RunSummary | undefined,
): boolean {
  if (image.state === 'ACTIVE' || mayComeUp(image, run)) return false
  return readPublication(layout.disks, image.name) !== undefined
}

function strayMounts(
  {layout}: MaintenanceContext,
  image: PlacedImage,
  run: RunSummary | undefined,
): MountEntry[] {
  if (image.kind === 'disk') return []
  const table = readMountTable()
  const {extra} = mountsToTakeDown(layout, image, table)
  const over = mountsOverTree(layout, image, table)
  if (image.state === 'ACTIVE' || mayComeUp(image, run)) return [...extra, ...over]
  const all = [
    ...findMounts(layout.mountPoint(image.name), table).reverse(),
    ...findMounts(layout.rootfs(image.name), table).reverse(),
  ]
  return all
}

async function* wrongState(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
  image: PlacedImage,
): AsyncIterable<Finding> {
  const {database, node, layout} = maintenance
  if (image.goal !== 'REMOVED') {
    let wrong: Wrong | undefined
    try {
      wrong = await lookAt(maintenance, image, facts)
    } catch (error) {
      yield unreadable(image, error)
      return
    }
    if (wrong) {
      const path = wrong.isTreeLost ? layout.image(image.name) : undefined
      yield {
        kind: 'image',
        ...(path === undefined ? {} : {path}),
        image: image.name,
        problem: `${image.state}, but ${wrong.problem}`,
        action: actionOf(wrong.to),
        mend: () => mendState(maintenance, facts, image),
      }
      return
    }
  }
  const run = await getOpenRun(database.db, image.id, node)
  if (!isStuck(image, run)) return
  yield {
    kind: 'run',
    image: image.name,
    problem: run
      ? `${image.state} on the way to ${image.goal}, but its run goes to ${run.goal}`
      : `${image.state} on the way to ${image.goal}, but it has no run`,
    action: 'a run was made',
    mend: () =>
      whileIdle(maintenance, facts, image, async (fresh, open, trx) => {
        if (!isStuck(fresh, open)) return false
        await setBack(maintenance, trx, fresh, {to: fresh.state, reason: 'it had no run'})
        return true
      }),
  }
}

/** What the disk does not give is nothing to judge by: no tree is thrown away for it. */
function unreadable(image: PlacedImage, error: unknown): Finding {
  return {
    kind: 'image',
    image: image.name,
    problem: `${image.state}, and its files cannot be read`,
    action: 'look at the disk',
    mend: () => Promise.reject(toImgstoreError(error)),
  }
}

function isStuck(image: PlacedImage, run: RunSummary | undefined): boolean {
  if (run) return run.goal !== image.goal
  if (image.state === 'FAILED') return image.goal === 'REMOVED'
  return image.held === undefined && image.state !== image.goal
}

function actionOf(to: ImageState): string {
  const next = {
    NEW: 'it is fetched again',
    DOWNLOADED: 'its tree is made again',
    STORED: 'it is taken up again',
  }
  return `set back to ${to}: ${next[to as keyof typeof next]} by the next worker`
}

async function mendState(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
  image: PlacedImage,
): Promise<boolean> {
  const retired: string[] = []
  const isMended = await whileIdle(maintenance, facts, image, async (fresh, _, trx) => {
    const wrong = await lookAt(maintenance, fresh, facts)
    if (!wrong || fresh.goal === 'REMOVED') return false
    if (fresh.state === 'ACTIVE' || wrong.isTreeLost) takeDown(maintenance, fresh, wrong)
    if (wrong.isTreeLost) retired.push(...retireTree(maintenance, fresh))
    await setBack(maintenance, trx, fresh, {to: wrong.to, reason: wrong.problem})
    return true
  })
  failpoint('maintenance.set_back')
  for (const path of retired) await maintenance.removeTree(path)
  return isMended
}

/** Errors: mount_busy. What is in use stays as it is until it is not. */
function takeDown(maintenance: MaintenanceContext, image: PlacedImage, wrong: Wrong): void {
  const {layout} = maintenance
  if (image.kind === 'disk') {
    withdrawDisk(layout.disks, image)
    return
  }
  for (const place of [layout.mountPoint(image.name), layout.rootfs(image.name)])
    for (let left = findMounts(place).length; left > 0; left--) unmountSync(place)
  if (!wrong.isTreeLost) return
  const path = layout.image(image.name)
  const [below] = mountsBelow(path)
  if (below) throw fail('mount_busy', {path, below: below.mountPoint})
}

/** Takes a tree that is of no use out of its place; what was written above it stays in the overlay. */
function retireTree({layout, clock}: MaintenanceContext, image: PlacedImage): string[] {
  const path = layout.image(image.name)
  if (!existsSync(path)) return []
  makeDirectories(layout.staging, 0o700)
  const target = join(layout.staging, `old-${newUlid(clock.now())}`)
  renameSync(path, target)
  return [target]
}

/** Runs `body` behind the write lock with the image as it is now, unless somebody is at work on it. */
async function whileIdle(
  maintenance: MaintenanceContext,
  facts: RepairFacts,
  image: PlacedImage,
  body: (
    fresh: PlacedImage,
    run: RunSummary | undefined,
    trx: Parameters<typeof getOpenRun>[0],
  ) => boolean | Promise<boolean>,
): Promise<boolean> {
  const {database, node, clock} = maintenance
  return await database.db.transaction().execute(async (trx) => {
    const fresh = await getPlacedById(trx, node, image.id)
    if (!fresh) return false
    const run = await getOpenRun(trx, image.id, node)
    if (await isAtWork(trx, run, clock.now(), facts)) return false
    return await body(fresh, run, trx)
  })
}
