/**
 * Stores as former programs left them: the schema of any release, with rows that such a program had written, in every
 * state, and their files on disk. Released migrations are never edited, so their first few are the old schema.
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {cpSync, mkdirSync, writeFileSync} from 'node:fs'
import {dirname, join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {migrations} from '../../migrations/index.ts'
import {openDatabase} from '../../src/core/db/open.ts'
import {newUlid} from '../../src/core/ids.ts'
import {imageStates, type ImageState} from '../../src/core/image.ts'
import type {Image} from './image-maker.ts'
import type {Scene} from './program.ts'

/** The migrations that the program of schema `version` knew. */
export function migrationsUpTo(version: number): typeof migrations {
  return Object.fromEntries(Object.entries(migrations).slice(0, version))
}

export const newestVersion = Object.keys(migrations).length
/** From these on there are indexes, and disks. */
export const [indexesSince, disksSince] = [2, 3]

export type OldImage = {
  name: string
  url: string
  image: Image
  state: ImageState
  goal: 'ACTIVE' | 'STORED' | 'REMOVED'
  /** Of its last run; absent: none. */
  run?: 'pending' | 'waiting' | 'running' | 'done' | 'failed'
  /** A tree that another store made, with the blob and what belongs to it: an index, or a disk. */
  made?: {from: Scene; kind: 'rootfs' | 'disk'; backend: 'erofs' | null; treeId: string}
}

/** An hour ago: old history may be forgotten. */
const now = Date.now() - 3_600_000

/** Makes the store of `scene` as the program of schema `version` would have left it. */
export async function makeOldStore(
  scene: Scene,
  version: number,
  images: readonly OldImage[],
): Promise<void> {
  const database = await openDatabase(scene.db, {migrations: migrationsUpTo(version)})
  await database.close()
  const file = new SqliteDatabase(scene.db)
  try {
    const node = newUlid(now)
    for (const dir of ['blobs', 'images', 'overlays', 'active', 'staging', 'disks'])
      mkdirSync(join(scene.store, dir), {recursive: true})
    writeFileSync(join(scene.store, 'node-id'), `${node}\n`)
    file.prepare('insert into nodes values (?, ?, ?)').run(node, 'host', now)
    // A worker that was killed: no process has this number.
    const owner = newUlid(now)
    file
      .prepare(`insert into owners values (?, ?, 'worker', 'host', ?, ?, 4194305, '1', ?, ?)`)
      .run(owner, node, newUlid(now), 'pid:[1]', now, now)
    for (const [n, image] of images.entries())
      addOldImage(file, scene, {node, owner, version, n: n + 1}, image)
  } finally {
    file.close()
  }
}

type Where = {node: string; owner: string; version: number; n: number}

const way: readonly ImageState[] = imageStates.filter((state) => state !== 'FAILED')
const steps = ['begin', 'download', 'begin_unpack', 'unpack', 'publish', 'prepare', 'mount']
const failure = JSON.stringify({
  code: 'source_unavailable',
  message: 'http://127.0.0.1/ cannot be reached: HTTP 503',
  hint: 'Try again later.',
  details: {url: 'http://127.0.0.1/', reason: 'HTTP 503'},
})

function addOldImage(
  file: SqliteDatabase.Database,
  scene: Scene,
  where: Where,
  image: OldImage,
): void {
  const {node, version, n} = where
  const {name, url, state, goal, made} = image
  const {digest} = image.image
  const run = newUlid(now + n)
  const treeId = made?.treeId ?? `${run}-1`
  const hasTree = ['UNPACKED', 'STORED', 'ACTIVATING', 'ACTIVE'].includes(state)
  file
    .prepare(
      `insert into images (id, name, url, digest, created_at, updated_at) values (?, ?, ?, ?, ?, ?)`,
    )
    .run(n, name, url, digest, now, now)
  file
    .prepare(
      `insert into placements (image_id, node, state, goal, profile, limits, tree_id, entries, tree_bytes, failed,
        failed_from, created_at, updated_at) values (?, ?, ?, ?, 'image', '{}', ?, ?, ?, ?, ?, ?, ?)`,
    )
    .run(
      ...[
        n,
        node,
        state,
        goal,
        hasTree ? treeId : null,
        hasTree ? 10 : null,
        hasTree ? 1000 : null,
      ],
      ...(state === 'FAILED' ? [failure, 'DOWNLOADING'] : [null, null]),
      ...[now, now],
    )
  if (version >= indexesSince && hasTree)
    file
      .prepare(`update placements set backend = ?, tree_backend = ? where image_id = ?`)
      .run(made?.backend ?? 'dir', made ? made.backend : 'dir', n)
  if (version >= disksSince && made?.kind === 'disk')
    file.prepare(`update images set kind = 'disk' where id = ?`).run(n)
  addOldRun(file, where, image, run)
  if (made) copyMade(scene, made.from, name)
  else makeFiles(scene, image, treeId)
  if (hasBlob(state))
    file
      .prepare('insert or ignore into blobs values (?, ?, ?, ?)')
      .run(digest, image.image.bytes.length, now, now)
}

