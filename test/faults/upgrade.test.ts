/**
 * Stores of every released schema: this program opens them, brings them up to date and goes on with what is in them.
 * When that fails, by an error, a full disk or a kill, the old program goes on as if nothing had been.
 */
import {execFileSync} from 'node:child_process'
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {sql, type Kysely} from 'kysely'
import {migrations} from '../../migrations/index.ts'
import {openDatabase} from '../../src/core/db/open.ts'
import type {Migrations} from '../../src/core/db/migrate.ts'
import {toImgstoreError, type ImgstoreError} from '../../src/core/errors.ts'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {rawDisk, sha256Of} from '../support/disk-image.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {makeImage, randomOf, readTree, type Image} from '../support/image-maker.ts'
import {
  disksSince,
  dumpDatabase,
  indexesSince,
  makeOldStore,
  migrationsUpTo,
  newestVersion,
  type OldImage,
} from '../support/old-store.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {expectSoundStore, imagesOf, query} from '../support/store-check.ts'

const killsMax = howMany(6, 200)
const versions = Array.from({length: newestVersion}, (_, n) => n + 1)
const oldVersions = versions.slice(0, -1)

describe('stores of released schemas', function () {
  requires('root')
  this.timeout(isLong ? 1_800_000 : 240_000)
  const newScene = useScenes()
  const newServer = useServers()

  for (const version of versions) {
    it(`of schema ${version}: open, migrate, and go on with what is in them`, async () => {
      const [scene, server] = [newScene(), await newServer()]
      const images = await oldImages(newScene(), server, version)
      await makeOldStore(scene, version, images)
      await expectUpgraded(scene, images)
    })
  }

  it('stay as they were when a migration fails, and the old program goes on', async () => {
    for (const version of [0, ...versions]) {
      const [scene, server] = [newScene(), await newServer()]
      const images = await oldImages(newScene(), server, version)
      if (version > 0) await makeOldStore(scene, version, images)
      else await (await openDatabase(scene.db, {migrations: {}})).close()
      const before = dumpDatabase(scene.db)
      for (const [what, broken] of Object.entries(brokenAfter(version))) {
        const error = await refusal(scene.db, broken)
        expect(error, what).to.include({code: 'store_invalid', exit: 15})
        expect(error.message, what).to.match(/migration 9999-\w+ failed, and nothing was changed: /)
        expect(dumpDatabase(scene.db), what).to.deep.equal(before)
      }
      await expectOpens(scene.db, migrationsUpTo(version))
    }
  })

  it('stay as they were when the disk is full, and are migrated once there is room', async () => {
    for (const version of oldVersions) {
      const [scene, server] = [newScene(), await newServer()]
      const images = await oldImages(newScene(), server, version)
      await makeOldStore(scene, version, images)
      const before = dumpDatabase(scene.db)
      const small = join(scene.dir, 'small')
      mkdirSync(small)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', small])
      try {
        const db = join(small, 'store.db')
        copyFileSync(scene.db, db)
        fill(join(small, 'filling'))
        const ran = await scene.run(['list'], {env: {IMGSTORE_DB_PATH: db}})
        expect(ran.code, ran.stderr).to.equal(14)
        expect(ran.stderr).to.match(/^Error: .*no space|full/i)
        execFileSync('rm', [join(small, 'filling')])
        expect(dumpDatabase(db)).to.deep.equal(before)
        await expectOpens(db, migrationsUpTo(version))
        copyFileSync(db, scene.db)
      } finally {
        execFileSync('umount', [small])
      }
      if (isLong || version === 1) await expectUpgraded(scene, images)
    }
  })

  it(`stay as they were after a kill in the middle, or are whole, ${killsMax} times`, async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const random = randomOf(faultSeed)
    let [old, fresh] = [0, 0]
    for (let n = 0; n < killsMax; n++) {
      const version = oldVersions[n % oldVersions.length] ?? 1
      const [scene, server] = [newScene(), await newServer()]
      const images = await oldImages(newScene(), server, version)
      await makeOldStore(scene, version, images)
      const before = dumpDatabase(scene.db)
      const missing = newestVersion - version
      // Within the transaction after each migration of it, right after it, or at any moment.
      const place = Math.floor(random() * (missing + 2))
      const at = place < missing ? `db.migration_done=exit@${place}` : 'db.migrated=exit'
      const isAnywhere = place > missing
      const running = scene.start(['list'], {env: isAnywhere ? {} : {IMGSTORE_FAILPOINT: at}})
      if (isAnywhere) setTimeout(() => running.kill('SIGKILL'), 50 + random() * 250)
      const {signal, code} = await running.exited
      if (!isAnywhere) expect(signal, `${at} ${code}`).to.equal('SIGKILL')
      const [{user_version: found} = {user_version: 0}] = query<{user_version: number}>(
        scene,
        'pragma user_version',
      )
      expect(found, at).to.be.oneOf(
        isAnywhere ? [version, newestVersion] : [place < missing ? version : newestVersion],
      )
      if (found === version) {
        old++
        expect(dumpDatabase(scene.db), at).to.deep.equal(before)
        await expectOpens(scene.db, migrationsUpTo(version))
      } else fresh++
      expect(query(scene, 'pragma integrity_check')).to.deep.equal([{integrity_check: 'ok'}])
      if (n < howMany(1, 50)) await expectUpgraded(scene, images)
      scene.close()
    }
    recordRow({
      row: 'upgrade',
      injected: `stores of schemas 1 … ${newestVersion} with images in every state; ${2 * (newestVersion + 1)} migrations that throw, ${oldVersions.length} full disks, ${killsMax} × kill -9`,
      checked:
        'the newest schema or the old one, whole, never between; the old program opens the old one; all images come to their goals',
      figures: `after the kills ${old} old, ${fresh} new`,
    })
  })

  it('of a newer program are refused by every command, and not touched', async () => {
    const [scene, server] = [newScene(), await newServer()]
    const images = await oldImages(newScene(), server, 1)
    await makeOldStore(scene, newestVersion, images.slice(0, 5))
    const next: Migrations = {
      ...migrations,
      '9999-later': {up: (db) => run(db, 'create table later (x)')},
    }
    await (await openDatabase(scene.db, {migrations: next})).close()
    const before = readFileSync(scene.db)
    const [first] = images
    if (!first) throw new Error('there are images')
    const commands = [
      ['list'],
      ['status', first.name],
      ['fetch', 'another', first.url, first.image.digest],
      ['activate', first.name],
      ['remove', first.name],
      ['cleanup'],
      ['verify'],
      ['worker', '--once'],
      ['runs', 'list'],
    ]
    for (const command of commands) {
      const {code, stderr} = await scene.run(command)
      expect(code, `${command.join(' ')}: ${stderr}`).to.equal(15)
      expect(stderr).to.match(/made by a newer imgstore .*\nTry: Upgrade imgstore/)
    }
    expect(readFileSync(scene.db).equals(before)).to.equal(true)
    expect(existsSync(`${scene.db}-wal`)).to.equal(false)
    await expectOpens(scene.db, next)
  })
})

