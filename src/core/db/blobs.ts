import type {Digest} from '../digest.ts'
import type {Query} from './query.ts'
import type {BlobsTable} from './schema.ts'

export type BlobRow = BlobsTable

export async function getBlob(q: Query, digest: Digest): Promise<BlobRow | undefined> {
  return await q.selectFrom('blobs').selectAll().where('digest', '=', digest).executeTakeFirst()
}

export async function listBlobs(q: Query): Promise<BlobRow[]> {
  return await q.selectFrom('blobs').selectAll().orderBy('digest').execute()
}

/** Notes a blob whose file is in place and whose bytes were checked now. */
export async function putBlob(
  q: Query,
  digest: Digest,
  sizeBytes: number,
  now: number,
): Promise<void> {
  await q
    .insertInto('blobs')
    .values({digest, size_bytes: sizeBytes, created_at: now, verified_at: now})
    .onConflict((conflict) =>
      conflict.column('digest').doUpdateSet({size_bytes: sizeBytes, verified_at: now}),
    )
    .execute()
}

export async function removeBlob(q: Query, digest: Digest): Promise<void> {
  await q.deleteFrom('blobs').where('digest', '=', digest).execute()
}