const hasBlob = (state: ImageState): boolean => way.indexOf(state) >= way.indexOf('DOWNLOADED')

function addOldRun(
  file: SqliteDatabase.Database,
  {node, owner, n}: Where,
  {name, image, state, goal, run: status}: OldImage,
  id: string,
): void {
  if (status === undefined) return
  const isRunning = status === 'running'
  const isOver = status === 'done' || status === 'failed'
  file
    .prepare(
      `insert into runs (id, image_id, image_name, node, digest, goal, status, attempt, owner, epoch,
        lease_expires_at, due_at, created_at, finished_at) values (?, ?, ?, ?, ?, ?, ?, 1, ?, 1, ?, ?, ?, ?)`,
    )
    .run(
      ...[id, n, name, node, image.digest, goal, status, isRunning ? owner : null],
      ...[isRunning ? now + 30_000 : null, now, now, isOver ? now : null],
    )
  const event = file.prepare(
    `insert into run_events (run_id, image_name, node, at, kind, step, attempt, epoch, from_state, to_state,
      started_at, duration_ms) values (?, ?, ?, ?, ?, ?, 1, 1, ?, ?, ?, 5)`,
  )
  const last = way.indexOf(state === 'FAILED' ? 'DOWNLOADING' : state)
  for (const [at, step] of steps.slice(0, last).entries())
    event.run(id, name, node, now, 'transition', step, way[at], way[at + 1], now)
  if (state === 'FAILED')
    event.run(id, name, node, now, 'failed', 'download', 'DOWNLOADING', 'FAILED', now)
}

/** What the first release put on the disk for an image in this state. */
function makeFiles(scene: Scene, {name, url, image, state}: OldImage, treeId: string): void {
  const {bytes, digest} = image
  const blob = join(scene.store, 'blobs', `${digest}.tar`)
  if (state === 'DOWNLOADING') {
    writeFileSync(`${blob}.tmp`, bytes.subarray(0, bytes.length / 2))
    const note = {url, validator: '"one"', totalBytes: bytes.length}
    writeFileSync(`${blob}.tmp.json`, JSON.stringify(note))
  }
  if (hasBlob(state)) writeFileSync(blob, bytes)
  if (way.indexOf(state) < way.indexOf('UNPACKED')) return
  const tree = state === 'UNPACKED' ? join('staging', treeId) : join('images', name)
  const rootfs = join(scene.store, tree, 'rootfs')
  mkdirSync(rootfs, {recursive: true})
  execFileSync('tar', ['-xpf', '-', '-C', rootfs], {input: bytes})
  // Before there was a choice of backends a note said nothing of them.
  const note = {treeId, digest, profile: 'image', entries: 10}
  writeFileSync(join(dirname(rootfs), 'tree.json'), `${JSON.stringify(note)}\n`)
  // From ACTIVATING on they are there; after a reboot nothing is mounted.
  if (state !== 'ACTIVATING' && state !== 'ACTIVE') return
  for (const dir of [`overlays/${name}/upper`, `overlays/${name}/work`, `active/${name}`])
    mkdirSync(join(scene.store, dir), {recursive: true})
  if (state === 'ACTIVE')
    writeFileSync(join(scene.store, 'overlays', name, 'upper/written'), 'by the old program\n')
}

function copyMade(scene: Scene, from: Scene, name: string): void {
  for (const dir of ['blobs', `images/${name}`]) {
    mkdirSync(join(scene.store, dir), {recursive: true})
    const {status} = spawnSync('cp', ['-a', `${join(from.store, dir)}/.`, join(scene.store, dir)])
    if (status !== 0) cpSync(join(from.store, dir), join(scene.store, dir), {recursive: true})
  }
}

/** The schema and every row, as text, to see that nothing changed. */
export function dumpDatabase(path: string): string[] {
  const file = new SqliteDatabase(path, {readonly: true})
  try {
    const schema = file.prepare('select name, sql from sqlite_master order by name').all()
    const tables = (schema as {name: string; sql: string | null}[]).filter(({sql}) =>
      sql?.startsWith('CREATE TABLE'),
    )
    const rows = tables.flatMap(({name}) =>
      file
        .prepare(`select * from "${name}" order by rowid`)
        .all()
        .map((row) => [name, row]),
    )
    const version = file.pragma('user_version', {simple: true})
    return [version, ...schema, ...rows].map((each) => JSON.stringify(each))
  } finally {
    file.close()
  }
}
