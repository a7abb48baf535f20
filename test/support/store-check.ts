/** What a store must look like when nothing is at work in it: its history, its files, its mounts, its database. */
import {existsSync, readFileSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {readMountTable} from '../../src/core/mounts/mount-table.ts'
import type {Scene} from './program.ts'

export type ImageRow = {
  name: string
  kind: 'rootfs' | 'disk'
  digest: string
  state: string
  goal: string
  tree_backend: string | null
  tree_id: string | null
}
export type EventRow = {
  seq: number
  run_id: string
  image_name: string
  kind: string
  step: string | null
  attempt: number
  epoch: number
  from_state: string | null
  to_state: string | null
  error_code: string | null
}
export type RunRow = {
  id: string
  image_name: string
  goal: string
  status: string
  owner: string | null
  finished_at: number | null
}

/** Reads rows of the store's database, past the program. */
export function query<T>(scene: Scene, sql: string): T[] {
  const database = new SqliteDatabase(scene.db, {readonly: true})
  try {
    return database.prepare(sql).all() as T[]
  } finally {
    database.close()
  }
}

export const imagesOf = (scene: Scene): ImageRow[] =>
  query<ImageRow>(
    scene,
    'select i.name, i.kind, i.digest, p.state, p.goal, p.tree_backend, p.tree_id from images i join placements p on p.image_id = i.id order by i.name',
  )

export const eventsOf = (scene: Scene): EventRow[] =>
  query<EventRow>(scene, 'select * from run_events order by seq')

export const runsOf = (scene: Scene): RunRow[] =>
  query<RunRow>(scene, 'select * from runs order by rowid')

/** Names in a directory of the store; a missing one is empty. */
export function namesIn(scene: Scene, dir: string): string[] {
  const path = join(scene.store, dir)
  return existsSync(path) ? readdirSync(path).sort() : []
}

/** The mounts of the store's images: the source of each. */
export function mountsOf(scene: Scene): string[] {
  const below = `${join(scene.store, 'active')}/`
  return readMountTable()
    .filter((entry) => entry.mountPoint.startsWith(below))
    .map((entry) => entry.source)
    .sort()
}

/** The images whose index is mounted, by name; one that is mounted twice is there twice. */
export function indexesOf(scene: Scene): string[] {
  const below = `${join(scene.store, 'images')}/`
  return readMountTable()
    .filter((entry) => entry.mountPoint.startsWith(below))
    .map((entry) => entry.mountPoint.slice(below.length).replace(/\/rootfs$/, ''))
    .sort()
}

/** Whether an image is indexed, and from a plain tar that was made of its blob. */
function needsPlain(scene: Scene, {name, tree_backend}: ImageRow): boolean {
  if (tree_backend !== 'erofs') return false
  const note = readFileSync(join(scene.store, 'images', name, 'tree.json'), 'utf8')
  return (JSON.parse(note) as {plain?: unknown}).plain !== undefined
}

/** Every transition took effect once in its run, and each image's states follow from one another. */
export function expectHistory(scene: Scene): void {
  const events = eventsOf(scene)
  const seen = new Set<string>()
  const states = new Map<string, string>()
  for (const event of events) {
    const {run_id, image_name, kind, from_state, to_state} = event
    const what = `${event.seq} ${image_name} ${kind} ${from_state} → ${to_state}`
    if (['transition', 'failed', 'removed', 'mended'].includes(kind)) {
      const key = `${run_id} ${from_state}>${to_state}`
      expect(seen.has(key), `twice in its run: ${what}`).to.equal(false)
      seen.add(key)
      const known = states.get(image_name)
      // `retry` begins a FAILED image at NEW; a host that cannot mount leaves it where it was held.
      const expected = known === undefined || known === 'FAILED' ? ['NEW', 'FAILED'] : [known]
      expect(expected, what).to.include(from_state)
    }
    if (kind === 'removed') states.delete(image_name)
    else if (to_state !== null) states.set(image_name, to_state)
  }
  for (const image of imagesOf(scene)) {
    const last = states.get(image.name)
    if (last !== undefined && last !== 'FAILED')
      expect(image.state, `${image.name} is where its history ends`).to.equal(last)
  }
}

/** Nothing open, nothing owned, a sound database. */
export function expectSoundDatabase(scene: Scene): void {
  expect(query(scene, 'pragma integrity_check')).to.deep.equal([{integrity_check: 'ok'}])
  expect(query(scene, 'pragma foreign_key_check')).to.deep.equal([])
  const open = runsOf(scene).filter(({status}) =>
    ['pending', 'running', 'waiting'].includes(status),
  )
  expect(open, 'runs that are not over').to.deep.equal([])
}

/** After `cleanup` there is in the store what its images need, once, and nothing else; and no process is left. */
export async function expectNothingOrphaned(scene: Scene): Promise<void> {
  await scene.ok(['cleanup'], {env: {IMGSTORE_STALE_AFTER: '0'}})
  const images = imagesOf(scene)
  const withTree = images.filter(({state}) => ['STORED', 'ACTIVE'].includes(state))
  const active = images.filter(({state}) => state === 'ACTIVE')
  const used = images.filter(({state}) => !['NEW', 'FAILED'].includes(state))
  const blobs = [...new Set(used.map(({digest}) => `${digest}.tar`))].sort()
  expect(namesIn(scene, 'staging'), 'staging').to.deep.equal([])
  expect(namesIn(scene, 'quarantine'), 'quarantine').to.deep.equal([])
  const indexed = withTree.filter((image) => needsPlain(scene, image))
  const plains = [...new Set(indexed.map(({digest}) => `${digest}.tar.raw`))]
  const inBlobs = namesIn(scene, 'blobs')
  // A plain tar that was made while its blob came has a note; one that was made later has none.
  const notes = plains.map((plain) => `${plain}.json`).filter((note) => inBlobs.includes(note))
  expect(inBlobs, 'blobs').to.deep.equal([...blobs, ...plains, ...notes].sort())
  expect(namesIn(scene, 'images'), 'trees').to.deep.equal(withTree.map(({name}) => name))
  const names = images.map(({name}) => name)
  for (const dir of ['overlays', 'active'])
    expect(
      namesIn(scene, dir).filter((name) => !names.includes(name)),
      dir,
    ).to.deep.equal([])
  const roots = active.filter(({kind}) => kind === 'rootfs')
  expect(mountsOf(scene), 'mounts').to.deep.equal(roots.map(({name}) => `imgstore:${name}`))
  const shown = active.filter(({kind}) => kind === 'disk')
  const files = shown.flatMap(({name, tree_id}) => [`${name}.json`, `${tree_id}.raw`])
  expect(namesIn(scene, 'disks'), 'disks').to.deep.equal(files.sort())
  const mounted = active.filter(({tree_backend}) => tree_backend === 'erofs')
  expect(indexesOf(scene), 'indexes').to.deep.equal(mounted.map(({name}) => name))
  const rows = query<{digest: string}>(scene, 'select digest from blobs order by digest')
  expect(
    rows.map(({digest}) => `${digest}.tar`),
    'rows of blobs',
  ).to.deep.equal(blobs)
  expect(await scene.processesLeft(), 'processes').to.deep.equal([])
}

/** All of the above. */
export async function expectSoundStore(scene: Scene): Promise<void> {
  expectHistory(scene)
  expectSoundDatabase(scene)
  await expectNothingOrphaned(scene)
  expectSoundDatabase(scene)
}
