/** Whether what an image's state promises is on the disk and in the mount table. Only looks. */
import {lstatSync, readdirSync, readFileSync, statSync} from 'node:fs'
import {join} from 'node:path'
import type {PlacedImage} from '../../db/images.ts'
import {readPublication} from '../../disks/publications.ts'
import type {ImageState} from '../../image.ts'
import {mountSource, type Layout} from '../../layout.ts'
import {findMounts, readMountTable, type MountEntry} from '../../mounts/mount-table.ts'
import type {MaintenanceContext} from '../context.ts'
import type {RepairFacts} from './finding.ts'

/** What is wrong with an image, and the state from which its way goes on. */
export type Wrong = {
  problem: string
  to: ImageState
  /** The tree that is there is of no use to anybody. */
  isTreeLost: boolean
}

type Looking = Pick<MaintenanceContext, 'layout' | 'blobs' | 'readTreeNote'>

/** Undefined when all that the image's state says is true. */
export async function lookAt(
  maintenance: Looking,
  image: PlacedImage,
  facts: RepairFacts,
): Promise<Wrong | undefined> {
  const hasBlob =
    !facts.lostBlobs.has(image.digest) && (await maintenance.blobs.stat(image.digest)) !== undefined
  const anew: ImageState = hasBlob ? 'DOWNLOADED' : 'NEW'
  switch (image.state) {
    case 'NEW':
    case 'DOWNLOADING':
    case 'FAILED':
      return undefined
    case 'DOWNLOADED':
    case 'UNPACKING':
      if (hasBlob) return undefined
      return {problem: 'its blob is gone', to: 'NEW', isTreeLost: false}
    case 'UNPACKED':
      if (isStaged(maintenance, image)) return undefined
      return {problem: 'its staged tree is gone', to: anew, isTreeLost: false}
    case 'STORED':
    case 'ACTIVATING':
    case 'ACTIVE': {
      const problem = await treeProblem(maintenance, image, hasBlob)
      if (problem !== undefined) return {problem, to: anew, isTreeLost: true}
      if (image.state !== 'ACTIVE') return undefined
      const down = downProblem(maintenance.layout, image, maintenance)
      return down === undefined ? undefined : {problem: down, to: 'STORED', isTreeLost: false}
    }
  }
}

function isStaged(maintenance: Looking, image: PlacedImage): boolean {
  const {layout, readTreeNote} = maintenance
  const {treeId} = image
  if (treeId === undefined) return false
  if (readTreeNote(image.name)?.treeId === treeId) return true
  try {
    const note = JSON.parse(readFileSync(join(layout.stagedTree(treeId), 'tree.json'), 'utf8')) as {
      treeId?: unknown
    }
    return note.treeId === treeId
  } catch {
    return false
  }
}

/** What a published tree lacks, as far as that is seen without reading it all (`verify` does that). */
async function treeProblem(
  {layout, blobs, readTreeNote}: Looking,
  image: PlacedImage,
  hasBlob: boolean,
): Promise<string | undefined> {
  const note = readTreeNote(image.name)
  if (image.treeId === undefined || note?.treeId !== image.treeId)
    return note ? 'the tree is another one' : 'the tree is gone'
  if (image.kind === 'disk') {
    const sizeBytes = sizeOf(layout.disk(image.name))
    if (sizeBytes === undefined) return 'the disk is gone'
    return sizeBytes === note.disk?.sizeBytes ? undefined : `the disk has ${sizeBytes} bytes`
  }
  if (image.treeBackend !== 'erofs') return rootProblem(layout, image)
  if (!isDirectory(layout.rootfs(image.name))) return 'the directory for its root is gone'
  const index = sizeOf(layout.index(image.name))
  if (index === undefined) return 'the index is gone'
  if (note.index !== undefined && index !== note.index.sizeBytes)
    return `the index has ${index} bytes`
  if (note.plain === undefined)
    return hasBlob ? undefined : 'the blob that its files are in is gone'
  const plain = (await blobs.statPlain(image.digest))?.sizeBytes
  if (plain === undefined) return 'the plain tar that its files are in is gone'
  return plain === note.plain.sizeBytes ? undefined : `its plain tar has ${plain} bytes`
}

function rootProblem(layout: Layout, image: PlacedImage): string | undefined {
  const rootfs = layout.rootfs(image.name)
  if (!isDirectory(rootfs)) return 'the tree is gone'
  // What is mounted over it hides it.
  if (findMounts(rootfs).length > 0) return undefined
  const isEmpty = readdirSync(rootfs).length === 0
  return isEmpty && (image.entries ?? 0) > 1 ? 'the tree is empty' : undefined
}

/** Why an ACTIVE image is not up, if it is not. */
function downProblem(
  layout: Layout,
  image: PlacedImage,
  {readTreeNote}: Looking,
): string | undefined {
  if (image.kind === 'disk') {
    const shown = readPublication(layout.disks, image.name)
    const disk = readTreeNote(image.name)?.disk
    const isRight =
      shown?.path === join(layout.disks, `${image.treeId ?? ''}.raw`) &&
      shown.size === disk?.sizeBytes &&
      shown.sha256 === disk.digest &&
      sizeOf(shown.path) === disk.sizeBytes
    return isRight ? undefined : 'it is not shown'
  }
  const table = readMountTable()
  const {extra, isUp} = mountsToTakeDown(layout, image, table)
  if (!isUp && extra.length === 0) return 'it is not mounted'
  if (!isUp) return 'something else is mounted in its place'
  for (const dir of [layout.upper(image.name), layout.work(image.name)])
    if (!isDirectory(dir))
      return `${dir.endsWith('upper') ? 'the upper' : 'the work'} directory of its overlay is gone`
  const index = findMounts(layout.rootfs(image.name), table)
  if (image.treeBackend === 'erofs' && index[0]?.fsType !== 'erofs')
    return 'its index is not mounted'
  return undefined
}

/** What is mounted at an image's place and should not be, the topmost first; and whether its own mount is below that. */
export function mountsToTakeDown(
  layout: Layout,
  image: PlacedImage,
  table: MountEntry[],
): {extra: MountEntry[]; isUp: boolean} {
  const mounts = findMounts(layout.mountPoint(image.name), table)
  const isOurs = (entry: MountEntry | undefined): boolean =>
    entry?.source === mountSource(image.name)
  if (isOurs(mounts[0])) return {extra: mounts.slice(1).reverse(), isUp: true}
  return {extra: mounts.reverse(), isUp: false}
}

/** The same for where its tree is: the index of an indexed one is right there, and nothing else. */
export function mountsOverTree(
  layout: Layout,
  image: PlacedImage,
  table: MountEntry[],
): MountEntry[] {
  const mounts = findMounts(layout.rootfs(image.name), table)
  const hasIndex = image.treeBackend === 'erofs' && mounts[0]?.fsType === 'erofs'
  return mounts.slice(hasIndex ? 1 : 0).reverse()
}

function sizeOf(path: string): number | undefined {
  const found = statSync(path, {throwIfNoEntry: false})
  return found?.isFile() ? found.size : undefined
}

function isDirectory(path: string): boolean {
  return lstatSync(path, {throwIfNoEntry: false})?.isDirectory() === true
}
