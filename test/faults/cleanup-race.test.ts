/**
 * Cleanup every 50 ms, with nothing too young for it, while shells fetch, take up, take down and remove images that
 * share blobs, of every kind: what is in use stays, and in the end the store holds what its images need.
 */
import {existsSync, readFileSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {rawDisk, sha256Of} from '../support/disk-image.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {makeImage, randomOf, readTree, type Image} from '../support/image-maker.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import type {Order} from '../support/shell-process.ts'
import {openShell, type Shell} from '../support/shells.ts'
import {expectSoundStore, imagesOf, namesIn, query} from '../support/store-check.ts'

const opCount = howMany(60, 1000)
const shellCount = 4
const everyMs = 50

type Kind = {
  word: string
  options: NonNullable<Order['options']>
  image: Image
  source: NonNullable<Order['source']>
}

describe('cleanup beside everything else', function () {
  requires('root')
  this.timeout(isLong ? 3_600_000 : 240_000)
  const shells: Shell[] = []
  afterEach('closes the shells', async () => {
    for (const shell of shells.splice(0)) await shell.close()
  })
  const newScene = useScenes()
  const newServer = useServers()

  it(`deletes nothing that is in use during ${opCount} fetches, activations and removals`, async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const [scene, server] = [newScene(), await newServer()]
    Object.assign(scene.env, {IMGSTORE_POLL: '20ms', IMGSTORE_STALE_AFTER: '0'})
    const kinds = makeKinds(server)
    const workers = [scene.start(['worker']), scene.start(['worker'])]
    for (let n = 0; n <= shellCount; n++) shells.push(await openShell(scene, n, {}))
    const [cleaner, ...askers] = shells
    if (!cleaner) throw new Error('the first shell is there')
    const cleanups = keepCleaning(scene, cleaner)
    try {
      await Promise.all(askers.map((shell, n) => changeMinds(scene, shell, n, kinds)))
    } finally {
      cleanups.stop()
    }
    const {count, commands} = await cleanups.ended
    for (const worker of workers) worker.kill('SIGTERM')
    for (const worker of workers) expect((await worker.exited).code).to.equal(0)
    await scene.ok(['cleanup'])
    expectDisks(scene)
    // The rest is looked at without disks, which have no mounts.
    for (const {name} of disksOf(scene)) await scene.ok(['remove', name])
    expect(namesIn(scene, 'disks')).to.deep.equal([])
    await expectSoundStore(scene)
    recordRow({
      row: 'cleanup-race',
      injected: `${count} cleanups, one every ${everyMs} ms, and ${commands} by the command, during ${opCount} fetch, activate, deactivate, replace, remove of ${kinds.length} kinds of images`,
      checked: 'each came to its end with the right bytes; then exactly the referenced set',
    })
  })
})

/** Directories, indexes of plain and compressed archives, disks; half of them share their blobs with another. */
function makeKinds(server: BlobServer): Kind[] {
  const kind = (word: string, image: Image, options: Kind['options']): Kind => {
    const url = server.put(`/${word}`, image.bytes, {bytesPerSecond: 2_000_000})
    return {word, image, options, source: {word, url, digest: image.digest}}
  }
  const one = makeImage(faultSeed, {files: 60, fileBytes: 3000})
  const packed = packedImage('gzip', makeImage(faultSeed + 1, {files: 60, fileBytes: 3000}))
  const raw = rawDisk(4 * 1024 ** 2)
  const disk = {bytes: raw, digest: sha256Of(raw), tree: new Map([['disk', sha256Of(raw)]])}
  return [
    kind('dir', one, {backend: 'dir'}),
    kind('erofs', one, {backend: 'erofs'}),
    kind('packed-dir', packed, {backend: 'dir'}),
    kind('packed-erofs', packed, {backend: 'erofs'}),
    kind('packed-erofs-again', packed, {backend: 'erofs'}),
    kind('disk', disk, {kind: 'disk'}),
    kind('disk-again', disk, {kind: 'disk'}),
  ]
}

