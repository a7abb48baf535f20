/** Ten images, two workers, and again and again one of them dies at a moment that nobody chose. */
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {makeImage, randomOf, readTree, type Image} from '../support/image-maker.ts'
import {until, useScenes, type Running, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {expectSoundStore, imagesOf, query} from '../support/store-check.ts'

const seed = faultSeed
const killsMax = howMany(50, 1000)
const imageCount = 10

type JsonEvent = {run: string; image: string; kind: string; from?: string; to?: string}
type JsonRun = {id: string; image: string; status: string; goal: string}

describe('two workers that are killed again and again', function () {
  requires('root')
  this.timeout(isLong ? 3_600_000 : 180_000)
  const newScene = useScenes()
  const newServer = useServers()

  it(`bring ten images to ACTIVE, each step effective once`, async () => {
    console.log(`    IMGSTORE_TEST_SEED=${seed}`)
    const scene = newScene()
    Object.assign(scene.env, {
      IMGSTORE_LEASE: '2s',
      IMGSTORE_POLL: '50ms',
      IMGSTORE_RETRY_WAIT: '100ms',
    })
    const images = await enqueueImages(scene, await newServer())
    const kills = await killWorkers(scene)
    expect(kills).to.equal(killsMax)

    // Two workers that nobody kills any more finish what is left.
    await Promise.all([scene.run(['worker', '--once']), scene.run(['worker', '--once'])])
    const states = imagesOf(scene).map(({name, state}) => [name, state])
    expect(states).to.deep.equal([...images.keys()].map((name) => [name, 'ACTIVE']))
    await expectOneRunEach(scene, [...images.keys()])
    for (const [name, image] of images)
      expect(readTree(join(scene.store, 'active', name)), name).to.deep.equal(image.tree)
    await expectSoundStore(scene)
    recordRow({
      row: 'kills',
      injected: `${kills} × kill -9 of one of two workers`,
      checked: 'all images ACTIVE, each step once, trees equal, sound store',
    })
  })
})

/**
 * Ten images under ten names, two of them of the same bytes; all of them slow to download. Half of them are indexed,
 * two from a compressed archive.
 */
async function enqueueImages(scene: Scene, server: BlobServer): Promise<Map<string, Image>> {
  const images = new Map<string, Image>()
  for (let i = 0; i < imageCount; i++) {
    const name = `image-${i}`
    const image =
      i === imageCount - 1
        ? images.get('image-0')
        : packedImage(
            i === 1 || i === 3 ? 'gzip' : 'plain',
            makeImage(seed + i, {files: 300, fileBytes: 8000}),
          )
    if (!image) throw new Error('the first image is there')
    images.set(name, image)
    const url = server.put(`/${name}.tar`, image.bytes, {bytesPerSecond: 600_000})
    const backend = i % 2 === 1 ? 'erofs' : 'dir'
    await scene.ok(['fetch', name, url, `sha256:${image.digest}`, '--backend', backend])
  }
  return images
}

/** Starts two workers, kills one or the other at random moments, and starts it again at once. Returns how often. */
async function killWorkers(scene: Scene): Promise<number> {
  const random = randomOf(seed)
  const workers = [scene.start(['worker']), scene.start(['worker'])]
  let kills = 0
  while (kills < killsMax) {
    await sleep(50 + random() * 650)
    const which = random() < 0.5 ? 0 : 1
    const worker = workers[which] as Running
    worker.kill('SIGKILL')
    expect((await worker.exited).signal).to.equal('SIGKILL')
    workers[which] = scene.start(['worker'])
    kills++
  }
  await until('both workers to be registered', () => {
    const alive = query<{pid: number}>(scene, 'select pid from owners').map(({pid}) => pid)
    return workers.every(({pid}) => alive.includes(pid))
  })
  for (const worker of workers) worker.kill('SIGTERM')
  for (const worker of workers) expect((await worker.exited).code).to.equal(0)
  return kills
}

/** One run for each image, done, and in its events each transition once: as the commands show it. */
async function expectOneRunEach(scene: Scene, names: string[]): Promise<void> {
  const {runs} = await scene.json<{runs: JsonRun[]}>(['runs', 'list', '--limit', '1000'])
  expect(runs.map(({image}) => image).sort()).to.deep.equal(names)
  const {events} = await scene.json<{events: JsonEvent[]}>(['events', '--limit', '10000'])
  for (const run of runs) {
    expect(run).to.include({status: 'done', goal: 'ACTIVE'})
    const steps = events.filter((event) => event.run === run.id && event.kind === 'transition')
    expect(steps.map(({from, to}) => `${from} → ${to}`)).to.deep.equal([
      'NEW → DOWNLOADING',
      'DOWNLOADING → DOWNLOADED',
      'DOWNLOADED → UNPACKING',
      'UNPACKING → UNPACKED',
      'UNPACKED → STORED',
      'STORED → ACTIVATING',
      'ACTIVATING → ACTIVE',
    ])
  }
}
