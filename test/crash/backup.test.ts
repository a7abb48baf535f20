/** Backups and restores that die at each of their durable steps: the database is the old one or the new one, whole. */
import {existsSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {makeImage, readTree} from '../support/image-maker.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {failpointsOfSources, isOfBackups} from '../support/source-failpoints.ts'
import {expectSoundStore, imagesOf, namesIn} from '../support/store-check.ts'

const names = failpointsOfSources().filter(isOfBackups)
const tar = './backup.tar'

async function fetch(scene: Scene, server: BlobServer, name: string, seed: number): Promise<void> {
  const image = makeImage(seed)
  const url = server.put(`/${name}.tar`, image.bytes)
  await scene.ok(['fetch', name, url, image.digest, '--wait'])
}

const imagesIn = (path: string): string[] => {
  const database = new SqliteDatabase(path, {readonly: true})
  try {
    expect(database.pragma('integrity_check')).to.deep.equal([{integrity_check: 'ok'}])
    return database.prepare('select name from images order by name').pluck().all() as string[]
  } finally {
    database.close()
  }
}

describe('dying in a backup or a restore', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  for (const name of names.filter((each) => each.startsWith('backups.'))) {
    it(`leaves the old backup or the new one after ${name}, and nothing in the way`, async () => {
      const scene = newScene()
      const server = await newServer()
      await fetch(scene, server, 'one', 1)
      await scene.ok(['backup', tar])
      await fetch(scene, server, 'two', 2)
      const again = ['backup', tar, '--blobs', '--force']
      const died = await scene.run(again, {env: {IMGSTORE_FAILPOINT: name}})
      expect(died.signal).to.equal('SIGKILL')
      const target = ['--store', './target/store', '--db', './target/store.db']
      await scene.ok(['restore', tar, ...target])
      const expected = name === 'backups.shown' ? ['one', 'two'] : ['one']
      expect(imagesIn(join(scene.dir, 'target/store.db'))).to.deep.equal(expected)
      await scene.ok(again)
      expect(readdirSync(scene.dir).filter((file) => file.startsWith('backup.tar'))).to.deep.equal([
        'backup.tar',
      ])
      await expectSoundStore(scene)
    })
  }

  for (const name of names.filter((each) => each.startsWith('restore.'))) {
    it(`leaves the old database or the new one after ${name}`, async () => {
      const scene = newScene()
      const server = await newServer()
      await fetch(scene, server, 'one', 1)
      await scene.ok(['backup', tar, '--blobs'])
      await scene.ok(['remove', 'one'])
      await fetch(scene, server, 'two', 2)
      const restore = ['restore', tar, '--force']
      const died = await scene.run(restore, {env: {IMGSTORE_FAILPOINT: name}})
      expect(died.signal, died.stdout + died.stderr).to.equal('SIGKILL')
      const isNew = name === 'restore.swapped'
      expect(imagesIn(scene.db)).to.deep.equal(isNew ? ['one'] : ['two'])
      // Either of them works, also without a second attempt.
      await scene.ok(['worker', '--once'])
      expect(imagesOf(scene).map((image) => image.state)).to.deep.equal(['ACTIVE'])
      await scene.ok(restore)
      expect(imagesIn(scene.db)).to.deep.equal(['one'])
      await scene.ok(['worker', '--once'])
      expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(makeImage(1).tree)
      const kept = readdirSync(scene.dir).filter((file) => file.includes('before-restore'))
      expect(kept.length).to.be.greaterThan(0)
      expect(kept.some((file) => imagesIn(join(scene.dir, file)).includes('two'))).to.equal(true)
      await scene.ok(['cleanup'], {env: {IMGSTORE_STALE_AFTER: '0'}})
      const left = readdirSync(scene.dir).filter((file) => /part|lock/.test(file))
      expect(left).to.deep.equal([])
      expect(namesIn(scene, 'staging')).to.deep.equal([])
      await expectSoundStore(scene)
    })
  }
})

describe('a backup while a worker works', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  it('is whole, and brings every image of its moment back without a source', async () => {
    const scene = newScene()
    const server = await newServer()
    const worker = scene.start(['worker'])
    for (let i = 0; i < 6; i++) {
      const image = makeImage(i, {files: 30, fileBytes: 20_000})
      const url = server.put(`/image-${i}.tar`, image.bytes, {bytesPerSecond: 2_000_000})
      await scene.ok(['fetch', `image-${i}`, url, image.digest])
      await scene.ok(['backup', tar, '--blobs', '--force'])
    }
    worker.kill('SIGTERM')
    await worker.exited
    await scene.ok(['worker', '--once'])
    await scene.ok(['backup', tar, '--blobs', '--force'])
    const sent = server.requests.length
    // All is lost but the backup.
    for (const {name} of imagesOf(scene)) await scene.ok(['deactivate', name])
    for (const path of [scene.store, scene.db]) rmSync(path, {recursive: true})
    await scene.ok(['restore', tar])
    await scene.ok(['worker', '--once'])
    expect(imagesOf(scene).map(({state}) => state)).to.deep.equal(Array(6).fill('ACTIVE'))
    for (let i = 0; i < 6; i++)
      expect(readTree(join(scene.store, `active/image-${i}`))).to.deep.equal(
        makeImage(i, {files: 30, fileBytes: 20_000}).tree,
      )
    expect(server.requests.length).to.equal(sent)
    expect(await scene.ok(['doctor', '--repair'])).to.equal('Nothing to mend\n')
    await expectSoundStore(scene)
  })

  it('is not restored under a worker, or one that starts meanwhile', async () => {
    const scene = newScene()
    const server = await newServer()
    await fetch(scene, server, 'one', 1)
    await scene.ok(['backup', tar])
    const worker = scene.start(['worker'])
    while (!worker.out.stderr.includes('worker started'))
      await new Promise((r) => setTimeout(r, 30))
    const refused = await scene.run(['restore', tar, '--force', '--json'])
    expect(refused.code).to.equal(11)
    expect((JSON.parse(refused.stdout) as {error: {code: string}}).error.code).to.equal(
      'store_in_use',
    )
    worker.kill('SIGTERM')
    await worker.exited
    const stopped = scene.start(['restore', tar, '--force'], {
      env: {IMGSTORE_FAILPOINT: 'restore.settled=stop'},
    })
    while (!existsSync(`${scene.db}.restore-part`)) await new Promise((r) => setTimeout(r, 20))
    expect((await scene.run(['status'])).code).to.equal(11)
    stopped.kill('SIGKILL')
    await stopped.exited
    // Its lock went with it.
    expect(await scene.ok(['status', 'one', '--quiet'])).to.equal('ACTIVE\n')
    await scene.ok(['restore', tar, '--force'])
    await expectSoundStore(scene)
  })

  it('is restored over a database that cannot be read any more', async () => {
    const scene = newScene()
    const server = await newServer()
    await fetch(scene, server, 'one', 1)
    await scene.ok(['backup', tar])
    writeFileSync(scene.db, 'this was a database')
    expect((await scene.run(['restore', tar])).code).to.equal(11)
    await scene.ok(['restore', tar, '--force'])
    expect(await scene.ok(['status', 'one', '--quiet'])).to.equal('ACTIVE\n')
    expect(await scene.ok(['doctor', '--repair'])).to.equal('Nothing to mend\n')
    await expectSoundStore(scene)
  })
})
