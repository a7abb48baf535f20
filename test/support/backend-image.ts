/** An image of one backend and one compression in a store, for tests of what backends do. */
import {mkdirSync} from 'node:fs'
import {join} from 'node:path'
import {gzipSync, zstdCompressSync} from 'node:zlib'
import {expect} from 'chai'
import type {ImageStatus, TreeBackend} from '../../src/core/image.ts'
import {findMounts} from '../../src/core/mounts/mount-table.ts'
import type {Store} from '../../src/core/store.ts'
import {makeImage, sha256, type Image} from './image-maker.ts'

export const compressions = ['plain', 'gzip', 'zstd'] as const
export type Compression = (typeof compressions)[number]

export const compress: Record<Compression, (bytes: Buffer) => Buffer> = {
  plain: (bytes) => bytes,
  gzip: (bytes) => gzipSync(bytes, {level: 1}),
  zstd: (bytes) => zstdCompressSync(bytes),
}

/** A made image as a blob of another compression, under the digest of that. */
export function packedImage(compression: Compression, image: Image = makeImage(1)): Image {
  const bytes = compress[compression](image.bytes)
  return {bytes, digest: sha256(bytes), tree: image.tree}
}

/** Where the parts of an image are in a store. */
export function placesOf(
  storeDir: string,
  name: string,
  digest: string,
): Record<
  'mountPoint' | 'rootfs' | 'index' | 'note' | 'upper' | 'blob' | 'plain' | 'image',
  string
> {
  return {
    mountPoint: join(storeDir, 'active', name),
    image: join(storeDir, 'images', name),
    rootfs: join(storeDir, 'images', name, 'rootfs'),
    index: join(storeDir, 'images', name, 'index.erofs'),
    note: join(storeDir, 'images', name, 'tree.json'),
    upper: join(storeDir, 'overlays', name, 'upper'),
    blob: join(storeDir, 'blobs', `${digest}.tar`),
    plain: join(storeDir, 'blobs', `${digest}.tar.raw`),
  }
}

/** The kinds of what is mounted for an image, bottom first: its index and its overlay. */
export function mountKinds(storeDir: string, name: string): string[] {
  const {rootfs, mountPoint} = placesOf(storeDir, name, '')
  return [...findMounts(rootfs), ...findMounts(mountPoint)].map(({fsType}) => fsType)
}

export const kindsOf: Record<TreeBackend, string[]> = {
  dir: ['overlay'],
  erofs: ['erofs', 'overlay'],
}

/** Settles an image, which must reach its goal. */
export async function reached(store: Store, name = 'one'): Promise<ImageStatus> {
  const {outcome, status} = await store.images.settle(name)
  expect(outcome, JSON.stringify(status?.held ?? status?.failed)).to.equal('reached')
  return status as ImageStatus
}

/** Removes an image, which must go altogether. */
export async function removed(store: Store, name = 'one'): Promise<void> {
  await store.images.remove(name)
  const {outcome, status} = await store.images.settle(name)
  expect(outcome, JSON.stringify(status)).to.equal('removed')
}

/** A path of more than 255 bytes with what paths may hold, made below `dir`; relative to it. */
export function longStorePath(dir: string): string {
  const parts = Array.from({length: 4}, (_, n) => `${n} a,b:c\\d é=${'x'.repeat(70)}`)
  mkdirSync(join(dir, ...parts), {recursive: true})
  return join(...parts, 'store')
}
