/** Images as the list shows them, from what names them and the file that was found. */
import {defaultEtag, digestEtag} from '../etag.ts'
import type {CatalogEntry} from '../image-catalog.ts'
import type {StoreDisk, StreamImage} from '../stream.ts'
import type {KnownFile} from './files.ts'

/** What the catalog says goes before what the file says; a tag is made of the time that is told. */
export function describeEntry(entry: CatalogEntry, file: KnownFile): StreamImage {
  const {id, name, description, isPublic, recommendedChunkSize} = entry
  const modifiedNs = entry.modifiedNs ?? file.modifiedNs
  const ownEtag = entry.modifiedNs === undefined ? file.etag : defaultEtag(file.size, modifiedNs)
  return {
    id,
    name,
    ...(description === undefined ? {} : {description}),
    size: file.size,
    etag: entry.etag ?? ownEtag,
    modifiedNs,
    isPublic,
    ...(recommendedChunkSize === undefined ? {} : {recommendedChunkSize}),
    origin: 'catalog',
  }
}

export function describeDirectory(id: string, file: KnownFile): StreamImage {
  const {size, etag, modifiedNs} = file
  return {id, name: id, size, etag, modifiedNs, isPublic: true, origin: 'directory'}
}

export function describeDisk(disk: StoreDisk, file: KnownFile): StreamImage {
  const {id, name, description, isPublic, sha256, recommendedChunkSize} = disk
  return {
    id,
    name,
    ...(description === undefined ? {} : {description}),
    size: file.size,
    etag: digestEtag(sha256),
    modifiedNs: file.modifiedNs,
    isPublic,
    ...(recommendedChunkSize === undefined ? {} : {recommendedChunkSize}),
    sha256,
    origin: 'store',
  }
}
