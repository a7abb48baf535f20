/** What a copied database names, read without making it anything but a copy. */
import SqliteDatabase from 'better-sqlite3'
import type {Digest} from '../digest.ts'
import type {ImageName, NodeId} from '../ids.ts'
import {fromDatabaseError} from './errors.ts'
import type {OwnerRow} from './owners.ts'

export type CopiedBlob = {digest: Digest; images: ImageName[]}

/**
 * How many images a host has in a copy, and the blobs that images or runs of any host need: as `digestsInUse`, with
 * the names of the images.
 */
export function blobsOfCopy(path: string, node: NodeId): {images: number; blobs: CopiedBlob[]} {
  let file: SqliteDatabase.Database | undefined
  try {
    file = new SqliteDatabase(path, {readonly: true, fileMustExist: true})
    const images = file
      .prepare('select count(*) from placements where node = ?')
      .pluck()
      .get(node) as number
    const rows = file
      .prepare(
        `select i.digest, i.name from images i join placements p on p.image_id = i.id
           where p.state not in ('NEW', 'DOWNLOADING', 'FAILED') and p.goal <> 'REMOVED'
         order by i.digest, i.name`,
      )
      .all() as {digest: Digest; name: ImageName}[]
    const blobs = new Map<Digest, Set<ImageName>>()
    for (const {digest, name} of rows) blobs.set(digest, (blobs.get(digest) ?? new Set()).add(name))
    return {images, blobs: [...blobs].map(([digest, names]) => ({digest, images: [...names]}))}
  } catch (error) {
    throw fromDatabaseError(error, path)
  } finally {
    file?.close()
  }
}

/**
 * What is in a database that is about to be replaced, whatever its schema is: its images and its owners. Undefined for
 * one that cannot be read.
 */
export function readPresent(path: string): {images: number; owners: OwnerRow[]} | undefined {
  let file: SqliteDatabase.Database | undefined
  try {
    file = new SqliteDatabase(path, {readonly: true, fileMustExist: true, timeout: 5000})
    const images = file.prepare('select count(*) from images').pluck().get() as number
    return {images, owners: file.prepare('select * from owners').all() as OwnerRow[]}
  } catch {
    return undefined
  } finally {
    file?.close()
  }
}
