/** The power goes while images are fetched, changed and removed; on what is left of the disk all goes on. */
import {execFileSync} from 'node:child_process'
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {gunzipSync, gzipSync} from 'node:zlib'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers} from '../support/blob-server.ts'
import {CutDisk, cutDiskNeeds} from '../support/cut-disk.ts'
import {rawDisk} from '../support/disk-image.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {ImageLife, serveContents, type Content} from '../support/image-life.ts'
import {makeImage, randomOf, sha256} from '../support/image-maker.ts'
import {until, useScenes, type Ran, type Scene} from '../support/program.ts'
import {forgetBoot} from '../support/reboot.ts'
import {requires} from '../support/requires.ts'
import {
  eventsOf,
  expectSoundStore,
  imagesOf,
  mountsOf,
  namesIn,
  query,
  type EventRow,
} from '../support/store-check.ts'

const imagesMax = howMany(10, 200)
/** Clones taken in one session of work, each of which is opened; the next session goes on from the last. */
const cutsPerSession = 2
const sessionsPerDisk = howMany(3, 10)
const lifeCount = 5
const recoveryMsMax = 5000
/** Before it is given up; not what is asserted. */
const patienceMs = 300_000

/** ext4 as its users have it: how much of what was not synced is lost differs between these. */
const formats = [[], ['-O', 'fast_commit'], ['-b', '1024']]
const mountOptions = [
  '',
  'noauto_da_alloc,commit=60',
  'data=writeback,noauto_da_alloc',
  'nodelalloc',
]

/** A clone, and what had been acknowledged when it was taken. */
type Cut = {clone: string; promises: [ImageLife, ImageLife['promised']][]; events: EventRow[]}

describe('a disk whose power is cut', function () {
  requires(...cutDiskNeeds)
  this.timeout(isLong ? 7_200_000 : 240_000)
  const newScene = useScenes()
  const newServer = useServers()

  it('has every acknowledged blob and state, and the store goes on from it', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const random = randomOf(faultSeed)
    const server = await newServer()
    const contents = contentsOf(serveContents(server, imagesOfSeed(), 4_000_000))
    const totals = {images: 0, results: 0, events: 0, blobs: 0, slowestMs: 0}
    for (let nth = 0; totals.images < imagesMax; nth++) {
      const scene = newScene('disk')
      Object.assign(scene.env, {
        IMGSTORE_POLL: '50ms',
        IMGSTORE_RETRY_WAIT: '100ms',
        IMGSTORE_STALE_AFTER: '0',
      })
      const disk = new CutDisk(scene.dir, {format: formats[nth % formats.length] ?? []})
      // What is extracted is synced with all else on its file system, which would hide what others forget.
      const some = nth % 2 === 0 ? contents : contents.filter((content) => content.disk)
      const lives = Array.from(
        {length: lifeCount},
        (_, i) => new ImageLife(`image-${i}`, {scene, contents: some, random}),
      )
      disk.mount()
      await scene.ok(['worker', '--once'])
      for (let i = 0; i < sessionsPerDisk && totals.images < imagesMax; i++) {
        const options = mountOptions[(nth + i) % mountOptions.length]
        const cuts = await workUntilCut({scene, disk, lives, random})
        for (const [at, cut] of cuts.entries()) {
          disk.replaceBy(cut.clone)
          const startedAt = performance.now()
          disk.mount(options)
          const mountMs = performance.now() - startedAt
          totals.blobs += expectAcknowledged(scene, cut, lives)
          totals.slowestMs = Math.max(totals.slowestMs, mountMs + (await recover(scene)))
          await expectAllWhole(scene, lives)
          totals.images++
          if (isLong && totals.images % 20 === 0) console.log(`    ${totals.images} disks`)
          totals.events += cut.events.length
          totals.results += cut.promises.length
          // The last one is the disk of the next session.
          if (at < cuts.length - 1) takeDown(scene, disk)
        }
      }
      scene.close()
    }
    const {images, results, events, blobs, slowestMs} = totals
    expect(slowestMs, 'the slowest recovery').to.be.lessThan(recoveryMsMax)
    recordRow({
      row: 'power-cuts',
      injected: `${images} disks as a power cut leaves them`,
      checked: `${results} acknowledged states, ${events} events and ${blobs} blobs there; all images whole after it, sound store`,
      figures: `slowest recovery ${(slowestMs / 1000).toFixed(1)} s`,
    })
  })
})

function imagesOfSeed() {
  const large = makeImage(faultSeed, {files: 300, fileBytes: 6000})
  const small = makeImage(faultSeed + 1, {files: 100, fileBytes: 2000})
  const disk = gzipSync(rawDisk())
  const packed = {bytes: disk, digest: sha256(disk), tree: new Map<string, string>()}
  return [large, packedImage('gzip', large), small, packedImage('gzip', small), packed]
}

function contentsOf(contents: Content[]): Content[] {
  return contents.map((content) => {
    const isDisk = content.image.tree.size === 0
    return isDisk ? {...content, disk: gunzipSync(content.image.bytes)} : content
  })
}

type Session = {scene: Scene; disk: CutDisk; lives: ImageLife[]; random: () => number}

