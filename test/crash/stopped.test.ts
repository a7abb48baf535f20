/** A worker that is stopped past its lease, and wakes when another one has done its work: it must not write. */
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {makeImage, readTree, sha256, type Image} from '../support/image-maker.ts'
import {until, useScenes, type Running, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {eventsOf, expectSoundStore, imagesOf, namesIn} from '../support/store-check.ts'

type Stage = {scene: Scene; server: BlobServer; image: Image; sleeper: Running}

type Case = {
  title: string
  /** Where the worker stops by itself. */
  failpoint?: string
  /** Else: when it is stopped from outside, and whether its children are, too. */
  when?: (stage: Stage) => boolean
  isWholeGroup?: boolean
  /** Whether the image is indexed, from a compressed archive; a `large` one is decompressed while it downloads. */
  isIndexed?: boolean | 'large'
  /** It holds the database's lock: nobody can take over before it wakes. */
  isLocking?: boolean
}

const cases: Case[] = [
  {
    title: 'in the middle of a download',
    when: ({server, image}) => server.sentBytes('/one.tar') > image.bytes.length / 4,
  },
  {
    title: 'in the middle of a download that is decompressed, which goes on without it',
    when: ({server, image}) => server.sentBytes('/one.tar') > image.bytes.length / 2,
    isIndexed: 'large',
  },
  {
    title: 'in the middle of a download that is decompressed, with all its processes',
    when: ({server, image}) => server.sentBytes('/one.tar') > image.bytes.length / 2,
    isIndexed: 'large',
    isWholeGroup: true,
  },
  {title: 'when a plain tar is begun', failpoint: 'blobs.plain_opened', isIndexed: 'large'},
  {
    title: 'when a plain tar is whole but for its name',
    failpoint: 'blobs.plain_synced',
    isIndexed: 'large',
  },
  {
    title: 'when a plain tar has its name but no note',
    failpoint: 'blobs.plain_renamed',
    isIndexed: 'large',
  },
  {title: 'when the last byte of a download is on the disk', failpoint: 'blobs.synced'},
  {title: 'when a blob has its name', failpoint: 'blobs.renamed'},
  {
    title: 'in the middle of an unpack, which goes on without it',
    when: ({scene}) => stateOf(scene, 'one') === 'UNPACKING',
  },
  {
    title: 'in the middle of an unpack, with all its processes',
    when: ({scene}) => stateOf(scene, 'one') === 'UNPACKING',
    isWholeGroup: true,
  },
  {
    title: 'in the middle of indexing, which goes on without it',
    when: ({scene}) => stateOf(scene, 'one') === 'UNPACKING',
    isIndexed: true,
  },
  {
    title: 'right before an index gets its place',
    failpoint: 'journal.unpack',
    isIndexed: true,
  },
  {
    title: 'within the mount of an index, holding the lock',
    failpoint: 'images.index_mounted',
    isIndexed: true,
    isLocking: true,
  },
  {title: 'when a tree is unpacked', failpoint: 'images.unpacked'},
  {title: 'right before a tree gets its place', failpoint: 'journal.unpack'},
  {title: 'right before a mount', failpoint: 'journal.prepare'},
  {title: 'within a mount, holding the lock', failpoint: 'images.mounted', isLocking: true},
]

describe('a worker that is stopped past its lease', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  for (const one of cases) {
    it(`${one.title}, writes nothing when it wakes, and goes on to other work`, async () => {
      const stage = await sleeping(one, newScene(), await newServer())
      const {scene, image, sleeper} = stage
      const wake = (): boolean =>
        process.kill(one.isWholeGroup ? -sleeper.pid : sleeper.pid, 'SIGCONT')
      const other = scene.start(['worker'])
      if (one.isLocking) {
        await sleep(2000)
        wake()
      }
      await until('the other to finish', () => stateOf(scene, 'one') === 'ACTIVE')
      const before = eventsOf(scene)
      expect(
        new Set(before.map(({epoch}) => epoch)).size,
        'there was a takeover',
      ).to.be.greaterThan(one.isLocking ? 0 : 1)
      wake()
      if (!one.isLocking)
        await until('it to let go', () => sleeper.out.stderr.includes('let go of a lost run'))
      expect(eventsOf(scene), 'its history is as it was').to.deep.equal(before)
      expect(sha256(readFileSync(blobPath(scene, image)))).to.equal(image.digest)
      expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(image.tree)

      other.kill('SIGTERM')
      expect((await other.exited).code).to.equal(0)
      await expectNewWork(stage)
      sleeper.kill('SIGTERM')
      expect((await sleeper.exited).code).to.equal(0)
      await expectSoundStore(scene)
    })
  }
})

