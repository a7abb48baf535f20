/** Many shells at once: whatever order their commands come in, the store stays legal and nothing is left over. */
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {readFileSync} from 'node:fs'
import {useServers} from '../support/blob-server.ts'
import {makeImage, randomOf, readTree, sha256} from '../support/image-maker.ts'
import {until, useScenes, type Ran, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {expectSoundStore, imagesOf, runsOf} from '../support/store-check.ts'

const seed = Number(process.env['IMGSTORE_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
const atOnce = 8
/** How long the shells go on. */
const raceMs = Number(process.env['IMGSTORE_TEST_RACE_MS'] ?? 8000)

describe('many commands at once', function () {
  requires('root')
  this.timeout(180_000 + raceMs)
  const newScene = useScenes()
  const newServer = useServers()

  it('register one run when they fetch the same name from the same source', async () => {
    const [scene, server] = [newScene(), await newServer()]
    const image = makeImage(1)
    const url = server.put('/one.tar', image.bytes)
    const all = await Promise.all(
      Array.from({length: atOnce}, () => scene.run(['fetch', 'one', url, image.digest, '--wait'])),
    )
    expect(all.map(({code, stderr}) => [code, stderr])).to.deep.equal(
      Array.from({length: atOnce}, () => [0, '']),
    )
    expect(runsOf(scene)).to.have.length(1)
    expect(server.sentBytes('/one.tar')).to.equal(image.bytes.length)
    const [one, ...others] = imagesOf(scene)
    expect(one).to.include({name: 'one', digest: image.digest, state: 'ACTIVE', goal: 'ACTIVE'})
    expect(others).to.deep.equal([])
    await expectSoundStore(scene)
  })

  it('let one source win when they fetch the same name from different ones', async () => {
    const [scene, server] = [newScene(), await newServer()]
    const images = Array.from({length: atOnce}, (_, i) => makeImage(i))
    const all = await Promise.all(
      images.map(({bytes, digest}, i) =>
        scene.run(['fetch', 'one', server.put(`/${i}.tar`, bytes), digest, '--wait']),
      ),
    )
    expect(all.filter(({code}) => code === 0)).to.have.length(1)
    expect(all.filter(({code}) => code === 11)).to.have.length(atOnce - 1)
    for (const {stderr} of all.filter(({code}) => code === 11))
      expect(stderr).to.match(/^Error: the name "one" is taken .*\nTry: .*--replace.*\n$/)
    expect(runsOf(scene)).to.have.length(1)
    const winner = images[all.findIndex(({code}) => code === 0)]
    expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(winner?.tree)
    await expectSoundStore(scene)
  })

  it('end in a legal state when they fetch, remove, activate, deactivate and clean up', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${seed}`)
    const [scene, server] = [newScene(), await newServer()]
    Object.assign(scene.env, {IMGSTORE_POLL: '20ms', IMGSTORE_LEASE: '2s'})
    const worker = scene.start(['worker'])
    const end = performance.now() + raceMs
    // Two names that now have one blob, now the other, now the same.
    const commands = [makeImage(2, {files: 100}), makeImage(3, {files: 50})].flatMap((image, i) => {
      const url = server.put(`/${i}.tar`, image.bytes)
      return ['one', 'two'].flatMap((name) => [
        ['fetch', name, url, image.digest, '--wait', '--timeout', '20s'],
        ['fetch', name, url, image.digest],
        ['fetch', name, url, image.digest, '--replace'],
        ['remove', name],
        ['remove', name, '--no-wait'],
        ['activate', name],
        ['deactivate', name],
        ['activate', name, '--no-wait'],
        ['deactivate', name, '--no-wait'],
        ['retry', name],
        ['cleanup'],
      ])
    })
    const shell = async (random: () => number): Promise<Ran[]> => {
      const ran: Ran[] = []
      while (performance.now() < end) {
        const command = commands[Math.floor(random() * commands.length)] ?? []
        ran.push(await scene.run(command))
      }
      return ran
    }
    const all = (
      await Promise.all(Array.from({length: 6}, (_, i) => shell(randomOf(seed + i))))
    ).flat()
    // Not there, being removed, in use, in the wrong state: nothing else can be the matter.
    for (const {code, stdout, stderr} of all)
      expect([0, 10, 11, 1], `${stdout}${stderr}`).to.include(code)
    for (const {code, stdout, stderr} of all.filter(({code}) => code === 1))
      expect(stderr, `${code} ${stdout}`).to.contain('this needs')

    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
    await scene.ok(['worker', '--once'])
    for (const {state, goal} of imagesOf(scene)) expect(state).to.equal(goal)
    await expectSoundStore(scene)
  })

  it('never mix the bytes of two sources: who was called off writes into nothing', async () => {
    const [scene, server] = [newScene(), await newServer()]
    // A worker learns late that a run was canceled: it renews its leases every ten seconds.
    Object.assign(scene.env, {IMGSTORE_LEASE: '30s'})
    const image = makeImage(3, {files: 200, fileBytes: 20_000})
    const lie = Buffer.alloc(image.bytes.length, 'lies')
    const liar = server.put('/liar.tar', lie, {bytesPerSecond: 400_000})
    const honest = server.put('/honest.tar', image.bytes, {bytesPerSecond: 2_000_000})
    await scene.ok(['fetch', 'lied-to', liar, image.digest])
    await scene.ok(['fetch', 'honest', honest, image.digest])
    const worker = scene.start(['worker'])
    await until('some lies', () => server.sentBytes('/liar.tar') > 300_000)
    await scene.ok(['deactivate', 'lied-to', '--no-wait'])
    await until('the honest one', () => stateOf(scene, 'honest') === 'ACTIVE')
    // The liar is still sending.
    await sleep(1000)
    const blob = readFileSync(join(scene.store, 'blobs', `${image.digest}.tar`))
    expect(sha256(blob)).to.equal(image.digest)
    expect(readTree(join(scene.store, 'active/honest'))).to.deep.equal(image.tree)
    await until('the other', () => stateOf(scene, 'lied-to') === 'STORED')
    worker.kill('SIGTERM')
    await worker.exited
    await expectSoundStore(scene)
  })

  it('leave no tree behind when an image is removed while it is unpacked', async () => {
    const [scene, server] = [newScene(), await newServer()]
    Object.assign(scene.env, {IMGSTORE_LEASE: '1s'})
    const image = makeImage(4, {files: 6000, fileBytes: 100})
    const url = server.put('/one.tar', image.bytes)
    const worker = scene.start(['worker'])
    await scene.ok(['fetch', 'one', url, image.digest])
    await until('the unpacking', () => stateOf(scene, 'one') === 'UNPACKING')
    await scene.ok(['remove', 'one'])
    await until('the worker to let go', () => worker.out.stderr.includes('let go of a lost run'))
    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
    expect(imagesOf(scene)).to.deep.equal([])
    await expectSoundStore(scene)
  })
})

function stateOf(scene: Scene, name: string): string | undefined {
  return imagesOf(scene).find((image) => image.name === name)?.state
}
