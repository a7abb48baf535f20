/** Mends drift between the database and the kernel's mount table: after a reboot, or when somebody unmounted by hand. */
import {readPublication, withdrawDisk} from '../disks/publications.ts'
import {addEvent} from '../db/events.ts'
import {getPlacedById, listPlaced, updatePlacement, type PlacedImage} from '../db/images.ts'
import {addRun, getOpenRun} from '../db/runs.ts'
import {toImgstoreError} from '../errors.ts'
import {failpoint} from '../failpoint.ts'
import type {RunEvent} from '../image.ts'
import {mountSource} from '../layout.ts'
import {findMounts, readMountTable, tablePath, type MountEntry} from '../mounts/mount-table.ts'
import {unmountSync} from '../mounts/mount.ts'
import type {ImagesContext} from './context.ts'
import {isDiskShown} from './disk.ts'
import {unmountIndex} from './mounting.ts'

/** Looks at every image without an open run, and makes a run for each that is not where it should be. */
export async function reconcile(
  images: ImagesContext,
  onEvent?: (event: RunEvent) => void,
): Promise<void> {
  const placed = await listPlaced(images.database.db, images.node)
  const settled = placed.filter(
    (image) => ['STORED', 'ACTIVE'].includes(image.state) && image.goal !== 'REMOVED',
  )
  if (settled.length === 0) return
  const table = readMountTable()
  for (const image of settled) {
    if (image.kind === 'disk') {
      await reconcileDisk(images, image, onEvent)
      continue
    }
    const mounts = mountsOf(images, image, table)
    if (image.state === 'ACTIVE' && mounts.length === 0) await mend(images, image, onEvent)
    else if (image.state === 'ACTIVE' && mounts.length > 1 && areOurs(image, mounts))
      unmountExtra(images, image, mounts.length - 1)
    else if (image.state === 'STORED') await settleStored(images, image, mounts, table)
  }
}

function mountsOf(images: ImagesContext, image: PlacedImage, table: MountEntry[]): MountEntry[] {
  return findMounts(images.layout.mountPoint(image.name), table)
}

/** What somebody else mounted in our place is not ours to take away unasked. */
function areOurs(image: PlacedImage, mounts: MountEntry[]): boolean {
  return mounts.every((entry) => entry.source === mountSource(image.name))
}

/** Whether the kernel's table, as this process sees it, has the mount of an image. */
export function isMounted(
  images: ImagesContext,
  name: PlacedImage['name'],
  table: MountEntry[],
): boolean {
  const place = tablePath(images.layout.mountPoint(name))
  return table.some((entry) => entry.mountPoint === place)
}

function isUp(images: ImagesContext, image: PlacedImage): boolean {
  return image.kind === 'disk'
    ? isDiskShown(images, image)
    : findMounts(images.layout.mountPoint(image.name)).length > 0
}

/** A disk is shown when it is ACTIVE, and only then. */
async function reconcileDisk(
  images: ImagesContext,
  image: PlacedImage,
  onEvent?: (event: RunEvent) => void,
): Promise<void> {
  const {database, layout, node, log} = images
  if (image.state === 'ACTIVE') {
    if (!isDiskShown(images, image)) await mend(images, image, onEvent)
  } else if (image.goal === 'STORED' && readPublication(layout.disks, image.name)) {
    if (await getOpenRun(database.db, image.id, node)) return
    if (withdrawDisk(layout.disks, image))
      log.warn({image: image.name}, 'took a disk out of sight that nobody asked for')
  }
}

/** ACTIVE without a mount: back to STORED, with a run towards its goal. */
async function mend(
  images: ImagesContext,
  image: PlacedImage,
  onEvent?: (event: RunEvent) => void,
): Promise<void> {
  const {database, node, clock, log} = images
  const event = await database.db.transaction().execute(async (trx) => {
    const now = clock.now()
    const fresh = await getPlacedById(trx, node, image.id)
    if (fresh?.state !== 'ACTIVE' || (await getOpenRun(trx, image.id, node))) return undefined
    if (isUp(images, image)) return undefined
    // What is left of it, as bytes whose note cannot be read.
    if (image.kind === 'disk') withdrawDisk(images.layout.disks, fresh)
    await updatePlacement(trx, image.id, node, {state: 'STORED', held: null}, now)
    const run = await addRun(trx, {
      imageId: image.id,
      image: image.name,
      node,
      digest: image.digest,
      goal: fresh.goal,
      now,
    })
    return await addEvent(trx, {
      run,
      image: image.name,
      node,
      at: now,
      kind: 'mended',
      attempt: 1,
      epoch: 0,
      from: 'ACTIVE',
      to: 'STORED',
      detail: {reason: image.kind === 'disk' ? 'it was not shown' : 'the mount was gone'},
    })
  })
  if (!event) return
  failpoint('images.mended')
  log.warn(
    {run_id: event.run, image: image.name},
    image.kind === 'disk'
      ? 'disk was ACTIVE and not shown; it is shown again'
      : 'image was ACTIVE without a mount; it is mounted again',
  )
  onEvent?.(event)
}

/** STORED: mounted again when the host has learned to, unmounted when a mount is left that nobody wants. */
async function settleStored(
  images: ImagesContext,
  image: PlacedImage,
  mounts: MountEntry[],
  table: MountEntry[],
): Promise<void> {
  if (image.goal === 'ACTIVE') {
    if (image.held?.code !== 'host_cannot_mount' || !(await canMount(images, image))) return
    await openRunFor(images, image)
  } else if (image.held === undefined) {
    const hasIndex = findMounts(images.layout.rootfs(image.name), table).length > 0
    const isMounted = mounts.length > 0 && areOurs(image, mounts)
    if (!isMounted && !(hasIndex && mounts.length === 0)) return
    if (await getOpenRun(images.database.db, image.id, images.node)) return
    if (isMounted && !unmountExtra(images, image, mounts.length)) return
    if (hasIndex && unmountIndex(images, image))
      images.log.warn({image: image.name}, 'unmounted an index that nobody asked for')
  }
}

/** What an index needs of the host, as well as what every image needs. */
async function canMount(images: ImagesContext, image: PlacedImage): Promise<boolean> {
  if (!(await images.canMount()).isAble) return false
  return image.treeBackend !== 'erofs' || (await images.canMountErofs()).isAble
}

async function openRunFor(images: ImagesContext, image: PlacedImage): Promise<void> {
  const {database, node, clock} = images
  await database.db.transaction().execute(async (trx) => {
    const now = clock.now()
    const fresh = await getPlacedById(trx, node, image.id)
    if (fresh?.state !== image.state || fresh.goal !== image.goal) return
    if (await getOpenRun(trx, image.id, node)) return
    await updatePlacement(trx, image.id, node, {held: null}, now)
    await addRun(trx, {
      imageId: image.id,
      image: image.name,
      node,
      digest: image.digest,
      goal: fresh.goal,
      now,
    })
  })
}

/** Returns whether they are gone. */
function unmountExtra(images: ImagesContext, image: PlacedImage, count: number): boolean {
  try {
    for (let left = count; left > 0; left--) unmountSync(images.layout.mountPoint(image.name))
    images.log.warn({image: image.name, count}, 'unmounted what nobody asked for')
    return true
  } catch (error) {
    images.log.warn(
      {image: image.name, error: toImgstoreError(error).message},
      'a mount that nobody asked for is in use',
    )
    return false
  }
}
