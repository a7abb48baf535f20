/** `cleanup` dies again and again in the middle of its work, while beside it images are fetched and removed. */
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {useServers} from '../support/blob-server.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {ImageLife, serveContents} from '../support/image-life.ts'
import {makeImage, randomOf} from '../support/image-maker.ts'
import {until, useScenes, type Running, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {expectSoundStore, namesIn, query} from '../support/store-check.ts'

const killsMax = howMany(10, 125)
/** Of each kind, before each kill. */
const litterCount = 12
const lifeCount = 4

describe('cleanup that is killed again and again', function () {
  requires('root')
  this.timeout(isLong ? 3_600_000 : 120_000)
  const newScene = useScenes()
  const newServer = useServers()

  it('takes nothing that is needed, and the next one takes what is left', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const scene = newScene()
    // Whatever no image needs may go at once, also what was written this moment.
    const env = {IMGSTORE_LEASE: '2s', IMGSTORE_POLL: '50ms', IMGSTORE_STALE_AFTER: '0'}
    Object.assign(scene.env, env)
    const random = randomOf(faultSeed)
    const images = [1, 2].map((i) => makeImage(faultSeed + i, {files: 150, fileBytes: 4000}))
    const contents = serveContents(await newServer(), images, 5_000_000)
    const lives = Array.from(
      {length: lifeCount},
      (_, i) => new ImageLife(`image-${i}`, {scene, contents, random}),
    )
    const worker = scene.start(['worker'])
    await until('the worker', () => worker.out.stderr.includes('worker started'), 300_000)
    let isOver = false
    const shell = async (own: ImageLife[]): Promise<void> => {
      for (let i = 0; !isOver; i++) await own[i % own.length]?.step((args) => scene.run(args))
    }
    const killing = async (): Promise<number> => {
      let amid = 0
      for (let kills = 0; kills < killsMax && !isOver; kills++) {
        if (await killCleanup(scene, random, kills)) amid++
        if (isLong && kills % 25 === 24) console.log(`    ${kills + 1} kills`)
        expect(query(scene, 'pragma integrity_check')).to.deep.equal([{integrity_check: 'ok'}])
        for (const life of lives) life.expectHolds()
      }
      return amid
    }
    const end = (): void => {
      isOver = true
    }
    const [amid] = await Promise.all([
      killing().finally(end),
      shell(lives.slice(0, 2)).finally(end),
      shell(lives.slice(2)).finally(end),
    ])
    expect(amid, 'kills in the middle of the work').to.be.at.least(killsMax / 2)

    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
    for (const life of lives) {
      life.expectHolds()
      life.expectTree()
    }
    expect(litterLeft(scene)).to.be.greaterThan(0)
    await expectSoundStore(scene)
    expect(litterLeft(scene)).to.equal(0)
    const results = lives.reduce((sum, {acknowledged}) => sum + acknowledged, 0)
    recordRow({
      row: 'kills-cleanup',
      injected: `${killsMax} × kill -9 of cleanup, ${amid} of them between two removals`,
      checked: `${results} acknowledged results there, no orphan after the next cleanup, sound store`,
    })
  })
})

/** Kills a cleanup once it has removed a random number of things. Returns whether there was more to remove. */
async function killCleanup(scene: Scene, random: () => number, nth: number): Promise<boolean> {
  litter(scene, nth)
  const before = litterLeft(scene)
  const enough = Math.floor(random() * before)
  const cleanup: Running = scene.start(['cleanup'])
  while (!cleanup.isOver && before - litterLeft(scene) < enough)
    await new Promise((resolve) => setImmediate(resolve))
  cleanup.kill('SIGKILL')
  const {signal, stdout, stderr} = await cleanup.exited
  const left = litterLeft(scene)
  if (signal === null) expect(left, `${stdout}${stderr}`).to.equal(0)
  return signal === 'SIGKILL' && left > 0
}

const nameOf = (nth: number, i: number): string => `litter-${nth}-${i}`

/** Things of every kind that no image needs. */
function litter(scene: Scene, nth: number): void {
  const file = (...path: string[]): void => {
    const [parent, name] = [join(scene.store, ...path.slice(0, -1)), path.at(-1) ?? '']
    mkdirSync(parent, {recursive: true})
    writeFileSync(join(parent, name), 'left over')
  }
  for (let i = 0; i < litterCount; i++) {
    const name = nameOf(nth, i)
    const digest = `${nth.toString(16).padStart(8, '0')}${i.toString(16).padStart(8, '0')}`
    file('blobs', `${digest.padEnd(64, 'e')}.tar`)
    file('blobs', `${digest.padEnd(64, 'f')}.tar.tmp`)
    file('quarantine', `${digest.padEnd(64, 'd')}.tar.${nth}`)
    file('images', name, 'rootfs', 'etc', 'file')
    file('overlays', name, 'upper', 'file')
    mkdirSync(join(scene.store, 'active', name), {recursive: true})
    file('staging', name, 'rootfs', 'file')
  }
}

/** How many of those are there still. */
function litterLeft(scene: Scene): number {
  const isLitter = (name: string): boolean =>
    name.startsWith('litter-') || /^[0-9a-f]{16}([def])\1{47}/.test(name)
  const dirs = ['blobs', 'images', 'overlays', 'active', 'staging']
  return dirs.reduce((sum, dir) => sum + namesIn(scene, dir).filter(isLitter).length, 0)
}
