/**
 * What an image is, in the words that every door uses.
 *
 * State: how far an image has come on one host. Goal: where its owner wants it.
 * Run: one effort of the state machine to bring an image from its state to its goal. Event: one thing a run did.
 */
import type {Digest} from './digest.ts'
import type {ErrorJson} from './errors.ts'
import type {ImageName, NodeId, OwnerId, RunId} from './ids.ts'
import type {LimitOverrides, Profile} from './limits.ts'

export const imageStates = [
  'NEW',
  'DOWNLOADING',
  'DOWNLOADED',
  'UNPACKING',
  'UNPACKED',
  'STORED',
  'ACTIVATING',
  'ACTIVE',
  'FAILED',
] as const
export type ImageState = (typeof imageStates)[number]

/** What an image is: the root filesystem in an archive, which is mounted, or a disk, which is served by its bytes. */
export const imageKinds = ['rootfs', 'disk'] as const
export type ImageKind = (typeof imageKinds)[number]

/**
 * How an archive is made a root filesystem: `dir` extracts it, `erofs` indexes it (a small EROFS image whose file data
 * stays in the tar). `auto` is `erofs` where the host mounts that, else `dir`.
 */
export const backends = ['auto', 'dir', 'erofs'] as const
export type Backend = (typeof backends)[number]
export type TreeBackend = Exclude<Backend, 'auto'>

export const goals = ['ACTIVE', 'STORED', 'REMOVED'] as const
export type Goal = (typeof goals)[number]

export const runStatuses = ['pending', 'running', 'waiting', 'done', 'failed', 'canceled'] as const
export type RunStatus = (typeof runStatuses)[number]

/** Bytes done of the step at work; `totalBytes` is absent while nobody knows it. */
export type Progress = {doneBytes: number; totalBytes?: number; at: number}

/** All times are milliseconds since the epoch, UTC. */
export type RunSummary = {
  id: RunId
  image: ImageName
  node: NodeId
  digest: Digest
  goal: Goal
  status: RunStatus
  /** The step at work or last worked at. */
  step?: string
  /** Attempt at that step, from 1; starts again when an attempt made progress. */
  attempt: number
  owner?: OwnerId
  epoch: number
  /** When a waiting run is tried again. */
  dueAt?: number
  createdAt: number
  startedAt?: number
  finishedAt?: number
  error?: ErrorJson
  progress?: Progress
}

export type RunEventKind =
  'transition' | 'retry' | 'failed' | 'held' | 'mended' | 'canceled' | 'removed'

/** One durable line of history. `seq` only grows, over all images of the store. */
export type RunEvent = {
  seq: number
  at: number
  run: RunId
  image: ImageName
  node: NodeId
  kind: RunEventKind
  step?: string
  attempt: number
  from?: ImageState
  to?: ImageState | 'REMOVED'
  startedAt?: number
  durationMs?: number
  error?: ErrorJson
  /** When a `retry` is tried again. */
  dueAt?: number
  /** What a step has to say: bytes fetched, entries unpacked, warnings. */
  detail?: Record<string, unknown>
}

/** Everything `status` shows about one image on this host. */
export type ImageStatus = {
  name: ImageName
  imageKind: ImageKind
  state: ImageState
  goal: Goal
  /** Redacted. */
  url: string
  digest: Digest
  profile: Profile
  limits: LimitOverrides
  /** What was asked for. */
  backend: Backend
  /** What the tree was made with, once it is there. */
  treeBackend?: TreeBackend
  /** Size of the blob once it is there. */
  sizeBytes?: number
  /** Entries and bytes of the unpacked tree; of a disk the bytes. */
  entries?: number
  treeBytes?: number
  /** The mount point, when ACTIVE. */
  mountPoint?: string
  /** Whether the kernel's table has that mount, as this process sees it. */
  isMounted?: boolean
  /** An ACTIVE disk: the file that `serve` shows to clients, read-only, and the digest of its bytes. */
  disk?: {path: string; digest: string; isPublished: boolean}
  /** Why the image stays short of its goal without having failed: the host cannot mount. */
  held?: ErrorJson
  /** Why it is FAILED, and the state it came from. */
  failed?: ErrorJson & {from: ImageState}
  /** The unfinished run, or the last one. */
  run?: RunSummary
  createdAt: number
  updatedAt: number
}

/** What a follower of an image sees: its history as it happens, and the progress of the step at work. */
export type FollowEvent =
  | {kind: 'event'; event: RunEvent}
  | {kind: 'progress'; image: ImageName; run: RunId; step: string; progress: Progress}
