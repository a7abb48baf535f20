/**
 * A kernel that says no in the middle of a fetch: EIO, ENOSPC and EDQUOT of reads, writes, syncs, renames, new names and
 * mounts, one call after another; disks that are too small or have too few inodes; a disk that loses what was written
 * to it and says so once, at the sync. Whatever happens, the image is ACTIVE only when it is, and otherwise the
 * command says why, keeps nothing of it, and succeeds when the fault has ended.
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {mkdirSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {KiB} from '../../src/core/limits.ts'
import {compressions, packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {makeImage, randomOf, readTree, type Image, type TarEntry} from '../support/image-maker.ts'
import {
  faultKinds,
  useKernelFaults,
  type FaultErrno,
  type FaultKind,
  type KernelFaults,
} from '../support/kernel-faults.ts'
import {program, useScenes, type Ran, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {mountMemory, remount} from '../support/small-disk.ts'
import {expectSoundStore, imagesOf, namesIn, query, runsOf} from '../support/store-check.ts'

const random = randomOf(faultSeed)
const errnos: readonly FaultErrno[] = ['EIO', 'ENOSPC', 'EDQUOT']
const backends = ['dir', 'erofs'] as const
type Backend = (typeof backends)[number]

const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T

/** Words with which a person is told what the disk did. */
const reasons =
  /\b(EIO|ENOSPC|EDQUOT|no space|disk I\/O error|disk is full|could not be opened|waiting for space|i\/o error)\b/

/** Some of the numbers 1 … `last`, all of them where there are no more. */
function chooseFrom(last: number, most: number): number[] {
  const left = Array.from({length: last}, (_, n) => n + 1)
  const count = Math.min(last, most)
  return Array.from({length: count}, () => {
    const [one = 1] = left.splice(Math.floor(random() * left.length), 1)
    return one
  })
}

/** What of Node goes through the functions that libfiu wraps. */
const fiuPoints = [
  'posix/io/sync/*',
  'posix/io/rw/pwritev',
  'posix/io/dir/rename',
  'posix/io/rw/pread',
]

const small = makeImage(faultSeed, {files: 30, fileBytes: 20_000})

/** Files of zeros, which compress to nothing. */
function zeros(count: number, sizeBytes: number): TarEntry[] {
  return Array.from({length: count}, (_, n) => ({name: `z${n}`, content: Buffer.alloc(sizeBytes)}))
}

type Plan = {backend: Backend; image: Image; url: string; place: string}

const fetchArgs = (url: string, image: Image, backend: Backend): string[] =>
  `fetch one ${url} ${image.digest} --wait --activate --backend ${backend} --timeout 60s`.split(' ')

const stateOf = (scene: Scene): string => imagesOf(scene)[0]?.state ?? 'none'

/** The image is ACTIVE with all its bytes, or the command said why not and left nothing that takes room. */
function expectHonest(scene: Scene, ran: Ran, image: Image, what: string): void {
  const told = `${what}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`
  expect(ran.signal, told).to.equal(null)
  // A disk that fails before the program's first line was read lets Node speak for itself.
  const frames = told.match(/^\s+at .*:\d+:\d+\)?$/gm) ?? []
  const isNodeOnly = frames.length > 0 && frames.every((frame) => frame.includes('node:internal/'))
  if (frames.length > 0 && !isNodeOnly) throw new Error(`a stack: ${told}`)
  const state = hasDatabase(scene) ? stateOf(scene) : 'none'
  if (ran.code === 0) expect(state, told).to.equal('ACTIVE')
  if (state === 'ACTIVE')
    expect(readTree(join(scene.store, 'active/one')), told).to.deep.equal(image.tree)
  if (ran.code === 0) return
  // SQLite itself takes a read that failed once for a damaged database.
  const isMistaken = ran.code === 15 && ran.stderr.includes('database disk image is malformed')
  if (!isMistaken) {
    expect(ran.stderr, told).to.match(reasons)
    expect(ran.code, told).to.be.oneOf([1, 14, ...(isWaitingForSpace(scene) ? [18] : [])])
  }
  if (state !== 'FAILED') return
  expect(namesIn(scene, 'staging'), told).to.deep.equal([])
  expect(
    namesIn(scene, 'blobs').filter((name) => name.includes('.tmp')),
    told,
  ).to.deep.equal([])
}

