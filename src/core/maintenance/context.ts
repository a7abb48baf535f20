import type {BlobStore} from '../blobs/blob-store.ts'
import type {Clock} from '../clock.ts'
import type {Database} from '../db/open.ts'
import type {ImageName, NodeId} from '../ids.ts'
import type {Layout} from '../layout.ts'
import type {Logger} from '../log.ts'
import type {SettingOrigins, Settings} from '../settings.ts'

/** Which tree it is, and for an indexed one its files, with the SHA-256 they were made with. */
export type TreeFiles = {
  treeId: string
  index?: {digest: string; sizeBytes: number}
  plain?: {digest: string; sizeBytes: number}
  disk?: {digest: string; sizeBytes: number}
}

export type MaintenanceContext = {
  database: Database
  blobs: BlobStore
  layout: Layout
  node: NodeId
  clock: Clock
  log: Logger
  settings: () => Settings
  origins: SettingOrigins
  /** Whether a worker of this host is alive; given by the images service. */
  hasLiveWorker: () => Promise<boolean>
  /** What a published tree says of itself; given by the images service. */
  readTreeNote: (name: ImageName) => TreeFiles | undefined
  /** Deletes a tree of any modes; given by the images service. */
  removeTree: (path: string) => Promise<void>
}
