/** New work on a disk with little room: it waits, says so at every door, and goes on when there is room. */
import {mkdirSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {MiB} from '../../src/core/limits.ts'
import {useServers} from '../support/blob-server.ts'
import {freePorts} from '../support/free-ports.ts'
import {makeImage, readTree} from '../support/image-maker.ts'
import {until, useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {mountMemory} from '../support/small-disk.ts'
import {eventsOf, expectSoundStore, imagesOf, namesIn, runsOf} from '../support/store-check.ts'

const image = makeImage(6, {files: 60, fileBytes: 32_768})

type Status = {state: string; run: {status: string; attempt: number; error?: {code: string}}}

describe('a store with less free space than its reserve', function () {
  requires('root')
  this.timeout(60_000)
  const newScene = useScenes()
  const newServer = useServers()

  /** A scene whose store is on a disk of its own, with `leftBytes` of it free. */
  function fullScene(leftBytes: number): {scene: Scene; empty: () => void} {
    const scene = newScene('disk')
    const disk = join(scene.dir, 'disk')
    mountMemory(disk, 'size=64m')
    mkdirSync(scene.store)
    const filler = join(disk, 'filler')
    writeFileSync(filler, Buffer.alloc(64 * MiB - leftBytes))
    Object.assign(scene.env, {
      IMGSTORE_SPACE_RESERVE: '8MiB',
      IMGSTORE_RETRY_WAIT: '20ms',
      IMGSTORE_DB_PATH: join(scene.dir, 'store.db'),
    })
    Object.assign(scene, {db: join(scene.dir, 'store.db')})
    return {scene, empty: () => rmSync(filler)}
  }

  it('lets a fetch wait with its reason, without attempts or noise, and go on by itself', async () => {
    const {scene, empty} = fullScene(4 * MiB)
    const server = await newServer()
    const url = server.put('/one.tar', image.bytes)
    const fetch = scene.start(['fetch', 'one', url, image.digest, '--wait', '--activate'])
    await until('the reason to be shown', () => fetch.out.stdout.includes('waiting for space'))
    expect(fetch.out.stdout).to.match(
      /one: waiting for space: 4\.0 MiB free, needs a reserve of 8\.0 MiB .*imgstore cleanup/,
    )
    const seen = await until('more looks', async () => {
      const status = await scene.json<Status & {run: {epoch: number}}>(['status', 'one'])
      return status.run.status === 'waiting' && status.run.epoch > 3 ? status : undefined
    })
    expect(seen.run).to.include({attempt: 1})
    expect(seen.run.error?.code).to.equal('space_low')
    const shown = await scene.ok(['status', 'one'])
    expect(shown)
      .to.match(/waits +waiting for space: .*space_low/)
      .and.contain('cleanup')
    expect(await scene.ok(['status'])).to.contain('waiting for space')
    expect(eventsOf(scene).filter(({kind}) => kind === 'retry')).to.have.length(1)
    expect(server.of('/one.tar')).to.have.length(0)

    empty()
    expect(await fetch.exited).to.include({code: 0})
    expect(readTree(join(scene.store, 'active/one'))).to.deep.equal(image.tree)
    await expectSoundStore(scene)
  })

  it('does not begin a download that would go below it, and goes on with the part it has', async () => {
    // Above the reserve, but not with the archive.
    const {scene, empty} = fullScene(8 * MiB + image.bytes.length - 100_000)
    const server = await newServer()
    const url = server.put('/one.tar', image.bytes)
    const fetch = scene.start(['fetch', 'one', url, image.digest, '--wait', '--activate'])
    await until('the reason to be shown', () => fetch.out.stdout.includes('waiting for space'))
    expect(fetch.out.stdout).to.match(/needs \d\.\d MiB and a reserve of 8\.0 MiB/)
    await sleep(500)
    fetch.kill('SIGINT')
    expect(await fetch.exited).to.include({code: 130})
    const [run] = runsOf(scene)
    expect(run?.status).to.be.oneOf(['waiting', 'pending'])
    // Its size is known after the first question.
    expect(server.of('/one.tar')).to.have.length(1)
    empty()
    await scene.ok(['worker', '--once'])
    expect(imagesOf(scene)[0]).to.include({state: 'ACTIVE'})
    await expectSoundStore(scene)
  })

  it('does not begin to unpack, and keeps the archive meanwhile', async () => {
    const {scene, empty} = fullScene(8 * MiB + 2 * image.bytes.length - 200_000)
    const url = (await newServer()).put('/one.tar', image.bytes)
    const fetch = scene.start(['fetch', 'one', url, image.digest, '--wait', '--activate'])
    await until('the reason to be shown', () => fetch.out.stdout.includes('waiting for space'))
    expect(imagesOf(scene)[0]).to.include({state: 'UNPACKING'})
    expect(namesIn(scene, 'blobs')).to.deep.equal([`${image.digest}.tar`])
    expect(namesIn(scene, 'staging')).to.deep.equal([])
    empty()
    expect(await fetch.exited).to.include({code: 0})
    await expectSoundStore(scene)
  })

  it('fails at once what can never fit', async () => {
    const {scene, empty} = fullScene(32 * MiB)
    empty()
    const large = makeImage(7, {files: 60, fileBytes: MiB})
    const url = (await newServer()).put('/one.tar', large.bytes)
    const ran = await scene.run(['fetch', 'one', url, large.digest, '--wait'], {
      env: {IMGSTORE_SPACE_RESERVE: '40MiB'},
    })
    expect(ran).to.include({code: 14})
    expect(ran.stderr).to.contain('the whole file system has')
    expect(namesIn(scene, 'blobs')).to.deep.equal([])
  })

  it('tells probes and Prometheus how many images wait', async () => {
    const {scene, empty} = fullScene(4 * MiB)
    const server = await newServer()
    for (const name of ['one', 'two'])
      await scene.ok(['fetch', name, server.put(`/${name}.tar`, image.bytes), image.digest])
    const [port] = await freePorts(1)
    const worker = scene.start(['worker', '--listen', `127.0.0.1:${port}`])
    const get = async (path: string): Promise<{status: number; text: string}> => {
      const answer = await fetch(`http://127.0.0.1:${port}${path}`)
      return {status: answer.status, text: await answer.text()}
    }
    const waiting = await until('both images to wait', async () => {
      const {status, text} = await get('/healthz').catch(() => ({status: 0, text: '{}'}))
      const health = JSON.parse(text) as {checks?: {space: Record<string, unknown>}}
      return health.checks?.space['waiting_images'] === 2 ? {status, ...health.checks} : undefined
    })
    expect(waiting.status).to.equal(503)
    expect(waiting.space).to.include({status: 'fail', reserve_bytes: 8 * MiB})
    expect(waiting.space['detail']).to.match(/below the reserve and 2 images wait.*cleanup/)
    expect((await get('/readyz')).status).to.equal(200)
    const {text} = await get('/metrics')
    expect(text).to.match(/^imgstore_waiting_images\{reason="space"\} 2$/m)
    expect(text).to.match(/^imgstore_waiting_images\{reason="retry"\} 0$/m)
    expect(text).to.contain(`imgstore_space_reserve_bytes ${8 * MiB}\n`)
    expect(text).to.match(/^imgstore_store_free_bytes 4\d{6}$/m)
    empty()
    await until('both to be ACTIVE', () => imagesOf(scene).every(({state}) => state === 'ACTIVE'))
    expect((await get('/healthz')).status).to.equal(200)
    expect((await get('/metrics')).text).to.match(/^imgstore_waiting_images\{reason="space"\} 0$/m)
    worker.kill('SIGTERM')
    expect(await worker.exited).to.include({code: 0})
    await expectSoundStore(scene)
  })
})
