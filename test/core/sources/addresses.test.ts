import {expect} from 'chai'
import fc from 'fast-check'
import {isPrivateAddress, literalAddress} from '../../../src/core/sources/addresses.ts'

describe('isPrivateAddress', () => {
  it('knows loopback, private, link-local, shared, multicast and unspecified addresses', () => {
    for (const address of [
      '127.0.0.1',
      '127.255.0.9',
      '10.1.2.3',
      '172.16.0.1',
      '172.31.255.255',
      '192.168.1.1',
      '169.254.169.254',
      '100.64.0.1',
      '0.0.0.0',
      '224.0.0.1',
      '255.255.255.255',
      '::1',
      '::',
      'fe80::1',
      'fe80::1%eth0',
      'fd00:ec2::254',
      'ff02::1',
      '::ffff:127.0.0.1',
      '::ffff:a9fe:a9fe',
      '64:ff9b::10.0.0.1',
      '2002:7f00:1::',
      '::127.0.0.1',
    ]) {
      expect(isPrivateAddress(address), address).to.equal(true)
    }
  })

  it('leaves public addresses alone', () => {
    for (const address of [
      '1.1.1.1',
      '172.15.255.255',
      '172.32.0.0',
      '100.128.0.1',
      '192.0.1.1',
      '2606:4700:4700::1111',
      '::ffff:1.1.1.1',
      '64:ff9b::1.1.1.1',
      '2002:101:101::',
    ]) {
      expect(isPrivateAddress(address), address).to.equal(false)
    }
  })

  it('judges an IPv4 address and its mapped form alike', () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        expect(isPrivateAddress(`::ffff:${address}`)).to.equal(isPrivateAddress(address))
      }),
    )
  })

  it('gives an answer for any IPv6 address', () => {
    fc.assert(
      fc.property(fc.ipV6(), (address) => {
        expect(isPrivateAddress(address)).to.be.a('boolean')
      }),
    )
  })
})

describe('literalAddress', () => {
  it('tells addresses from names', () => {
    expect(literalAddress('127.0.0.1')).to.equal('127.0.0.1')
    expect(literalAddress('[::1]')).to.equal('::1')
    expect(literalAddress('host.test')).to.equal(undefined)
  })
})
