/** The life of an image with real mounts: up, down, mended, held, gone. */
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  chownSync,
} from 'node:fs'
import {join, resolve} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {armFailpoint, disarmFailpoints} from '../../src/core/failpoint.ts'
import type {FollowEvent, ImageStatus, RunEvent} from '../../src/core/image.ts'
import {findMounts, mountsBelow} from '../../src/core/mounts/mount-table.ts'
import {unmountSync} from '../../src/core/mounts/mount.ts'
import type {Store} from '../../src/core/store.ts'
import {mount} from '../../src/core/syscalls/mount.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {requires} from '../support/requires.ts'
import {smallImage} from '../support/small-image.ts'
import {withTempStore, type TempStore, type TempStoreOptions} from '../support/temp-store.ts'

const startServer = useServers()
const forever = (): AbortSignal => new AbortController().signal

/** Below `stop` a worker of its own store object is at work. */
async function withWorker<T>(
  {reopen}: TempStore,
  body: (events: RunEvent[], worker: Store) => Promise<T>,
): Promise<T> {
  const worker = await reopen({role: 'worker'})
  const stop = new AbortController()
  const events: RunEvent[] = []
  const working = worker.work({signal: stop.signal, onEvent: (event) => events.push(event)})
  try {
    return await body(events, worker)
  } finally {
    stop.abort()
    await working
    await worker.close()
  }
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((done) => setTimeout(done, 10))
}

