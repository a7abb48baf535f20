/** What is known of images, put together for those who ask. */
import {getBlob} from '../db/blobs.ts'
import {getPlaced, listPlaced, type PlacedImage} from '../db/images.ts'
import {getLatestRun} from '../db/runs.ts'
import {fail} from '../errors.ts'
import type {ImageName} from '../ids.ts'
import type {ImageStatus} from '../image.ts'
import {redact} from '../log.ts'
import {readMountTable, type MountEntry} from '../mounts/mount-table.ts'
import type {ImagesContext} from './context.ts'
import {shownPath} from './disk.ts'
import {isMounted} from './reconcile.ts'
import {readTreeNote, type TreeNote} from './trees.ts'

export async function statusOf(images: ImagesContext, name: ImageName): Promise<ImageStatus> {
  const status = await findStatus(images, name)
  if (!status) throw fail('image_not_found', {name})
  return status
}

export async function findStatus(
  images: ImagesContext,
  name: ImageName,
): Promise<ImageStatus | undefined> {
  const image = await getPlaced(images.database.db, images.node, name)
  return image && (await describe(images, image, readMountTable()))
}

export async function listStatus(images: ImagesContext): Promise<ImageStatus[]> {
  const placed = await listPlaced(images.database.db, images.node)
  if (placed.length === 0) return []
  const table = readMountTable()
  const all: ImageStatus[] = []
  for (const image of placed) all.push(await describe(images, image, table))
  return all
}

async function describe(
  images: ImagesContext,
  image: PlacedImage,
  table: MountEntry[],
): Promise<ImageStatus> {
  const {database, layout, node} = images
  const blob = await getBlob(database.db, image.digest)
  const run = await getLatestRun(database.db, image.id, node)
  const isUp = image.state === 'ACTIVE'
  return {
    name: image.name,
    imageKind: image.kind,
    state: image.state,
    goal: image.goal,
    url: redact(image.url),
    digest: image.digest,
    profile: image.profile,
    limits: image.limits,
    backend: image.backend,
    ...(image.treeBackend === undefined ? {} : {treeBackend: image.treeBackend}),
    createdAt: image.createdAt,
    updatedAt: image.updatedAt,
    ...(blob ? {sizeBytes: blob.size_bytes} : {}),
    ...(image.entries === undefined ? {} : {entries: image.entries}),
    ...(image.treeBytes === undefined ? {} : {treeBytes: image.treeBytes}),
    ...(isUp && image.kind === 'rootfs'
      ? {mountPoint: layout.mountPoint(image.name), isMounted: isMounted(images, image.name, table)}
      : {}),
    ...(isUp && image.kind === 'disk' ? {disk: diskOf(images, image)} : {}),
    ...(image.held ? {held: image.held} : {}),
    ...(image.failed ? {failed: {...image.failed, from: image.failedFrom ?? 'NEW'}} : {}),
    ...(run ? {run} : {}),
  }
}

function diskOf(images: ImagesContext, image: PlacedImage): NonNullable<ImageStatus['disk']> {
  const {layout} = images
  const shown = shownPath(images, image)
  const digest = noteOf(images, image)?.disk?.digest ?? image.digest
  return {path: shown ?? layout.disk(image.name), digest, isPublished: shown !== undefined}
}

/** Whoever asks for a status is told what can be told. */
function noteOf(images: ImagesContext, image: PlacedImage): TreeNote | undefined {
  try {
    return readTreeNote(images.layout, image.name)
  } catch {
    return undefined
  }
}
