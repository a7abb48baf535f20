import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {parseSourceUrl} from '../../../src/core/sources/source.ts'

const refused = (text: string, allowFile = false): ImgstoreError | undefined => {
  try {
    parseSourceUrl(text, {allowFile})
    return undefined
  } catch (error) {
    expect(error, text).to.be.instanceOf(ImgstoreError).with.property('code', 'invalid_source')
    return error as ImgstoreError
  }
}

describe('parseSourceUrl', () => {
  it('takes http, https and s3 addresses', () => {
    for (const text of [
      'http://host/image.tar',
      'https://user:p%40ss@host:8443/a/b.tar?x=1',
      'http://[::1]:8080/',
      's3://bucket/key',
      's3://my.bucket-1/a/b%20c/d.tar?versionId=abc',
    ]) {
      expect(refused(text), text).to.equal(undefined)
    }
    expect(parseSourceUrl('s3://Bucket/Key', {allowFile: false}).host).to.equal('Bucket')
  })

  it('takes file addresses only where they are allowed', () => {
    expect(refused('file:///tmp/a.tar')?.message).to.contain('not allowed')
    expect(refused('file:///tmp/a.tar', true)).to.equal(undefined)
  })

  it('refuses everything else with a reason', () => {
    for (const text of [
      '',
      'image.tar',
      '/etc/passwd',
      'ftp://host/a',
      'data:,x',
      'javascript:1',
      'http://',
      'http://ho st/',
      'http://host/a\nb',
      'http://host/\u0000',
      'http://%zz@host/',
      's3://',
      's3://bucket',
      's3://bucket/',
      's3://a/key',
      's3://user:key@bucket/key',
      's3://bucket:1/key',
      's3://bucket/key?acl',
      's3://bucket/key#part',
      's3://bucket/%zz',
      `http://host/${'a'.repeat(9000)}`,
    ]) {
      expect(refused(text)?.details['reason'], text).to.be.a('string')
    }
    for (const text of [
      'file://host/a',
      'file:///a?b',
      'file:///a%2fb',
      'file:///a%00',
      'file:///%zz',
    ]) {
      expect(refused(text, true), text).to.be.instanceOf(ImgstoreError)
    }
  })

  it('shows no password when it refuses', () => {
    const error = refused('ftp://user:hidden@host/')
    expect(`${error?.message ?? ''}${JSON.stringify(error?.details)}`).not.to.contain('hidden')
  })

  it('gives a URL or invalid_source for any text', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string({unit: 'binary'}), fc.webUrl()),
        fc.boolean(),
        (text, allowFile) => {
          refused(text, allowFile)
        },
      ),
    )
  })
})
