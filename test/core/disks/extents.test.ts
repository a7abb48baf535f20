import {closeSync, mkdtempSync, openSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {digestOf, digestOfZeros} from '../../../src/core/disks/digests.ts'
import {dataExtents, isAllZero} from '../../../src/core/disks/extents.ts'
import {KiB, MiB} from '../../../src/core/limits.ts'
import {makeDisk, sha256} from '../../support/disk-images.ts'

describe('the extents of a sparse file', () => {
  let dir = ''
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  })
  afterEach(() => rmSync(dir, {recursive: true}))

  it('hold every byte that was written, in order, inside what was asked', () => {
    const path = join(dir, 'disk')
    const unit = 64 * KiB
    const parts = fc.uniqueArray(fc.integer({min: 0, max: 63}), {maxLength: 12})
    fc.assert(
      fc.property(parts, fc.integer({min: 0, max: 4 * MiB}), (units, start) => {
        rmSync(path, {force: true})
        makeDisk(
          path,
          4 * MiB,
          units.map((at) => ({at: at * unit, bytes: Buffer.alloc(unit, 1)})),
        )
        const fd = openSync(path, 'r')
        try {
          const extents = [...dataExtents(fd, start, 4 * MiB)]
          let last = start
          for (const extent of extents) {
            expect(extent.start).to.be.at.least(last)
            expect(extent.end).to.be.above(extent.start)
            last = extent.end
          }
          expect(last).to.be.at.most(4 * MiB)
          for (const at of units.map((index) => Math.max(start, index * unit))) {
            const isIn = extents.some((extent) => extent.start <= at && at < extent.end)
            if (at < Math.floor(at / unit) * unit + unit && units.includes(Math.floor(at / unit)))
              expect(isIn || at >= 4 * MiB, `byte ${at}`).to.equal(true)
          }
        } finally {
          closeSync(fd)
        }
      }),
      {numRuns: 60},
    )
  })

  it('are none in a file that is one hole, whatever its size', () => {
    const path = join(dir, 'disk')
    makeDisk(path, 2 ** 43)
    const fd = openSync(path, 'r')
    expect([...dataExtents(fd, 0, 2 ** 43)]).to.deep.equal([])
    closeSync(fd)
  })
})

describe('zeros', () => {
  it('are told from anything else', () => {
    expect(isAllZero(new Uint8Array(0))).to.equal(true)
    for (const length of [1, 511, MiB, MiB + 1, 3 * MiB - 7]) {
      const bytes = Buffer.alloc(length + 3).subarray(3)
      expect(isAllZero(bytes), String(length)).to.equal(true)
      for (const at of [0, length >> 1, length - 1]) {
        bytes[at] = 1
        expect(isAllZero(bytes), `${length} ${at}`).to.equal(false)
        bytes[at] = 0
      }
    }
  })

  it('have the digest that their bytes have', async () => {
    for (const length of [512, 4096, 3 * MiB + 512]) {
      const bytes = Buffer.alloc(length)
      expect(digestOfZeros(length)).to.equal(sha256(bytes))
      expect(await digestOf(bytes)).to.equal(sha256(bytes))
    }
  })
})
