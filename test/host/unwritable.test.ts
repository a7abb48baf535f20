/** A database that cannot be written while a worker and commands use it: its file system, or another process, is in the way. */
import {execFileSync} from 'node:child_process'
import {mkdirSync, truncateSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {MiB} from '../../src/core/limits.ts'
import {useServers} from '../support/blob-server.ts'
import {freePorts} from '../support/free-ports.ts'
import {makeImage} from '../support/image-maker.ts'
import {until, useScenes, type Running, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'

const image = makeImage(8, {files: 20, fileBytes: 4096})
const reason = 'its file system is read-only'

/** A scene whose store and database are on an ext4 of their own, and what has it stop taking writes. */
function sceneOnExt4(scene: Scene): {turnReadOnly: () => void} {
  const [disk, file] = [join(scene.dir, 'disk'), join(scene.dir, 'disk.img')]
  writeFileSync(file, '')
  truncateSync(file, 128 * MiB)
  execFileSync('mkfs.ext4', ['-q', file])
  execFileSync('mount', ['-o', 'loop', file, disk])
  mkdirSync(scene.store)
  Object.assign(scene.env, {IMGSTORE_LEASE: '600ms', IMGSTORE_SPACE_RESERVE: '1MiB'})
  return {turnReadOnly: () => execFileSync('mount', ['-o', 'remount,abort', disk])}
}

type Answer = {status: number; text: string}

/** A worker that answers, and a way to ask it. */
async function startWorker(
  scene: Scene,
): Promise<{worker: Running; ask: (path: string) => Promise<Answer>}> {
  const [port] = await freePorts(1)
  const worker = scene.start(['worker', '--listen', `127.0.0.1:${port}`])
  const ask = async (path: string): Promise<Answer> => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`)
    return {status: answer.status, text: await answer.text()}
  }
  await until('the worker to be well', async () => {
    const answer = await ask('/readyz').catch(() => undefined)
    return answer?.status === 200
  })
  expect((await ask('/healthz')).status).to.equal(200)
  return {worker, ask}
}

describe('a store whose file system becomes read-only', function () {
  requires('root', 'program:mkfs.ext4')
  this.timeout(60_000)
  const newScene = useScenes()
  const newServer = useServers()

  it('is told by commands with the reason', async () => {
    const scene = newScene('disk')
    const {turnReadOnly} = sceneOnExt4(scene)
    const url = (await newServer()).put('/one.tar', image.bytes)
    await scene.ok(['fetch', 'one', url, image.digest, '--wait', '--no-activate'])
    turnReadOnly()
    for (const args of [['fetch', 'two', url, image.digest], ['remove', 'one'], ['status']]) {
      const {code, stderr} = await scene.run(args)
      expect(stderr, args[0]).to.contain(reason)
      expect(code, args[0]).to.equal(15)
    }
  })

  it('makes a worker unwell, and what it has can still be seen', async () => {
    const scene = newScene('disk')
    const {turnReadOnly} = sceneOnExt4(scene)
    const url = (await newServer()).put('/one.tar', image.bytes)
    const {worker, ask} = await startWorker(scene)
    await scene.ok(['fetch', 'one', url, image.digest, '--wait'])
    turnReadOnly()
    const unwell = await until('the worker to be unwell', async () => {
      const answer = await ask('/healthz')
      return answer.status === 503 ? answer : undefined
    })
    const {checks} = JSON.parse(unwell.text) as {checks: {database: Record<string, string>}}
    expect(checks.database['status']).to.equal('fail')
    expect(checks.database['detail']).to.contain(scene.db)
    expect((await ask('/readyz')).status).to.equal(503)
    expect(await scene.ok(['status'])).to.match(/^one +ACTIVE/m)
    const {code, stderr} = await scene.run(['remove', 'one'])
    expect(stderr).to.contain(reason)
    expect(code).to.equal(15)
    expect(worker.isOver).to.equal(false)
  })
})

describe('a database that another process keeps locked for long', () => {
  const newScene = useScenes()

  it('makes a worker unwell until it can write again', async () => {
    const scene = newScene()
    scene.env['IMGSTORE_LEASE'] = '600ms'
    const {worker, ask} = await startWorker(scene)
    const other = new SqliteDatabase(scene.db)
    try {
      other.exec('begin immediate')
      await until('the worker to be unwell', async () => (await ask('/healthz')).status === 503)
      other.exec('commit')
      await until('the worker to be well', async () => (await ask('/healthz')).status === 200)
    } finally {
      other.close()
    }
    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
  })
})