/** One image in each state, and with the releases that had them an index and a disk. */
async function oldImages(scratch: Scene, server: BlobServer, version: number): Promise<OldImage[]> {
  const add = (
    name: string,
    state: OldImage['state'],
    goal: OldImage['goal'],
    run: NonNullable<OldImage['run']>,
    image: Image = makeImage(faultSeed + name.length + state.length * 100, {files: 20}),
  ): OldImage => ({name, url: server.put(`/${name}.tar`, image.bytes), image, state, goal, run})
  const images = [
    add('new', 'NEW', 'ACTIVE', 'pending'),
    add('loading', 'DOWNLOADING', 'ACTIVE', 'waiting'),
    add('loaded', 'DOWNLOADED', 'ACTIVE', 'running'),
    add('unpacking', 'UNPACKING', 'STORED', 'running'),
    add('unpacked', 'UNPACKED', 'STORED', 'pending'),
    add('stored', 'STORED', 'STORED', 'done'),
    add('rising', 'ACTIVATING', 'ACTIVE', 'running'),
    add('active', 'ACTIVE', 'ACTIVE', 'done'),
    add('failed', 'FAILED', 'ACTIVE', 'failed'),
    add('leaving', 'STORED', 'REMOVED', 'pending'),
  ]
  const made = async (image: OldImage, backend: 'erofs' | null, args: string[]): Promise<void> => {
    const {name, url} = image
    await scratch.ok(['fetch', name, url, image.image.digest, '--no-activate', '--wait', ...args])
    const [row] = query<{tree_id: string}>(
      scratch,
      `select tree_id from placements p join images i on i.id = p.image_id where name = '${name}'`,
    )
    const kind = backend === null ? 'disk' : 'rootfs'
    images.push({...image, made: {from: scratch, kind, backend, treeId: row?.tree_id ?? ''}})
  }
  if (version >= indexesSince) {
    const packed = packedImage('gzip', makeImage(faultSeed + 7, {files: 20}))
    await made(add('indexed', 'STORED', 'STORED', 'done', packed), 'erofs', ['--backend', 'erofs'])
  }
  if (version >= disksSince) {
    const bytes = rawDisk(1024 ** 2 * 4)
    const disk = {bytes, digest: sha256Of(bytes), tree: new Map<string, string>()}
    await made(add('disk', 'STORED', 'STORED', 'done', disk), null, ['--kind', 'disk'])
  }
  return images
}