describe('a worker that sleeps between looking at a part and giving it its name', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  it('does not make a blob of what another one has begun to write', async () => {
    const stage = await sleeping(
      {title: 'with a whole part', failpoint: 'blobs.owned'},
      newScene(),
      await newServer(),
    )
    const {scene, server, image, sleeper} = stage
    // The image goes and comes back: the same part is another one now, and half of it is there.
    const other = scene.start(['worker'])
    await scene.ok(['remove', 'one'])
    const url = server.put('/one.tar', image.bytes, {bytesPerSecond: 1_000_000})
    const sentBytes = server.sentBytes('/one.tar')
    await scene.ok(['fetch', 'one', url, image.digest])
    await until(
      'half of it',
      () => server.sentBytes('/one.tar') - sentBytes > image.bytes.length / 2,
    )
    sleeper.kill('SIGCONT')
    await until('it to let go', () => sleeper.out.stderr.includes('let go of a lost run'))
    await until('the image', () => stateOf(scene, 'one') === 'ACTIVE')
    expect(namesIn(scene, 'quarantine'), 'half a blob was taken for a whole one').to.deep.equal([])
    expect(sha256(readFileSync(blobPath(scene, image)))).to.equal(image.digest)
    expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(image.tree)
    for (const worker of [sleeper, other]) worker.kill('SIGTERM')
    for (const worker of [sleeper, other]) expect((await worker.exited).code).to.equal(0)
    await expectSoundStore(scene)
  })
})

/** A worker with an image in the making, stopped where the case says. */
async function sleeping(one: Case, scene: Scene, server: BlobServer): Promise<Stage> {
  Object.assign(scene.env, {IMGSTORE_LEASE: '1s', IMGSTORE_POLL: '50ms'})
  if (one.isIndexed) scene.env['IMGSTORE_BACKEND'] = 'erofs'
  const isLarge = one.isIndexed === 'large'
  const made = makeImage(
    5,
    isLarge ? {files: 60, fileBytes: 200_000} : {files: 2500, fileBytes: 300},
  )
  const image = packedImage(one.isIndexed ? 'gzip' : 'plain', made)
  const url = server.put('/one.tar', image.bytes, {bytesPerSecond: 4_000_000})
  await scene.ok(['fetch', 'one', url, image.digest])
  const env = one.failpoint === undefined ? {} : {IMGSTORE_FAILPOINT: `${one.failpoint}=stop`}
  const sleeper = scene.start(['worker'], {env})
  const stage = {scene, server, image, sleeper}
  if (one.when) {
    await until(one.title, () => one.when?.(stage))
    process.kill(one.isWholeGroup ? -sleeper.pid : sleeper.pid, 'SIGSTOP')
  }
  await until('the worker to be stopped', () => isStopped(sleeper.pid))
  return stage
}

/** The sleeper alone brings another image to ACTIVE. */
async function expectNewWork({scene, server, sleeper}: Stage): Promise<void> {
  expect(sleeper.isOver, sleeper.out.stderr).to.equal(false)
  const image = makeImage(6)
  await scene.ok(['fetch', 'two', server.put('/two.tar', image.bytes), image.digest])
  // Its failpoint is armed still, and stops it again wherever it passes it.
  await until('the second image', () => {
    if (isStopped(sleeper.pid)) sleeper.kill('SIGCONT')
    return stateOf(scene, 'two') === 'ACTIVE'
  })
  expect(readTree(join(scene.store, 'active/two'))).to.deep.equal(image.tree)
}

const blobPath = (scene: Scene, image: Image): string =>
  join(scene.store, 'blobs', `${image.digest}.tar`)

function stateOf(scene: Scene, name: string): string | undefined {
  return imagesOf(scene).find((image) => image.name === name)?.state
}

function isStopped(pid: number): boolean {
  const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return text.slice(text.lastIndexOf(')') + 2).startsWith('T')
}
