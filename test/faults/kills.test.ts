/** Images lead whole lives while the workers and commands at work on them die again and again, in every state. */
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers} from '../support/blob-server.ts'
import {AimedKills, lifeStates} from '../support/aimed-kills.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {ImageLife, serveContents, type Content} from '../support/image-life.ts'
import {makeImage, randomOf} from '../support/image-maker.ts'
import {useScenes, type Ran, type Running, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {expectSoundStore, namesIn} from '../support/store-check.ts'

/** With cleanup and serve, 50 and 1,000: kills-cleanup.test.ts, kills-serve.test.ts. */
const killsMax = howMany(30, 750)
const killsPerRound = howMany(15, 50)
const lifeCount = 6
const shellCount = 3

describe('processes that are killed again and again in every state', function () {
  requires('root')
  this.timeout(isLong ? 3_600_000 : 240_000)
  const newScene = useScenes()
  const newServer = useServers()

  it('lose no result that a command told of, and are gone without a trace', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const scene = newScene()
    Object.assign(scene.env, {
      IMGSTORE_LEASE: '2s',
      IMGSTORE_POLL: '50ms',
      IMGSTORE_RETRY_WAIT: '100ms',
    })
    const contents = serveContents(await newServer(), imagesOfSeed(), 3_000_000)
    const random = randomOf(faultSeed)
    const lives = Array.from(
      {length: lifeCount},
      (_, i) => new ImageLife(`image-${i}`, {scene, contents, random}),
    )
    const kills = new AimedKills(scene, random)
    await scene.ok(['worker', '--once'])
    const startedAt = performance.now()
    for (let round = 0; kills.kills < killsMax; round++) {
      const until = Math.min(killsMax, kills.kills + killsPerRound)
      // Every other round there is no worker: then commands that wait do the work themselves, and die themselves.
      await liveThrough({scene, lives, kills, until, workerCount: round % 2 === 0 ? 2 : 0})
      await expectAllHold(scene, lives, contents)
      if (isLong) console.log(`    ${kills.kills} kills`)
    }
    const acknowledged = lives.reduce((sum, life) => sum + life.acknowledged, 0)
    expect(acknowledged).to.be.greaterThan(killsMax / 10)
    console.log(`    ${kills.kills} kills (${kills.text()}), ${acknowledged} results`)
    const hit = lifeStates.filter((state) => kills.counts.has(state))
    expect(hit.length, hit.join()).to.be.at.least(isLong ? lifeStates.length : 5)
    recordRow({
      row: 'kills',
      injected: `${kills.kills} × kill -9 of a worker or command: ${kills.text()}`,
      checked: `${acknowledged} acknowledged results there, each step once, trees equal, sound store`,
      figures: `${Math.round((performance.now() - startedAt) / 1000)} s`,
    })
  })
})

function imagesOfSeed() {
  const large = makeImage(faultSeed, {files: 300, fileBytes: 8000})
  const small = makeImage(faultSeed + 1, {files: 120, fileBytes: 2000})
  return [large, packedImage('gzip', large), small, packedImage('gzip', small)]
}

type Round = {
  scene: Scene
  lives: ImageLife[]
  kills: AimedKills
  /** So many kills in all end the round. */
  until: number
  workerCount: number
}

/** Shells lead the lives on while processes are killed; a killed worker is followed by the next one at once. */
async function liveThrough(round: Round): Promise<void> {
  const {scene, lives, kills, until, workerCount} = round
  const workers = Array.from({length: workerCount}, () => scene.start(['worker']))
  const commands = new Set<Running>()
  const run = async (args: string[]): Promise<Ran> => {
    const command = scene.start(args)
    commands.add(command)
    const ran = await command.exited
    commands.delete(command)
    return ran
  }
  let isOver = false
  let next = 0
  const busy = new Set<ImageLife>()
  const shell = async (): Promise<void> => {
    while (!isOver) {
      const life = lives[next++ % lives.length]
      if (life === undefined || busy.has(life)) continue
      busy.add(life)
      await life.step(run)
      busy.delete(life)
    }
  }
  const killing = async (): Promise<void> => {
    try {
      while (kills.kills < until && !isOver) {
        const victim = await kills.kill(() => [...workers, ...commands].filter((p) => !p.isOver))
        const index = workers.indexOf(victim)
        if (index >= 0) workers[index] = scene.start(['worker'])
        for (const life of lives) if (!busy.has(life)) life.expectHolds()
      }
    } finally {
      isOver = true
    }
  }
  const shells = Array.from({length: shellCount}, () =>
    shell().finally(() => {
      isOver = true
    }),
  )
  await Promise.all([killing(), ...shells])
  for (const worker of workers) worker.kill('SIGTERM')
  for (const worker of workers) {
    const {code, signal} = await worker.exited
    // One that was just starting is ended by the signal itself.
    expect([0, 'SIGTERM']).to.include(code ?? signal)
  }
}

/** What was promised is there, whole, and nothing else is. */
async function expectAllHold(scene: Scene, lives: ImageLife[], contents: Content[]): Promise<void> {
  expect((await scene.run(['worker', '--once'])).code).to.equal(0)
  for (const life of lives) {
    life.expectHolds()
    life.expectTree()
  }
  const digests = new Set(contents.map(({image}) => image.digest))
  await expectSoundStore(scene)
  for (const name of namesIn(scene, 'blobs').filter((blob) => blob.endsWith('.tar')))
    expect(digests.has(name.slice(0, 64)), name).to.equal(true)
  expect((await scene.run(['verify'])).code, 'every blob has its digest').to.equal(0)
}
