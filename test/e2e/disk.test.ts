/** Disk images of a real size, published and checked by the built program, within what they hold of data. */
import {readFileSync, statSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {expect} from 'chai'
import {GiB, MiB} from '../../src/core/limits.ts'
import {makeDisk, randomBytesOf} from '../support/disk-images.ts'
import {until, useScenes} from '../support/program.ts'

describe('a disk image of 20 GiB', function () {
  const newScene = useScenes()

  it('is published without reading its holes, checked, and published again as what it is', async () => {
    const scene = newScene()
    const disk = join(scene.dir, 'large.img')
    const content = randomBytesOf(3 * MiB)
    makeDisk(disk, 20 * GiB, [
      {at: 0, bytes: content},
      {at: 11 * GiB + 512, bytes: content},
      {at: 20 * GiB - content.length, bytes: content},
    ])
    type Report = {place: string; read_bytes: number; chunk_count: number; outcome: string}
    const publish = ['disk', 'publish', disk, '--version', 'r1']
    const report = await scene.json<Report>(publish)
    expect(report).to.include({outcome: 'published', chunk_count: 5120})
    expect(report.read_bytes).to.be.at.most(10 * MiB)
    const {blocks} = statSync(resolve(scene.dir, report.place, 'chunks/00002816.bin'))
    expect(blocks * 512).to.be.at.most(4 * MiB)
    const checked = await scene.json<{read_bytes: number; checked_chunks: number}>([
      'disk',
      'verify',
      report.place,
      '--read-data',
    ])
    expect(checked.checked_chunks).to.equal(5120)
    expect(checked.read_bytes).to.be.at.most(10 * MiB)
    expect((await scene.json<Report>(publish)).outcome).to.equal('unchanged')
    const middle = readFileSync(resolve(scene.dir, report.place, 'chunks/00002816.bin'))
    expect(middle.subarray(512, 512 + content.length).equals(content)).to.equal(true)
  })

  it('is left whole by Ctrl-C, and gone on with', async () => {
    const scene = newScene()
    const disk = join(scene.dir, 'disk.img')
    makeDisk(disk, 256 * MiB, [{at: 0, bytes: randomBytesOf(64 * MiB)}])
    const publish = ['disk', 'publish', disk, '--version', 'r1', '--chunk-size', '64KiB']
    const running = scene.start(publish)
    const staged = join(scene.dir, 'images/chunked/disk.img/r1~publishing/chunks')
    await until('chunks', () => {
      try {
        return statSync(join(staged, '00000200.bin')).size > 0
      } catch {
        return false
      }
    })
    running.kill('SIGINT')
    const ran = await running.exited
    expect(ran.code, ran.stderr).to.equal(130)
    expect(ran.stderr).to.contain('the publication was interrupted')
    const report = await scene.json<{kept_chunks: number; place: string}>(publish)
    expect(report.kept_chunks).to.be.at.least(200)
    await scene.ok(['disk', 'verify', report.place, '--read-data'])
  })
})