const hasDatabase = (scene: Scene): boolean => {
  try {
    return query<{n: number}>(scene, 'select count(*) n from images').length === 1
  } catch {
    return false
  }
}

const isWaitingForSpace = (scene: Scene): boolean =>
  hasDatabase(scene) &&
  query<{error: string}>(scene, `select error from runs where error like '%space_low%'`).length > 0

/** After a failed sync nothing of the download is left that a second sync could call good. */
function expectUntrusted(scene: Scene, what: string): void {
  if (!hasDatabase(scene)) return
  const [row] = query<{f: string | null}>(scene, 'select failed_from f from placements')
  if (row?.f === 'DOWNLOADING') expect(namesIn(scene, 'blobs'), what).to.deep.equal([])
}

/** The fault is over: the same wish is fulfilled, from bytes that are right. */
async function expectSuccess(
  scene: Scene,
  args: string[],
  image: Image,
  what: string,
): Promise<void> {
  const isOver = hasDatabase(scene) && runsOf(scene).at(-1)?.finished_at !== null
  await scene.ok(isOver && runsOf(scene).length > 0 ? ['retry', 'one', '--wait'] : args)
  expect(stateOf(scene), what).to.equal('ACTIVE')
  expect(readTree(join(scene.store, 'active/one')), what).to.deep.equal(image.tree)
  await scene.ok(['verify', '--no-repair'])
  await expectSoundStore(scene)
}

