import {existsSync, readdirSync, readFileSync, statSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../../src/core/errors.ts'
import type {FollowEvent} from '../../../src/core/image.ts'
import type {Store} from '../../../src/core/store.ts'
import {useServers, type BlobServer} from '../../support/blob-server.ts'
import {smallImage} from '../../support/small-image.ts'
import {symlink, archive} from '../../support/tar-builder.ts'
import {withTempStore} from '../../support/temp-store.ts'
import {createHash} from 'node:crypto'

const startServer = useServers()

async function code(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise
    return undefined
  } catch (thrown) {
    if (thrown instanceof ImgstoreError) return thrown.code
    throw thrown
  }
}

function namesIn(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir).sort() : []
}

/** Fetches to STORED, which needs no root, and waits. */
async function stored(store: Store, name: string, url: string, digest: string, more = {}) {
  await store.images.fetch({name, url, digest, goal: 'STORED', ...more})
  return await store.images.settle(name)
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5))
}

describe('fetching', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('goes from nothing to STORED, and tells every state on the way', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      const events: FollowEvent[] = []
      const fetched = await store.images.fetch({
        name: 'one',
        url,
        digest: `SHA256:${image.digest.toUpperCase()}`,
        goal: 'STORED',
      })
      expect(fetched.outcome).to.equal('enqueued')
      expect(fetched.status).to.include({
        name: 'one',
        state: 'NEW',
        goal: 'STORED',
        digest: image.digest,
      })
      const {outcome, status} = await store.images.settle('one', {
        onEvent: (event) => events.push(event),
      })
      expect(outcome).to.equal('reached')
      expect(status).to.include({state: 'STORED', sizeBytes: image.bytes.length, url})
      expect(status?.entries).to.be.greaterThan(1)
      const ways = events.flatMap((each) =>
        each.kind === 'event' ? [`${each.event.step}:${each.event.to}`] : [],
      )
      expect(ways).to.deep.equal([
        'begin:DOWNLOADING',
        'download:DOWNLOADED',
        'begin_unpack:UNPACKING',
        'unpack:UNPACKED',
        'publish:STORED',
      ])
      expect(readFileSync(join(storeDir, 'images/one/rootfs/etc/hostname'), 'utf8')).to.equal(
        'small\n',
      )
      expect(namesIn(join(storeDir, 'blobs'))).to.deep.equal([`${image.digest}.tar`])
      expect(namesIn(join(storeDir, 'staging'))).to.deep.equal([])
      expect(await store.countByState()).to.include({STORED: 1, NEW: 0})
    })
  })

  it('reports an image of the same name and source, and fetches nothing again', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await stored(store, 'one', url, image.digest)
      const again = await store.images.fetch({name: 'one', url, digest: image.digest})
      expect(again.outcome).to.equal('unchanged')
      expect(again.status.state).to.equal('STORED')
      expect(server.of('/one.tar')).to.have.lengthOf(1)
    })
  })

  it('refuses a name that another source has, unless told to replace it', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const [a, b] = [smallImage({'etc/which': 'a'}), smallImage({'etc/which': 'b'})]
      const url = server.put('/a.tar', a.bytes)
      await stored(store, 'one', url, a.digest)
      const other = {
        name: 'one',
        url: server.put('/b.tar', b.bytes),
        digest: b.digest,
        goal: 'STORED' as const,
      }
      const refused = await store.images.fetch(other).catch((error: unknown) => error)
      expect(refused).to.include({code: 'name_taken', exit: 11})
      expect(await code(store.images.fetch({name: 'one', url, digest: b.digest}))).to.equal(
        'name_taken',
      )
      expect((await store.images.status('one')).digest).to.equal(a.digest)
      const replaced = await store.images.fetch({...other, replace: true})
      expect(replaced.outcome).to.equal('replaced')
      await store.images.settle('one')
      expect(readFileSync(join(storeDir, 'images/one/rootfs/etc/which'), 'utf8')).to.equal('b')
      expect(namesIn(join(storeDir, 'blobs'))).to.deep.equal([`${b.digest}.tar`])
    })
  })

  it('refuses names, digests and addresses that are none, and writes nothing', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const digest = 'a'.repeat(64)
      const url = 'http://127.0.0.1:1/x'
      for (const name of ['', '../x', 'x'.repeat(129), 'a\0b', 'größe', '.hidden', 'a/b'])
        expect(await code(store.images.fetch({name, url, digest})), name).to.equal('invalid_name')
      for (const wrong of ['', 'abc', `${digest}0`, `md5:${digest}`])
        expect(await code(store.images.fetch({name: 'a', url, digest: wrong}))).to.equal(
          'invalid_digest',
        )
      for (const wrong of ['', 'x', 'ftp://h/x', 'file:///etc/passwd', 'javascript:1'])
        expect(await code(store.images.fetch({name: 'a', url: wrong, digest}))).to.equal(
          'invalid_source',
        )
      for (const act of [
        'status',
        'activate',
        'deactivate',
        'remove',
        'retry',
        'settle',
      ] as const) {
        expect(await code(store.images[act]('../x')), act).to.equal('invalid_name')
        expect(await code(store.images[act]('unknown')), act).to.equal('image_not_found')
      }
      expect(await store.images.list()).to.deep.equal([])
      expect(namesIn(storeDir)).to.deep.equal(['node-id'])
    })
  })

  it('keeps why and where an image FAILED, and leaves no part, no blob and no tree', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const gone = await stored(
        store,
        'gone',
        server.put('/gone', Buffer.alloc(0), {status: 404}),
        image.digest,
      )
      expect(gone.outcome).to.equal('failed')
      expect(gone.status?.failed).to.include({code: 'source_not_found', from: 'DOWNLOADING'})
      expect(gone.status?.failed?.message).to.include('404')
      expect(gone.status?.failed?.hint).not.to.equal('')
      const wrong = await stored(store, 'wrong', server.put('/wrong', image.bytes), 'b'.repeat(64))
      expect(wrong.status?.failed).to.include({code: 'digest_mismatch', from: 'DOWNLOADING'})
      const page = Buffer.from('<!doctype html><title>Sign in</title>')
      const html = await stored(store, 'html', server.put('/html', page), 'c'.repeat(64))
      expect(html.status?.failed).to.include({code: 'source_not_image', from: 'DOWNLOADING'})
      const cut = await stored(
        store,
        'cut',
        server.put('/cut', image.bytes, {cutAfterBytes: 100}),
        image.digest,
      )
      expect(cut.status?.failed?.from).to.equal('DOWNLOADING')
      expect(namesIn(join(storeDir, 'blobs'))).to.deep.equal([])
      expect(namesIn(join(storeDir, 'images'))).to.deep.equal([])
      const noise = Buffer.alloc(2048, 7)
      const digest = createHash('sha256').update(noise).digest('hex')
      const bad = await stored(store, 'bad', server.put('/bad', noise), digest)
      expect(bad.status?.failed?.from).to.equal('UNPACKING')
      expect(namesIn(join(storeDir, 'images'))).to.deep.equal([])
      expect(await store.countByState()).to.include({FAILED: 5})
    })
  })

  it('tries again what passes, and shows the waiting run', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes, (nth) => (nth < 2 ? {status: 503} : {}))
      const events: FollowEvent[] = []
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const {outcome} = await store.images.settle('one', {onEvent: (event) => events.push(event)})
      expect(outcome).to.equal('reached')
      const retries = events.flatMap((each) =>
        each.kind === 'event' && each.event.kind === 'retry' ? [each.event] : [],
      )
      expect(retries.map(({attempt, error}) => [attempt, error?.code])).to.deep.equal([
        [1, 'source_unavailable'],
        [2, 'source_unavailable'],
      ])
    })
  })

  it('goes on from a FAILED unpack with another profile, without a new download', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const bytes = archive(symlink('./escape', '/etc/passwd'))
      const digest = createHash('sha256').update(bytes).digest('hex')
      const url = server.put('/one.tar', bytes)
      const failed = await stored(store, 'one', url, digest)
      expect(failed.status?.failed?.code).to.equal('unsafe_archive')
      expect(failed.status?.failed?.from).to.equal('UNPACKING')
      expect(await code(store.images.activate('one'))).to.equal('wrong_state')
      expect(await code(store.images.deactivate('one'))).to.equal('wrong_state')
      const retried = await store.images.retry('one', {profile: 'image'})
      expect(retried).to.include({state: 'NEW', profile: 'image'})
      expect(retried).not.to.have.property('failed')
      const settled = await store.images.settle('one')
      expect(settled.outcome).to.equal('reached')
      expect(namesIn(join(storeDir, 'images/one/rootfs'))).to.deep.equal(['escape'])
      expect(server.of('/one.tar')).to.have.lengthOf(1)
    })
  })

  it('takes another goal at retry, also for a run that waits', async () => {
    await withTempStore(
      async ({store}) => {
        const image = smallImage()
        let isUp = false
        const url = server.put('/one.tar', image.bytes, () => (isUp ? {} : {status: 503}))
        await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'ACTIVE'})
        const stop = new AbortController()
        const working = store.work({signal: stop.signal})
        await until(async () => (await store.images.status('one')).run?.status === 'waiting')
        isUp = true
        const retried = await store.images.retry('one', {goal: 'STORED'})
        expect(retried.goal).to.equal('STORED')
        const settled = await store.images.settle('one')
        expect(settled.status).to.include({state: 'STORED', goal: 'STORED'})
        expect(settled.status).not.to.have.property('held')
        stop.abort()
        await working
      },
      {flags: {retryWaitMs: '1h', retryWaitMaxMs: '1h'}},
    )
  })

  it('never shows the credentials of an address', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      const plain = server.put('/one.tar', image.bytes, {status: 403})
      const url = `${plain.replace('//', '//user:SECRET@')}?X-Amz-Signature=SECRET`
      const {status} = await stored(store, 'one', url, image.digest)
      expect(status?.state).to.equal('FAILED')
      const everything = JSON.stringify([
        status,
        await store.images.list(),
        await store.runs.list(),
        await store.runs.events(),
      ])
      expect(everything).not.to.include('SECRET')
      const refused = await store.images
        .fetch({name: 'x', url: 'ftp://u:SECRET@h/', digest: image.digest})
        .catch((error: unknown) => error)
      expect(JSON.stringify([String(refused), refused])).not.to.include('SECRET')
    })
  })

  it('works on images of one blob one after the other, and downloads it once', async () => {
    await withTempStore(async ({store, reopen, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes, {bytesPerSecond: 20_000})
      const other = await reopen({role: 'worker'})
      for (const name of ['a', 'b', 'c'])
        await store.images.fetch({name, url, digest: image.digest, goal: 'STORED'})
      const stop = new AbortController()
      const working = [store, other].map((each) => each.work({signal: stop.signal}))
      for (const name of ['a', 'b', 'c'])
        expect((await store.images.settle(name)).status?.state).to.equal('STORED')
      stop.abort()
      await Promise.all(working)
      expect(server.of('/one.tar')).to.have.lengthOf(1)
      const inodes = ['a', 'b'].map(
        (name) => statSync(join(storeDir, 'images', name, 'rootfs/etc/hostname')).ino,
      )
      expect(inodes[0]).not.to.equal(inodes[1])
    })
  })

  it('lets two workers on one directory share many images, each step once', async () => {
    await withTempStore(async ({store, reopen}) => {
      const other = await reopen({role: 'worker'})
      const names: string[] = []
      for (let n = 0; n < 4; n++) {
        const image = smallImage({'etc/number': `${n}`})
        const name = `image-${n}`
        names.push(name)
        const url = server.put(`/${n}.tar`, image.bytes)
        await store.images.fetch({name, url, digest: image.digest, goal: 'STORED'})
      }
      const signal = new AbortController().signal
      const done = await Promise.all([store, other].map((each) => each.work({signal, once: true})))
      // Whoever finds nothing left ends first; what the other still has at work is its own.
      expect(done.reduce((sum, {worked}) => sum + worked, 0)).to.equal(4)
      for (const name of names) {
        const events = await store.runs.events({image: name, afterSeq: 0})
        expect(events.map(({step}) => step)).to.deep.equal([
          'begin',
          'download',
          'begin_unpack',
          'unpack',
          'publish',
        ])
        expect((await store.images.status(name)).state).to.equal('STORED')
      }
    })
  }).timeout(20_000)

  it('works at a path with a comma, a colon, blanks, a line end and letters beyond ASCII', async () => {
    await withTempStore(
      async ({store, storeDir}) => {
        const image = smallImage()
        const {status} = await stored(
          store,
          'one',
          server.put('/one.tar', image.bytes),
          image.digest,
        )
        expect(status?.state).to.equal('STORED')
        expect(existsSync(join(storeDir, 'images/one/rootfs/etc/hostname'))).to.equal(true)
        expect((await store.maintenance.cleanup({isDryRun: false})).items).to.deep.equal([])
        expect((await store.maintenance.verify({})).damaged).to.deep.equal([])
        await store.images.remove('one')
        expect((await store.images.settle('one')).outcome).to.equal('removed')
      },
      {storeName: 'a, b: c\nd é \\ e'},
    )
  })
})

