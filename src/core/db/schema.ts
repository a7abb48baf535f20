/** The tables as kysely sees them; docs/formats/schema.sql is what SQLite made of the migrations. */
import type {Generated} from 'kysely'
import type {Digest} from '../digest.ts'
import type {ImageName, NodeId, OwnerId, RunId} from '../ids.ts'
import type {
  Backend,
  Goal,
  ImageKind,
  ImageState,
  RunEventKind,
  RunStatus,
  TreeBackend,
} from '../image.ts'
import type {Profile} from '../limits.ts'

export type NodesTable = {id: NodeId; hostname: string; created_at: number}

export type OwnersTable = {
  id: OwnerId
  node: NodeId
  kind: 'worker' | 'command'
  hostname: string
  boot_id: string
  pid_namespace: string
  pid: number
  pid_start: string
  started_at: number
  heartbeat_at: number
}

export type ImagesTable = {
  id: Generated<number>
  name: ImageName
  url: string
  digest: Digest
  kind: Generated<ImageKind>
  created_at: number
  updated_at: number
}

export type PlacementsTable = {
  image_id: number
  node: NodeId
  state: ImageState
  goal: Goal
  profile: Profile
  /** LimitOverrides as JSON. */
  limits: string
  backend: Generated<Backend>
  tree_backend: TreeBackend | null
  verify_blob: Generated<0 | 1>
  tree_id: string | null
  entries: number | null
  tree_bytes: number | null
  /** ErrorJson as JSON. */
  held: string | null
  /** ErrorJson as JSON. */
  failed: string | null
  failed_from: ImageState | null
  created_at: number
  updated_at: number
}

export type BlobsTable = {
  digest: Digest
  size_bytes: number
  created_at: number
  verified_at: number
}

export type RunsTable = {
  id: RunId
  image_id: number
  image_name: ImageName
  node: NodeId
  digest: Digest
  goal: Goal
  status: RunStatus
  step: string | null
  attempt: Generated<number>
  owner: OwnerId | null
  epoch: Generated<number>
  lease_expires_at: number | null
  is_takeover: Generated<0 | 1>
  due_at: number
  progress_done: number | null
  progress_total: number | null
  progress_at: number | null
  /** ErrorJson as JSON. */
  error: string | null
  created_at: number
  started_at: number | null
  finished_at: number | null
}

export type RunEventsTable = {
  seq: Generated<number>
  run_id: RunId
  image_name: ImageName
  node: NodeId
  at: number
  kind: RunEventKind
  step: string | null
  attempt: number
  epoch: number
  from_state: ImageState | null
  to_state: ImageState | 'REMOVED' | null
  started_at: number | null
  duration_ms: number | null
  due_at: number | null
  error_code: string | null
  error: string | null
  detail: string | null
}

export type DB = {
  nodes: NodesTable
  owners: OwnersTable
  images: ImagesTable
  placements: PlacementsTable
  blobs: BlobsTable
  runs: RunsTable
  run_events: RunEventsTable
}
