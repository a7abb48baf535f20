/** `serve` dies again and again in the middle of its answers: nobody reads a wrong byte, and the next one starts clean. */
import {randomBytes} from 'node:crypto'
import {mkdirSync, readdirSync, writeFileSync} from 'node:fs'
import {request} from 'node:http'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {gzipSync} from 'node:zlib'
import {expect} from 'chai'
import {useServers} from '../support/blob-server.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {randomOf, sha256} from '../support/image-maker.ts'
import {until, useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe, type Serving} from '../support/serve-process.ts'
import {expectSoundDatabase} from '../support/store-check.ts'

const killsMax = howMany(10, 125)
const diskBytes = 24 * 2 ** 20
/** As many as may be answered at once: a permit that stayed taken would be missed at the next start. */
const clientCount = 4

type Got = {status: number | undefined; body: Buffer; isWhole: boolean}

describe('serve that is killed again and again', function () {
  requires('root')
  this.timeout(isLong ? 3_600_000 : 120_000)
  const newScene = useScenes()
  const newServer = useServers()

  it('sends no wrong byte, and leaves nothing to the next one', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const scene = newScene()
    const disk = randomBytes(diskBytes)
    await arrange(scene, disk, (await newServer()).put('/disk.gz', gzipSync(disk, {level: 1})))
    const random = randomOf(faultSeed)
    const filesBefore = filesOf(scene)
    const counts = {cut: 0, whole: 0}
    let port = 0
    let cutKills = 0
    for (let kills = 0; kills < killsMax; kills++) {
      const serving = await startOn(scene, port)
      port = serving.port
      await expectReady(serving, disk)
      const before = counts.cut
      await killWhileRead(serving, {disk, random, counts})
      if (counts.cut > before) cutKills++
    }
    expect(cutKills, 'kills in the middle of answers').to.be.at.least(killsMax / 2)

    const serving = await startOn(scene, port)
    await expectReady(serving, disk)
    serving.running.kill('SIGTERM')
    const {code, stdout} = await serving.running.exited
    expect(code, stdout).to.equal(0)
    expect(await scene.processesLeft()).to.deep.equal([])
    expect(filesOf(scene), 'nothing was left behind').to.deep.equal(filesBefore)
    expectSoundDatabase(scene)
    await scene.ok(['deactivate', 'disk'])
    recordRow({
      row: 'kills-serve',
      injected: `${killsMax} × kill -9 of serve, ${cutKills} of them in the middle of answers`,
      checked: `${counts.whole} answers whole, ${counts.cut} cut, no wrong byte; all permits free after each start`,
    })
  })
})

/** The same disk as a file of a directory, and as an image of the store. */
async function arrange(scene: Scene, disk: Buffer, url: string): Promise<void> {
  const root = join(scene.dir, 'images')
  mkdirSync(root)
  writeFileSync(join(root, 'file'), disk)
  const digest = sha256(gzipSync(disk, {level: 1}))
  await scene.ok(['fetch', '--kind', 'disk', 'disk', url, digest, '--wait'])
}

/** Everything that was written, by name; the database's own files come and go. */
function filesOf(scene: Scene): string[] {
  const all = readdirSync(scene.dir, {recursive: true, encoding: 'utf8'})
  return all.filter((name) => !name.startsWith('store.db')).sort()
}

async function startOn(scene: Scene, port: number): Promise<Serving> {
  const root = join(scene.dir, 'images')
  const limit = `${clientCount}`
  return await startServe(scene, [
    ...['--images-root', root, '--listen-addr', `127.0.0.1:${port}`],
    ...['--max-concurrent-bytes-requests', limit, '--max-range-bytes', `${diskBytes}`],
  ])
}

/** As many answers at once as there are permits, each whole and right. */
async function expectReady({url}: Serving, disk: Buffer): Promise<void> {
  const all = Array.from({length: clientCount}, async (_, i) => {
    const start = i * 4_000_000
    const got = await readRange(url, i % 2 === 0 ? 'file' : 'disk', start, start + 3_000_000)
    expect([got.status, got.isWhole]).to.deep.equal([206, true])
    expect(got.body.equals(disk.subarray(start, start + 3_000_000))).to.equal(true)
  })
  await Promise.all(all)
}

type Reading = {disk: Buffer; random: () => number; counts: {cut: number; whole: number}}

/** Clients read at random places until the server is gone; whatever arrived is what the disk has there. */
async function killWhileRead({running, url}: Serving, o: Reading): Promise<void> {
  const {disk, random, counts} = o
  let isGone = false
  const seen = {begun: 0}
  const client = async (name: string): Promise<void> => {
    while (!isGone) {
      // More than sockets hold, so that the server is at it still while the client reads.
      const start = Math.floor(random() * (diskBytes / 4))
      const end = start + diskBytes / 2 + Math.floor(random() * (diskBytes / 4))
      const got = await readRange(url, name, start, end, seen)
      if (got.status !== undefined) expect(got.status).to.equal(206)
      const isRight = got.body.equals(disk.subarray(start, start + got.body.length))
      expect(isRight, `${name} ${start}-${end}`).to.equal(true)
      expect(got.isWhole).to.equal(got.body.length === end - start)
      if (got.isWhole) counts.whole++
      else if (got.body.length > 0) counts.cut++
    }
  }
  const clients = Array.from({length: clientCount}, (_, i) => client(i % 2 === 0 ? 'file' : 'disk'))
  await sleep(random() * 300)
  const {begun} = seen
  await until('another answer to begin', () => seen.begun > begun)
  await sleep(random() * 30)
  running.kill('SIGKILL')
  expect((await running.exited).signal).to.equal('SIGKILL')
  isGone = true
  await Promise.all(clients)
}

/** Bytes `start` … `end` (exclusive), as far as they came; with `slowly` told of its begin, and not in one go. */
async function readRange(
  url: string,
  name: string,
  start: number,
  end: number,
  slowly?: {begun: number},
): Promise<Got> {
  return await new Promise((resolve) => {
    const got: Got = {status: undefined, body: Buffer.alloc(0), isWhole: false}
    const parts: Buffer[] = []
    const done = (): void => resolve({...got, body: Buffer.concat(parts)})
    const headers = {Range: `bytes=${start}-${end - 1}`}
    const asked = request(`${url}/v1/images/${name}`, {headers, agent: false}, (response) => {
      got.status = response.statusCode
      if (slowly) slowly.begun++
      response.on('data', (part: Buffer) => {
        parts.push(part)
        if (!slowly) return
        response.pause()
        setTimeout(() => response.resume(), 1)
      })
      response.on('error', () => undefined)
      response.on('close', () => {
        got.isWhole = response.complete
        done()
      })
    })
    asked.on('error', done)
    asked.end()
  })
}
