/**
 * Images in Ceph's S3 gateway with its dbstore backend. It answers ranges with the right header and other bytes, and
 * with more of them than it said: a fetch that was cut off must still end in the right blob.
 */
import {createCipheriv} from 'node:crypto'
import {once} from 'node:events'
import {mkdtempSync, readFileSync, rmSync} from 'node:fs'
import {connect, createServer, type AddressInfo, type Server, type Socket} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {CreateBucketCommand, PutObjectCommand, S3Client} from '@aws-sdk/client-s3'
import {expect} from 'chai'
import {MiB} from '../../src/core/limits.ts'
import {openSource} from '../../src/core/sources/source.ts'
import type {S3Server} from '../contract/s3-suite.ts'
import {makeTar, sha256} from '../support/image-maker.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {startRadosgw} from '../support/radosgw-server.ts'
import {requires} from '../support/requires.ts'
import {readBody, sourceOptions} from '../support/source-options.ts'
import {expectSoundStore, imagesOf, query} from '../support/store-check.ts'

const {signal} = new AbortController()
const url = 's3://images/debian/one.tar'

/** Passes connections on, and cuts each of the first `cuts` after so many bytes of the answer. */
class CuttingProxy {
  cuts = 0
  sentBytes = 0
  readonly #sockets = new Set<Socket>()
  readonly #server: Server

  constructor(target: URL, cutAfterBytes: number) {
    this.#server = createServer((client) => {
      const upstream = connect(Number(target.port), target.hostname)
      for (const socket of [client, upstream]) {
        this.#sockets.add(socket)
        socket.on('error', () => undefined)
        socket.once('close', () => {
          client.destroy()
          upstream.destroy()
        })
      }
      let leftBytes = this.cuts > 0 ? cutAfterBytes : Infinity
      if (this.cuts > 0) this.cuts--
      client.pipe(upstream)
      upstream.on('data', (chunk: Buffer) => {
        const piece = chunk.subarray(0, Math.min(chunk.length, leftBytes))
        leftBytes -= piece.length
        this.sentBytes += piece.length
        upstream.pause()
        client.write(piece, () => {
          if (leftBytes > 0) upstream.resume()
          else setTimeout(() => client.destroy(), 30)
        })
      })
    })
  }

  async start(): Promise<string> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

describe("images in Ceph's radosgw with dbstore", function () {
  requires('root', 'program:debootstrap', 'program:unshare', 'program:setpriv')
  this.timeout(60_000)
  const newScene = useScenes()
  const data = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16)).update(
    Buffer.alloc(24 * MiB),
  )
  const content = makeTar([{name: 'data', content: data}])
  const digest = sha256(content)
  let server: S3Server
  const undo: (() => Promise<void> | void)[] = []

  // The first start may have to make the server.
  before(async function () {
    this.timeout(600_000)
    const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    undo.push(() => rmSync(dir, {recursive: true}))
    server = await startRadosgw(dir)
    undo.push(() => server.stop())
    const {endpoint, region, accessKeyId, secretAccessKey} = server
    const client = new S3Client({
      endpoint,
      region,
      forcePathStyle: true,
      credentials: {accessKeyId, secretAccessKey},
    })
    undo.push(() => client.destroy())
    await client.send(new CreateBucketCommand({Bucket: 'images'}))
    await client.send(
      new PutObjectCommand({Bucket: 'images', Key: 'debian/one.tar', Body: content}),
    )
  })
  after(async () => {
    for (const step of undo.reverse()) await step()
  })

  const fetchThrough = async (scene: Scene, endpoint: string): Promise<void> => {
    Object.assign(scene.env, {
      IMGSTORE_S3_ENDPOINT: endpoint,
      IMGSTORE_S3_REGION: server.region,
      AWS_ACCESS_KEY_ID: server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
      IMGSTORE_RETRY_WAIT: '50ms',
    })
    await scene.ok(['fetch', 'one', url, digest, '--wait'])
    expect(imagesOf(scene)[0]).to.include({digest, state: 'ACTIVE'})
    const blob = readFileSync(join(scene.store, 'blobs', `${digest}.tar`))
    expect(blob.equals(content)).to.equal(true)
    await expectSoundStore(scene)
  }

  it('are answered with other bytes under the right header when a range is asked for', async () => {
    const {endpoint, region, accessKeyId, secretAccessKey} = server
    const s3 = {endpoint, region, accessKeyId, secretAccessKey, pathStyle: true, anonymous: false}
    const source = await openSource(url, {...sourceOptions(), s3})
    const opened = await source.open({startByte: 10 * MiB, signal})
    expect(opened).to.include({answer: 'range', startByte: 10 * MiB, totalBytes: content.length})
    const body = await readBody(opened)
    expect(body.length).to.equal(content.length - 10 * MiB)
    expect(body.equals(content.subarray(10 * MiB)), 'this server still lies').to.equal(false)
  })

  it('become verified blobs when nothing is cut', async () => {
    await fetchThrough(newScene(), server.endpoint)
  })

  for (const cuts of [1, 3]) {
    it(`become verified blobs after ${cuts} cuts, though no range can be believed`, async () => {
      const scene = newScene()
      const proxy = new CuttingProxy(new URL(server.endpoint), 10 * MiB)
      proxy.cuts = cuts
      try {
        await fetchThrough(scene, await proxy.start())
      } finally {
        await proxy.close()
      }
      const retries = query<{error_code: string}>(
        scene,
        `select error_code from run_events where kind = 'retry'`,
      )
      expect(retries[0]).to.deep.equal({error_code: 'source_incomplete'})
      console.log(`    ${(proxy.sentBytes / MiB).toFixed(0)} MiB for ${content.length / MiB} MiB`)
    })
  }
})