describe('the life of an image on a host that can mount', () => {
  requires('root')
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })
  afterEach(disarmFailpoints)

  /** A store with the image `one`, ACTIVE; removed at the end, which must leave nothing. */
  async function withActive(
    body: (context: TempStore & {mountPoint: string; upper: string}) => Promise<void>,
    options: TempStoreOptions = {},
  ): Promise<void> {
    await withTempStore(async (context) => {
      const {store, storeDir} = context
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest})
      const {outcome, status} = await store.images.settle('one')
      expect(outcome, JSON.stringify(status?.held ?? status?.failed)).to.equal('reached')
      const mountPoint = join(storeDir, 'active/one')
      expect(status).to.include({state: 'ACTIVE', mountPoint, isMounted: true})
      await body({...context, mountPoint, upper: join(storeDir, 'overlays/one/upper')})
      await store.images.remove('one')
      expect((await store.images.settle('one')).outcome).to.equal('removed')
      for (const dir of ['images', 'overlays', 'active', 'blobs', 'staging'])
        expect(readdirSync(join(storeDir, dir)), dir).to.deep.equal([])
    }, options)
  }

  it('mounts it writable, keeps what was written when it is taken down, and shows it again', async () => {
    await withActive(async ({store, mountPoint, upper, storeDir}) => {
      expect(readFileSync(join(mountPoint, 'etc/hostname'), 'utf8')).to.equal('small\n')
      writeFileSync(join(mountPoint, 'etc/new'), 'written')
      expect(readFileSync(join(upper, 'etc/new'), 'utf8')).to.equal('written')
      expect(existsSync(join(storeDir, 'images/one/rootfs/etc/new'))).to.equal(false)
      const [entry] = findMounts(mountPoint)
      expect(entry).to.include({fsType: 'overlay', source: 'imgstore:one'})
      expect(entry?.options).to.include.members(['nodev', 'nosuid'])

      await store.images.deactivate('one')
      const down = await store.images.settle('one')
      expect(down.status).to.include({state: 'STORED', goal: 'STORED'})
      expect(findMounts(mountPoint)).to.deep.equal([])
      expect(readFileSync(join(upper, 'etc/new'), 'utf8')).to.equal('written')

      await store.images.activate('one')
      expect((await store.images.settle('one')).status?.state).to.equal('ACTIVE')
      expect(readFileSync(join(mountPoint, 'etc/new'), 'utf8')).to.equal('written')
    })
  })

  it('is at its goal already: asking again changes nothing', async () => {
    await withActive(async ({store, mountPoint}) => {
      const before = await store.runs.list()
      expect((await store.images.activate('one')).state).to.equal('ACTIVE')
      expect((await store.images.retry('one')).state).to.equal('ACTIVE')
      expect(await store.runs.list()).to.deep.equal(before)
      expect(findMounts(mountPoint)).to.have.lengthOf(1)
    })
  })

  it('is mounted again by a worker when somebody unmounted it by hand', async () => {
    await withActive(async (context) => {
      writeFileSync(join(context.mountPoint, 'kept'), 'kept')
      await withWorker(context, async (events) => {
        await until(() => context.store.hasWorker())
        unmountSync(context.mountPoint)
        await until(() => events.some(({to}) => to === 'ACTIVE'))
        const [mended] = events
        expect(mended).to.include({kind: 'mended', from: 'ACTIVE', to: 'STORED', image: 'one'})
        expect(events.map(({to}) => to)).to.deep.equal(['STORED', 'ACTIVATING', 'ACTIVE'])
        expect(readFileSync(join(context.mountPoint, 'kept'), 'utf8')).to.equal('kept')
      })
      expect(findMounts(context.mountPoint)).to.have.lengthOf(1)
    })
  })

  it('is mounted again after a reboot, also when a worker was in the middle of something', async () => {
    await withActive(async (context) => {
      const {store, dir, mountPoint} = context
      const image = smallImage({'etc/second': ''})
      const url = server.put('/two.tar', image.bytes)
      await store.images.fetch({name: 'two', url, digest: image.digest})
      // What the reboot left: no mount, and a worker of the boot before that held a run.
      unmountSync(mountPoint)
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file
        .prepare(
          `insert into owners select 'dead-owner', id, 'worker', 'h', 'another-boot', 'pid:[1]', 1, '1', ?, ? from nodes`,
        )
        .run(Date.now(), Date.now())
      file
        .prepare(
          `update runs set status = 'running', owner = 'dead-owner', epoch = 1, lease_expires_at = ? where image_name = 'two'`,
        )
        .run(Date.now() + 3_600_000)
      file.close()
      await withWorker(context, async (events) => {
        await until(async () => {
          const states = (await store.images.list()).map(({state}) => state)
          return states.every((state) => state === 'ACTIVE')
        })
        expect(
          events.filter(({kind}) => kind === 'mended').map(({image: name}) => name),
        ).to.deep.equal(['one'])
        for (const {isMounted} of await store.images.list()) expect(isMounted).to.equal(true)
      })
      await store.images.remove('two')
      expect((await store.images.settle('two')).outcome).to.equal('removed')
    })
  })

  it('stays ACTIVE and held while somebody uses it, and goes down when asked again', async () => {
    await withActive(async ({store, mountPoint}) => {
      const descriptor = openSync(join(mountPoint, 'etc/hostname'), 'r')
      try {
        await store.images.deactivate('one')
        const {outcome, status} = await store.images.settle('one')
        expect(outcome).to.equal('held')
        expect(status).to.include({state: 'ACTIVE', goal: 'STORED', isMounted: true})
        expect(status?.held).to.include({code: 'mount_busy'})
      } finally {
        closeSync(descriptor)
      }
      await store.images.retry('one')
      const {outcome, status} = await store.images.settle('one')
      expect(outcome).to.equal('reached')
      expect(status?.state).to.equal('STORED')
      expect(status).not.to.have.property('held')
    })
  })

  it('forgets that it was held when somebody unmounted it by hand meanwhile', async () => {
    await withActive(async ({store, mountPoint}) => {
      const descriptor = openSync(join(mountPoint, 'etc/hostname'), 'r')
      await store.images.deactivate('one')
      expect((await store.images.settle('one')).outcome).to.equal('held')
      closeSync(descriptor)
      unmountSync(mountPoint)
      await store.work({signal: forever(), once: true})
      const status = await store.images.status('one')
      expect(status).to.include({state: 'STORED', goal: 'STORED'})
      expect(status).not.to.have.property('held')
    })
  })

  it('is not removed while somebody uses it, and is when asked again', async () => {
    await withActive(async ({store, mountPoint}) => {
      const descriptor = openSync(join(mountPoint, 'etc/hostname'), 'r')
      await store.images.remove('one')
      const {outcome, status} = await store.images.settle('one')
      expect(outcome).to.equal('held')
      expect(status).to.include({state: 'ACTIVE', goal: 'REMOVED'})
      expect(readFileSync(join(mountPoint, 'etc/hostname'), 'utf8')).to.equal('small\n')
      const digest = 'a'.repeat(64)
      const replacing = store.images.fetch({
        name: 'one',
        url: 'http://127.0.0.1:1/x',
        digest,
        replace: true,
      })
      expect(await replacing.catch((error: unknown) => error)).to.include({code: 'image_busy'})
      closeSync(descriptor)
    })
  })

  it('is replaced with nothing of the old overlay in the new one', async () => {
    await withActive(async ({store, mountPoint}) => {
      writeFileSync(join(mountPoint, 'old'), 'old')
      const image = smallImage({'etc/second': ''})
      const url = server.put('/two.tar', image.bytes)
      const {outcome} = await store.images.fetch({
        name: 'one',
        url,
        digest: image.digest,
        replace: true,
      })
      expect(outcome).to.equal('replaced')
      await store.images.settle('one')
      expect(existsSync(join(mountPoint, 'etc/second'))).to.equal(true)
      expect(existsSync(join(mountPoint, 'old'))).to.equal(false)
    })
  })

  it('is mounted once although the program failed between the mount and its record', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest})
      for (const name of ['images.published', 'images.mounted']) {
        let isFirst = true
        armFailpoint(name, () => {
          if (isFirst) {
            isFirst = false
            throw new Error(`failpoint ${name}`)
          }
        })
      }
      const events: FollowEvent[] = []
      const {status} = await store.images.settle('one', {onEvent: (event) => events.push(event)})
      expect(status?.state).to.equal('ACTIVE')
      const retries = events.flatMap((each) =>
        each.kind === 'event' && each.event.kind === 'retry' ? [each.event.step] : [],
      )
      expect(retries).to.deep.equal(['publish', 'mount'])
      expect(findMounts(join(storeDir, 'active/one'))).to.have.lengthOf(1)
      await store.images.remove('one')
      expect((await store.images.settle('one')).outcome).to.equal('removed')
    })
  })

  it('has a mount that nobody asked for taken away, but no foreign one', async () => {
    await withActive(async ({store, mountPoint}) => {
      await store.images.deactivate('one')
      await store.images.settle('one')
      mount('imgstore:one', mountPoint, 'tmpfs', 0, null)
      await store.work({signal: forever(), once: true})
      expect(findMounts(mountPoint)).to.deep.equal([])
      mount('somebody', mountPoint, 'tmpfs', 0, null)
      await store.work({signal: forever(), once: true})
      expect(findMounts(mountPoint)).to.have.lengthOf(1)
      unmountSync(mountPoint)
    })
  })

  it('has a second mount on top of its own taken away, but no foreign one', async () => {
    await withActive(async ({store, mountPoint}) => {
      mount('imgstore:one', mountPoint, 'tmpfs', 0, null)
      await store.work({signal: forever(), once: true})
      expect(findMounts(mountPoint).map(({fsType}) => fsType)).to.deep.equal(['overlay'])
      mount('somebody', mountPoint, 'tmpfs', 0, null)
      await store.work({signal: forever(), once: true})
      expect(findMounts(mountPoint).map(({fsType}) => fsType)).to.deep.equal(['overlay', 'tmpfs'])
    })
  })

  it('is unpacked anew only when nothing of it is mounted any more', async () => {
    await withActive(async ({store, dir, mountPoint}) => {
      // FAILED on the way down, with its mount still there.
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file.exec(
        `update placements set state = 'FAILED', failed = '{"code":"io_failed"}', failed_from = 'ACTIVE'`,
      )
      file.close()
      await store.images.retry('one')
      expect((await store.images.settle('one')).status?.state).to.equal('ACTIVE')
      expect(findMounts(mountPoint)).to.have.lengthOf(1)
      // A mount of before would have lost what is below it.
      expect(readFileSync(join(mountPoint, 'etc/hostname'), 'utf8')).to.equal('small\n')
    })
  })

  it('has a vanished image of an older database unmounted by cleanup, before its overlay goes', async () => {
    await withTempStore(async ({store, dir, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest})
      await store.images.settle('one')
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file.pragma('foreign_keys = ON')
      file.exec('delete from images')
      file.close()
      const descriptor = openSync(join(storeDir, 'active/one/etc/hostname'), 'r')
      const busy = await store.maintenance.cleanup({isDryRun: false})
      closeSync(descriptor)
      expect(
        busy.items.filter(({error}) => error).map(({kind, error}) => `${kind} ${error?.code}`),
      ).to.deep.equal(['mount mount_busy', 'tree mount_busy', 'overlay mount_busy'])
      expect(existsSync(join(storeDir, 'images/one/rootfs/etc/hostname'))).to.equal(true)
      const report = await store.maintenance.cleanup({isDryRun: false})
      expect(report.items.map(({kind}) => kind)).to.deep.equal(['mount', 'tree', 'overlay'])
      expect(mountsBelow(storeDir)).to.deep.equal([])
    })
  })

  for (const storeName of ['a,b', 'a:b', 'a\\b', 'a b\nc', 'é,lowerdir=/etc:x'])
    it(`is mounted in a store whose path holds ${JSON.stringify(storeName)}`, async () => {
      await withActive(
        ({mountPoint, upper}) => {
          writeFileSync(join(mountPoint, 'file'), 'x')
          expect(readFileSync(join(upper, 'file'), 'utf8')).to.equal('x')
          return Promise.resolve()
        },
        {storeName},
      )
    })

  it('is mounted noexec when that is set', async () => {
    await withActive(
      ({mountPoint}) => {
        expect(findMounts(mountPoint)[0]?.options).to.include('noexec')
        return Promise.resolve()
      },
      {flags: {mountNoexec: true}},
    )
  })

  it('is worked on by many workers at once, each image mounted once', async () => {
    await withTempStore(async (context) => {
      const {store, storeDir} = context
      const names = Array.from({length: 6}, (_, n) => `image-${n}`)
      for (const [n, name] of names.entries()) {
        const image = smallImage({'etc/number': `${n % 3}`})
        const url = server.put(`/${n % 3}.tar`, image.bytes)
        await store.images.fetch({name, url, digest: image.digest})
      }
      await withWorker(context, async () => {
        await withWorker(context, async () => {
          for (const name of names)
            expect((await store.images.settle(name)).status?.state).to.equal('ACTIVE')
        })
      })
      expect(mountsBelow(join(storeDir, 'active'))).to.have.lengthOf(6)
      for (const name of names) {
        const events = await store.runs.events({image: name, afterSeq: 0})
        expect(events.filter(({to}) => to === 'ACTIVE')).to.have.lengthOf(1)
        await store.images.remove(name)
      }
      for (const name of names)
        expect((await store.images.settle(name)).outcome).to.equal('removed')
    })
  })
})

