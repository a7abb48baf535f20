/** What we promise of disk images in a bucket, for any S3 server. */
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
  paginateListObjectsV2,
} from '@aws-sdk/client-s3'
import {expect} from 'chai'
import {
  diskSettings,
  makeDisk,
  publish,
  randomBytesOf,
  sha256,
  verify,
} from '../support/disk-images.ts'
import {requires, type Need} from '../support/requires.ts'
import {rejection} from '../support/source-options.ts'
import type {S3Server} from './s3-suite.ts'

export type BucketSuiteOptions = {
  needs: readonly Need[]
  start: (dir: string) => Promise<S3Server>
}

const bucket = 'disks'
const immutable = 'public, max-age=31536000, immutable, no-transform'

export function bucketSuite(name: string, {needs, start}: BucketSuiteOptions): void {
  describe(`disk images in a bucket, kept by ${name}`, function () {
    requires(...needs)
    this.timeout(60_000)
    let dir = ''
    let server: S3Server
    let client: S3Client
    const undo: (() => Promise<void> | void)[] = []

    before(async () => {
      dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
      undo.push(() => rmSync(dir, {recursive: true}))
      server = await start(join(dir, 'server'))
      undo.push(() => server.stop())
      const {endpoint, region, accessKeyId, secretAccessKey} = server
      client = new S3Client({
        endpoint,
        region,
        forcePathStyle: true,
        credentials: {accessKeyId, secretAccessKey},
        requestChecksumCalculation: 'WHEN_REQUIRED',
        responseChecksumValidation: 'WHEN_REQUIRED',
      })
      undo.push(() => client.destroy())
      await client.send(new CreateBucketCommand({Bucket: bucket}))
    })
    after(async () => {
      for (const step of undo.reverse()) await step()
    })

    const settings = () =>
      diskSettings({
        IMGSTORE_S3_ENDPOINT: server.endpoint,
        IMGSTORE_S3_REGION: server.region,
        AWS_ACCESS_KEY_ID: server.accessKeyId,
        AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
      })
    const toBucket = (disk: string, changes: Parameters<typeof publish>[2] = {}) =>
      publish(
        disk,
        '/nonexistent',
        {to: `s3://${bucket}/images/`, id: 'debian', version: 'r1', ...changes},
        settings(),
      )
    const check = (version: string, readsData = true) =>
      verify(`s3://${bucket}/images/debian/${version}`, {readsData, settings: settings()})
    const keys = async (prefix: string): Promise<string[]> => {
      const found: string[] = []
      for await (const page of paginateListObjectsV2({client}, {Bucket: bucket, Prefix: prefix}))
        found.push(...(page.Contents ?? []).map(({Key}) => Key ?? ''))
      return found.toSorted()
    }
    const disk = (bytes: Buffer): string => {
      const path = join(dir, `${sha256(bytes).slice(0, 12)}.img`)
      makeDisk(path, 40_960, [{at: 8192, bytes}])
      return path
    }
    const content = randomBytesOf(10_000)

    it('are written with the headers that readers need, and read back equal', async () => {
      const report = await toBucket(disk(content), {isLatest: true})
      expect(report).to.include({outcome: 'published', chunkCount: 10, writtenChunks: 10})
      expect(report.zeroChunks).to.equal(7)
      const names = await keys('images/debian/')
      expect(names).to.have.length(13)
      expect(names.filter((key) => !key.includes('/chunks/'))).to.deep.equal([
        'images/debian/latest.json',
        'images/debian/r1/manifest.json',
        'images/debian/r1/meta.json',
      ])
      const head = async (Key: string) => client.send(new HeadObjectCommand({Bucket: bucket, Key}))
      const chunk = await head('images/debian/r1/chunks/00000002.bin')
      expect(chunk).to.include({
        CacheControl: immutable,
        ContentType: 'application/octet-stream',
        ContentLength: 4096,
      })
      expect(chunk.ContentEncoding).to.equal('identity')
      const manifest = await head('images/debian/r1/manifest.json')
      expect(manifest).to.include({CacheControl: immutable, ContentType: 'application/json'})
      const latest = await client.send(
        new GetObjectCommand({Bucket: bucket, Key: 'images/debian/latest.json'}),
      )
      expect(latest.CacheControl).to.equal('public, max-age=60, no-transform')
      expect(JSON.parse((await latest.Body?.transformToString()) ?? '')).to.deep.equal({
        schema: 'aero.chunked-disk-image.latest.v1',
        imageId: 'debian',
        version: 'r1',
        manifestKey: 'images/debian/r1/manifest.json',
      })
      expect(await check('r1')).to.include({problemCount: 0, readBytes: 40_960, checkedChunks: 10})
      expect(await check('r1', false)).to.include({problemCount: 0, readBytes: 0})
    })

    it('are not sent again when they are there, and mended where they are not', async () => {
      expect(await toBucket(disk(content))).to.include({outcome: 'unchanged', writtenChunks: 0})
      const Key = 'images/debian/r1/chunks/00000002.bin'
      await client.send(new DeleteObjectCommand({Bucket: bucket, Key}))
      await client.send(
        new PutObjectCommand({
          Bucket: bucket,
          Key: 'images/debian/r1/chunks/00000003.bin',
          Body: Buffer.alloc(4096, 1),
        }),
      )
      const broken = await check('r1')
      const wrong = sha256(Buffer.alloc(4096, 1))
      expect(broken.problems.map(({where, reason}) => `${where}: ${reason}`)).to.deep.equal([
        'chunks/00000002.bin: it is missing',
        'chunks/00000003.bin: its Cache-Control lacks no-transform',
        `chunks/00000003.bin: its content has digest sha256:${wrong}, expected sha256:${sha256(content.subarray(4096, 8192))}`,
      ])
      expect(await toBucket(disk(content))).to.include({outcome: 'mended', writtenChunks: 2})
      expect(await check('r1')).to.have.property('problemCount', 0)
    })

    it('of another content are refused, and replaced when forced', async () => {
      const other = disk(randomBytesOf(10_000))
      const error = await rejection(toBucket(other))
      expect(error).to.include({code: 'disk_taken', exit: 11})
      expect(await check('r1')).to.have.property('problemCount', 0)
      expect(await toBucket(other, {isForced: true, chunkSize: 8192})).to.include({
        outcome: 'replaced',
        chunkCount: 5,
      })
      const report = await check('r1')
      expect(report).to.include({problemCount: 0, checkedChunks: 5})
      expect(await keys('images/debian/r1/chunks/')).to.have.length(5)
    })

    it('take up what an interrupted publication has sent', async () => {
      const controller = new AbortController()
      let seen = 0
      const attempt = toBucket(disk(content), {
        version: 'r2',
        concurrency: 1,
        signal: controller.signal,
        onProgress: () => {
          if (++seen === 4) controller.abort()
        },
      })
      expect(await rejection(attempt)).to.include({code: 'interrupted', exit: 130})
      expect(await keys('images/debian/r2/')).to.have.length(4)
      expect(await rejection(check('r2'))).to.include({code: 'disk_not_found', exit: 10})
      const report = await toBucket(disk(content), {version: 'r2'})
      expect(report).to.include({outcome: 'published', keptChunks: 4, writtenChunks: 6})
      expect(await check('r2')).to.have.property('problemCount', 0)
    })

    it('need a version, and a bucket that exists', async () => {
      const flat = publish(disk(content), '/nonexistent', {to: `s3://${bucket}/x`}, settings())
      expect(await rejection(flat)).to.include({code: 'wrong_usage', exit: 2})
      const lost = toBucket(disk(content), {to: 's3://nowhere/x'})
      expect(await rejection(lost)).to.include({code: 'source_not_found', exit: 13})
    })
  })
}
