/** Programs of others that read disk images over HTTP: what they get is the image. */
import {execFileSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {makeDisk, randomBytesOf} from '../support/disk-images.ts'
import {useScenes} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {startServe} from '../support/serve-process.ts'

const MiB = 1024 ** 2
const GiB = 1024 ** 3

describe('qemu over HTTP', function () {
  requires('program:qemu-img')
  this.timeout(120_000)
  const makeScene = useScenes()

  it('reads an image as it is on the disk, and tells one with another byte from it', async () => {
    const scene = makeScene()
    const images = join(scene.dir, 'images')
    mkdirSync(images)
    const image = join(images, 'disk.img')
    makeDisk(image, 48 * MiB, [
      {at: 0, bytes: randomBytesOf(3 * MiB)},
      {at: 30 * MiB + 512, bytes: randomBytesOf(2 * MiB)},
      {at: 48 * MiB - 512, bytes: randomBytesOf(512)},
    ])
    const serving = await startServe(scene, ['--images-root', images, '--require-range'])
    const overHttp = `json:${JSON.stringify({
      driver: 'raw',
      file: {driver: 'http', url: `${serving.url}/v1/images/disk.img`, readahead: MiB},
    })}`
    const compare = (local: string) =>
      scene.run(['compare', '-f', 'raw', '-U', local, overHttp], {command: 'qemu-img'})

    const same = await compare(image)
    expect(same.stdout + same.stderr).to.equal('Images are identical.\n')
    expect(same.code).to.equal(0)

    const other = join(scene.dir, 'other.img')
    copyFileSync(image, other)
    const bytes = readFileSync(other)
    bytes.writeUInt8(bytes.readUInt8(30 * MiB + 1000) ^ 1, 30 * MiB + 1000)
    writeFileSync(other, bytes)
    const differs = await compare(other)
    expect(differs.stdout).to.match(/mismatch/)
    expect(differs.code).to.equal(1)

    serving.running.kill('SIGTERM')
    expect((await serving.running.exited).code).to.equal(0)
  })
})

describe('curl far inside a large image', function () {
  requires('program:curl')
  this.timeout(120_000)
  const makeScene = useScenes()

  const sha256OfRange = (path: string, start: number, length: number): string => {
    const fd = openSync(path, 'r')
    try {
      const bytes = Buffer.alloc(length)
      expect(readSync(fd, bytes, 0, length, start)).to.equal(length)
      return createHash('sha256').update(bytes).digest('hex')
    } finally {
      closeSync(fd)
    }
  }

  it('gets the right bytes, and the server keeps its memory', async () => {
    const scene = makeScene()
    const images = join(scene.dir, 'images')
    mkdirSync(images)
    const image = join(images, 'large.img')
    const far = 24 * GiB
    makeDisk(image, 30 * GiB, [
      {at: far - MiB, bytes: randomBytesOf(20 * MiB)},
      {at: 30 * GiB - 1000, bytes: randomBytesOf(1000)},
    ])
    const serving = await startServe(scene, ['--images-root', images])
    const url = `${serving.url}/v1/images/large.img`
    const curl = (...args: string[]): Buffer =>
      execFileSync('curl', ['--silent', '--show-error', '--fail', ...args], {maxBuffer: 32 * MiB})
    const residentBytes = (): number =>
      Number(
        /^VmRSS:\s*(\d+) kB/m.exec(
          readFileSync(`/proc/${serving.running.pid}/status`, 'utf8'),
        )?.[1],
      ) * 1024

    for (const [start, length] of [
      [far, 8 * MiB],
      [far + 4_000_001, 65_537],
      [30 * GiB - 700, 700],
    ] as const) {
      const got = curl('--range', `${start}-${start + length - 1}`, url)
      expect(got.length, String(start)).to.equal(length)
      expect(createHash('sha256').update(got).digest('hex'), String(start)).to.equal(
        sha256OfRange(image, start, length),
      )
    }
    // 512 MiB by ranges: by now everything that the server keeps is there, whatever the size of the image.
    const read = (count: number): void => {
      const ranges = Array.from({length: count}, (_, i) => far + i * 8 * MiB)
      const asked = ranges.flatMap((start, i) => [
        ...(i === 0 ? [] : ['--next', '--silent', '--fail']),
        ...['--range', `${start}-${start + 8 * MiB - 1}`, '--output', '/dev/null', url],
      ])
      curl(...asked)
    }
    read(64)
    const before = residentBytes()
    read(96)
    expect(residentBytes(), `${before} before`).to.be.lessThan(150 * MiB)
    expect(residentBytes() - before).to.be.lessThan(24 * MiB)

    serving.running.kill('SIGTERM')
    expect((await serving.running.exited).code).to.equal(0)
  })
})