describe('the life of an image with fuse-overlayfs', () => {
  requires('root', 'program:fuse-overlayfs')

  it('is the same: mounted, written, taken down, mounted again, removed', async () => {
    const server = await startServer()
    await withTempStore(
      async ({store, storeDir}) => {
        const image = smallImage()
        const url = server.put('/one.tar', image.bytes)
        await store.images.fetch({name: 'one', url, digest: image.digest})
        const {status} = await store.images.settle('one')
        expect(status?.state, JSON.stringify(status?.held ?? status?.failed)).to.equal('ACTIVE')
        const mountPoint = join(storeDir, 'active/one')
        expect(findMounts(mountPoint)[0]?.fsType).to.match(/^fuse/)
        writeFileSync(join(mountPoint, 'file'), 'x')
        await store.images.deactivate('one')
        expect((await store.images.settle('one')).status?.state).to.equal('STORED')
        expect(readFileSync(join(storeDir, 'overlays/one/upper/file'), 'utf8')).to.equal('x')
        await store.images.activate('one')
        await store.images.settle('one')
        expect(readFileSync(join(mountPoint, 'file'), 'utf8')).to.equal('x')
        await store.images.remove('one')
        expect((await store.images.settle('one')).outcome).to.equal('removed')
      },
      {flags: {mountDriver: 'fuse'}},
    )
  })
})

