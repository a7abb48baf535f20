/** What a store finds after the machine went down: no mount, no process, and perhaps a stranger under an old number. */
import {spawnSync} from 'node:child_process'
import {mkdirSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {makeImage, readTree} from '../support/image-maker.ts'
import {until, useScenes, type Scene} from '../support/program.ts'
import {forgetBoot} from '../support/reboot.ts'
import {requires} from '../support/requires.ts'
import {eventsOf, expectSoundStore, imagesOf, mountsOf} from '../support/store-check.ts'

type Status = {state: string; is_mounted?: boolean}

describe('after a reboot', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  it('images that were ACTIVE are mounted again, and what was under way is finished', async () => {
    const [scene, server] = [newScene(), await newServer()]
    const images = await threeActive(scene, server)
    await scene.ok(['deactivate', 'three'])
    const slow = makeImage(44, {files: 50})
    const url = server.put('/slow.tar', slow.bytes, (nth) =>
      nth === 0 ? {stallAfterBytes: 5000} : {},
    )
    const worker = scene.start(['worker'])
    await scene.ok(['fetch', 'slow', url, slow.digest])
    await until('the download', () => server.sentBytes('/slow.tar') > 0)
    goDown(scene, worker.pid)
    await worker.exited

    expect(await scene.json<Status>(['status', 'one'])).to.include({
      state: 'ACTIVE',
      is_mounted: false,
    })
    await scene.ok(['worker', '--once'])
    expect(await scene.json<Status>(['status', 'one'])).to.include({
      state: 'ACTIVE',
      is_mounted: true,
    })
    expect(imagesOf(scene).map(({name, state}) => `${name} ${state}`)).to.deep.equal([
      'one ACTIVE',
      'slow ACTIVE',
      'three STORED',
      'two ACTIVE',
    ])
    for (const name of ['one', 'two'])
      expect(readTree(join(scene.store, 'active', name))).to.deep.equal(images.get(name))
    const mended = eventsOf(scene).filter(({kind}) => kind === 'mended')
    expect(mended.map(({image_name}) => image_name)).to.deep.equal(['one', 'two'])
    await expectSoundStore(scene)
  })

  for (const backend of ['dir', 'erofs'] as const)
    it(`an image whose tree was half made is made anew: ${backend}`, async () => {
      const [scene, server] = [newScene(), await newServer()]
      const image = packedImage('gzip', makeImage(45, {files: 8000, fileBytes: 2000}))
      const url = server.put('/one.tar', image.bytes)
      await scene.ok(['fetch', 'one', url, image.digest, '--backend', backend])
      const worker = scene.start(['worker'])
      await until('a part of the tree', () => partsOf(join(scene.store, 'staging'), backend) > 0)
      goDown(scene, worker.pid)
      await worker.exited
      expect(imagesOf(scene).map(({state}) => state)).to.deep.equal(['UNPACKING'])

      await scene.ok(['worker', '--once'])
      expect(await scene.json<Status>(['status', 'one'])).to.include({
        state: 'ACTIVE',
        is_mounted: true,
      })
      expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(image.tree)
      expect(server.of('/one.tar')).to.have.lengthOf(1)
      await expectSoundStore(scene)
    })

  for (const [backend, points] of Object.entries({
    dir: ['images.unpacked', 'images.noted', 'images.published', 'images.mounted'],
    erofs: ['images.noted', 'images.plain_published', 'images.published', 'images.index_mounted'],
  }))
    for (const point of points)
      it(`an image goes on that was as far as ${point}: ${backend}`, async () => {
        const [scene, server] = [newScene(), await newServer()]
        const image = packedImage('gzip', makeImage(46))
        const url = server.put('/one.tar', image.bytes)
        await scene.ok(['fetch', 'one', url, image.digest, '--backend', backend])
        const worker = scene.start(['worker', '--once'], {env: {IMGSTORE_FAILPOINT: point}})
        expect((await worker.exited).signal).to.equal('SIGKILL')
        goDown(scene)
        await scene.ok(['worker', '--once'])
        expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(image.tree)
        await expectSoundStore(scene)
      })

  it('a running worker mends what others did to the mounts by hand', async () => {
    const [scene, server] = [newScene(), await newServer()]
    await threeActive(scene, server)
    await scene.ok(['deactivate', 'three'])
    const worker = scene.start(['worker'])
    const place = (name: string): string => join(scene.store, 'active', name)
    await until('the worker', () => worker.out.stderr.includes('worker started'))
    umount(place('one'))
    // A second mount on top of the first, and one of an image that nobody wants mounted.
    overlay(scene, 'two', place('two'))
    mkdirSync(place('three'), {recursive: true})
    overlay(scene, 'three', place('three'))
    await until('the mounts that belong there', () => {
      const mounts = mountsOf(scene)
      return mounts.join() === 'imgstore:one,imgstore:two'
    })
    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
    await expectSoundStore(scene)
  })
})

/** How many files there are of what is being made. */
function partsOf(staging: string, backend: 'dir' | 'erofs'): number {
  try {
    const found = readdirSync(staging, {recursive: true, encoding: 'utf8'})
    return found.filter(
      (name) => /\/rootfs\/./.test(name) || (backend === 'erofs' && /\.part/.test(name)),
    ).length
  } catch {
    // It is being renamed or removed.
    return 0
  }
}

/** Three images, the second of them indexed. */
async function threeActive(
  scene: Scene,
  server: BlobServer,
): Promise<Map<string, Map<string, string>>> {
  const trees = new Map<string, Map<string, string>>()
  for (const [i, name] of ['one', 'two', 'three'].entries()) {
    const image = packedImage(name === 'two' ? 'gzip' : 'plain', makeImage(40 + i))
    const url = server.put(`/${name}.tar`, image.bytes)
    const backend = name === 'two' ? 'erofs' : 'dir'
    await scene.ok(['fetch', name, url, image.digest, '--wait', '--backend', backend])
    trees.set(name, image.tree)
  }
  return trees
}

/** Takes the processes and mounts away, and makes the records those of another boot, with a number that lives again. */
function goDown(scene: Scene, pid?: number): void {
  if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  for (const mount of scene.mounts().reverse()) umount(mount)
  forgetBoot(scene.db)
}

function umount(path: string): void {
  expect(spawnSync('umount', [path]).status).to.equal(0)
}

function overlay(scene: Scene, name: string, path: string): void {
  const lower = join(scene.store, 'images', name, 'rootfs')
  const dirs = ['upper', 'work'].map((dir) => join(scene.dir, `${name}-${dir}`))
  for (const dir of dirs) mkdirSync(dir)
  const options = `lowerdir=${lower},upperdir=${dirs[0]},workdir=${dirs[1]}`
  const done = spawnSync('mount', ['-t', 'overlay', '-o', options, `imgstore:${name}`, path])
  expect(done.status, done.stderr.toString()).to.equal(0)
}
