import {expect} from 'chai'
import fc from 'fast-check'
import {newUlid, parseImageName} from '../../src/core/ids.ts'
import {ImgstoreError} from '../../src/core/errors.ts'

describe('ULIDs', () => {
  it('are 26 characters of Crockford base 32', () => {
    expect(newUlid(Date.now())).to.match(/^[0-9A-HJKMNP-TV-Z]{26}$/)
    expect(newUlid(0)).to.match(/^0{10}/)
    expect(newUlid(2 ** 48 - 1)).to.match(/^7ZZZZZZZZZ/)
  })

  it('sort by time', () => {
    const time = fc.integer({min: 0, max: 2 ** 48 - 1})
    fc.assert(
      fc.property(time, time, (a, b) => {
        fc.pre(a !== b)
        expect(newUlid(a) < newUlid(b)).to.equal(a < b)
      }),
    )
  })

  it('are unique within one millisecond', () => {
    const made = new Set(Array.from({length: 20_000}, () => newUlid(1)))
    expect(made.size).to.equal(20_000)
  })
})

describe('image names', () => {
  it('are letters, digits, dots, dashes and underscores, 1 to 128, beginning with a letter or digit', () => {
    for (const name of ['a', '0', 'Debian-12.5_x', 'a..b', 'x'.repeat(128)])
      expect(parseImageName(name)).to.equal(name)
  })

  it('are never anything that a path could misread', () => {
    const wrong = [
      '',
      '.',
      '..',
      '../x',
      'a/b',
      '/a',
      '-a',
      '_a',
      '.a',
      'a\0',
      'a\n',
      ' a',
      'ä',
      'x'.repeat(129),
    ]
    for (const name of [...wrong, 'a b', 'a\\b', '\u202ea', 'ａ'])
      expect(() => parseImageName(name), JSON.stringify(name))
        .to.throw(ImgstoreError)
        .with.property('code', 'invalid_name')
  })

  it('stay one path component, whatever is tried', () => {
    fc.assert(
      fc.property(
        fc.string({
          unit: fc.constantFrom('a', 'Z', '0', '.', '-', '_', '/', '\\', '\0', '\n', 'é', '．'),
          maxLength: 140,
        }),
        (text) => {
          try {
            const name = parseImageName(text)
            expect(name)
              .to.equal(text)
              .and.not.match(/[/\0]|^\.{1,2}$/)
          } catch (error) {
            expect(error).to.have.property('code', 'invalid_name')
          }
        },
      ),
    )
  })
})
