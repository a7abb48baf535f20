import {expect} from 'chai'
import fc from 'fast-check'
import {decodeSegment, isChunkName, isStreamId} from '../../src/core/stream-ids.ts'

describe('an image id', () => {
  it('is a short plain name that can be no path', () => {
    for (const id of ['a', 'debian12', '.hidden', '...', '-', 'A_b.c-1', 'x'.repeat(128)])
      expect(isStreamId(id), id).to.equal(true)
    for (const id of [
      '',
      '.',
      '..',
      'a/b',
      'a b',
      'ü',
      'a\n',
      '\0',
      'a\\b',
      '%61',
      'x'.repeat(129),
    ])
      expect(isStreamId(id), id).to.equal(false)
  })
})

describe('a chunk name', () => {
  it('is digits and .bin', () => {
    for (const name of ['0.bin', '00000000.bin', `${'9'.repeat(32)}.bin`])
      expect(isChunkName(name), name).to.equal(true)
    for (const name of [
      '.bin',
      '0',
      'a.bin',
      '0.BIN',
      '0.bin\n',
      '-1.bin',
      '٠.bin',
      '0.bin/',
      `${'9'.repeat(33)}.bin`,
    ])
      expect(isChunkName(name), name).to.equal(false)
  })
})

describe('a path segment', () => {
  it('is decoded once', () => {
    expect(decodeSegment('%61')).to.equal('a')
    expect(decodeSegment('a%2Fb')).to.equal('a/b')
    expect(decodeSegment('%2561')).to.equal('%61')
    expect(decodeSegment('%c3%bc')).to.equal('ü')
    expect(decodeSegment('')).to.equal('')
  })

  it('keeps what only looks like an escape', () => {
    for (const text of ['%zz', '%', '%4', '%%', 'a%', '%+1', '%0x', '% 1'])
      expect(decodeSegment(text), text).to.equal(text)
    expect(decodeSegment('%%61')).to.equal('%a')
  })

  it('is told apart when it is not UTF-8, raw or escaped', () => {
    for (const raw of ['%ff', 'a%c3', '%c0%80', '%ed%a0%80', '\u00ff', 'a\u00c3b'])
      expect(decodeSegment(raw), raw).to.equal(undefined)
    expect(decodeSegment('\u00c3\u00bc')).to.equal('ü')
  })

  it('comes back from any text that was encoded', () => {
    fc.assert(
      fc.property(fc.string({unit: 'binary'}), (text) => {
        expect(decodeSegment(encodeURIComponent(text))).to.equal(text)
      }),
    )
  })
})