const brought: Record<string, string> = {
  new: 'ACTIVE',
  loading: 'ACTIVE',
  loaded: 'ACTIVE',
  unpacking: 'STORED',
  unpacked: 'STORED',
  stored: 'STORED',
  rising: 'ACTIVE',
  active: 'ACTIVE',
  failed: 'FAILED',
  indexed: 'STORED',
  disk: 'STORED',
}

type Listed = {images: {name: string; state: string; goal: string}[]}

/** Everything that was on its way arrives, and every command does what it does. */
async function expectUpgraded(scene: Scene, images: readonly OldImage[]): Promise<void> {
  const {images: listed} = await scene.json<Listed>(['list'])
  expect(listed.map(({name, state, goal}) => [name, state, goal])).to.deep.equal(
    images.map(({name, state, goal}) => [name, state, goal]).sort(),
  )
  const [{user_version: version} = {user_version: 0}] = query<{user_version: number}>(
    scene,
    'pragma user_version',
  )
  expect(version).to.equal(newestVersion)
  await scene.run(['worker', '--once'])
  const names = images.map(({name}) => name).filter((name) => name !== 'leaving')
  const states = Object.fromEntries(imagesOf(scene).map(({name, state}) => [name, state]))
  expect(states).to.deep.equal(Object.fromEntries(names.map((name) => [name, brought[name]])))
  // What was written to a mounted image by the old program is there.
  const written = join(scene.store, 'active/active/written')
  expect(readFileSync(written, 'utf8')).to.equal('by the old program\n')
  await scene.ok(['retry', 'failed'])
  await scene.ok(['deactivate', 'active'])
  for (const name of names.filter((each) => brought[each] === 'STORED'))
    await scene.ok(['activate', name])
  for (const {name, image, made} of images) {
    if (name === 'leaving' || name === 'active' || made?.kind === 'disk') continue
    expect(readTree(join(scene.store, 'active', name)), name).to.deep.equal(image.tree)
  }
  await scene.ok(['status', 'stored'])
  await scene.ok(['verify'])
  await scene.ok(['runs', 'list'])
  await scene.ok(['events'])
  for (const name of ['loaded', ...(names.includes('disk') ? ['disk'] : [])])
    await scene.ok(['remove', name])
  await expectSoundStore(scene)
}

const run = async (db: Kysely<unknown>, statement: string): Promise<void> => {
  await sql.raw(statement).execute(db)
}

/** The newest migrations after `version`, and one more that fails: before it did something, halfway, or in its SQL. */
function brokenAfter(version: number): Record<string, Migrations> {
  const up = Object.entries(migrations).slice(0, Math.max(version, 1))
  const known = Object.fromEntries(up)
  const halfway = async (db: Kysely<unknown>): Promise<void> => {
    await run(db, 'create table half (x)')
    await run(db, 'alter table images add column half text')
    await run(db, `update placements set state = 'FAILED', failed = '{}'`)
    await run(db, 'drop table run_events')
    throw new Error('halfway')
  }
  const constraint = async (db: Kysely<unknown>): Promise<void> => {
    await run(
      db,
      'create table strict_images (name text primary key not null check (name = 1)) strict',
    )
    await run(db, `insert into nodes values ('n', 'h', 1), ('n', 'h', 1)`)
  }
  return {
    'an error halfway': {...known, '9999-halfway': {up: halfway}},
    'a row that does not fit': {...known, '9999-constraint': {up: constraint}},
  }
}

async function refusal(path: string, known: Migrations): Promise<ImgstoreError> {
  try {
    await (await openDatabase(path, {migrations: known})).close()
  } catch (error) {
    return toImgstoreError(error)
  }
  throw new Error('a broken migration did no harm')
}

/** The program that knows these migrations opens it, reads and writes. */
async function expectOpens(path: string, known: Migrations): Promise<void> {
  const database = await openDatabase(path, {migrations: known})
  try {
    expect(database.quickCheck()).to.equal('ok')
    if (Object.keys(known).length === 0) return
    const {rows} = await sql<{n: number}>`select count(*) as n from images`.execute(database.db)
    expect(rows).to.have.length(1)
    await sql`insert into nodes values ('probe', 'host', 1)`.execute(database.db)
    await sql`delete from nodes where id = 'probe'`.execute(database.db)
  } finally {
    await database.close()
  }
}

/** Fills a file system to its last block. */
function fill(path: string): void {
  writeFileSync(path, '')
  for (const size of [65_536, 4096])
    for (;;) {
      try {
        appendFileSync(path, Buffer.alloc(size))
      } catch {
        break
      }
    }
}
