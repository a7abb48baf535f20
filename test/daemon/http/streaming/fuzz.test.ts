/** Requests that no client would send: whatever comes, there is no failure of ours, and what is kept stays bounded. */
import {randomBytes} from 'node:crypto'
import {connect} from 'node:net'
import {expect} from 'chai'
import {withStreaming, type StreamingScene} from '../../../support/streaming-server.ts'
import {testSeed} from '../../../support/seed.ts'

const cases = 1500
const atOnce = 16
const content = randomBytes(20_000)

/** A small generator (mulberry32), so that a seed replays. */
function generator(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

const methods = [
  'GET',
  'HEAD',
  'OPTIONS',
  'POST',
  'TRACE',
  'CONNECT',
  'BREW',
  'get',
  '',
  'X'.repeat(300),
]
const paths = [
  '/v1/images/a.img',
  '/v1/images/a.img/data',
  '/v1/images/a.img/meta',
  '/v1/images/a.img/lease',
  '/v1/images',
  '/v1/images/../../etc/passwd',
  '/v1/images/%2e%2e%2f%2e%2e',
  '/v1/images/%ff%00%zz',
  `/v1/images/${'%41'.repeat(200)}`,
  '/v1/images/a.img/chunked/manifest.json',
  '/v1/images/a.img/chunked/v1/chunks/00000000.bin',
  '/v1/images/a.img/chunked/chunks/../../x',
  '//v1//images',
  '/metrics',
  '/healthz',
  '/readyz',
  '/version',
  '/',
  '/ui/status.json',
  '/ui/../package.json',
  'http://elsewhere/v1/images/a.img',
  '*',
  `/${'a'.repeat(9000)}`,
  '/v1/images/a.img?cap=\x1b[31m&x=%00',
]
const names = [
  'Range',
  'If-Range',
  'If-None-Match',
  'If-Match',
  'If-Modified-Since',
  'If-Unmodified-Since',
  'Origin',
  'Authorization',
  'Cookie',
  'X-Request-Id',
  'X-Aero-User-Id',
  'Accept',
  'Content-Length',
  'Transfer-Encoding',
  'Expect',
  'Connection',
  'Upgrade',
  'Want-Repr-Digest',
  'Access-Control-Request-Method',
]
const values = [
  'bytes=0-99',
  'bytes=-1',
  `bytes=${'9'.repeat(70)}-`,
  `bytes=${'0-1,'.repeat(1200)}`,
  '*',
  '"x"',
  'W/"x"',
  'Mon, 23 Nov 2026 10:00:00 GMT',
  'Bearer x.y.z',
  'https://evil.example',
  'chunked',
  '100-continue',
  'websocket',
  'close, upgrade',
  '-1',
  '18446744073709551616',
  'é\x80\xff',
  'a'.repeat(20_000),
  '',
  '\t',
]

type Random = ReturnType<typeof generator>
const pick = <T>(random: Random, all: readonly T[]): T => all[random(all.length)] as T

function makeRequest(random: Random): Buffer {
  const lines = [
    `${pick(random, methods)} ${pick(random, paths)} HTTP/${pick(random, ['1.1', '1.1', '1.1', '1.0', '2.0', '9'])}`,
  ]
  if (random(8) > 0) lines.push('Host: x')
  for (let left = random(6); left > 0; left--)
    lines.push(`${pick(random, names)}: ${pick(random, values)}`)
  const end = pick(random, ['\r\n', '\r\n', '\r\n', '\n', '\r\n \r\n', ''])
  let bytes = Buffer.from(`${lines.join(end || '\r\n')}\r\n${end}`, 'latin1')
  for (let left = random(3) === 0 ? random(6) : 0; left > 0; left--) {
    const at = random(bytes.length)
    switch (random(4)) {
      case 0:
        bytes[at] = random(256)
        break
      case 1:
        bytes = bytes.subarray(0, at)
        break
      case 2:
        bytes = Buffer.concat([
          bytes.subarray(0, at),
          Buffer.alloc(random(40), random(256)),
          bytes.subarray(at),
        ])
        break
      default:
        bytes = Buffer.concat([bytes, bytes.subarray(at)])
    }
    if (bytes.length === 0) bytes = Buffer.from('\0')
  }
  return bytes
}

/** Sends a request, says that no more will come, and reads what is answered, also when it ends in a reset. */
async function send(port: number, bytes: Buffer): Promise<Buffer> {
  const socket = connect({port, host: '127.0.0.1', allowHalfOpen: true})
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  socket.on('error', () => undefined)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.end(bytes)
  await closed
  return Buffer.concat(parts)
}

async function expectWell(scene: StreamingScene): Promise<void> {
  const answer = await scene.get('/v1/images/a.img', {Range: 'bytes=100-199'})
  expect(answer.status).to.equal(206)
  expect(answer.body.equals(content.subarray(100, 200))).to.equal(true)
}

describe('requests of random bytes', function () {
  this.timeout(120_000)

  it('get an answer that is no failure of ours, or none, and leave nothing behind', () =>
    withStreaming({maxConnections: 0, maxConnectionsPerClient: 0}, async (scene) => {
      const seed = testSeed()
      console.log(`    seed ${seed}`)
      scene.put('a.img', content)
      const random = generator(seed)
      const requests = Array.from({length: cases}, () => makeRequest(random))
      let at = 0
      const worker = async (): Promise<void> => {
        for (let mine = at++; mine < requests.length; mine = at++) {
          const bytes = requests[mine] ?? Buffer.alloc(0)
          const answer = (await send(scene.port, bytes)).toString('latin1')
          const what = `case ${mine}: ${JSON.stringify(bytes.toString('latin1').slice(0, 300))}`
          if (answer === '') continue
          expect(answer, what).to.match(/^HTTP\/1\.1 [1-4]\d\d /)
          for (const status of answer.matchAll(/(?:^|\r\n)HTTP\/1\.1 (5\d\d) /g))
            expect.fail(`${what}\n${status[0]}`)
          expect(answer.split('\r\n\r\n', 1)[0], what).not.to.match(
            /[\0-\x08\x0b\x0c\x0e-\x1f\x7f]/,
          )
        }
      }
      await Promise.all(Array.from({length: atOnce}, worker))
      await expectWell(scene)
      await expectBounded(scene)
    }))
})

async function expectBounded({metrics, log}: StreamingScene): Promise<void> {
  const text = await metrics()
  const labels = (name: string): Set<string> =>
    new Set(
      [...text.matchAll(new RegExp(`\\b${name}="([^"]*)"`, 'g'))].map((match) => match[1] ?? ''),
    )
  const known = new Set([
    'GET',
    'HEAD',
    'OPTIONS',
    'POST',
    'PUT',
    'DELETE',
    'PATCH',
    'TRACE',
    'CONNECT',
  ])
  const odd = [...labels('method')].filter((method) => !known.has(method))
  expect(odd, 'one name for all other methods').to.have.length.lessThan(2)
  for (const route of labels('route')) expect(route).to.match(/^\/[\w/:.-]*$/)
  for (const image of labels('image_id')) expect(['a.img', '__other__']).to.include(image)
  expect(text).to.match(/^imgstore_serve_in_flight_requests 0$/m)
  for (const line of log) {
    expect(line.level).not.to.equal('ERROR')
    expect((line.span?.['path'] ?? '').length).to.be.lessThan(300)
    expect((line.span?.['user_id'] ?? '').length).to.be.lessThan(129)
  }
}
