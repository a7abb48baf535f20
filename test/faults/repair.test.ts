/** A sound store is damaged at random, `doctor --repair` mends it, and a worker brings back what was lost. */
import {existsSync, readdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {rawDisk, sha256Of} from '../support/disk-image.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {makeImage, randomOf, readTree, type Image} from '../support/image-maker.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {expectSoundStore, imagesOf, type ImageRow} from '../support/store-check.ts'
import {damages, fingerprint, type Damage} from '../support/store-damage.ts'

const seed = faultSeed
const cases = howMany(30, 1000)

type Item = {
  kind: string
  path?: string
  image?: string
  problem: string
  action: string
  done: boolean
  error?: {message: string}
}
type Report = {is_dry_run: boolean; is_sound: boolean; items: Item[]}

/** An image of the store, and where it is to be. */
type Kept = Pick<Image, 'bytes' | 'digest'> & {
  tree?: Map<string, string>
  args: string[]
  goal: 'ACTIVE' | 'STORED'
}

describe('a store that was damaged at random', function () {
  requires('root')
  this.timeout(isLong ? 14_400_000 : 900_000)
  const newScene = useScenes()
  const newServer = useServers()

  it('is mended by doctor --repair, and whole again after the next worker', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${seed}`)
    const scene = newScene()
    Object.assign(scene.env, {IMGSTORE_STALE_AFTER: '0', IMGSTORE_RETRY_WAIT: '10ms'})
    scene.env['IMGSTORE_IMAGES_ROOT'] = join(scene.dir, 'images')
    const server = await newServer()
    const kept = keptImages()
    const random = randomOf(seed)
    const counts = new Map<string, number>()
    let failures = 0
    for (let nth = 0; nth < cases; nth++) {
      await makeWhole(scene, server, kept)
      const done = damageAtRandom(scene, random)
      for (const name of done.names) counts.set(name, (counts.get(name) ?? 0) + 1)
      const unavailable = random() < 0.2 ? withoutSource(server, kept, random) : undefined
      try {
        failures += await expectMended(scene, kept, done, unavailable)
      } catch (error) {
        console.log(`    case ${nth}: ${done.names.join(', ')}; source gone: ${unavailable ?? '-'}`)
        throw error
      }
    }
    await makeWhole(scene, server, kept)
    await expectSoundStore(scene)
    recordRow({
      row: 'repair',
      injected: `${cases} stores with 1 to 6 of ${damages.length} kinds of damage (${[...counts.values()].reduce((sum, n) => sum + n, 0)} in all)`,
      checked:
        'a dry run changes nothing, a second repair finds nothing, all ACTIVE again or FAILED for a source that is gone, what was written is kept, sound store',
      figures: `${counts.size} kinds met, ${failures} images FAILED for want of their source`,
    })
  })
})

function keptImages(): Map<string, Kept> {
  const disk = rawDisk()
  const image = (nth: number, backend: string, packing: 'plain' | 'gzip' = 'plain'): Kept => ({
    ...packedImage(packing, makeImage(seed + nth, {files: 8, fileBytes: 3000})),
    args: ['--backend', backend],
    goal: 'ACTIVE',
  })
  return new Map<string, Kept>([
    ['dir', image(1, 'dir')],
    ['dir-stored', {...image(2, 'dir', 'gzip'), goal: 'STORED'}],
    ['index', image(3, 'erofs')],
    ['index-packed', image(4, 'erofs', 'gzip')],
    ['index-stored', {...image(5, 'erofs', 'gzip'), goal: 'STORED'}],
    ['disk', {bytes: disk, digest: sha256Of(disk), args: ['--kind', 'disk'], goal: 'ACTIVE'}],
  ])
}

const noteIn = (scene: Scene, name: string): string =>
  join(scene.store, 'overlays', name, 'upper/written')

/** Brings every image to where it is to be, with something written into those that are mounted. */
async function makeWhole(scene: Scene, server: BlobServer, kept: Map<string, Kept>): Promise<void> {
  const there = new Map(existsSync(scene.db) ? imagesOf(scene).map((row) => [row.name, row]) : [])
  let isWhole = true
  for (const [name, {bytes, digest, args, goal}] of kept) {
    const url = server.put(`/${name}.tar`, bytes)
    const row = there.get(name)
    if (row?.state === goal) continue
    isWhole = false
    if (row?.state === 'FAILED') await scene.ok(['retry', name, '--no-wait'])
    else if (row === undefined)
      await scene.ok([
        'fetch',
        name,
        url,
        digest,
        ...args,
        ...(goal === 'ACTIVE' ? [] : ['--no-activate']),
      ])
    else if (row.goal !== goal)
      await scene.ok([goal === 'ACTIVE' ? 'activate' : 'deactivate', name, '--no-wait'])
  }
  if (!isWhole) await scene.ok(['worker', '--once'])
  for (const row of imagesOf(scene)) {
    expect(row.state, row.name).to.equal(kept.get(row.name)?.goal)
    const {kind, name} = row
    if (kind === 'rootfs' && row.state === 'ACTIVE')
      writeFileSync(join(scene.store, 'active', name, 'written'), name)
  }
}

type Done = {names: string[]; hit: Map<string, Damage[]>}

function damageAtRandom(scene: Scene, random: () => number): Done {
  const names: string[] = []
  const hit = new Map<string, Damage[]>()
  const images = imagesOf(scene)
  const count = 1 + Math.floor(random() * 6)
  while (names.length < count) {
    const damage = damages[Math.floor(random() * damages.length)] as Damage
    const fitting = images.filter((image) => damage.fits?.(image) ?? true)
    const image = fitting[Math.floor(random() * fitting.length)]
    if (image === undefined) continue
    const name = damage.fits ? `${damage.name} (${image.name})` : damage.name
    if (names.includes(name)) continue
    try {
      damage.act(scene, image)
    } catch (error) {
      // Something done before is in the way, as a file system mounted over it.
      if (/ENOENT|EBUSY|EROFS|ENOTDIR|busy/.test(String(error))) continue
      throw error
    }
    names.push(name)
    if (damage.fits) hit.set(image.name, [...(hit.get(image.name) ?? []), damage])
  }
  return {names, hit}
}

/** Takes away the source of one image for this case. */
function withoutSource(
  server: BlobServer,
  kept: Map<string, Kept>,
  random: () => number,
): string | undefined {
  const names = [...kept.keys()]
  const name = names[Math.floor(random() * names.length)]
  if (name !== undefined) server.put(`/${name}.tar`, Buffer.alloc(0), {status: 404})
  return name
}

/** Returns how many images ended FAILED, which only those may whose source is gone. */
async function expectMended(
  scene: Scene,
  kept: Map<string, Kept>,
  done: Done,
  unavailable: string | undefined,
): Promise<number> {
  const before = fingerprint(scene)
  const dry = await repair(scene, '--dry-run')
  expect(fingerprint(scene), 'after the dry run').to.deep.equal(before)
  expect(dry.items.every((item) => !item.done)).to.equal(true)
  const real = await repair(scene)
  expect(real.items.filter((item) => !item.done)).to.deep.equal([])
  const first = new Set(dry.items.map(({kind}) => kind))
  expect([...new Set(real.items.map(({kind}) => kind))], 'kinds of the dry run').to.include.members(
    [...first],
  )
  expect((await repair(scene)).items, 'a second repair').to.deep.equal([])

  const worked = await scene.run(['worker', '--once'])
  const rows = imagesOf(scene)
  expect(rows.map(({name}) => name)).to.deep.equal([...kept.keys()].sort())
  const failed = rows.filter(({state}) => state === 'FAILED')
  expect(failed.map(({name}) => name).filter((name) => name !== unavailable)).to.deep.equal([])
  expect(worked.code, worked.stderr).to.equal(failed.length === 0 ? 0 : 3)
  for (const {name} of failed) {
    const {failed: why} = await scene.json<{failed: {code: string}}>(['status', name])
    expect(why.code).to.equal('source_not_found')
  }
  for (const row of rows) if (row.state !== 'FAILED') expectAsBefore(scene, kept, row, done)
  expect((await repair(scene)).items, 'a repair after the worker').to.deep.equal([])
  await fetchLostBlobs(scene)
  await expectSoundStore(scene)
  const shown = readdirSync(join(scene.store, 'disks')).filter((name) => name.endsWith('.json'))
  expect(shown).to.deep.equal(imagesOf(scene).some(isShownDisk) ? ['disk.json'] : [])
  return failed.length
}

const isShownDisk = ({kind, state}: ImageRow): boolean => kind === 'disk' && state === 'ACTIVE'

async function repair(scene: Scene, ...more: string[]): Promise<Report> {
  const ran = await scene.run(['doctor', '--repair', '--json', ...more])
  expect(ran.code, ran.stdout + ran.stderr).to.be.oneOf([0, 3])
  return JSON.parse(ran.stdout) as Report
}

/** Where it was to be, with its tree and what was written into it, unless that was taken away with it. */
function expectAsBefore(scene: Scene, kept: Map<string, Kept>, row: ImageRow, {hit}: Done): void {
  expect(row.state, row.name).to.equal(row.goal)
  const damaged = hit.get(row.name) ?? []
  const hasMoved = damaged.some((damage) => damage.name === 'run removed on its way')
  const image = kept.get(row.name)
  if (!hasMoved) expect(row.goal, row.name).to.equal(image?.goal)
  if (row.kind !== 'rootfs') return
  if (image?.goal === 'ACTIVE' && !damaged.some((damage) => damage.losesWrites === true))
    expect(readFileSync(noteIn(scene, row.name), 'utf8')).to.equal(row.name)
  if (row.state !== 'ACTIVE') return
  const tree = readTree(join(scene.store, 'active', row.name))
  tree.delete('written')
  expect(tree, row.name).to.deep.equal(image?.tree)
}

/** A whole tree does without its blob, and is not taken down for it. Here all shall be as at first. */
async function fetchLostBlobs(scene: Scene): Promise<void> {
  const ran = await scene.run(['verify', '--json'])
  const {missing, damaged} = JSON.parse(ran.stdout) as Record<
    'missing' | 'damaged',
    {images: string[]}[]
  >
  expect(damaged).to.deep.equal([])
  for (const name of missing.flatMap((blob) => blob.images)) await scene.ok(['remove', name])
}
