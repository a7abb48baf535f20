/** Every migration by name, in order. A released one is never edited: the next one mends it. */
import type {Migration} from 'kysely/migration'
import * as imagesBlobsRuns from './0001-images-blobs-runs.ts'
import * as backends from './0002-backends.ts'
import * as disks from './0003-disks.ts'

export const migrations: Record<string, Migration> = {
  '0001-images-blobs-runs': imagesBlobsRuns,
  '0002-backends': backends,
  '0003-disks': disks,
}
