/** Images and their placements: what was asked for, and how far it is on a host. */
import {sql} from 'kysely'
import type {Digest} from '../digest.ts'
import type {ErrorJson} from '../errors.ts'
import type {ImageName, NodeId} from '../ids.ts'
import type {Backend, Goal, ImageKind, ImageState, TreeBackend} from '../image.ts'
import type {LimitOverrides, Profile} from '../limits.ts'
import {errorFrom, present, type Query} from './query.ts'
import type {ImagesTable, PlacementsTable} from './schema.ts'

/** An image as one host has it. Absent fields are not known yet. */
export type PlacedImage = {
  id: number
  name: ImageName
  kind: ImageKind
  node: NodeId
  /** As given; may carry credentials. */
  url: string
  digest: Digest
  state: ImageState
  goal: Goal
  profile: Profile
  limits: LimitOverrides
  backend: Backend
  treeBackend?: TreeBackend
  isBlobVerified: boolean
  treeId?: string
  entries?: number
  treeBytes?: number
  held?: ErrorJson
  failed?: ErrorJson
  failedFrom?: ImageState
  createdAt: number
  updatedAt: number
}

type Row = Omit<ImagesTable, 'id' | 'kind' | 'created_at' | 'updated_at'> &
  Omit<PlacementsTable, 'image_id' | 'verify_blob' | 'backend'> & {
    id: number
    kind: ImageKind
    verify_blob: 0 | 1
    backend: Backend
  }

function toPlaced(row: Row): PlacedImage {
  return {
    id: row.id,
    name: row.name,
    kind: row.kind,
    node: row.node,
    url: row.url,
    digest: row.digest,
    state: row.state,
    goal: row.goal,
    profile: row.profile,
    backend: row.backend,
    limits: JSON.parse(row.limits) as LimitOverrides,
    isBlobVerified: row.verify_blob === 1,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    ...present({
      treeId: row.tree_id,
      treeBackend: row.tree_backend,
      entries: row.entries,
      treeBytes: row.tree_bytes,
      held: errorFrom(row.held),
      failed: errorFrom(row.failed),
      failedFrom: row.failed_from,
    }),
  }
}

function placed(q: Query, node: NodeId) {
  return q
    .selectFrom('images')
    .innerJoin('placements', 'placements.image_id', 'images.id')
    .where('placements.node', '=', node)
    .select([
      'images.id',
      'images.name',
      'images.url',
      'images.digest',
      'images.kind',
      'placements.node',
      'placements.state',
      'placements.goal',
      'placements.profile',
      'placements.limits',
      'placements.verify_blob',
      'placements.backend',
      'placements.tree_backend',
      'placements.tree_id',
      'placements.entries',
      'placements.tree_bytes',
      'placements.held',
      'placements.failed',
      'placements.failed_from',
      'placements.created_at',
      'placements.updated_at',
    ])
}

export async function getPlaced(
  q: Query,
  node: NodeId,
  name: ImageName,
): Promise<PlacedImage | undefined> {
  const row = await placed(q, node).where('images.name', '=', name).executeTakeFirst()
  return row && toPlaced(row)
}

export async function getPlacedById(
  q: Query,
  node: NodeId,
  id: number,
): Promise<PlacedImage | undefined> {
  const row = await placed(q, node).where('images.id', '=', id).executeTakeFirst()
  return row && toPlaced(row)
}

export async function listPlaced(q: Query, node: NodeId): Promise<PlacedImage[]> {
  return (await placed(q, node).orderBy('images.name').execute()).map(toPlaced)
}

/** An image by name on any host: its source is the same everywhere. */
export async function getImage(
  q: Query,
  name: ImageName,
): Promise<{id: number; url: string; digest: Digest; kind: ImageKind} | undefined> {
  return await q
    .selectFrom('images')
    .select(['id', 'url', 'digest', 'kind'])
    .where('name', '=', name)
    .executeTakeFirst()
}

export async function addImage(
  q: Query,
  image: {name: ImageName; url: string; digest: Digest; kind: ImageKind; now: number},
): Promise<number> {
  const {id} = await q
    .insertInto('images')
    .values({
      name: image.name,
      url: image.url,
      digest: image.digest,
      kind: image.kind,
      created_at: image.now,
      updated_at: image.now,
    })
    .returning('id')
    .executeTakeFirstOrThrow()
  return id
}

