/** Where things are in a store. Pure path arithmetic; names were checked before. */
import {join} from 'node:path'
import type {ImageName, RunId} from './ids.ts'

export type Layout = {
  store: string
  blobs: string
  images: string
  overlays: string
  active: string
  /** Disks that are ACTIVE, for `serve`; readable by others, unlike the rest. */
  disks: string
  /** Trees in the making and trees on their way out; nothing here is ever served or mounted. */
  staging: string
  quarantine: string
  /** The id of this host, made once. */
  nodeFile: string
  /** An image's directory: `rootfs` and the note about it. */
  image(name: ImageName): string
  rootfs(name: ImageName): string
  treeNote(name: ImageName): string
  /** The EROFS image of an indexed tree; `rootfs` is then where it is mounted. */
  index(name: ImageName): string
  /** The raw bytes of a disk, in the image's directory. */
  disk(name: ImageName): string
  overlay(name: ImageName): string
  upper(name: ImageName): string
  work(name: ImageName): string
  mountPoint(name: ImageName): string
  /** The directory that one claim of a run unpacks into; the epoch keeps it apart from an earlier owner's. */
  stagedTree(treeId: string): string
}

export function layoutOf(store: string): Layout {
  const [blobs, images, overlays, active, staging, quarantine, disks] = [
    'blobs',
    'images',
    'overlays',
    'active',
    'staging',
    'quarantine',
    'disks',
  ].map((name) => join(store, name)) as [string, string, string, string, string, string, string]
  return {
    store,
    blobs,
    images,
    overlays,
    active,
    disks,
    staging,
    quarantine,
    nodeFile: join(store, 'node-id'),
    image: (name) => join(images, name),
    rootfs: (name) => join(images, name, 'rootfs'),
    treeNote: (name) => join(images, name, 'tree.json'),
    index: (name) => join(images, name, indexFileName),
    disk: (name) => join(images, name, diskFileName),
    overlay: (name) => join(overlays, name),
    upper: (name) => join(overlays, name, 'upper'),
    work: (name) => join(overlays, name, 'work'),
    mountPoint: (name) => join(active, name),
    stagedTree: (treeId) => join(staging, treeId),
  }
}

/** What a disk image has in its directory. */
export const diskFileName = 'disk.raw'

/** What an indexed tree has in its directory, and what its tar is called there until it is published. */
export const indexFileName = 'index.erofs'
export const stagedPlainName = 'plain.tar'

/** Names the tree that one claim of a run makes. */
export function treeIdOf(run: RunId, epoch: number): string {
  return `${run}-${epoch}`
}

/** The run and epoch of a tree id, or undefined for any other name (`old-…`, something foreign). */
export function parseTreeId(name: string): {run: RunId; epoch: number} | undefined {
  const match = /^([0-9A-HJKMNP-TV-Z]{26})-(\d{1,15})$/.exec(name)
  return match?.[1] === undefined ? undefined : {run: match[1] as RunId, epoch: Number(match[2])}
}

/** What the mount table shows as the source of an image's mount. */
export function mountSource(name: ImageName): string {
  return `imgstore:${name}`
}