describe('settling', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('waits no longer than it is told, gives the run back, and another goes on', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage({big: Buffer.alloc(300_000)})
      const url = server.put('/one.tar', image.bytes, (nth) =>
        nth === 0 ? {stallAfterBytes: 100_000} : {},
      )
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const thrown = await store.images
        .settle('one', {timeoutMs: 300})
        .catch((error: unknown) => error)
      expect(thrown).to.include({code: 'wait_timeout', exit: 18})
      expect((await store.images.status('one')).run?.status).to.equal('pending')
      expect((await store.images.settle('one')).outcome).to.equal('reached')
      expect(server.of('/one.tar')[1]?.range).to.match(/^bytes=/)
    })
  })

  it('is interrupted by its signal, and nothing is lost', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes, (nth) =>
        nth === 0 ? {stallAfterBytes: 100} : {},
      )
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const stop = new AbortController()
      const settling = store.images
        .settle('one', {signal: stop.signal})
        .catch((error: unknown) => error)
      await until(() => server.of('/one.tar').length > 0)
      stop.abort()
      expect(await settling).to.include({code: 'interrupted', exit: 130})
      expect((await store.images.settle('one')).outcome).to.equal('reached')
    })
  })

  it('leaves the work to a worker that lives, and tells what that one does', async () => {
    await withTempStore(async ({store, reopen}) => {
      const worker = await reopen({role: 'worker'})
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      const stop = new AbortController()
      const working = worker.work({signal: stop.signal})
      await until(() => store.hasWorker())
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const events: FollowEvent[] = []
      const {outcome, status} = await store.images.settle('one', {
        onEvent: (event) => events.push(event),
      })
      expect(outcome).to.equal('reached')
      expect(status?.run?.status).to.equal('done')
      expect(events.filter(({kind}) => kind === 'event')).to.have.lengthOf(5)
      stop.abort()
      expect((await working).worked).to.equal(1)
      expect(await store.hasWorker()).to.equal(false)
    })
  })

  it('says removed of what a worker removed before it could look', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      await stored(store, 'one', server.put('/one.tar', image.bytes), image.digest)
      await store.images.remove('one')
      await store.work({signal: new AbortController().signal, once: true})
      expect((await store.images.settle('one')).outcome).to.equal('removed')
      expect(await code(store.images.settle('never-there'))).to.equal('image_not_found')
    })
  })

  it('watches without working', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const stop = new AbortController()
      const seen: FollowEvent[] = []
      const watching = store.images.watch('one', {
        onEvent: (event) => seen.push(event),
        signal: stop.signal,
      })
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(server.requests).to.have.lengthOf(0)
      await store.work({signal: new AbortController().signal, once: true})
      expect((await watching)?.state).to.equal('STORED')
      expect(seen.filter(({kind}) => kind === 'event')).to.have.lengthOf(5)
      const aborted = new AbortController()
      aborted.abort()
      const at = await store.images.watch('one', {onEvent: () => undefined, signal: aborted.signal})
      expect(at?.state).to.equal('STORED')
    })
  })

  it('shows progress while bytes flow', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage({big: Buffer.alloc(400_000)})
      const url = server.put('/one.tar', image.bytes, {bytesPerSecond: 500_000})
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const done: number[] = []
      await store.images.settle('one', {
        onEvent: (event) => {
          if (event.kind !== 'progress' || event.step !== 'download') return
          done.push(event.progress.doneBytes)
          expect(event.progress.totalBytes).to.equal(image.bytes.length)
        },
      })
      expect(done).not.to.be.empty
      expect(done).to.deep.equal([...done].sort((a, b) => a - b))
    })
  })
})

