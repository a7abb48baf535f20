import {expect} from 'chai'
import fc from 'fast-check'
import {formatDigest, parseDigest} from '../../src/core/digest.ts'
import {ImgstoreError} from '../../src/core/errors.ts'

const hex = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

describe('digests', () => {
  it('are read bare or with sha256: in front, in any case, and come out in lower case', () => {
    for (const text of [hex, hex.toUpperCase(), `sha256:${hex}`, `SHA256:${hex.toUpperCase()}`])
      expect(parseDigest(text)).to.equal(hex)
    expect(formatDigest(parseDigest(hex))).to.equal(`sha256:${hex}`)
  })

  it('refuse everything else', () => {
    const wrong = [
      '',
      hex.slice(1),
      `${hex}0`,
      `sha512:${hex}`,
      `${hex}\n`,
      ` ${hex}`,
      `g${hex.slice(1)}`,
    ]
    for (const text of [...wrong, `sha256:sha256:${hex}`, '../../etc/passwd'])
      expect(() => parseDigest(text), JSON.stringify(text))
        .to.throw(ImgstoreError)
        .with.property('code', 'invalid_digest')
  })

  it('are the same after a round trip', () => {
    const digits = fc.string({
      unit: fc.constantFrom(...'0123456789abcdefABCDEF'.split('')),
      minLength: 64,
      maxLength: 64,
    })
    fc.assert(
      fc.property(digits, (text) => {
        const digest = parseDigest(text)
        expect(parseDigest(formatDigest(digest))).to.equal(digest)
        expect(digest).to.match(/^[0-9a-f]{64}$/)
      }),
    )
  })
})