describe('the life of an image where nobody may mount', () => {
  requires('root', 'program:setpriv')

  /** Drains the store as a user without rights. */
  async function asNobody(store: string, db: string): Promise<ImageStatus[]> {
    const own = ['--reuid', '65534', '--regid', '65534', '--clear-groups', '--inh-caps=-all']
    const program = [process.execPath, '--no-warnings', resolve('test/support/store-process.ts')]
    const child = spawn('setpriv', [...own, '--', ...program, store, db], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {PATH: process.env['PATH']},
    })
    let said = ''
    let complaint = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()))
    const [code] = (await once(child, 'close')) as [number | null]
    if (code !== 0) throw new Error(`ended with ${String(code)}: ${complaint}`)
    return JSON.parse(said) as ImageStatus[]
  }

  it('ends as STORED with the reason, not as FAILED, and a worker that may mount goes on from there', async () => {
    const server = await startServer()
    await withTempStore(async (context) => {
      const {store, dir, storeDir} = context
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest})
      for (const path of [
        dir,
        ...readdirSync(dir, {recursive: true}).map((name) => join(dir, String(name))),
      ])
        chownSync(path, 65_534, 65_534)
      const [status] = await asNobody(storeDir, join(dir, 'store.db'))
      expect(status).to.include({name: 'one', state: 'STORED', goal: 'ACTIVE'})
      expect(status?.held?.code).to.equal('host_cannot_mount')
      expect(status?.held?.message).to.match(/root|CAP_SYS_ADMIN|not allowed/)
      expect(status).not.to.have.property('failed')
      const {outcome} = await store.images.settle('one')
      expect(outcome).to.equal('held')
      await withWorker(context, async () => {
        await until(async () => (await store.images.status('one')).state === 'ACTIVE')
      })
      expect(await store.images.status('one')).not.to.have.property('held')
      expect(server.of('/one.tar')).to.have.lengthOf(1)
      await store.images.remove('one')
      expect((await store.images.settle('one')).outcome).to.equal('removed')
    })
  })
})