export async function addPlacement(
  q: Query,
  placement: {
    imageId: number
    node: NodeId
    goal: Goal
    profile: Profile
    limits: LimitOverrides
    backend: Backend
    isBlobVerified: boolean
    now: number
  },
): Promise<void> {
  await q
    .insertInto('placements')
    .values({
      image_id: placement.imageId,
      node: placement.node,
      state: 'NEW',
      goal: placement.goal,
      profile: placement.profile,
      backend: placement.backend,
      tree_backend: null,
      limits: JSON.stringify(placement.limits),
      verify_blob: placement.isBlobVerified ? 1 : 0,
      tree_id: null,
      entries: null,
      tree_bytes: null,
      held: null,
      failed: null,
      failed_from: null,
      created_at: placement.now,
      updated_at: placement.now,
    })
    .execute()
}

export type PlacementPatch = {
  state?: ImageState
  goal?: Goal
  profile?: Profile
  limits?: LimitOverrides
  backend?: Backend
  treeBackend?: TreeBackend
  treeId?: string
  entries?: number
  treeBytes?: number
  held?: ErrorJson | null
  failed?: ErrorJson | null
  failedFrom?: ImageState | null
}

export async function updatePlacement(
  q: Query,
  imageId: number,
  node: NodeId,
  patch: PlacementPatch,
  now: number,
): Promise<void> {
  const json = (value: object | null | undefined): string | null | undefined =>
    value === undefined || value === null ? value : JSON.stringify(value)
  const values = {
    state: patch.state,
    goal: patch.goal,
    profile: patch.profile,
    backend: patch.backend,
    tree_backend: patch.treeBackend,
    limits: json(patch.limits) ?? undefined,
    tree_id: patch.treeId,
    entries: patch.entries,
    tree_bytes: patch.treeBytes,
    held: json(patch.held),
    failed: json(patch.failed),
    failed_from: patch.failedFrom,
    updated_at: now,
  }
  const set = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
  await q
    .updateTable('placements')
    .set(set)
    .where('image_id', '=', imageId)
    .where('node', '=', node)
    .execute()
}

/** Takes the image from this host, and altogether when no other host has it. */
export async function removePlacement(q: Query, imageId: number, node: NodeId): Promise<void> {
  await q
    .deleteFrom('placements')
    .where('image_id', '=', imageId)
    .where('node', '=', node)
    .execute()
  await q
    .deleteFrom('images')
    .where('id', '=', imageId)
    .where((eb) =>
      eb.not(
        eb.exists(
          eb.selectFrom('placements').select('image_id').where('placements.image_id', '=', imageId),
        ),
      ),
    )
    .execute()
}

/** Digests that some image needs which is not FAILED, or that a run of any host is about to fetch. */
export async function digestsInUse(q: Query): Promise<Set<Digest>> {
  const rows = await q
    .selectFrom('images')
    .innerJoin('placements', 'placements.image_id', 'images.id')
    .where('placements.state', '!=', 'FAILED')
    .where('placements.goal', '!=', 'REMOVED')
    .select('images.digest')
    .distinct()
    .execute()
  const open = await q
    .selectFrom('runs')
    .where('status', 'in', ['pending', 'running', 'waiting'])
    .where('goal', '!=', 'REMOVED')
    .select('digest')
    .distinct()
    .execute()
  return new Set([...rows, ...open].map((row) => row.digest))
}

export async function countByState(
  q: Query,
  node: NodeId,
): Promise<{state: ImageState; count: number}[]> {
  return await q
    .selectFrom('placements')
    .where('node', '=', node)
    .select(['state', (eb) => eb.fn.countAll<number>().as('count')])
    .groupBy('state')
    .execute()
}

/** Images that no host has. */
export async function listUnplacedImages(q: Query): Promise<{id: number; name: ImageName}[]> {
  return await q
    .selectFrom('images')
    .leftJoin('placements', 'placements.image_id', 'images.id')
    .where('placements.image_id', 'is', null)
    .select(['images.id', 'images.name'])
    .execute()
}

/** Removes an image that no host has; false when one has it meanwhile. */
export async function removeImageRow(q: Query, id: number): Promise<boolean> {
  const result = await q
    .deleteFrom('images')
    .where('id', '=', id)
    .where((eb) =>
      eb.not(
        eb.exists(
          eb.selectFrom('placements').select('image_id').where('placements.image_id', '=', id),
        ),
      ),
    )
    .executeTakeFirst()
  return result.numDeletedRows > 0n
}

/** Whether this database has ever known an image, also one that is gone. */
export async function hasKnownImages(q: Query): Promise<boolean> {
  const {rows} = await sql`select 1 from sqlite_sequence where name = 'images' and seq > 0`.execute(
    q,
  )
  return rows.length > 0
}
