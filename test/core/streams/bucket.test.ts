import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {bucketSuite} from '../../contract/bucket-suite.ts'
import {diskSettings, makeDisk, publish, randomBytesOf, verify} from '../../support/disk-images.ts'
import {FakeBucket} from '../../support/fake-bucket.ts'
import {rejection} from '../../support/source-options.ts'

bucketSuite('a small server', {needs: [], start: () => FakeBucket.start()})

describe('a disk image on its way to a bucket', () => {
  let dir = ''
  let disk = ''
  let server: FakeBucket
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    disk = join(dir, 'disk.img')
    makeDisk(disk, 16_384, [{at: 0, bytes: randomBytesOf(5000)}])
    server = await FakeBucket.start()
    server.buckets.add('disks')
  })
  afterEach(async () => {
    await server.stop()
    rmSync(dir, {recursive: true})
  })
  const settings = () =>
    diskSettings({
      IMGSTORE_S3_ENDPOINT: server.endpoint,
      AWS_ACCESS_KEY_ID: server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
    })
  const send = (changes: Parameters<typeof publish>[2] = {}) =>
    publish(disk, '/nonexistent', {to: 's3://disks', version: 'r1', ...changes}, settings())
  const order = (): string[] =>
    server.requests.filter(({method}) => method === 'PUT').map(({key}) => key)

  it('has its manifest written last, and under the id and the version', async () => {
    await send({isLatest: true})
    expect(order().slice(-3)).to.deep.equal([
      'disks/disk.img/r1/meta.json',
      'disks/disk.img/r1/manifest.json',
      'disks/disk.img/latest.json',
    ])
    const manifest = server.requests.find(({key}) => key.endsWith('r1/manifest.json') && key)
    expect(manifest).to.not.equal(undefined)
  })

  it('is tried again where the service is busy, and given up with exit 13', async () => {
    let busy = 2
    server.refuse = (method, key) =>
      method === 'PUT' && key.endsWith('1.bin') && busy-- > 0 ? 503 : undefined
    expect(await send()).to.include({outcome: 'published'})
    busy = 1000
    expect(await rejection(send({version: 'r2'}))).to.include({
      code: 'source_unavailable',
      exit: 13,
    })
    expect(order().some((key) => key.includes('r2/manifest.json'))).to.equal(false)
  })

  it('goes to those who may write and not list, and is refused to those who may not write', async () => {
    server.refuse = (_method, key) => (key.includes('/disk.img/') ? undefined : 403)
    expect(await send()).to.include({outcome: 'published'})
    expect(await send()).to.include({outcome: 'unchanged'})
    const place = 's3://disks/disk.img/r1'
    expect(await verify(place, {settings: settings()})).to.have.property('problemCount', 0)
    server.refuse = (method) => (method === 'PUT' ? 403 : undefined)
    expect(await rejection(send({version: 'r2'}))).to.include({code: 'source_refused', exit: 13})
  })

  it('does not take the manifest of another publisher who was quicker for its own', async () => {
    const put = server.objects.set.bind(server.objects)
    server.refuse = (method, key) => {
      if (method === 'PUT' && key.endsWith('/meta.json'))
        put('disks/disk.img/r1/manifest.json', {bytes: Buffer.from('{}'), headers: {}})
      return undefined
    }
    expect(await rejection(send())).to.include({code: 'disk_busy', exit: 11})
    expect(server.objects.get('disks/disk.img/r1/manifest.json')?.bytes.toString()).to.equal('{}')
  })
})
