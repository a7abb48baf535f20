/** The fast lane: no different from node:http for those who ask, and only there for what is plain. */
import {execFile} from 'node:child_process'
import {randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {createServer, type IncomingMessage, type Server} from 'node:http'
import {connect, type AddressInfo, type Socket} from 'node:net'
import {setTimeout as sleep} from 'node:timers/promises'
import {promisify} from 'node:util'
import {expect} from 'chai'
import {Connections} from '../../../../src/daemon/http/streaming/connections.ts'
import {openFastLane} from '../../../../src/daemon/http/streaming/fast-lane.ts'
import {
  plainHeadBytesMax,
  readRequestHead,
} from '../../../../src/daemon/http/streaming/request-head.ts'
import {randomOf} from '../../../support/image-maker.ts'
import {testSeed} from '../../../support/seed.ts'
import {missing} from '../../../support/requires.ts'
import {eventually, readAll, withStreaming} from '../../../support/streaming-server.ts'

type Random = (below: number) => number

function randomFrom(seed: number): Random {
  const random = randomOf(seed)
  return (below) => Math.floor(random() * below)
}

const content = randomBytes(3_000_000)
const path = '/v1/images/a.img'
const asked = (range: string, more = ''): string =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: 1\r\nRange: bytes=${range}\r\n${more}\r\n`

// Node cannot set the segment size, and with that of the loopback device a connection holds the whole first answer. Two
// requests are in the first packet; the third and fourth come while the first answer waits for its client, and node:http
// has stopped reading.
const slowClient = `
import re, socket, sys, time
port, first, buffer = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
def ask(name, range, more=''):
    return f'GET /v1/images/{name} HTTP/1.1\\r\\nHost: x\\r\\nRange: bytes={range}\\r\\n{more}\\r\\n'.encode()
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
if buffer:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
s.connect(('127.0.0.1', port))
s.settimeout(20)
got = b''
if first:
    s.sendall(first)
    time.sleep(0.1)
    got += s.recv(4096)
s.sendall(ask('big.img', '0-4999999') + ask('a.img', '0-3'))
time.sleep(0.02)
s.sendall(ask('a.img', '4-7'))
time.sleep(0.1)
s.sendall(ask('a.img', '8-11', 'Connection: close\\r\\n'))
time.sleep(0.1)
while True:
    part = s.recv(65536)
    if not part:
        break
    got += part
print(' '.join(x.decode() for x in re.findall(rb'Content-Range: bytes ([0-9]+-[0-9]+)', got)))
`

describe('heads of plain requests', () => {
  it('are read as method, target, names and values', () => {
    const text =
      'GET /a%20b?c=d HTTP/1.1\r\nHost: x:1\r\nRANGE:bytes=0-1\t \r\nEmpty:\r\nconnection: Keep-Alive\r\n\r\n'
    expect(readRequestHead(text)).to.deep.equal({
      method: 'GET',
      target: '/a%20b?c=d',
      rawHeaders: ['host', 'x:1', 'range', 'bytes=0-1', 'empty', '', 'connection', 'Keep-Alive'],
    })
  })

  const others: Record<string, string> = {
    'another method': 'POST / HTTP/1.1\r\n\r\n',
    'small letters': 'get / HTTP/1.1\r\n\r\n',
    'HTTP/1.0': 'GET / HTTP/1.0\r\n\r\n',
    'an absolute target': 'GET http://x/ HTTP/1.1\r\n\r\n',
    'a target with other characters': 'GET /\u00e9 HTTP/1.1\r\n\r\n',
    'two spaces': 'GET  / HTTP/1.1\r\n\r\n',
    'a head that is cut': 'GET / HTTP/1.1\r\nHost: x\r\n',
    'something behind it': 'GET / HTTP/1.1\r\n\r\nG',
    'bare newlines': 'GET / HTTP/1.1\nHost: x\n\n',
    'a bare newline in a value': 'GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n',
    'a bare return in a value': 'GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n',
    'a folded line': 'GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n',
    'a space before the colon': 'GET / HTTP/1.1\r\nA : b\r\n\r\n',
    'no colon': 'GET / HTTP/1.1\r\nA\r\n\r\n',
    'no name': 'GET / HTTP/1.1\r\n: b\r\n\r\n',
    'a zero byte': 'GET / HTTP/1.1\r\nA: \0\r\n\r\n',
    'bytes beyond ASCII': 'GET / HTTP/1.1\r\nA: \u00e9\r\n\r\n',
    'the end of the connection': 'GET / HTTP/1.1\r\nConnection: close\r\n\r\n',
    'an upgrade': 'GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n',
    'a body by length': 'GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n',
    'a body in pieces': 'GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n',
    'an expectation': 'GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n',
  }
  for (const [what, text] of Object.entries(others)) {
    it(`are not those with ${what}`, () => {
      expect(readRequestHead(text)).to.equal(undefined)
    })
  }

  it('are what node:http reads of them, whatever was changed in them', async () => {
    const seed = testSeed()
    const random = randomFrom(seed)
    let request: IncomingMessage | undefined
    const server = createServer({requireHostHeader: false}, (found, response) => {
      request = found
      response.end()
    })
    await listening(server)
    try {
      let plain = 0
      for (let i = 0; i < 600; i++) {
        const text = bent(random)
        const head = readRequestHead(text)
        if (!head) continue
        plain++
        request = undefined
        const socket = await open(server)
        const answered = once(socket, 'data')
        socket.write(text, 'latin1')
        await answered
        socket.destroy()
        const what = `seed ${seed}, ${JSON.stringify(text)}`
        const known = request as IncomingMessage | undefined
        expect(known?.method, what).to.equal(head.method)
        expect(known?.url, what).to.equal(head.target)
        expect(known?.httpVersion, what).to.equal('1.1')
        const names = known?.rawHeaders.map((word, at) => (at % 2 ? word : word.toLowerCase()))
        expect(names, what).to.deep.equal(head.rawHeaders)
      }
      expect(plain).to.be.greaterThan(50)
    } finally {
      server.closeAllConnections()
      server.close()
    }
  })
})

describe('the fast lane', () => {
  it('keeps plain requests from node:http, and gives it the whole connection with the first other one', async () => {
    const seen: string[] = []
    const server = createServer({requireHostHeader: false}, (request, response) => {
      seen.push(`node ${request.url ?? ''}`)
      response.end(`node ${request.url ?? ''}`)
    })
    const limits = {connectionsMax: 0, perClientMax: 0, stallMs: 60_000, idleMs: 60_000}
    const connections = new Connections({limits, onRefused: () => undefined})
    openFastLane(server, {
      connections,
      headersMs: () => 60_000,
      onClientError: () => undefined,
      handle: ({request, response, onOver}) => {
        if (request.url?.startsWith('/fast') !== true) return false
        seen.push(`lane ${request.url}`)
        response.writeHead(200, ['Content-Length', '4'])
        response.end('lane')
        onOver()
        return true
      },
    })
    await listening(server)
    try {
      const socket = await open(server)
      const text = textOf(socket)
      const say = async (words: string, awaited: RegExp): Promise<void> => {
        socket.write(words)
        await eventually(String(awaited), () => awaited.test(text()))
      }
      await say('GET /fast/1 HTTP/1.1\r\n\r\n', /lane$/)
      await say('GET /fast/2 HTTP/1.1\r\n\r\n', /lane[^]*lane$/)
      await say('GET /slow/3 HTTP/1.1\r\n\r\n', /node \/slow\/3/)
      await say('GET /fast/4 HTTP/1.1\r\n\r\n', /node \/fast\/4/)
      socket.destroy()
      const cut = await open(server)
      const cutText = textOf(cut)
      cut.write('GET /fast/5 HT')
      await sleep(20)
      cut.write('TP/1.1\r\n\r\n')
      await eventually('the answer to a cut head', () => cutText().includes('node /fast/5'))
      cut.destroy()
      const both = await open(server)
      const bothText = textOf(both)
      both.write('GET /fast/6 HTTP/1.1\r\n\r\nGET /fast/7 HTTP/1.1\r\n\r\n')
      await eventually('two answers', () => bothText().includes('node /fast/7'))
      both.destroy()
      expect(seen).to.deep.equal([
        'lane /fast/1',
        'lane /fast/2',
        'node /slow/3',
        'node /fast/4',
        'node /fast/5',
        'node /fast/6',
        'node /fast/7',
      ])
    } finally {
      server.closeAllConnections()
      server.close()
      connections.end({which: 'all'})
      connections.close()
    }
  })

  it('leaves a connection to node:http that reads it only when it wants to', async function () {
    if (missing('program:python3') !== undefined) this.skip()
    await withStreaming({sender: 'auto'}, async ({put, port}) => {
      put('a.img', content)
      put('big.img', {hole: 5_000_000})
      for (const first of ['', asked('0-0')])
        for (const bufferBytes of ['65536', '0']) {
          const args = ['-c', slowClient, String(port), first, bufferBytes]
          const {stdout} = await promisify(execFile)('python3', args)
          const ranges = [...(first ? ['0-0'] : []), '0-4999999', '0-3', '4-7', '8-11']
          expect(stdout.trim()).to.equal(ranges.join(' '))
        }
    })
  })

  it('answers what was held when its client has half closed', async () => {
    await withStreaming({sender: 'auto'}, async ({put, open: connectTo}) => {
      put('a.img', content)
      put('big.img', {hole: 64 * 2 ** 20})
      const socket = await connectTo()
      socket.pause()
      socket.write('GET /v1/images/big.img HTTP/1.1\r\nHost: x\r\n\r\n')
      await sleep(100)
      socket.end(asked('4-7'))
      await sleep(50)
      const all = readAll(socket)
      socket.resume()
      const bytes = await all
      expect(bytes.length).to.be.greaterThan(64 * 2 ** 20)
      expect(bytes.subarray(-4).equals(content.subarray(4, 8))).to.equal(true)
    })
  })

  it('answers whole sessions byte for byte as node:http and the plain sender do', async () => {
    const seed = testSeed()
    const random = randomFrom(seed)
    const sessions = Array.from({length: 60}, () => session(random))
    const answers: Record<string, string[]> = {}
    for (const sender of ['plain', 'auto']) {
      await withStreaming(
        {sender, maxRangeBytes: 2_000_000},
        async ({put, open: connectTo, port}) => {
          put('a.img', content, 1_700_000_000)
          put('empty.img', '', 1_700_000_000)
          expect(port).to.be.greaterThan(0)
          answers[sender] = []
          for (const steps of sessions) {
            const socket = await connectTo()
            const all = readAll(socket)
            for (const step of steps) {
              socket.write(step, 'latin1')
              if (random(2) === 0) await sleep(1)
            }
            answers[sender].push(tidied((await all).toString('latin1')))
          }
        },
      )
    }
    sessions.forEach((steps, i) => {
      if (answers['auto']?.[i] !== answers['plain']?.[i])
        throw new Error(
          `seed ${seed}: other answers to ${JSON.stringify(steps)}: ${JSON.stringify(answers['auto']?.[i]?.slice(0, 2000))} instead of ${JSON.stringify(answers['plain']?.[i]?.slice(0, 2000))}`,
        )
    })
  })

  it('leaves it to node:http what to say to bad input behind a good request', async () => {
    const bad = [
      'nonsense\r\n\r\n',
      `BREW ${path} HTTP/1.1\r\n\r\n`,
      `CONNECT ${path} HTTP/1.1\r\n\r\n`,
      `GET ${path} HTTP/1.1\r\nA : b\r\n\r\n`,
      `GET ${path} HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n`,
      `GET ${path} HTTP/1.1\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`,
      `GET /${'x'.repeat(70_000)} HTTP/1.1\r\nConnection: close\r\n\r\n`,
      '\x16\x03\x01\x00\x05hello\r\n\r\n',
    ]
    const answers: Record<string, string[]> = {}
    for (const sender of ['plain', 'auto']) {
      await withStreaming({sender}, async ({put, open: connectTo}) => {
        put('a.img', content, 1_700_000_000)
        const found: string[] = (answers[sender] = [])
        for (const text of bad) {
          const socket = await connectTo()
          const read = textOf(socket)
          socket.write(asked('0-3'))
          await eventually('the first answer', () => read().includes('\r\n\r\n'))
          socket.write(text, 'latin1')
          await new Promise((resolve) => socket.once('close', resolve))
          found.push(tidied(read()))
        }
      })
    }
    expect(answers['auto']).to.deep.equal(answers['plain'])
    for (const text of answers['auto'] ?? []) expect(text).to.match(/HTTP\/1\.1 4\d\d /)
  })

  it('answers what came too early when its turn comes', async () => {
    await withStreaming({sender: 'auto'}, async ({put, open: connectTo}) => {
      put('a.img', content)
      const socket = await connectTo()
      socket.pause()
      const parts: Buffer[] = []
      // The first answer is larger than what a connection holds, so that it is under way for as long as nobody reads.
      put('big.img', {hole: 64 * 2 ** 20})
      socket.write('GET /v1/images/big.img HTTP/1.1\r\nHost: x\r\n\r\n')
      await sleep(100)
      socket.write(asked('0-3'))
      await sleep(50)
      socket.write(`${asked('4-7')}${asked('8-11', 'Connection: close\r\n')}`)
      socket.on('data', (part: Buffer) => parts.push(part))
      socket.resume()
      await once(socket, 'close')
      const text = Buffer.concat(parts).toString('latin1')
      const ranges = [...text.matchAll(/Content-Range: (bytes \d+-\d+)/g)].map(([, range]) => range)
      expect(ranges).to.deep.equal(['bytes 0-3', 'bytes 4-7', 'bytes 8-11'])
    })
  })

  it('ends a connection that asks for nothing in time, and one that has been idle for long', async () => {
    const flags = {sender: 'auto', headerTimeoutMs: 1000, idleTimeoutMs: 1000}
    await withStreaming(flags, async ({put, open: connectTo, streaming}) => {
      put('a.img', content)
      const silent = await connectTo()
      expect((await readAll(silent)).toString()).to.match(/^HTTP\/1\.1 408 /)
      const idle = await connectTo()
      const all = readAll(idle)
      idle.write(asked('0-3'))
      const text = (await all).toString('latin1')
      expect(text).to.match(/^HTTP\/1\.1 206 /)
      expect(text).not.to.match(/408/)
      await eventually('no connection', () => streaming.connections === 0)
    })
  })

  it('answers clients that send no more, and notices those that are gone', async () => {
    await withStreaming(
      {sender: 'auto'},
      async ({put, open: connectTo, streaming, metrics, log}) => {
        put('a.img', content)
        put('big.img', {hole: 64 * 2 ** 20})
        const half = await connectTo()
        const all = readAll(half)
        half.end(asked('0-2999999'))
        const bytes = await all
        expect(bytes.subarray(bytes.indexOf('\r\n\r\n') + 4).equals(content)).to.equal(true)
        const gone = await connectTo()
        gone.pause()
        gone.write('GET /v1/images/big.img HTTP/1.1\r\nHost: x\r\n\r\n')
        await eventually('an open file', () => streaming.door.openFiles === 1)
        gone.destroy()
        await eventually('no open file', () => streaming.door.openFiles === 0)
        await eventually('no connection', () => streaming.connections === 0)
        expect(await metrics()).to.match(/^imgstore_serve_aborted_total 1$/m)
        const aborted = log.filter(({fields}) => fields['aborted'] === true)
        expect(aborted.length).to.equal(1)
        expect(streaming.door.permits.inFlight).to.equal(0)
      },
    )
  })

  it('ends idle connections when it drains, and lets answers end', async () => {
    await withStreaming({sender: 'auto'}, async ({put, open: connectTo, streaming}) => {
      put('a.img', content)
      put('big.img', {hole: 16 * 2 ** 20})
      const idle = await connectTo()
      idle.write(asked('0-3'))
      await once(idle, 'data')
      const busy = await connectTo()
      busy.pause()
      busy.write('GET /v1/images/big.img HTTP/1.1\r\nHost: x\r\n\r\n')
      await eventually('an open file', () => streaming.door.openFiles === 1)
      const idleEnd = once(idle, 'close')
      const closing = streaming.close(10_000)
      await idleEnd
      const all = readAll(busy)
      busy.resume()
      const bytes = await all
      expect(bytes.length - bytes.indexOf('\r\n\r\n') - 4).to.equal(16 * 2 ** 20)
      expect(await closing).to.equal(true)
    })
  })
})

async function listening(server: Server): Promise<void> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
}

async function open(server: Server): Promise<Socket> {
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return socket
}

function textOf(socket: Socket): () => string {
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  return () => Buffer.concat(parts).toString('latin1')
}

/** A plain head with a few bytes changed, left out or put in. */
function bent(random: Random): string {
  const names = ['Range', 'Host', 'x-y_z', "!#$%&'*+-.^_`|~", 'Cookie', 'Connection', 'Accept']
  const values = ['bytes=0-1', '', ' \t a  b \t', 'keep-alive', '"x", W/"y"', '*/*;q=0.1', '~!@:=']
  let text = `${pick(random, ['GET', 'HEAD'])} /${pick(random, ['', 'a', '%41?x=1', "(b)'*"])} HTTP/1.1\r\n`
  text += 'Host: x\r\n'
  for (let i = random(5); i > 0; i--) text += `${pick(random, names)}:${pick(random, values)}\r\n`
  text += '\r\n'
  const bytes = ['\r', '\n', ' ', '\t', ':', '\0', '\x7f', '\x80', '\xff', 'a', '/', '#', '"', '']
  for (let i = random(3); i > 0; i--) {
    const at = random(text.length)
    text = text.slice(0, at) + pick(random, bytes) + text.slice(at + random(2))
  }
  return text
}

