import {expect} from 'chai'
import fc from 'fast-check'
import {grown, Texts} from '../../../../src/core/unpack/erofs/columns.ts'

describe('columns of numbers', () => {
  it('keep what they hold when they grow, with zeros behind, and leave nothing of the old ones', () => {
    const columns = {small: Uint16Array.of(1, 65_535), large: Float64Array.of(2 ** 53 - 1, -1)}
    const next = grown(columns, 4)
    expect([...next.small]).to.deep.equal([1, 65_535, 0, 0])
    expect([...next.large]).to.deep.equal([2 ** 53 - 1, -1, 0, 0])
    expect([columns.small.length, columns.large.length]).to.deep.equal([0, 0])
  })
})

describe('byte strings behind each other', () => {
  const bytes = fc.string({unit: fc.integer({min: 1, max: 255}).map((n) => String.fromCharCode(n))})

  it('are found again after the memory has grown many times', () => {
    const texts = new Texts()
    const added = Array.from({length: 3000}, (_, index) => `${index}`.repeat(30))
    const places = added.map((text) => texts.add(text))
    expect(places.map((at, i) => texts.get(at, added[i]?.length ?? 0))).to.deep.equal(added)
  })

  it('are in the order of their bytes, however much they share', () => {
    const shared = fc.constantFrom('', 'a'.repeat(31), 'b'.repeat(32), '\xff'.repeat(200))
    fc.assert(
      fc.property(shared, bytes, bytes, (start, one, other) => {
        const [left, right] = [start + one, start + other]
        const texts = new Texts()
        const [at, otherAt] = [texts.add(left), texts.add(right)]
        const order = texts.compare(at, left.length, otherAt, right.length)
        const expected = Buffer.compare(Buffer.from(left, 'latin1'), Buffer.from(right, 'latin1'))
        expect(Math.sign(order)).to.equal(expected)
      }),
    )
  })
})