describe('a kernel that says no', function () {
  requires('root', 'program:gcc', 'program:fiu-run', 'program:mkfs.ext4')
  this.timeout(isLong ? 7_200_000 : 300_000)
  const newScene = useScenes()
  const newServer = useServers()
  const newFaults = useKernelFaults()
  before(() => console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`))

  function quickScene(subdir?: string): Scene {
    const scene = newScene(subdir)
    Object.assign(scene.env, {IMGSTORE_RETRY_WAIT: '20ms'})
    return scene
  }

  /** One call fails, or it and all after it. */
  async function failAt(plan: Plan, kind: FaultKind, first: number): Promise<string> {
    const {backend, image, url, place} = plan
    const scene = quickScene()
    const faults = newFaults()
    const errno = pick(errnos)
    const isLasting = random() < 0.5
    const count = isLasting ? 1_000_000 : 1
    const args = fetchArgs(url, image, backend)
    const env = faults.env({kind, errno, first, count, path: join(scene.dir, place)})
    const ran = await scene.run(args, {env})
    const what = `${errno} of ${kind} ${first}${isLasting ? ' and all after it' : ''}, ${backend}, ${place}`
    expectHonest(scene, ran, image, what)
    // Where the database's own sync failed, the blob is as good as it was.
    const isOfStore = place === 'store/'
    if (kind === 'fsync' && isOfStore && ran.code !== 0) expectUntrusted(scene, what)
    await expectSuccess(scene, args, image, what)
    scene.close()
    return ran.code === 0 ? 'tolerated' : `exit ${ran.code}`
  }

  /** In the long form at up to twenty calls of each kind and each sort of archive, else at one call of each kind, with one backend or the other. */
  async function failEverywhere(server: BlobServer, place: string): Promise<Map<string, number>> {
    const seen = new Map<string, number>()
    const turn = Math.floor(random() * 2)
    for (const [nth, backend] of backends.entries())
      for (const compression of isLong ? compressions : [pick(compressions)]) {
        const image = packedImage(compression, small)
        const url = server.put(`/${compression}.tar`, image.bytes)
        const plan = {backend, image, url, place}
        const calls = await callsOf(plan)
        for (const [index, kind] of faultKinds.entries()) {
          if (calls[kind] === 0 || (!isLong && (index + nth + turn) % 2 === 0)) continue
          const points = chooseFrom(calls[kind], howMany(1, 20))
          for (const first of points) {
            const end = await failAt(plan, kind, first)
            seen.set(end, (seen.get(end) ?? 0) + 1)
          }
        }
      }
    return seen
  }

  /** How many calls a fetch makes when none of them fails. */
  async function callsOf(plan: Plan): Promise<ReturnType<KernelFaults['counts']>> {
    const scene = quickScene()
    const faults = newFaults()
    const env = faults.countingEnv(join(scene.dir, plan.place))
    await scene.ok(fetchArgs(plan.url, plan.image, plan.backend), {env})
    scene.close()
    return faults.counts()
  }

  it('at any call in the store is told, and the image is ACTIVE once it says yes again', async () => {
    const seen = await failEverywhere(await newServer(), 'store/')
    const total = [...seen.values()].reduce((sum, count) => sum + count, 0)
    expect(total).to.be.at.least(faultKinds.length)
    recordRow({
      row: 'kernel-errors',
      injected: `${total} × EIO, ENOSPC or EDQUOT at a call in the store, once or from there on`,
      checked:
        'ACTIVE only with all bytes, else exit 1 or 14 with the reason; freed; success after; what a failed sync was for is not kept',
      figures: [...seen].map(([end, count]) => `${count} ${end}`).join(', '),
    })
  })

  it('at any call on the database is told, and nothing that was acknowledged is lost', async () => {
    const seen = await failEverywhere(await newServer(), 'store.db')
    const total = [...seen.values()].reduce((sum, count) => sum + count, 0)
    recordRow({
      row: 'kernel-errors',
      injected: `${total} × EIO, ENOSPC or EDQUOT at a call on the database`,
      checked: 'the same',
      figures: [...seen].map(([end, count]) => `${count} ${end}`).join(', '),
    })
  })

  it('with libfiu, at random, is told too', async () => {
    const server = await newServer()
    const image = packedImage('gzip', small)
    const url = server.put('/one.tar', image.bytes)
    const rounds = howMany(2, 60)
    for (let round = 0; round < rounds; round++) {
      const scene = quickScene()
      const name = fiuPoints[round % fiuPoints.length] ?? ''
      // Reads include those of Node's own files, which a disk may fail but not find full.
      const errno = name.endsWith('pread') ? 5 : {EIO: 5, ENOSPC: 28, EDQUOT: 122}[pick(errnos)]
      const probability = (0.02 + 0.4 * random()).toFixed(2)
      const command = `enable_random name=${name},probability=${probability},failinfo=${errno}`
      const args = fetchArgs(url, image, pick(backends))
      // Its named pipes would be left behind.
      const wrapped = ['-x', '-f', '', '-c', command, program, ...args]
      const ran = await scene.run(wrapped, {command: 'fiu-run'})
      expectHonest(scene, ran, image, `${command} ${args.join(' ')}`)
      await expectSuccess(scene, args, image, command)
      scene.close()
    }
    recordRow({
      row: 'kernel-errors',
      injected: `${rounds} × libfiu, ${fiuPoints.join(', ')} at random`,
      checked: 'the same',
    })
  })
})

describe('a disk that is too small', function () {
  requires('root', 'program:mkfs.ext4')
  this.timeout(isLong ? 3_600_000 : 300_000)
  const newScene = useScenes()
  const newServer = useServers()
  // Small to fetch, large to unpack: the size that is known before does not tell.
  const image = packedImage('gzip', makeImage(faultSeed, {files: 12, extra: zeros(12, 512 * KiB)}))

  /** A scene with everything on a disk of its own. */
  function onDisk(options: string): {scene: Scene; disk: string} {
    const scene = newScene('disk')
    const disk = join(scene.dir, 'disk')
    mountMemory(disk, options)
    Object.assign(scene.env, {IMGSTORE_RETRY_WAIT: '20ms'})
    return {scene, disk}
  }

  const sizes = howMany(2, 20)
  for (const backend of backends)
    it(`of ${sizes} sizes is told with backend ${backend}, and a larger one is enough`, async () => {
      const url = (await newServer()).put('/one.tar', image.bytes)
      const args = fetchArgs(url, image, backend)
      const ends: string[] = []
      for (let n = 0; n < sizes; n++) {
        const kibibytes = Math.round(64 * (9000 / 64) ** ((n + random()) / sizes))
        const {scene, disk} = onDisk(`size=${kibibytes}k`)
        const env = {IMGSTORE_SPACE_RESERVE: pick(['0', '64KiB'])}
        const ran = await scene.run(args, {env})
        expectHonest(scene, ran, image, `${kibibytes} KiB`)
        ends.push(`${ran.code}`)
        remount(disk, 'size=64m')
        await expectSuccess(scene, args, image, `${kibibytes} KiB`)
        scene.close()
      }
      recordRow({
        row: 'kernel-errors',
        injected: `${sizes} sizes of a disk of 64 KiB to 9 MiB, backend ${backend}`,
        checked: 'the same',
        figures: `exits ${ends.join(' ')}`,
      })
    })

  it('in inodes is told, and more of them are enough', async () => {
    const many = packedImage('gzip', makeImage(faultSeed, {files: 200, fileBytes: 200}))
    const url = (await newServer()).put('/one.tar', many.bytes)
    const counts = howMany(1, 20)
    for (let n = 0; n < counts; n++) {
      const inodes = 4 + Math.floor(random() * 90)
      const {scene, disk} = onDisk(`size=64m,nr_inodes=${inodes}`)
      const args = fetchArgs(url, many, 'dir')
      const ran = await scene.run(args)
      expect(ran.code, `${inodes} inodes: ${ran.stderr}`).to.equal(14)
      expectHonest(scene, ran, many, `${inodes} inodes`)
      remount(disk, 'nr_inodes=5000')
      await expectSuccess(scene, args, many, `${inodes} inodes`)
      scene.close()
    }
    recordRow({row: 'kernel-errors', injected: `${counts} × too few inodes`, checked: 'the same'})
  })

  for (const [what, share] of [
    ['the archive', 0.5],
    ['the tree', 1.5],
  ] as const)
    it(`loses ${what} behind its back and says so at the sync: it is not taken as done`, async () => {
      const scene = newScene('thin')
      const thin = join(scene.dir, 'thin')
      const large = makeImage(faultSeed, {files: 100, fileBytes: 120_000})
      const sizeBytes = Math.round(large.bytes.length * share) + 500_000
      mountMemory(thin, `size=${sizeBytes}`)
      mkdirSync(scene.store)
      Object.assign(scene, {db: join(scene.dir, 'store.db')})
      Object.assign(scene.env, {IMGSTORE_DB_PATH: scene.db, IMGSTORE_RETRY_WAIT: '20ms'})
      const file = join(thin, 'disk.img')
      execFileSync('truncate', ['-s', '300M', file])
      // Without a journal the file system itself goes on: only the files' bytes are lost.
      execFileSync('mkfs.ext4', ['-q', '-O', '^has_journal', '-E', 'nodiscard', file])
      execFileSync('mount', ['-o', 'loop,errors=continue', file, scene.store])
      const url = (await newServer()).put('/one.tar', large.bytes)
      const args = fetchArgs(url, large, 'dir')
      const ran = await scene.run(args)
      expect(ran.code, ran.stdout).to.be.oneOf([1, 14])
      expectHonest(scene, ran, large, what)
      if (what === 'the archive') expect(namesIn(scene, 'blobs')).to.deep.equal([])
      // A second sync, or a third, says that all is well.
      for (let n = 0; n < 3; n++) spawnSync('sync', ['-f', scene.store])
      remount(thin, 'size=200m')
      await scene.ok(['retry', 'one', '--wait'])
      await scene.ok(['deactivate', 'one'])
      // What counts is on the disk, not in memory.
      execFileSync('umount', [scene.store])
      execFileSync('mount', ['-o', 'loop', file, scene.store])
      await scene.ok(['verify', '--no-repair'])
      await scene.ok(['activate', 'one'])
      expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(large.tree)
      await expectSoundStore(scene)
      scene.close()
      recordRow({
        row: 'kernel-errors',
        injected: `${what} is lost at writeback (a full thin disk)`,
        checked: 'the failed sync is not taken as done; right bytes from the disk after',
      })
    })
})