/** What one client sends, in the pieces in which it sends it; the last request ends the connection. */
function session(random: Random): string[] {
  const target = (): string =>
    pick(random, [
      path,
      path,
      `${path}/data`,
      '/v1/images/empty.img',
      '/v1/images/none.img',
      '/v1/images/%ff',
      `${path}/chunked/manifest.json`,
      `${path}/chunked/chunks/00000000.bin`,
      `${path}/meta`,
      '/none',
    ])
  const header = (): string =>
    pick(random, [
      '',
      'Range: bytes=0-9\r\n',
      'Range: bytes=100-65635\r\n',
      'Range: bytes=5-1500000\r\n',
      'Range: bytes=-70000\r\n',
      'Range: bytes=2999999-\r\n',
      'Range: bytes=9000000-\r\n',
      'Range: bytes=1-2,4-5\r\n',
      'Range: nonsense\r\n',
      'Origin: https://a.example\r\nRange: bytes=0-0\r\n',
      'If-None-Match: *\r\n',
      'If-Match: "x"\r\n',
      'Cookie: a=b\r\n',
      'Want-Repr-Digest: sha-256=1\r\n',
      'connection: keep-alive\r\n',
      'Content-Length: 3\r\n\r\nabc',
      `Long: ${'x'.repeat(plainHeadBytesMax)}\r\n`,
    ])
  const steps: string[] = []
  const add = (text: string): void => {
    const cut = random(4) === 0 ? random(text.length) : text.length
    steps.push(text.slice(0, cut))
    if (cut < text.length) steps.push(text.slice(cut))
  }
  const id = 'Host: x\r\nX-Request-Id: 1\r\n'
  for (let i = 1 + random(6); i > 0; i--) {
    const method = pick(random, ['GET', 'GET', 'GET', 'HEAD', 'OPTIONS', 'DELETE'])
    const fields = header()
    const end = fields.includes('\r\n\r\n') ? '' : '\r\n'
    const text = `${method} ${target()} HTTP/1.1\r\n${id}${fields}${end}`
    // Sometimes two in one packet.
    if (random(5) === 0 && steps.length > 0) steps.push((steps.pop() ?? '') + text)
    else add(text)
  }
  add(
    pick(random, [
      `GET ${path} HTTP/1.1\r\n${id}Range: bytes=1-4\r\nConnection: close\r\n\r\n`,
      `GET ${path} HTTP/1.0\r\n${id}\r\n`,
    ]),
  )
  return steps
}

/** Without what differs from one moment to the next. */
function tidied(text: string): string {
  return text
    .replaceAll(/^Date: .*$/gm, 'Date')
    .replaceAll(/^X-Request-Id: [0-9a-f-]{36}/gm, 'X-Request-Id')
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[random(from.length)] as T
}
