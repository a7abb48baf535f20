import {expect} from 'chai'
import {createHash, randomBytes} from 'node:crypto'
import {plainSha256, sha256} from '../../../../src/daemon/http/page/ui/sha256.js'

describe('SHA-256 of the page', () => {
  // Around the places where the padding takes another block.
  const lengths = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 4096, 100_003]

  for (const length of lengths)
    it(`agrees with Node's for ${length} bytes, with and without SubtleCrypto`, async () => {
      const bytes = new Uint8Array(randomBytes(length))
      const expected = createHash('sha256').update(bytes).digest('hex')
      expect(plainSha256(bytes)).to.equal(expected)
      expect(await sha256(bytes)).to.equal(expected)
    })

  it('reads a part of a larger buffer from its place', () => {
    const bytes = new Uint8Array(randomBytes(300)).subarray(7, 207)
    expect(plainSha256(bytes)).to.equal(createHash('sha256').update(bytes).digest('hex'))
  })
})
