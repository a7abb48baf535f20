import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {judgeAnswer, parseContentRange, parseLength} from '../../../src/core/sources/http-answer.ts'

describe('parseContentRange', () => {
  it('reads a range with and without the whole size', () => {
    expect(parseContentRange('bytes 5-9/10')).to.eql({firstByte: 5, endByte: 10, totalBytes: 10})
    expect(parseContentRange('Bytes 0-0/*')).to.eql({firstByte: 0, endByte: 1})
  })

  it('refuses what cannot be', () => {
    for (const text of [
      undefined,
      '',
      'bytes */10',
      'bytes 9-5/10',
      'bytes 5-10/10',
      'bytes=5-9/10',
      'bytes -5-9/10',
      'bytes 5-9/10, bytes 1-2/10',
      'bytes 1-99999999999999999/9',
      'bytes 0x1-2/3',
      'items 1-2/3',
    ]) {
      expect(parseContentRange(text), text ?? 'nothing').to.equal(undefined)
    }
  })

  it('reads back every range it could be sent', () => {
    const size = fc.integer({min: 1, max: Number.MAX_SAFE_INTEGER})
    fc.assert(
      fc.property(size, fc.double({min: 0, max: 1, noNaN: true}), (totalBytes, share) => {
        const firstByte = Math.min(Math.floor(share * totalBytes), totalBytes - 1)
        const text = `bytes ${firstByte}-${totalBytes - 1}/${totalBytes}`
        expect(parseContentRange(text)).to.eql({firstByte, endByte: totalBytes, totalBytes})
      }),
    )
  })
})

describe('judgeAnswer', () => {
  it('takes no length that is not a plain number', () => {
    expect(parseLength('12')).to.equal(12)
    for (const text of ['-1', '1e3', '12, 12', '', '99999999999999999']) {
      expect(parseLength(text), text).to.equal(undefined)
    }
  })

  it('reads 416 with a larger size than was asked for as unusable', () => {
    const judge = (total: string) =>
      judgeAnswer('u', 416, {'content-range': `bytes */${total}`}, 100).answer
    expect(judge('100')).to.equal('nothing_left')
    expect(judge('7')).to.equal('nothing_left')
    expect(judge('101')).to.equal('unusable')
    expect(judgeAnswer('u', 416, {}, 100).answer).to.equal('nothing_left')
  })

  it('takes a 206 to a plain question for the whole only from byte 0 on', () => {
    const judge = (range: string) => judgeAnswer('u', 206, {'content-range': range}, 0)
    expect(judge('bytes 0-9/20')).to.include({answer: 'whole', endByte: 10, totalBytes: 20})
    expect(judge('bytes 1-9/20').answer).to.equal('unusable')
  })

  it('places every body inside its whole, or gives a coded error, for any answer', () => {
    const headers = fc.record(
      {
        'content-length': fc.oneof(fc.nat().map(String), fc.string()),
        'content-range': fc.oneof(
          fc.tuple(fc.nat(99), fc.nat(99), fc.nat(99)).map(([a, b, c]) => `bytes ${a}-${b}/${c}`),
          fc.string(),
        ),
        'content-encoding': fc.constantFrom('gzip', 'identity', ''),
        'content-type': fc.constantFrom('multipart/byteranges', 'text/html', ''),
        'retry-after': fc.string(),
        etag: fc.string(),
      },
      {requiredKeys: []},
    )
    const status = fc.oneof(fc.constantFrom(200, 206, 416), fc.integer({min: 100, max: 599}))
    fc.assert(
      fc.property(status, headers, fc.nat(99), (code, given, startByte) => {
        try {
          const head = judgeAnswer('u', code, given, startByte)
          if (head.answer === 'whole') expect(head.startByte).to.equal(0)
          if (head.answer === 'range') expect(head.startByte).to.equal(startByte)
          if (head.endByte !== undefined && head.totalBytes !== undefined) {
            expect(head.endByte).to.be.at.most(head.totalBytes)
          }
        } catch (error) {
          expect(error).to.be.instanceOf(ImgstoreError)
        }
      }),
    )
  })
})