function keepCleaning(
  scene: Scene,
  cleaner: Shell,
): {stop(): void; ended: Promise<{count: number; commands: number}>} {
  let isOver = false
  const quick = async (): Promise<number> => {
    let count = 0
    for (; !isOver; count++) {
      const next = sleep(everyMs)
      const [call] = await cleaner.ask([{op: 'cleanup', name: ''}])
      expect(call?.result, 'cleanup').to.equal('ok')
      await next
    }
    return count
  }
  const byCommand = async (): Promise<number> => {
    let count = 0
    for (; !isOver; count++) {
      await scene.ok(['cleanup'])
      await sleep(500)
    }
    return count
  }
  const ended = Promise.all([quick(), byCommand()])
  // Looked at when the shells are done.
  ended.catch(() => undefined)
  return {
    stop: () => {
      isOver = true
    },
    ended: ended.then(([count, commands]) => ({count, commands})),
  }
}

/** One shell with three names of its own. Whatever it asks for comes true, with the right bytes. */
async function changeMinds(
  scene: Scene,
  shell: Shell,
  number: number,
  kinds: readonly Kind[],
): Promise<void> {
  const random = randomOf(faultSeed + number)
  const below = (n: number): number => Math.floor(random() * n)
  const there = new Map<string, {kind: Kind; state: 'ACTIVE' | 'STORED'}>()
  for (let n = 0; n < opCount / shellCount; n++) {
    const name = `image-${number}-${below(3)}`
    const old = there.get(name)
    const kind = kinds[below(kinds.length)]
    if (!kind) throw new Error('there are kinds')
    const op = old ? chooseOp(random(), old.state) : 'fetch'
    const order: Order = {op, name, isFollowed: true}
    if (op === 'fetch' || op === 'replace')
      Object.assign(order, {source: kind.source, options: kind.options})
    const [call] = await shell.ask([order])
    const what = `${op} ${name} (${old?.kind.word ?? 'nothing'} ${old?.state ?? ''} → ${kind.word})`
    if (op === 'remove') {
      expect(call?.result, what).to.equal('removed gone')
      there.delete(name)
      continue
    }
    // A fetch of what is there already is none.
    const isSame = op === 'replace' && old?.kind.source.url === kind.source.url
    const state = isSame ? old.state : op === 'deactivate' ? 'STORED' : 'ACTIVE'
    expect(call?.result, what).to.equal(`reached ${state}`)
    const now = old && (op === 'activate' || op === 'deactivate' || isSame) ? old.kind : kind
    there.set(name, {kind: now, state})
    if (state === 'ACTIVE') expect(bytesOf(scene, name, now), what).to.deep.equal(now.image.tree)
  }
}

function chooseOp(dice: number, state: 'ACTIVE' | 'STORED'): Order['op'] {
  if (dice < 0.35) return 'remove'
  if (dice < 0.6) return 'replace'
  return state === 'ACTIVE' ? 'deactivate' : 'activate'
}

function bytesOf(scene: Scene, name: string, {options}: Kind): Map<string, string> {
  if (options.kind !== 'disk') return readTree(join(scene.store, 'active', name))
  const note = readFileSync(join(scene.store, 'disks', `${name}.json`), 'utf8')
  const {file} = JSON.parse(note) as {file: string}
  return new Map([['disk', sha256Of(readFileSync(join(scene.store, 'disks', file)))]])
}

type Disk = {name: string; state: string; tree_id: string}

const disksOf = (scene: Scene): Disk[] =>
  query<Disk>(
    scene,
    `select i.name, p.state, p.tree_id from images i join placements p on p.image_id = i.id
      where i.kind = 'disk' order by i.name`,
  )

/** Shown are the disks that are ACTIVE, each with its bytes, and nothing else; each image has its tree and its blob. */
function expectDisks(scene: Scene): void {
  const shown = disksOf(scene).filter(({state}) => state === 'ACTIVE')
  const files = shown.flatMap(({name, tree_id}) => [`${name}.json`, `${tree_id}.raw`])
  expect(namesIn(scene, 'disks'), 'disks').to.deep.equal(files.sort())
  const images = imagesOf(scene)
  expect(readdirSync(join(scene.store, 'images')).sort()).to.deep.equal(
    images.map(({name}) => name),
  )
  for (const {digest, name} of images)
    expect(existsSync(join(scene.store, 'blobs', `${digest}.tar`)), name).to.equal(true)
}
