/** Publishing a disk image: killed at each of its failpoints, the same command goes on and nothing half-written was shown. */
import {existsSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {makeDisk, randomBytesOf} from '../support/disk-images.ts'
import {FakeBucket} from '../support/fake-bucket.ts'
import {useScenes, type Scene} from '../support/program.ts'
import {failpointsOfSources, isOfPublishing} from '../support/source-failpoints.ts'

type Case = {
  title: string
  /** What is published, and whether something else is there before. */
  args: string[]
  isReplacing?: boolean
  isRemote?: boolean
}

const version = ['--version', 'r1']
const versioned: Case[] = [
  {title: 'a version', args: version},
  {title: 'a version by digest', args: ['--version', 'sha256']},
  {title: 'another version in its place', args: [...version, '--force'], isReplacing: true},
]
const flat: Case = {title: 'a flat layout', args: []}
const flatAgain: Case = {title: 'another flat layout', args: ['--force'], isReplacing: true}
const remote: Case[] = [
  {title: 'into a bucket', args: version, isRemote: true},
  {
    title: 'in its place in a bucket',
    args: [...version, '--force'],
    isRemote: true,
    isReplacing: true,
  },
]

const cases: Record<string, Case[]> = {
  'streams.chunk_written': [...versioned, flat, flatAgain],
  'streams.chunks_synced': [...versioned, flat, flatAgain],
  'streams.staged': [...versioned, flat, flatAgain],
  'streams.manifest_retired': [flatAgain],
  'streams.chunks_shown': [flat, flatAgain],
  'streams.shown': versioned,
  'streams.flat_shown': [flat, flatAgain],
  'streams.chunk_sent': remote,
  'streams.chunks_sent': remote,
  'streams.manifest_sent': remote,
}

describe('publishing that dies', () => {
  const newScene = useScenes()
  let bucket: FakeBucket
  beforeEach(async () => {
    bucket = await FakeBucket.start()
    bucket.buckets.add('disks')
  })
  afterEach(() => bucket.stop())

  it('has a scenario for each of its failpoints', () => {
    expect(Object.keys(cases).toSorted()).to.deep.equal(
      failpointsOfSources().filter(isOfPublishing),
    )
  })

  for (const [name, scenarios] of Object.entries(cases)) {
    for (const scenario of scenarios) {
      it(`goes on after dying at ${name}: ${scenario.title}`, async () => {
        const scene = newScene()
        if (scenario.isRemote === true) useBucket(scene, bucket)
        const disk = join(scene.dir, 'disk.img')
        const target = scenario.isRemote === true ? ['--to', 's3://disks/p'] : []
        const publish = ['disk', 'publish', disk, '--chunk-size', '64KiB', ...target]
        if (scenario.isReplacing === true) {
          makeDisk(disk, 700_416, [{at: 0, bytes: randomBytesOf(150_000)}])
          await scene.ok([...publish, ...scenario.args])
        }
        const content = randomBytesOf(200_000)
        makeDisk(disk, 524_800, [{at: 70_000, bytes: content}])
        const ran = await scene.run([...publish, ...scenario.args], {
          env: {IMGSTORE_FAILPOINT: name},
        })
        expect(ran.signal, `it dies there: ${ran.stdout}${ran.stderr}`).to.equal('SIGKILL')
        await expectNothingHalf(scene, scenario)
        const report = JSON.parse(await scene.ok([...publish, ...scenario.args, '--json'])) as {
          place: string
          chunk_count: number
        }
        expect(report.chunk_count).to.equal(9)
        await scene.ok(['disk', 'verify', report.place, '--read-data'])
        if (scenario.isRemote === true) return
        const left = readdirSync(scene.dir, {recursive: true, encoding: 'utf8'})
        expect(left.filter((path) => path.includes('~'))).to.deep.equal([])
      })
    }
  }
})

function useBucket(scene: Scene, bucket: FakeBucket): void {
  scene.env['IMGSTORE_S3_ENDPOINT'] = bucket.endpoint
  scene.env['AWS_ACCESS_KEY_ID'] = bucket.accessKeyId
  scene.env['AWS_SECRET_ACCESS_KEY'] = bucket.secretAccessKey
}

/** Whatever a reader finds a manifest of is whole. */
async function expectNothingHalf(scene: Scene, scenario: Case): Promise<void> {
  if (scenario.isRemote === true) {
    const ran = await scene.run(['disk', 'verify', 's3://disks/p/disk.img/r1', '--read-data'])
    expect([0, 10], ran.stdout).to.include(ran.code)
    return
  }
  const image = join(scene.dir, 'images/chunked/disk.img')
  const shown = readdirSync(image)
    .filter((name) => !name.includes('~'))
    .map((name) => join(image, name))
  for (const dir of [image, ...shown]) {
    if (!existsSync(join(dir, 'manifest.json'))) continue
    await scene.ok(['disk', 'verify', dir, '--read-data'])
  }
}
