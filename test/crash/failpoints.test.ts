/** For each place in the sources where the program may be made to die: die there, go on, and see nothing lost or doubled. */
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {gunzipSync, gzipSync} from 'node:zlib'
import {expect} from 'chai'
import {packedImage} from '../support/backend-image.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {rawDisk, sha256Of} from '../support/disk-image.ts'
import {makeImage, readTree, type Image} from '../support/image-maker.ts'
import {until, useScenes, type Ran, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {
  failpointsOfSources,
  isOfBackups,
  isOfPublishing,
  namesOfManyFailpoints,
} from '../support/source-failpoints.ts'
import {
  eventsOf,
  expectSoundStore,
  imagesOf,
  mountsOf,
  namesIn,
  runsOf,
} from '../support/store-check.ts'
import {write} from '../support/store-damage.ts'

type Stage = {scene: Scene; server: BlobServer; image: Image; url: string}

type Case = {
  title: string
  /** Indexed from a compressed blob instead of extracted from a plain one; `large` is decompressed while it downloads. */
  isIndexed?: boolean | 'large'
  /** A compressed disk instead of an archive. */
  isDisk?: boolean
  arrange?: (stage: Stage) => Promise<void>
  /** What dies: a command of the program, or something longer. */
  act?: string[] | ((stage: Stage, env: Record<string, string>) => Promise<Ran>)
  /** What goes on from there, and what it exits with. */
  again?: string[] | ((stage: Stage) => Promise<void>)
  code?: number
  /** The images at the end and their states. */
  end?: Record<string, string>
}

const work = ['worker', '--once']
const fetchArgs = ({url, image}: Stage, ...more: string[]): string[] => [
  'fetch',
  'one',
  url,
  image.digest,
  ...more,
]
const enqueue = async (stage: Stage): Promise<void> => {
  await stage.scene.ok(fetchArgs(stage))
}
const activate = async (stage: Stage): Promise<void> => {
  await stage.scene.ok(fetchArgs(stage, '--wait'))
}
const served =
  (answer: Parameters<BlobServer['put']>[2]) =>
  async (stage: Stage): Promise<void> => {
    stage.server.put('/one.tar', stage.image.bytes, answer)
    await enqueue(stage)
  }

/** A worker that holds a run whose lease has run out, and may still be alive. */
async function stoppedInDownload(stage: Stage): Promise<void> {
  const {scene, server, image} = stage
  server.put('/one.tar', image.bytes, (nth) =>
    nth === 0 ? {stallAfterBytes: image.bytes.length / 2} : {},
  )
  await enqueue(stage)
  const sleeper = scene.start(['worker'])
  await until('half of the download', () => server.sentBytes('/one.tar') > 0)
  await until('a part', () =>
    readdirSync(join(scene.store, 'blobs')).some((n) => n.endsWith('.tmp')),
  )
  sleeper.kill('SIGSTOP')
}

function damageBlob({scene, image}: Stage): void {
  const path = join(scene.store, 'blobs', `${image.digest}.tar`)
  const bytes = readFileSync(path)
  bytes[700] = (bytes[700] ?? 0) ^ 1
  writeFileSync(path, bytes)
}

/** What happens when a database is made, or an older one brought up to date. */
const migrating = ['db.migration_done', 'db.migrated']

/** Places on the straight way from a URL to a mounted tree, where a worker dies. */
const straight = [
  'journal.claimed',
  'journal.begin',
  'blobs.part_opened',
  'blobs.note_saved',
  'blobs.synced',
  'blobs.owned',
  'blobs.renamed',
  'blobs.durable',
  'images.downloaded',
  'journal.download',
  'journal.begin_unpack',
  'images.unpacked',
  'images.noted',
  'journal.unpack',
  'images.published',
  'journal.publish',
  'journal.prepare',
  'images.mounted',
  'journal.mount',
]

/** Those where a command that works by itself dies, too. */
const alone = [
  'journal.claimed',
  'blobs.note_saved',
  'blobs.renamed',
  'images.unpacked',
  'images.published',
  'images.mounted',
  'journal.mount',
]

/** Those of a compressed blob that is decompressed while it downloads. */
const straightDecompressed = [
  'blobs.part_opened',
  'blobs.plain_opened',
  'blobs.synced',
  'blobs.durable',
  'blobs.plain_synced',
  'blobs.plain_renamed',
  'blobs.plain_durable',
  'images.downloaded',
  'journal.download',
  'images.unpacked',
  'images.noted',
  'images.published',
]

/** Those that differ for an indexed image. */
const straightIndexed = [
  'images.unpacked',
  'images.noted',
  'journal.unpack',
  'images.plain_published',
  'images.published',
  'images.index_mounted',
  'images.mounted',
  'journal.mount',
]

const one = (title: string, rest: Omit<Case, 'title'>): Case[] => [{title, ...rest}]

const deactivated = async (stage: Stage): Promise<void> => {
  await activate(stage)
  await stage.scene.ok(['deactivate', 'one'])
}
const toErofs = ['convert', 'one', '--backend', 'erofs']
const toDir = ['convert', 'one', '--backend', 'dir']
const isIndexed = true

/** By failpoint: what only images have that are indexed, or that become so. */
const indexedCases: Record<string, Case[]> = {
  ...Object.fromEntries(
    straightIndexed.map((name) => [
      name,
      [{title: 'a worker that indexes', isIndexed, arrange: enqueue}],
    ]),
  ),
  'images.converted': [
    {title: 'converting to dir', isIndexed, arrange: activate, act: toDir, again: toDir},
    {title: 'converting to erofs', arrange: activate, act: toErofs},
  ],
  'images.unmounted': [
    {
      title: 'deactivating an index',
      isIndexed,
      arrange: activate,
      act: ['deactivate', 'one'],
      end: {one: 'STORED'},
    },
  ],
  'images.taken_down': [
    // It is mended as it was, or goes on to what it is asked to be again.
    {title: 'converting to dir', isIndexed, arrange: activate, act: toDir},
    {title: 'converting to erofs', arrange: activate, act: toErofs, again: toErofs},
  ],
  'images.remade': one('verifying the damaged blob of an index', {
    arrange: async (stage) => {
      // Plain, so that the blob itself is what its files are read from.
      await stage.scene.ok(fetchArgs(stage, '--backend', 'erofs', '--wait'))
      damageBlob(stage)
    },
    act: ['verify'],
  }),
  'images.retired': one('removing an index', {
    isIndexed,
    arrange: activate,
    act: ['remove', 'one'],
    end: {},
  }),
  'maintenance.blob_removed': one('removing the last index of a blob', {
    isIndexed,
    arrange: activate,
    act: ['remove', 'one'],
    end: {},
  }),
  'images.mended': one('finding the mounts of an index gone', {
    isIndexed,
    arrange: async (stage) => {
      await activate(stage)
      for (const point of stage.scene.mounts().reverse()) {
        const umount = spawn('umount', [point])
        await once(umount, 'exit')
      }
      expect(stage.scene.mounts()).to.deep.equal([])
    },
  }),
}
for (const name of ['images.published', 'images.unpacked'])
  indexedCases[name]?.push(
    {title: 'converting to dir', isIndexed, arrange: activate, act: toDir},
    {
      title: 'converting to erofs what is STORED',
      arrange: deactivated,
      act: toErofs,
      end: {one: 'STORED'},
    },
  )
for (const name of straightDecompressed)
  (indexedCases[name] ??= []).push(
    {title: 'a worker that decompresses meanwhile', isIndexed: 'large', arrange: enqueue},
    {
      title: 'a command that decompresses meanwhile',
      isIndexed: 'large',
      act: ['fetch'],
      again: ['fetch'],
    },
  )
// Asked again when its tree is the new one already, it still comes back to where it was.
indexedCases['journal.publish'] = one('converting to erofs', {
  arrange: activate,
  act: toErofs,
  again: toErofs,
})
indexedCases['images.index_mounted']?.push({
  title: 'converting to erofs',
  arrange: activate,
  act: toErofs,
})

const takingOver: Omit<Case, 'title'> = {
  arrange: stoppedInDownload,
  act: async ({scene}, env) => {
    // The first is only stopped: its lease runs out, and what it has open must not be written to.
    await until('the lease to run out', () =>
      runsOf(scene).every(({status}) => status === 'running'),
    )
    return await scene.run(['worker'], {env})
  },
  again: ['worker', '--once'],
}
;(indexedCases['blobs.part_copied'] ??= []).push({
  title: 'taking over a download that is decompressed meanwhile',
  isIndexed: 'large',
  ...takingOver,
})

const cases: Record<string, Case[]> = {
  ...Object.fromEntries(
    straight.map((name) => [
      name,
      [
        {title: 'a worker that fetches', arrange: enqueue},
        ...(alone.includes(name)
          ? [{title: 'a command that fetches', act: ['fetch'], again: ['fetch']}]
          : []),
      ],
    ]),
  ),
  ...Object.fromEntries(
    migrating.map((name) => [name, one('making a store', {act: ['fetch'], again: ['fetch']})]),
  ),
  'images.registered': one('a command that fetches', {act: ['fetch'], again: ['fetch']}),
  'images.asked': [
    {title: 'deactivating', arrange: activate, act: ['deactivate', 'one'], end: {one: 'STORED'}},
    {
      title: 'activating',
      arrange: async (stage) => {
        await activate(stage)
        await stage.scene.ok(['deactivate', 'one'])
      },
      act: ['activate', 'one'],
    },
    {title: 'removing', arrange: activate, act: ['remove', 'one'], end: {}},
  ],
  'images.retried': one('a retry after FAILED', {
    arrange: async (stage) => {
      await served((nth) => (nth === 0 ? {status: 404} : {}))(stage)
      expect((await stage.scene.run(work)).code).to.equal(3)
    },
    act: ['retry', 'one'],
  }),
  'images.unmounted': one('deactivating', {
    arrange: activate,
    act: ['deactivate', 'one'],
    end: {one: 'STORED'},
  }),
  'journal.unmount': [
    {title: 'deactivating', arrange: activate, act: ['deactivate', 'one'], end: {one: 'STORED'}},
    {title: 'removing', arrange: activate, act: ['remove', 'one'], end: {}},
  ],
  'images.retired': [
    {title: 'removing', arrange: activate, act: ['remove', 'one'], end: {}},
    {
      title: 'replacing',
      arrange: async (stage) => {
        await activate(stage)
        const other = makeImage(99)
        stage.url = stage.server.put('/two.tar', other.bytes)
        stage.image = other
      },
      act: ['fetch', '--replace'],
      again: ['fetch', '--replace'],
    },
  ],
  'journal.erase': one('removing', {arrange: activate, act: ['remove', 'one'], end: {}}),
  'images.mended': one('finding a mount gone', {
    arrange: async (stage) => {
      await activate(stage)
      const umount = spawn('umount', [join(stage.scene.store, 'active/one')])
      await once(umount, 'exit')
      expect(mountsOf(stage.scene)).to.deep.equal([])
    },
  }),
  'images.cleared': one('failing for a wrong checksum', {
    arrange: served({body: makeImage(7).bytes}),
    code: 3,
    end: {one: 'FAILED'},
  }),
  'journal.failed': one('failing for want of the file', {
    arrange: served({status: 404}),
    end: {one: 'FAILED'},
  }),
  'journal.waited': one('waiting to resume a cut download', {
    arrange: served((nth) => (nth === 0 ? {cutAfterBytes: 30_000} : {})),
  }),
  'journal.released': one('stopping in the middle of a download', {
    arrange: served((nth) => (nth === 0 ? {stallAfterBytes: 30_000} : {})),
    act: async ({scene, server}, env) => {
      const worker = scene.start(['worker'], {env})
      await until('the download', () => server.sentBytes('/one.tar') > 0)
      worker.kill('SIGTERM')
      return await worker.exited
    },
  }),
  'journal.held': one('finding the mount in use', {
    arrange: activate,
    act: async ({scene}, env) => {
      const user = scene.start(['60'], {command: 'sleep', cwd: join(scene.store, 'active/one')})
      const ran = await scene.run(['deactivate', 'one'], {env})
      expect((await scene.run(['deactivate', 'one'])).code).to.equal(11)
      user.kill('SIGKILL')
      await user.exited
      return ran
    },
    again: ['deactivate', 'one'],
    end: {one: 'STORED'},
  }),
  'journal.finished': one('finding nothing to do', {
    arrange: async (stage) => {
      await stage.scene.ok(fetchArgs(stage, '--wait', '--no-activate'))
      await stage.scene.ok(['activate', 'one', '--no-wait'])
      await stage.scene.ok(['deactivate', 'one', '--no-wait'])
    },
    end: {one: 'STORED'},
  }),
  'blobs.part_copied': one('taking a download over', takingOver),
  'blobs.part_discarded': one('giving up bytes with the wrong digest', {
    arrange: served({body: makeImage(7).bytes}),
    code: 3,
    end: {one: 'FAILED'},
  }),
  'blobs.quarantined': [
    {
      title: 'verifying a damaged blob',
      arrange: async (stage) => {
        await activate(stage)
        damageBlob(stage)
      },
      act: ['verify'],
      again: async ({scene, image, url}) => {
        // The tree and its mount need the blob no more; a new fetch brings it back.
        const report = await scene.run(['verify', '--json'])
        expect(report.code).to.equal(12)
        expect(JSON.parse(report.stdout)).to.deep.include({
          missing: [{digest: image.digest, images: ['one']}],
        })
        await scene.ok(['fetch', 'two', url, image.digest, '--wait'])
      },
      end: {one: 'ACTIVE', two: 'ACTIVE'},
    },
    {
      title: 'fetching what is there damaged, with --verify',
      arrange: async (stage) => {
        await activate(stage)
        damageBlob(stage)
        await stage.scene.ok(['fetch', 'two', stage.url, stage.image.digest, '--verify'])
      },
      end: {one: 'ACTIVE', two: 'ACTIVE'},
    },
  ],
  'maintenance.blob_removed': [
    {
      title: 'removing the last image of a blob',
      arrange: activate,
      act: ['remove', 'one'],
      end: {},
    },
    {
      title: 'cleaning up',
      arrange: async (stage) => {
        await activate(stage)
        writeFileSync(join(stage.scene.store, 'blobs', `${'a'.repeat(64)}.tar`), 'left over')
      },
      act: ['cleanup'],
      again: ['cleanup'],
    },
  ],
  'maintenance.item_removed': one('cleaning up', {
    arrange: async (stage) => {
      await activate(stage)
      for (const dir of ['images/gone/rootfs/etc', 'overlays/gone/upper', 'active/gone'])
        mkdirSync(join(stage.scene.store, dir), {recursive: true})
      mkdirSync(join(stage.scene.store, 'staging/old-01J00000000000000000000000'), {
        recursive: true,
      })
      writeFileSync(join(stage.scene.store, 'blobs', `${'b'.repeat(64)}.tar.tmp`), 'left over')
    },
    act: ['cleanup'],
    again: ['cleanup'],
  }),
}

const isDisk = true
const fetchDisk = async (stage: Stage): Promise<void> => {
  await stage.scene.ok(fetchArgs(stage, '--kind', 'disk'))
}
const showDisk = async (stage: Stage): Promise<void> => {
  await stage.scene.ok(fetchArgs(stage, '--kind', 'disk', '--wait'))
}

/** By failpoint: what only disks have, and where they do something else than archives. */
const diskCases: Record<string, Case[]> = {
  ...Object.fromEntries(
    [
      'images.disk_made',
      'images.disk_noted',
      'images.published',
      'disks.linked',
      'disks.published',
      'journal.mount',
    ].map((name) => [name, one('a worker that fetches a disk', {isDisk, arrange: fetchDisk})]),
  ),
  'disks.withdrawn': [
    {
      title: 'deactivating a disk',
      isDisk,
      arrange: showDisk,
      act: ['deactivate', 'one'],
      end: {one: 'STORED'},
    },
    {title: 'removing a disk', isDisk, arrange: showDisk, act: ['remove', 'one'], end: {}},
  ],
  'images.retired': one('removing a disk', {
    isDisk,
    arrange: showDisk,
    act: ['remove', 'one'],
    end: {},
  }),
  'images.mended': one('finding a disk that is not shown', {
    isDisk,
    arrange: async (stage) => {
      await showDisk(stage)
      rmSync(join(stage.scene.store, 'disks/one.json'))
    },
  }),
}

const repaired = async ({scene}: Stage): Promise<void> => {
  await scene.ok(['doctor', '--repair'])
  await scene.ok(work)
  expect(await scene.ok(['doctor', '--repair'])).to.equal('Nothing to mend\n')
}

/** By failpoint: mending what was damaged. */
const repairCases: Record<string, Case[]> = {
  'maintenance.set_back': one('mending a tree that is gone', {
    arrange: async (stage) => {
      await activate(stage)
      rmSync(join(stage.scene.store, 'images/one'), {recursive: true})
    },
    act: ['doctor', '--repair'],
    again: repaired,
  }),
  'maintenance.mended': one('mending a blob whose row is gone, and a mount', {
    arrange: async (stage) => {
      await activate(stage)
      write(stage.scene, (database) => void database.exec('delete from blobs'))
      const umount = spawn('umount', [join(stage.scene.store, 'active/one')])
      await once(umount, 'exit')
    },
    act: ['doctor', '--repair'],
    again: repaired,
  }),
}

describe('dying at every failpoint', function () {
  requires('root')
  const newScene = useScenes()
  const newServer = useServers()

  const all = [cases, indexedCases, diskCases, repairCases].flatMap((table) =>
    Object.entries(table),
  )

  it('has a scenario for each failpoint of the sources, and none for another', () => {
    // test/crash/publish.test.ts and test/crash/backup.test.ts have the others.
    const names = failpointsOfSources().filter(
      (name) => !isOfPublishing(name) && !isOfBackups(name),
    )
    expect(names).to.have.length.greaterThan(30)
    const covered = new Set(all.map(([name]) => name))
    expect([...covered].sort()).to.deep.equal(names)
  })

  it('finds no two places under one name, of which only one would be tried', () => {
    expect(namesOfManyFailpoints()).to.deep.equal([])
  })

  for (const [name, scenarios] of all) {
    for (const scenario of scenarios) {
      it(`goes on after dying at ${name}: ${scenario.title}`, async () => {
        const stage = await makeStage(newScene(), await newServer(), scenario)
        await scenario.arrange?.(stage)
        const env = {IMGSTORE_FAILPOINT: name}
        const ran = await act(stage, scenario.act ?? work, env)
        expect(ran.signal, `it dies there: ${ran.stdout}${ran.stderr}`).to.equal('SIGKILL')
        await goOn(stage, scenario)
        if (scenario.isDisk) await expectDisks(stage, scenario.end ?? {one: 'ACTIVE'})
        else await expectEnd(stage, scenario.end ?? {one: 'ACTIVE'})
      })
    }
  }
})

async function makeStage(
  scene: Scene,
  server: BlobServer,
  {isIndexed = false, isDisk: isOfDisk = false}: Case,
): Promise<Stage> {
  Object.assign(scene.env, {
    ...(isIndexed === false ? {} : {IMGSTORE_BACKEND: 'erofs'}),
    IMGSTORE_RETRY_WAIT: '30ms',
    IMGSTORE_POLL: '20ms',
    // Short, because one test waits for its end; long enough for a busy machine to renew it in time.
    IMGSTORE_LEASE: '3s',
  })
  const disk = gzipSync(rawDisk())
  const made = isIndexed === 'large' ? makeImage(1, {files: 60, fileBytes: 200_000}) : makeImage(1)
  const image = isOfDisk
    ? {bytes: disk, digest: sha256Of(disk), tree: new Map<string, string>()}
    : isIndexed === false
      ? made
      : packedImage('gzip', made)
  return await Promise.resolve({scene, server, image, url: server.put('/one.tar', image.bytes)})
}

async function act(
  stage: Stage,
  what: string[] | ((stage: Stage, env: Record<string, string>) => Promise<Ran>),
  env: Record<string, string>,
): Promise<Ran> {
  if (typeof what === 'function') return await what(stage, env)
  return await stage.scene.run(argsOf(stage, what), {env})
}

/** `fetch` stands for a fetch of the stage's image that waits. */
function argsOf(stage: Stage, [command = '', ...rest]: string[]): string[] {
  return command === 'fetch' ? fetchArgs(stage, '--wait', ...rest) : [command, ...rest]
}

async function goOn(stage: Stage, {again = work, code = 0}: Case): Promise<void> {
  if (typeof again === 'function') {
    await again(stage)
    return
  }
  const ran = await stage.scene.run(argsOf(stage, again))
  expect(ran.code, `${again.join(' ')}: ${ran.stdout}${ran.stderr}`).to.equal(code)
}

async function expectEnd({scene, image}: Stage, end: Record<string, string>): Promise<void> {
  const states = Object.fromEntries(imagesOf(scene).map(({name, state}) => [name, state]))
  expect(states, JSON.stringify(eventsOf(scene), null, 1)).to.deep.equal(end)
  for (const [name, state] of Object.entries(end)) {
    if (state === 'FAILED') continue
    // The tree of an index can be seen only while it is mounted.
    const isHidden = imagesOf(scene).some(
      (each) => each.name === name && state === 'STORED' && each.tree_backend === 'erofs',
    )
    if (isHidden) await scene.ok(['activate', name])
    const root = isHidden || state === 'ACTIVE' ? `active/${name}` : `images/${name}/rootfs`
    expect(readTree(join(scene.store, root))).to.deep.equal(image.tree)
    if (isHidden) await scene.ok(['deactivate', name])
  }
  for (const pid of scene.processes()) process.kill(pid, 'SIGKILL')
  await expectSoundStore(scene)
}

/** What is shown is whole, and what is not ACTIVE is not shown. */
async function expectDisks({scene, image}: Stage, end: Record<string, string>): Promise<void> {
  const states = Object.fromEntries(imagesOf(scene).map(({name, state}) => [name, state]))
  expect(states, JSON.stringify(eventsOf(scene), null, 1)).to.deep.equal(end)
  for (const pid of scene.processes()) process.kill(pid, 'SIGKILL')
  await expectSoundStore(scene)
  if (end['one'] !== 'ACTIVE') return
  const [bytes = ''] = namesIn(scene, 'disks')
  const disk = readFileSync(join(scene.store, 'disks', bytes))
  expect(disk.equals(gunzipSync(image.bytes))).to.equal(true)
}
