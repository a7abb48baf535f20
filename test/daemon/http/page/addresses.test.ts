import {expect} from 'chai'
import {execFileSync} from 'node:child_process'
import fc from 'fast-check'
import {
  curlLease,
  curlTail,
  curlWhole,
  imageUrl,
  manifestUrl,
  quote,
} from '../../../../src/daemon/http/page/ui/addresses.js'

describe('addresses in the page', () => {
  it('stand below the page, wherever a proxy has put it', () => {
    expect(imageUrl('https://host/images/', 'debian-12.raw')).to.equal(
      'https://host/images/v1/images/debian-12.raw',
    )
    expect(manifestUrl('http://h:1/', 'a', '')).to.equal(
      'http://h:1/v1/images/a/chunked/manifest.json',
    )
    expect(manifestUrl('http://h:1/', 'a', 'r3')).to.equal(
      'http://h:1/v1/images/a/chunked/r3/manifest.json',
    )
  })

  it('are written for a shell', () => {
    const url = 'http://h:1/v1/images/-o'
    expect(curlWhole(url, '-o')).to.equal(`curl -f -o ./-o ${url}`)
    expect(curlTail(`${url}?lease=a&b`)).to.equal(`curl -sf -r -512 '${url}?lease=a&b' | xxd`)
    expect(curlLease(url)).to.include('Bearer $TOKEN').and.to.include(`${url}/lease`)
  })

  it('are one word of a shell, whatever they hold', () => {
    // A command line holds no NUL.
    const words = fc.string({unit: 'grapheme', minLength: 1}).filter((word) => !word.includes('\0'))
    const sample = fc.sample(words, 50)
    const line = `printf '%s\\0' ${sample.map(quote).join(' ')}`
    const printed = execFileSync('sh', ['-c', line], {encoding: 'utf8'})
    expect(printed.split('\0').slice(0, -1)).to.deep.equal(sample)
  })
})
