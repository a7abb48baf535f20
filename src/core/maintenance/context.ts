import type {BlobStore} from '../blobs/blob-store.ts'
import type {Clock} from '../clock.ts'
import type {Database} from '../db/open.ts'
import type {OwnerRow} from '../db/owners.ts'
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

/** An owner that is dead, or silent for so long that it is forgotten. */
export type GoneOwner = {owner: OwnerRow; isDead: boolean}

/** What was wrong with the id of this host when the store was opened to be repaired. */
export type NodeTrouble = {was: 'gone' | 'damaged' | 'another'; node?: NodeId; why: string}

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
  /** Owners of this host that work no more; given by the images service, as the next. */
  findGoneOwners: () => Promise<GoneOwner[]>
  /** Frees the runs of such an owner and forgets it; returns how many. */
  freeGoneOwner: (gone: GoneOwner) => Promise<number>
  nodeTrouble?: NodeTrouble
}