/** Shells, a worker and cleanups at work, with the power cut some times; all of it is over when this returns. */
async function workUntilCut({scene, disk, lives, random}: Session): Promise<Cut[]> {
  let isOver = false
  const worker = scene.start(['worker'])
  const run = async (args: string[]): Promise<Ran | undefined> => {
    const ran = await scene.run(args)
    return isOver ? undefined : ran
  }
  const shell = async (own: ImageLife[]): Promise<void> => {
    for (let i = 0; !isOver; i++) await own[i % own.length]?.step(run)
  }
  const cleaning = async (): Promise<void> => {
    while (!isOver) {
      await sleep(400)
      const ran = await run(['cleanup'])
      if (ran) expect(ran.code, ran.stderr).to.equal(0)
    }
  }
  const cutting = async (): Promise<Cut[]> => {
    const cuts: Cut[] = []
    try {
      while (cuts.length < cutsPerSession) {
        await sleep(150 + random() * 850)
        // Nothing else of this process runs between these three: what is noted was told before the clone is begun.
        const promises = lives
          .filter(({promised}) => promised !== 'nothing')
          .map((life): [ImageLife, ImageLife['promised']] => [life, life.promised])
        const events = eventsOf(scene)
        cuts.push({clone: disk.cut(), promises, events})
      }
    } finally {
      isOver = true
      for (const pid of scene.processes()) process.kill(pid, 'SIGKILL')
    }
    return cuts
  }
  const half = Math.ceil(lives.length / 2)
  const shells = [shell(lives.slice(0, half)), shell(lives.slice(half)), cleaning()]
  const stop = (): void => {
    isOver = true
  }
  const [cuts] = await Promise.all([cutting(), ...shells.map((one) => one.finally(stop))])
  await worker.exited
  takeDown(scene, disk)
  return cuts
}

/** Unmounts the disk and whatever is mounted in it. */
function takeDown(scene: Scene, disk: CutDisk): void {
  const inside = scene.mounts().filter((point) => point.startsWith(`${disk.place}/`))
  for (const point of inside.reverse()) execFileSync('umount', [point])
  disk.unmount()
}

/** Looks at the disk before the program does. Returns how many blobs are there. */
function expectAcknowledged(scene: Scene, {promises, events}: Cut, lives: ImageLife[]): number {
  expect(query(scene, 'pragma integrity_check')).to.deep.equal([{integrity_check: 'ok'}])
  // A commit can be seen only when it is durable: the log is synced before its frames are made known.
  expect(eventsOf(scene).slice(0, events.length), 'events').to.deep.equal(events)
  for (const life of lives) life.promised = 'nothing'
  for (const [life, promised] of promises) {
    life.promised = promised
    life.expectHolds()
  }
  const blobs = namesIn(scene, 'blobs').filter((name) => name.endsWith('.tar'))
  for (const name of blobs) {
    const bytes = readFileSync(join(scene.store, 'blobs', name))
    expect(bytes.length, name).to.be.greaterThan(0)
    expect(`${sha256(bytes)}.tar`).to.equal(name)
  }
  // All that go up have their blob; of one that is being removed it goes before the image does.
  const named = imagesOf(scene).filter(({goal}) => goal !== 'REMOVED')
  for (const {name, state, goal, digest} of named)
    if (!['NEW', 'DOWNLOADING'].includes(state))
      expect(blobs, `of ${name}, ${state} → ${goal}`).to.include(`${digest}.tar`)
  return blobs.length
}

/**
 * Lets a worker finish everything. Returns how long it took until what was ACTIVE was so again: on a busy machine less
 * what it, or this process that watches it, only waited for a processor.
 */
async function recover(scene: Scene): Promise<number> {
  forgetBoot(scene.db)
  const wanted = imagesOf(scene)
    .filter(({kind, state, goal}) => kind === 'rootfs' && state === 'ACTIVE' && goal === 'ACTIVE')
    .map(({name}) => `imgstore:${name}`)
  const startedAt = performance.now()
  const queuedBefore = queuedMs(process.pid)
  const worker = scene.start(['worker', '--once'])
  const queued = {byWorkerMs: 0}
  const isRecovered = (): boolean => {
    const mounts = mountsOf(scene)
    if (!worker.isOver) queued.byWorkerMs = Math.max(queued.byWorkerMs, queuedMs(worker.pid))
    return (
      worker.out.stderr.includes('worker started') && wanted.every((one) => mounts.includes(one))
    )
  }
  await until('what was mounted to be so again', isRecovered, patienceMs)
  const waitedMs = Math.max(queued.byWorkerMs, queuedMs(process.pid) - queuedBefore)
  const recoveryMs = performance.now() - startedAt - waitedMs
  const {code, stderr} = await worker.exited
  expect(code, stderr).to.equal(0)
  return recoveryMs
}

/** How long the first thread of a process was ready and waited for a processor: proc(5), schedstat. */
function queuedMs(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[1]) / 1e6
  } catch {
    return 0
  }
}

async function expectAllWhole(scene: Scene, lives: ImageLife[]): Promise<void> {
  for (const {name, state, goal} of imagesOf(scene)) expect(state, name).to.equal(goal)
  for (const life of lives) {
    if (life.promised === 'nothing') life.adopt()
    life.expectHolds()
    life.expectTree()
  }
  await expectSoundStore(scene)
}
