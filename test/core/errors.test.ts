import {expect} from 'chai'
import fc from 'fast-check'
import {
  errorTable,
  errorToJson,
  exitCodes,
  fail,
  fromSystemError,
  ImgstoreError,
  printable,
  quote,
  toImgstoreError,
  type ErrorCode,
} from '../../src/core/errors.ts'

const codes = Object.keys(errorTable) as ErrorCode[]

/** Everything a terminal could act on or be fooled by: controls, format characters, other line ends. */
const unfit = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u

describe('the error table', () => {
  it('has advice, a documented exit code and numbers for every door in each row', () => {
    for (const code of codes) {
      const row = errorTable[code]
      expect(code).to.match(/^[a-z]+(_[a-z]+)*$/)
      expect(row.hint, code).to.match(/[.)]$/).and.have.length.greaterThan(15)
      expect(Object.keys(exitCodes).map(Number), code).to.include(row.exit)
      expect(row.exit, code).to.be.greaterThan(0)
      expect(row.http, code).to.be.within(400, 599)
      expect(row.grpc, code).to.match(/^[a-z_]+$/)
    }
  })

  it('leaves no exit code without an error that has it, but those that commands make themselves', () => {
    const used = new Set(codes.map((code) => errorTable[code].exit))
    const own = [0, 3, 17]
    for (const exit of Object.keys(exitCodes).map(Number))
      expect(used.has(exit) || own.includes(exit), `exit ${exit}`).to.equal(true)
  })

  it('never tries again what a person must first change', () => {
    for (const code of codes)
      if (errorTable[code].fault === 'user' && code !== 'image_busy')
        expect(errorTable[code].retry, code).to.equal('never')
  })
})

describe('failures', () => {
  it('carry their row and their details', () => {
    const cause = new Error('below')
    const error = fail('no_space', {path: '/x', reason: 'ENOSPC'}, {cause})
    expect(error).to.be.instanceOf(ImgstoreError).and.instanceOf(Error)
    expect(error.message).to.equal('no space left for /x (ENOSPC)')
    expect(error.cause).to.equal(cause)
    expect(error).to.include({
      code: 'no_space',
      retry: 'after_fix',
      fault: 'host',
      exit: 14,
      http: 507,
    })
    expect(JSON.parse(JSON.stringify(errorToJson(error)))).to.deep.equal({
      code: 'no_space',
      message: error.message,
      hint: errorTable.no_space.hint,
      details: {path: '/x', reason: 'ENOSPC'},
    })
  })

  it('become internal when nothing is known about them, whatever was thrown', () => {
    for (const thrown of [new TypeError('x is not a function'), 'text', undefined, null, 7]) {
      const error = toImgstoreError(thrown)
      expect(error.code).to.equal('internal')
      expect(error.exit).to.equal(70)
      expect(error.cause).to.equal(thrown)
    }
    const known = fail('wrong_usage', {reason: 'x'})
    expect(toImgstoreError(known)).to.equal(known)
  })

  it('of the system get the code of their kind', () => {
    const of = (code: string): string =>
      fromSystemError(Object.assign(new Error(code), {code}), '/p', 'write').code
    expect(of('ENOSPC')).to.equal('no_space')
    expect(of('EDQUOT')).to.equal('no_space')
    expect(of('EACCES')).to.equal('permission_denied')
    expect(of('EPERM')).to.equal('permission_denied')
    expect(of('EROFS')).to.equal('permission_denied')
    expect(of('EIO')).to.equal('io_failed')
    const known = fail('mount_busy', {path: '/p'})
    expect(fromSystemError(known, '/other', 'write')).to.equal(known)
    expect(fromSystemError('odd', '/p', 'write').message)
      .to.include('odd')
      .and.include('/p')
  })
})

describe('a system error', () => {
  it('of a quota is no space, though libuv has no name for it', () => {
    for (const code of ['UNKNOWN', 'Unknown system error -122']) {
      const error = Object.assign(new Error('unknown error'), {code, errno: -122})
      expect(fromSystemError(error, '/p', 'write')).to.include({code: 'no_space', exit: 14})
      expect(fromSystemError(error, '/p', 'write').message).to.contain('EDQUOT')
    }
    const other = Object.assign(new Error('unknown error'), {code: 'UNKNOWN', errno: -999})
    expect(fromSystemError(other, '/p', 'write')).to.include({code: 'io_failed'})
  })
})

describe('quoted text', () => {
  it('never holds a character that acts on a terminal', () => {
    const text = fc.string({
      unit: fc.oneof(
        fc.constantFrom('\u001b', '\u009b', '\r', '\n', '\u202e', '\u2066', '\u200b', '\ufeff'),
        fc.constantFrom('\u2028', '\u180e', '\u{e0041}', '\u00ad', '\ud800', '"', '\\'),
        fc.string({minLength: 1, maxLength: 1}),
      ),
      maxLength: 400,
    })
    fc.assert(
      fc.property(text, (value) => {
        const quoted = quote(value)
        expect(quoted).not.to.match(unfit)
        expect(quoted.startsWith('"') && quoted.endsWith('"')).to.equal(true)
        expect(quoted.isWellFormed()).to.equal(true)
      }),
      {numRuns: 500},
    )
  })

  it('keeps our own words as they are when they hold words from outside', () => {
    expect(printable('its key "a\u001b[2J" is unknown')).to.equal(
      'its key "a\\u001b[2J" is unknown',
    )
    expect(printable('x'.repeat(5000))).to.have.length.lessThan(300)
  })

  it('is cut in the middle when it is long', () => {
    expect(quote(`${'a'.repeat(1000)}end`))
      .to.have.length.lessThan(300)
      .and.include('…')
      .and.match(/end"$/)
  })

  it('shows ordinary text of any language as it is', () => {
    for (const text of ['a-b_c.d', 'größer', '日本語', 'a b'])
      expect(quote(text)).to.equal(`"${text}"`)
  })
})
