import {expect} from 'chai'
import {fail} from '../../../src/core/errors.ts'
import {openSource, type SourceOptions} from '../../../src/core/sources/source.ts'
import {sourceSuite} from '../../contract/source-suite.ts'
import {FakeS3} from '../../support/fake-s3.ts'
import {readBody, rejection, sourceOptions} from '../../support/source-options.ts'

const {signal} = new AbortController()
const keys = {accessKeyId: 'AKTEST', secretAccessKey: 'secret/+key', region: 'test-1'}
const object = 'images/debian 12/ü+%.tar'
const url = `s3://bucket/${encodeURIComponent(object)}`

function withS3(
  peer: FakeS3,
  options: SourceOptions,
  changes: Partial<SourceOptions['s3']> = {},
): SourceOptions {
  return {
    ...options,
    s3: {endpoint: peer.endpoint, pathStyle: true, anonymous: false, ...keys, ...changes},
  }
}

sourceSuite('s3', async (content) => {
  const peer = await FakeS3.start(keys)
  peer.objects.set(`bucket/${object}`, content)
  return {
    open: (options) => openSource(url, withS3(peer, options)),
    openMissing: (options) => openSource('s3://bucket/missing', withS3(peer, options)),
    replaceContent(other) {
      peer.objects.set(`bucket/${object}`, other)
    },
    close: () => peer.close(),
  }
})

describe('the s3 source', () => {
  let peer: FakeS3
  const start = async (isPublic = false): Promise<void> => {
    peer = await FakeS3.start({...keys, isPublic})
    peer.objects.set(`bucket/${object}`, Buffer.from('content'))
  }
  afterEach(() => peer.close())

  const open = async (changes: Partial<SourceOptions['s3']>) =>
    (await openSource(url, withS3(peer, sourceOptions(), changes))).open({startByte: 0, signal})

  it('is refused with a wrong secret, a wrong key and without keys', async () => {
    await start()
    const wrongSecret = await rejection(open({secretAccessKey: 'wrong'}))
    expect(wrongSecret).to.have.property('code', 'source_refused')
    expect(String(wrongSecret)).to.contain('SignatureDoesNotMatch')
    expect(String(await rejection(open({accessKeyId: 'nobody'})))).to.contain('InvalidAccessKeyId')
    expect(String(await rejection(open({anonymous: true})))).to.contain('AccessDenied')
  })

  it('reads a public object without a signature, by wish or for want of keys', async () => {
    await start(true)
    expect(String(await readBody(await open({anonymous: true})))).to.equal('content')
    const bare = {endpoint: peer.endpoint, pathStyle: true, anonymous: false}
    const source = await openSource(url, {...sourceOptions(), s3: bare})
    expect(String(await readBody(await source.open({startByte: 0, signal})))).to.equal('content')
    for (const {headers} of peer.requests) expect(headers.authorization).to.equal(undefined)
  })

  it('sends the session token inside the signature', async () => {
    await start()
    expect(String(await readBody(await open({sessionToken: 'token'})))).to.equal('content')
    const headers = peer.requests[0]?.headers
    expect(headers?.['x-amz-security-token']).to.equal('token')
    expect(headers?.authorization).to.contain('x-amz-security-token')
  })

  it('does not retry by itself and hands on how long to wait', async () => {
    await start()
    peer.statuses.push({status: 503, code: 'SlowDown', headers: {'retry-after': '7'}})
    const error = await rejection(open({}))
    expect(error).to.have.property('code', 'source_unavailable')
    expect(error).to.have.nested.property('details.retryAfterMs', 7000)
    expect(peer.requests.length).to.equal(1)
  })

  it('takes a 412 that it did not ask for as a refusal', async () => {
    await start()
    peer.statuses.push({status: 412, code: 'PreconditionFailed'})
    expect(await rejection(open({}))).to.have.property('code', 'source_refused')
  })

  it('asks for the named version of an object', async () => {
    await start()
    const source = await openSource(`${url}?versionId=v7`, withS3(peer, sourceOptions()))
    expect(String(await readBody(await source.open({startByte: 0, signal})))).to.equal('content')
    expect(peer.requests[0]?.url).to.contain('versionId=v7')
  })

  it('says source_unavailable when nobody listens', async () => {
    await start()
    const source = await openSource(
      url,
      withS3(peer, sourceOptions(), {endpoint: 'http://127.0.0.1:9'}),
    )
    const error = await rejection(source.open({startByte: 0, signal}))
    expect(error).to.have.property('code', 'source_unavailable')
    expect(String(error)).to.contain('refused')
  })

  it('hands on the reason of an abort that is one of ours', async () => {
    await start()
    const reason = fail('lease_lost', {run: 'r'})
    const source = await openSource(url, withS3(peer, sourceOptions()))
    expect(
      await rejection(source.open({startByte: 0, signal: AbortSignal.abort(reason)})),
    ).to.equal(reason)
  })
})
