import {execFileSync} from 'node:child_process'
import {existsSync, mkdtempSync, rmSync, rmdirSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {MiB} from '../../src/core/limits.ts'
import {joinChunks, makeDisk, publish, randomBytesOf, verify} from '../support/disk-images.ts'
import {requires} from '../support/requires.ts'
import {rejection} from '../support/source-options.ts'

describe('publishing onto a full disk', function () {
  requires('root')
  let dir = ''
  let small = ''
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    small = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  })
  afterEach(() => {
    execFileSync('umount', [small])
    rmdirSync(small)
    rmSync(dir, {recursive: true})
  })

  for (const [what, options, more] of [
    ['bytes', 'size=3m', 'size=20m'],
    ['inodes', 'size=20m,nr_inodes=8', 'nr_inodes=100'],
  ] as const) {
    it(`says no_space without ${what}, shows nothing, and goes on once there are more`, async () => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', small])
      const disk = join(dir, 'disk.img')
      const content = randomBytesOf(8 * MiB)
      makeDisk(disk, content.length, [{at: 0, bytes: content}])
      const attempt = () => publish(disk, small, {version: 'r1', chunkSize: MiB, concurrency: 1})
      expect(await rejection(attempt())).to.include({code: 'no_space', exit: 14})
      const place = join(small, 'chunked/disk.img/r1')
      expect(existsSync(place)).to.equal(false)
      execFileSync('mount', ['-o', `remount,${more}`, small])
      const report = await attempt()
      expect(report.outcome).to.equal('published')
      expect(report.keptChunks).to.be.at.least(1)
      expect(joinChunks(place).equals(content)).to.equal(true)
      expect(await verify(place)).to.have.property('problemCount', 0)
    })
  }
})
