import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {
  parseDecimal,
  parseTime,
  readNumber,
  readPlainOctal,
} from '../../../src/core/unpack/archive/number.ts'
import {base256} from '../../support/tar-builder.ts'

const read = (field: Buffer): number | undefined => readNumber(field, 0, field.length, 'size', 0)
const octal = (text: string): Buffer => Buffer.from(text, 'latin1')

describe('numbers in headers', () => {
  it('reads octal in every way that writers end it', () => {
    for (const text of [
      '0000644\0',
      '000644 \0',
      ' 00644 \0',
      '00000644',
      '   644\0\0',
      '644     ',
    ]) {
      expect(read(octal(text)), JSON.stringify(text)).to.equal(0o644)
    }
  })

  it('reads a blank field as nothing', () => {
    expect(read(octal('        '))).to.equal(undefined)
    expect(read(octal('\0\0\0\0\0\0\0\0'))).to.equal(undefined)
  })

  it('refuses what is no octal number', () => {
    for (const text of [
      '0000648\0',
      '-000644\0',
      '0x1ff  \0',
      '644\x00644\0',
      '\x00644\0\0\0\0',
      '6 44   \0',
    ]) {
      expect(() => read(octal(text)), JSON.stringify(text)).to.throw(ImgstoreError)
    }
  })

  it('reads back every octal number of a size field', () => {
    fc.assert(
      fc.property(fc.integer({min: 0, max: 8 ** 11 - 1}), (value) => {
        const field = octal(`${value.toString(8).padStart(11, '0')}\0`)
        expect(read(field)).to.equal(value)
        expect(readPlainOctal(field, 0, field.length)).to.equal(value)
      }),
      {verbose: true},
    )
  })

  it('reads back every safe base-256 number, negative ones too', () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), (value) => {
        const field = base256(BigInt(value), 12)
        expect(read(field)).to.equal(value)
        expect(readPlainOctal(field, 0, field.length)).to.equal(-1)
      }),
      {verbose: true},
    )
  })

  it('refuses base-256 numbers that a double cannot hold', () => {
    for (const value of [2n ** 53n, -(2n ** 53n), 2n ** 80n]) {
      expect(() => read(base256(value, 12)), String(value)).to.throw(/beyond every real value/)
    }
  })

  it('answers every field with a safe number, nothing, or bad_archive', () => {
    fc.assert(
      fc.property(fc.uint8Array({minLength: 8, maxLength: 12}), (bytes) => {
        const field = Buffer.from(bytes)
        try {
          const value = read(field)
          if (value !== undefined) expect(Number.isSafeInteger(value)).to.equal(true)
        } catch (error) {
          expect(error).to.be.instanceOf(ImgstoreError).with.property('code', 'bad_archive')
        }
      }),
      {verbose: true, numRuns: 1000},
    )
  })
})

describe('numbers in PAX records', () => {
  it('reads decimal digits and nothing else', () => {
    expect(parseDecimal('0')).to.equal(0)
    expect(parseDecimal('0123')).to.equal(123)
    expect(parseDecimal('9007199254740991')).to.equal(Number.MAX_SAFE_INTEGER)
    for (const text of ['', '-1', '+1', '1.0', '1e3', ' 1', '0x10', '9007199254740992']) {
      expect(parseDecimal(text), JSON.stringify(text)).to.equal(undefined)
    }
  })

  it('reads times to the nanosecond, rounded down', () => {
    expect(parseTime('12')).to.deep.equal({seconds: 12, nanoseconds: 0})
    expect(parseTime('12.')).to.deep.equal({seconds: 12, nanoseconds: 0})
    expect(parseTime('12.5')).to.deep.equal({seconds: 12, nanoseconds: 500_000_000})
    expect(parseTime('12.1234567899')).to.deep.equal({seconds: 12, nanoseconds: 123_456_789})
    expect(parseTime('-0.25')).to.deep.equal({seconds: -1, nanoseconds: 750_000_000})
    expect(parseTime('-1.0000000001')).to.deep.equal({seconds: -2, nanoseconds: 999_999_999})
    expect(parseTime('-3')).to.deep.equal({seconds: -3, nanoseconds: 0})
    for (const text of ['', '-', '.5', '1e9', 'now', '1,5', '--1']) {
      expect(parseTime(text), JSON.stringify(text)).to.equal(undefined)
    }
  })

  it('reads back any time with nanoseconds', () => {
    fc.assert(
      fc.property(
        fc.integer({min: -(2 ** 40), max: 2 ** 40}),
        fc.integer({min: 0, max: 999_999_999}),
        (seconds, nanoseconds) => {
          const total = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds)
          const size = total < 0n ? -total : total
          const digits = String(size).padStart(10, '0')
          const text = `${total < 0n ? '-' : ''}${digits.slice(0, -9)}.${digits.slice(-9)}`
          expect(parseTime(text)).to.deep.equal({seconds, nanoseconds})
        },
      ),
      {verbose: true},
    )
  })
})
