/** What faults do to a store, done on purpose: each kind of damage by name, chosen at random. */
import {spawnSync} from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {newUlid} from '../../src/core/ids.ts'
import {placesOf} from './backend-image.ts'
import type {Scene} from './program.ts'
import {imagesOf, type ImageRow} from './store-check.ts'

export type Damage = {
  name: string
  /** What is needed: an image in that state and of that kind. Without it: the store itself. */
  fits?: (image: ImageRow) => boolean
  /** Whether what was written into the image is lost with it. */
  losesWrites?: boolean
  act: (scene: Scene, image: ImageRow) => void
}

export function write(scene: Scene, body: (database: SqliteDatabase.Database) => void): void {
  const database = new SqliteDatabase(scene.db)
  try {
    database.pragma('foreign_keys = off')
    body(database)
  } finally {
    database.close()
  }
}

const places = (scene: Scene, {name, digest}: ImageRow) => placesOf(scene.store, name, digest)
const isRootfs = (image: ImageRow): boolean => image.kind === 'rootfs'
const hasTree = (image: ImageRow): boolean => ['STORED', 'ACTIVE'].includes(image.state)
const isDir = (image: ImageRow): boolean =>
  isRootfs(image) && hasTree(image) && image.tree_backend === 'dir'
const isIndexed = (image: ImageRow): boolean =>
  isRootfs(image) && hasTree(image) && image.tree_backend === 'erofs'
const isUp = (image: ImageRow): boolean => isRootfs(image) && image.state === 'ACTIVE'
const isShown = (image: ImageRow): boolean => image.kind === 'disk' && image.state === 'ACTIVE'
const isDisk = (image: ImageRow): boolean => image.kind === 'disk' && hasTree(image)