describe('removing', () => {
  let server: BlobServer
  beforeEach(async () => {
    server = await startServer()
  })

  it('takes the tree, the overlay and the blob, but not a blob that another image has', async () => {
    await withTempStore(async ({store, storeDir}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await stored(store, 'a', url, image.digest)
      await stored(store, 'b', url, image.digest)
      await store.images.remove('a')
      expect((await store.images.settle('a')).outcome).to.equal('removed')
      expect(namesIn(join(storeDir, 'images'))).to.deep.equal(['b'])
      expect(namesIn(join(storeDir, 'blobs'))).to.have.lengthOf(1)
      expect(await code(store.images.status('a'))).to.equal('image_not_found')
      await store.images.remove('b')
      await store.images.settle('b')
      for (const dir of ['images', 'overlays', 'active', 'blobs', 'staging'])
        expect(namesIn(join(storeDir, dir)), dir).to.deep.equal([])
      expect((await store.runs.list()).map(({goal, status}) => `${goal} ${status}`)).to.deep.equal([
        'REMOVED done',
        'REMOVED done',
        'STORED done',
        'STORED done',
      ])
    })
  })

  it('stops a download in the middle, whoever works on it, and takes its part', async () => {
    await withTempStore(async ({store, reopen, storeDir}) => {
      const worker = await reopen({role: 'worker', flags: {leaseMs: '600ms'}})
      const image = smallImage({big: Buffer.alloc(300_000)})
      const url = server.put('/one.tar', image.bytes, {stallAfterBytes: 100_000})
      await store.images.fetch({name: 'one', url, digest: image.digest, goal: 'STORED'})
      const stop = new AbortController()
      const working = worker.work({signal: stop.signal})
      await until(() => namesIn(join(storeDir, 'blobs')).some((name) => name.endsWith('.json')))
      await store.images.remove('one')
      expect((await store.images.settle('one')).outcome).to.equal('removed')
      const runs = await store.runs.list({image: 'one'})
      expect(runs.map(({status}) => status)).to.deep.equal(['done', 'canceled'])
      stop.abort()
      await working
      expect(namesIn(join(storeDir, 'blobs'))).to.deep.equal([])
    })
  })

  it('is refused nothing in any state: NEW, FAILED, STORED', async () => {
    await withTempStore(async ({store}) => {
      const image = smallImage()
      const url = server.put('/one.tar', image.bytes)
      await store.images.fetch({name: 'new', url, digest: image.digest, goal: 'STORED'})
      await stored(
        store,
        'failed',
        server.put('/no', Buffer.alloc(0), {status: 404}),
        'a'.repeat(64),
      )
      for (const name of ['new', 'failed']) {
        expect((await store.images.remove(name)).goal).to.equal('REMOVED')
        expect(await code(store.images.activate(name))).to.equal('image_busy')
        expect((await store.images.settle(name)).outcome).to.equal('removed')
      }
      expect(await store.images.list()).to.deep.equal([])
    })
  })
})
