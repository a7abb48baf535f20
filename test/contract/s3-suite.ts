/** What we promise of images in S3, checked against a server that is not ours. */
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {CreateBucketCommand, PutObjectCommand, S3Client} from '@aws-sdk/client-s3'
import {expect} from 'chai'
import {openBlobs} from '../../src/core/blobs/blob-store.ts'
import type {ImgstoreError} from '../../src/core/errors.ts'
import {downloadBlob} from '../../src/core/images/download.ts'
import {GiB, MiB} from '../../src/core/limits.ts'
import {openSource, type SourceOptions} from '../../src/core/sources/source.ts'
import {digestOf, randomContent} from '../support/fake-source.ts'
import {requires, type Need} from '../support/requires.ts'
import {readBody, rejection, sourceOptions} from '../support/source-options.ts'
import {withTempDir} from '../support/temp-dir.ts'
import {sourceSuite} from './source-suite.ts'

/** A running server that lets one user in, who may make buckets and objects. */
export type S3Server = {
  endpoint: string
  region: string
  accessKeyId: string
  secretAccessKey: string
  stop(): Promise<void>
}

const {signal} = new AbortController()
const bucket = 'images'

export type S3SuiteOptions = {
  needs: readonly Need[]
  /** Starts the server once, in a directory of its own. */
  start: (dir: string) => Promise<S3Server>
  /** The path in the bucket, as it stands in an address. */
  path?: string
}

/** `name` is the server's. */
export function s3Suite(name: string, {needs, start, path}: S3SuiteOptions): void {
  const url = `s3://${bucket}/${path ?? 'debian/12/rootfs%20%C3%BC.tar'}`
  describe(`images in S3, kept by ${name}`, function () {
    requires(...needs)
    this.timeout(60_000)
    const content = randomContent(3 * MiB + 5)
    let server: S3Server
    let client: S3Client
    const undo: (() => Promise<void> | void)[] = []

    // The first start may have to make the server.
    before(async function () {
      this.timeout(600_000)
      const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
      undo.push(() => rmSync(dir, {recursive: true}))
      server = await start(dir)
      undo.push(() => server.stop())
      const {endpoint, region, accessKeyId, secretAccessKey} = server
      client = new S3Client({
        endpoint,
        region,
        forcePathStyle: true,
        credentials: {accessKeyId, secretAccessKey},
        // Swift 2.30 knows neither the streaming signature nor the checksums that newer SDKs send unasked.
        requestChecksumCalculation: 'WHEN_REQUIRED',
        responseChecksumValidation: 'WHEN_REQUIRED',
      })
      undo.push(() => client.destroy())
      await client.send(new CreateBucketCommand({Bucket: bucket}))
      await put(content)
    })
    after(async () => {
      for (const step of undo.reverse()) await step()
    })

    async function put(body: Buffer): Promise<void> {
      const Key = decodeURIComponent(new URL(url).pathname.slice(1))
      await client.send(new PutObjectCommand({Bucket: bucket, Key, Body: body}))
    }

    const s3Options = (
      changes: Partial<SourceOptions['s3']> = {},
      options: SourceOptions = sourceOptions(),
    ): SourceOptions => {
      const {endpoint, region, accessKeyId, secretAccessKey} = server
      const s3 = {endpoint, region, accessKeyId, secretAccessKey, pathStyle: true, anonymous: false}
      return {...options, s3: {...s3, ...changes}}
    }

    const refusal = async (changes: Partial<SourceOptions['s3']>): Promise<ImgstoreError> => {
      const source = await openSource(url, s3Options(changes))
      return (await rejection(source.open({startByte: 0, signal}))) as ImgstoreError
    }

    sourceSuite(`s3 on ${name}`, async (bytes) => {
      await put(bytes)
      return {
        open: (options) => openSource(url, s3Options({}, options)),
        openMissing: (options) => openSource(`s3://${bucket}/missing`, s3Options({}, options)),
        replaceContent: put,
        close: () => put(content),
      }
    })

    it('become verified blobs, whole and resumed from the middle', async () => {
      await withTempDir(async (storeDir) => {
        const blobs = openBlobs(storeDir)
        const digest = digestOf(content)
        const part = await blobs.beginPart(digest, {isTakeover: false, signal})
        await part.append([content.subarray(0, 2 * MiB)])
        await part.abandon()
        const attempt = async () =>
          downloadBlob({
            source: await openSource(url, s3Options()),
            blobs,
            digest,
            url,
            isTakeover: false,
            signal,
            maxBlobBytes: GiB,
            onProgress: () => undefined,
          })
        const resumed = await attempt()
        expect(resumed.resumedFromBytes).to.equal(2 * MiB)
        expect(resumed.downloadedBytes).to.be.lessThan(MiB + 64 * 1024)
        await blobs.remove(digest)
        expect((await attempt()).downloadedBytes).to.equal(content.length)
        expect(await blobs.verify(digest)).to.have.property('ok', true)
      })
    })

    it('are refused with a wrong secret, an unknown key and without a signature', async () => {
      for (const changes of [{secretAccessKey: 'wrong'}, {accessKeyId: 'test:nobody'}]) {
        const error = await refusal(changes)
        expect(error.code, JSON.stringify(changes)).to.equal('source_refused')
        expect(error.details['status']).to.equal(403)
      }
      // Swift takes a question without a signature for one in its own language, and does not understand it.
      expect(await refusal({anonymous: true})).to.have.property('code', 'source_refused')
    })

    it('may be empty', async () => {
      await put(Buffer.alloc(0))
      const source = await openSource(url, s3Options())
      expect((await readBody(await source.open({startByte: 0, signal}))).length).to.equal(0)
      await put(content)
    })

    it('say source_not_found for a bucket that is not there', async () => {
      const source = await openSource('s3://nowhere/key', s3Options())
      const error = await rejection(source.open({startByte: 0, signal}))
      expect(error).to.have.property('code', 'source_not_found')
    })
  })
}