function run(command: string, ...args: string[]): void {
  const ran = spawnSync(command, args, {encoding: 'utf8'})
  if (ran.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${ran.stderr}`)
}

function unmountIfMounted(path: string): void {
  spawnSync('umount', ['--lazy', path])
}

const remove = (path: string): void => rmSync(path, {recursive: true, force: true})

function truncate(path: string): void {
  if (existsSync(path)) truncateSync(path, Math.floor(statSync(path).size / 2))
}

/** Things of the tree and the mounts of one image. */
const ofImages: Damage[] = [
  {
    name: 'tree removed',
    fits: (image) => isRootfs(image) && hasTree(image),
    act: (scene, image) => {
      const {mountPoint, rootfs, image: dir} = places(scene, image)
      if (image.tree_backend === 'erofs')
        for (const at of [mountPoint, rootfs]) unmountIfMounted(at)
      remove(dir)
    },
  },
  {
    name: 'note of a tree removed',
    fits: hasTree,
    act: (scene, image) => remove(places(scene, image).note),
  },
  {
    name: 'note of a tree cut',
    fits: hasTree,
    act: (scene, image) => truncate(places(scene, image).note),
  },
  {
    name: 'root of a tree emptied',
    fits: isDir,
    act: (scene, image) => {
      const {rootfs} = places(scene, image)
      for (const name of readdirSync(rootfs)) remove(join(rootfs, name))
    },
  },
  {
    name: 'index removed',
    fits: isIndexed,
    act: (scene, image) => remove(places(scene, image).index),
  },
  {
    name: 'index cut',
    fits: (image) => isIndexed(image) && image.state === 'STORED',
    act: (scene, image) => truncate(places(scene, image).index),
  },
  {
    name: 'plain tar removed',
    fits: isIndexed,
    act: (scene, image) => remove(places(scene, image).plain),
  },
  {
    name: 'plain tar cut',
    fits: (image) => isIndexed(image) && image.state === 'STORED',
    act: (scene, image) => truncate(places(scene, image).plain),
  },
  {name: 'blob removed', act: (scene, image) => remove(places(scene, image).blob), fits: hasTree},
  {
    name: 'blob cut',
    fits: (image) => hasTree(image) && image.kind === 'rootfs',
    act: (scene, image) => truncate(places(scene, image).blob),
  },
  {
    name: 'overlay unmounted',
    fits: isUp,
    act: (scene, image) => unmountIfMounted(places(scene, image).mountPoint),
  },
  {
    name: 'index unmounted',
    fits: (image) => isUp(image) && isIndexed(image),
    act: (scene, image) => unmountIfMounted(places(scene, image).rootfs),
  },
  {
    name: 'another file system over the mount point',
    fits: isUp,
    act: (scene, image) => run('mount', '-t', 'tmpfs', 'other', places(scene, image).mountPoint),
  },
  {
    name: 'another file system over the tree',
    fits: (image) => isRootfs(image) && hasTree(image),
    act: (scene, image) => {
      const {rootfs} = places(scene, image)
      if (existsSync(rootfs)) run('mount', '-t', 'tmpfs', 'other', rootfs)
    },
  },
  {
    name: 'mounted though it is STORED',
    fits: (image) => isRootfs(image) && image.state === 'STORED',
    act: (scene, image) => {
      const {mountPoint} = places(scene, image)
      mkdirSync(mountPoint, {recursive: true})
      run('mount', '-t', 'tmpfs', `imgstore:${image.name}`, mountPoint)
    },
  },
  {
    name: 'overlay removed',
    fits: isUp,
    losesWrites: true,
    act: (scene, image) => remove(join(scene.store, 'overlays', image.name)),
  },
  {
    name: 'work directory removed',
    fits: isUp,
    act: (scene, image) => remove(join(scene.store, 'overlays', image.name, 'work')),
  },
  {
    name: 'note of a shown disk removed',
    fits: isShown,
    act: (scene, image) => remove(join(scene.store, 'disks', `${image.name}.json`)),
  },
  {
    name: 'note of a shown disk cut',
    fits: isShown,
    act: (scene, image) => truncate(join(scene.store, 'disks', `${image.name}.json`)),
  },
  {
    name: 'bytes of a shown disk removed',
    fits: isShown,
    act: (scene) => {
      const dir = join(scene.store, 'disks')
      for (const name of readdirSync(dir)) if (name.endsWith('.raw')) remove(join(dir, name))
    },
  },
  {
    name: 'disk removed',
    fits: isDisk,
    act: (scene, image) => remove(join(scene.store, 'images', image.name, 'disk.raw')),
  },
]

const deadOwner = (id: string, node: string): unknown[] => [
  ...[id, node, 'worker', 'here', 'another-boot', 'pid:[1]', 4_194_303, '1', 1, 1],
]

/** Rows that no fault-free program leaves. */
const ofRows: Damage[] = [
  {
    name: 'row of a blob removed',
    fits: hasTree,
    act: (scene, {digest}) =>
      write(scene, (db) => void db.prepare('delete from blobs where digest = ?').run(digest)),
  },
  {
    name: 'row of a blob with another size',
    fits: hasTree,
    act: (scene, {digest}) =>
      write(
        scene,
        (db) => void db.prepare('update blobs set size_bytes = 7 where digest = ?').run(digest),
      ),
  },
  {
    name: 'run without its image',
    act: (scene) =>
      write(scene, (db) => {
        db.prepare(
          `insert into runs (id, image_id, image_name, node, digest, goal, status, due_at, created_at)
           select ?, 999999, 'ghost', node, ?, 'ACTIVE', 'pending', 1, 1 from placements limit 1`,
        ).run(newUlid(Date.now()), 'a'.repeat(64))
      }),
  },
  {
    name: 'image on no host',
    act: (scene) =>
      write(scene, (db) => {
        db.prepare(
          `insert or ignore into images (name, url, digest, created_at, updated_at) values ('nowhere', 'http://127.0.0.1:1/x', ?, 1, 1)`,
        ).run('b'.repeat(64))
      }),
  },
  {
    name: 'dead owner with a run',
    fits: hasTree,
    act: (scene, image) =>
      write(scene, (db) => {
        const {node, id: imageId} = db
          .prepare(
            'select p.node, i.id from images i join placements p on p.image_id = i.id where i.name = ?',
          )
          .get(image.name) as {node: string; id: number}
        const owner = newUlid(Date.now())
        db.prepare(`insert into owners values (${'?,'.repeat(9)}?)`).run(...deadOwner(owner, node))
        db.prepare(
          `insert into runs (id, image_id, image_name, node, digest, goal, status, owner, lease_expires_at, due_at, created_at, epoch)
           values (?, ?, ?, ?, ?, ?, 'running', ?, ?, 1, 1, 1) on conflict do nothing`,
        ).run(
          ...[newUlid(Date.now()), imageId, image.name, node, image.digest, image.goal, owner],
          Date.now() + 3_000_000,
        )
      }),
  },
  {
    name: 'run removed on its way',
    fits: hasTree,
    act: (scene, image) =>
      write(scene, (db) => {
        const other = image.goal === 'ACTIVE' ? 'STORED' : 'ACTIVE'
        db.prepare(
          'update placements set goal = ? where image_id = (select id from images where name = ?)',
        ).run(other, image.name)
      }),
  },
  {
    name: 'id of the host removed',
    act: (scene) => remove(join(scene.store, 'node-id')),
  },
  {
    name: 'id of the host damaged',
    act: (scene) => writeFileSync(join(scene.store, 'node-id'), '\0\0\0'),
  },
  {
    name: 'id of another host',
    act: (scene) => {
      const trees = imagesOf(scene).filter(({name}) =>
        existsSync(join(scene.store, 'images', name, 'tree.json')),
      )
      // Only the trees can tell then.
      if (trees.length > 1) writeFileSync(join(scene.store, 'node-id'), `${newUlid(Date.now())}\n`)
    },
  },
]

function litter(path: string, text = 'litter'): void {
  mkdirSync(join(path, '..'), {recursive: true})
  writeFileSync(path, text)
  utimesSync(path, 1, 1)
}

const stray = (name: string, path: () => string): Damage => ({
  name: `stray ${name}`,
  act: (scene) => litter(join(scene.store, path())),
})
const digest = (): string =>
  newUlid(Date.now())
    .toLowerCase()
    .replaceAll(/[^0-9a-f]/g, 'c')
    .padEnd(64, '0')

/** Files that no row knows. */
const ofFiles: Damage[] = [
  stray('blob', () => `blobs/${digest()}.tar`),
  stray('part', () => `blobs/${digest()}.tar.tmp`),
  stray('note of a part', () => `blobs/${digest()}.tar.tmp.json`),
  stray('plain tar', () => `blobs/${digest()}.tar.raw`),
  stray('plain tar in the making', () => `blobs/${digest()}.tar.raw.tmp-12ab`),
  stray('staged tree', () => `staging/${newUlid(1)}-1/rootfs/file`),
  stray('tree on its way out', () => `staging/old-${newUlid(1)}/rootfs/file`),
  stray('tree', () => 'images/ghost/rootfs/file'),
  stray('overlay', () => 'overlays/ghost/upper/file'),
  stray('quarantined blob', () => `quarantine/${digest()}.tar`),
  stray('note of a shown disk', () => 'disks/ghost.json'),
  stray('bytes of a shown disk', () => `disks/${newUlid(1)}-1.raw`),
  stray('draft of the id', () => `node-id.77.${newUlid(1)}`),
  {
    name: 'stray mount',
    act: (scene) => {
      const path = join(scene.store, 'active', 'ghost')
      mkdirSync(path, {recursive: true})
      run('mount', '-t', 'tmpfs', 'imgstore:ghost', path)
    },
  },
  {
    name: 'stray mount in a tree',
    act: (scene) => {
      const path = join(scene.store, 'images/ghost2/rootfs')
      mkdirSync(path, {recursive: true})
      run('mount', '-t', 'tmpfs', 'other', path)
    },
  },
  {
    name: 'half-published disk',
    act: (scene) => {
      litter(join(scene.dir, 'images/chunked/disk/v1~publishing/chunks/0.bin'))
      litter(join(scene.dir, 'images/chunked/disk/~publishing.lock'), '')
    },
  },
  {
    name: 'modes for everybody',
    act: (scene) => {
      for (const name of ['blobs', 'images', 'overlays', 'staging']) {
        mkdirSync(join(scene.store, name), {recursive: true})
        chmodSync(join(scene.store, name), 0o777)
      }
    },
  },
  {
    name: 'modes for nobody',
    act: (scene) => {
      for (const name of ['blobs', 'active', 'disks'])
        if (existsSync(join(scene.store, name))) chmodSync(join(scene.store, name), 0o000)
    },
  },
]

export const damages: readonly Damage[] = [...ofImages, ...ofRows, ...ofFiles]

/** Everything that a dry run must leave alone: names, kinds, modes, sizes and times of files, and every row. */
export function fingerprint(scene: Scene): string[] {
  const lines: string[] = []
  const walk = (dir: string): void => {
    for (const name of readdirSync(dir).sort()) {
      const path = join(dir, name)
      const found = statSync(path, {throwIfNoEntry: false})
      if (!found) continue
      const isOfDatabase = path.startsWith(scene.db)
      if (isOfDatabase) continue
      const time = found.isDirectory() ? 0 : found.mtimeMs
      lines.push(
        `${path} ${found.mode.toString(8)} ${found.isDirectory() ? 0 : found.size} ${time}`,
      )
      if (found.isDirectory()) walk(path)
    }
  }
  for (const dir of [scene.store, join(scene.dir, 'images')]) if (existsSync(dir)) walk(dir)
  lines.push(
    ...readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(scene.dir)),
  )
  write(scene, (db) => {
    for (const table of ['nodes', 'owners', 'images', 'placements', 'blobs', 'runs', 'run_events'])
      lines.push(
        ...db
          .prepare(`select * from ${table}`)
          .all()
          .map((row) => `${table} ${JSON.stringify(row)}`),
      )
  })
  return lines
}
