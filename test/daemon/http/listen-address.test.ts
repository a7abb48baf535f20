import {expect} from 'chai'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {formatListenAddress, parseListenAddress} from '../../../src/daemon/http/listen-address.ts'

describe('an address to listen on', () => {
  for (const [text, host, port] of [
    ['127.0.0.1:9100', '127.0.0.1', 9100],
    [':9100', '127.0.0.1', 9100],
    ['localhost:0', '127.0.0.1', 0],
    ['0.0.0.0:65535', '0.0.0.0', 65_535],
    ['[::1]:9100', '::1', 9100],
    ['[::]:1', '::', 1],
    ['[fe80::1%eth0]:1', 'fe80::1%eth0', 1],
    ['host-1.example:80', 'host-1.example', 80],
  ] as const) {
    it(`reads ${text}`, () => {
      expect(parseListenAddress(text, 'flag --listen')).to.deep.equal({host, port})
    })
  }

  for (const text of [
    '9100',
    'host',
    'host:',
    '::1:9100',
    'host:65536',
    'host:-1',
    'a b:1',
    'http://h:1',
    '[::1]',
    '[x]:1',
  ]) {
    it(`refuses ${text}`, () => {
      expect(() => parseListenAddress(text, 'flag --listen'))
        .to.throw(ImgstoreError, /listen.*flag --listen.*host:port/)
        .with.property('code', 'invalid_setting')
    })
  }

  it('stands in a URL with brackets around IPv6', () => {
    expect(formatListenAddress({host: '::1', port: 5})).to.equal('[::1]:5')
    expect(formatListenAddress({host: '127.0.0.1', port: 5})).to.equal('127.0.0.1:5')
  })
})
