import {execFileSync} from 'node:child_process'
import {randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readlinkSync,
  truncateSync,
  utimesSync,
  writeSync,
} from 'node:fs'
import {createServer as createSecureServer} from 'node:https'
import {join} from 'node:path'
import {connect as connectSecurely} from 'node:tls'
import {expect} from 'chai'
import {closePipe, type Pipe} from '../../../../src/core/store.ts'
import {takePipe} from '../../../../src/daemon/http/streaming/pipes.ts'
import {sendPlainly} from '../../../../src/daemon/http/streaming/send.ts'
import type {Sender} from '../../../../src/daemon/http/streaming/sender.ts'
import {openFastSender} from '../../../../src/daemon/http/streaming/splice.ts'
import {
  RawClient,
  serveBySender,
  type SenderServer,
  type SenderServerOptions,
} from '../../../support/sender-server.ts'
import {withTempDir} from '../../../support/temp-dir.ts'
import {makeTestCa} from '../../../support/test-ca.ts'

const KiB = 1024
const MiB = 1024 * KiB
/** Where the second piece of content lies in the sparse file: behind what 32 bits can say. */
const farOffset = 5 * 1024 * MiB
const content = randomBytes(24 * MiB)

function makeFile(path: string): void {
  const fd = openSync(path, 'w')
  writeSync(fd, content, 0, content.length, 0)
  writeSync(fd, content, 0, MiB, farOffset)
  ftruncateSync(fd, farOffset + MiB)
  closeSync(fd)
}

/** How many descriptors of this process are ends of pipes. */
function openPipes(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith('pipe:')
    } catch {
      return false
    }
  }).length
}

const handedOn: string[] = []
const fast = openFastSender({
  fallback: (job) => {
    handedOn.push(`${job.start}-${job.end}`)
    sendPlainly(job)
  },
})
if (!fast) throw new Error('koffi does not load here')
const senders: Record<string, Sender> = {plain: sendPlainly, fast}

type Options = Omit<SenderServerOptions, 'path' | 'sender'>

for (const [name, sender] of Object.entries(senders)) {
  describe(`the ${name} sender`, () => {
    const withServer = async (
      body: (server: SenderServer, path: string) => Promise<void>,
      options: Options = {},
    ): Promise<void> =>
      withTempDir(async (dir) => {
        const path = join(dir, 'disk')
        makeFile(path)
        const server = await serveBySender({path, sender, ...options})
        try {
          await body(server, path)
        } finally {
          await server.close()
        }
      })

    let pipesBefore = 0

    beforeEach(() => {
      handedOn.splice(0)
      pipesBefore = openPipes()
    })

    it('sends ranges of every size, one after another on one connection', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        const edges = [1, 4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB, 512 * KiB, 516 * KiB, 3 * MiB]
        const lengths = [...edges.flatMap((edge) => [edge - 1, edge, edge + 1]).slice(1), 20 * MiB]
        for (const [i, length] of lengths.entries()) {
          const start = i * 7
          client.ask([start, start + length - 1])
          const {status, body} = await client.answer()
          expect(status).to.equal(206)
          expect(body.equals(content.subarray(start, start + length)), `${length} bytes`).to.equal(
            true,
          )
        }
        await server.whenSent(lengths.length)
        expect(server.sent.map(({sentBytes}) => sentBytes)).to.deep.equal(lengths)
        expect(new Set(server.sent.map(({outcome}) => outcome))).to.deep.equal(new Set(['sent']))
        expect(handedOn).to.deep.equal([])
        client.socket.destroy()
      }))

    it('sends from behind 4 GiB', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        for (const length of [10, MiB - 5]) {
          client.ask([farOffset + 5, farOffset + 4 + length])
          const {body} = await client.answer()
          expect(body.equals(content.subarray(5, 5 + length))).to.equal(true)
        }
        client.socket.destroy()
      }))

    it('sends what is not in memory any more', () =>
      withServer(async (server, path) => {
        // Writes everything to the disk and lets go of it, where there is a disk below.
        execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], {
          stdio: 'ignore',
        })
        const client = await RawClient.open(server.port)
        for (const [start, end] of [
          [12 * MiB, 12 * MiB + 99],
          [3, 20 * MiB],
          [21 * MiB, 21 * MiB + 70 * KiB],
        ] as const) {
          client.ask([start, end])
          const {body} = await client.answer()
          expect(body.equals(content.subarray(start, end + 1)), `${start}-${end}`).to.equal(true)
        }
        client.socket.destroy()
      }))

    it('answers pipelined requests in their order', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        const ranges: [number, number][] = [
          [0, 99],
          [5, 2 * MiB],
          [9, 70 * KiB],
          [1, 12],
          [3, 9 * MiB],
          [0, 0],
        ]
        client.ask(...ranges)
        for (const [start, end] of ranges) {
          const {body} = await client.answer()
          expect(body.equals(content.subarray(start, end + 1)), `${start}-${end}`).to.equal(true)
        }
        await server.whenSent(ranges.length)
        client.socket.destroy()
      }))

    it('ends every answer of a client that goes away, those that wait for their turn too', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        client.ask([0, 20 * MiB - 1], [0, 9], [0, 10 * MiB], [0, 99])
        await once(client.socket, 'readable')
        client.socket.resetAndDestroy()
        await server.whenSent(4)
        expect(server.sent.map(({outcome}) => outcome)).to.deep.equal(Array(4).fill('aborted'))
        expect(Math.max(...server.sent.map(({sentBytes}) => sentBytes))).to.be.lessThan(20 * MiB)
      }))

    it('ends an answer that the door destroys, and says how much of it was sent', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        client.ask([0, 20 * MiB - 1])
        await once(client.socket, 'readable')
        server.jobs[0]?.response.destroy()
        await server.whenSent(1)
        const {body} = await client.answer()
        expect(body.length).to.be.lessThan(20 * MiB)
        expect(body.equals(content.subarray(0, body.length))).to.equal(true)
        expect(server.sent[0]?.outcome).to.equal('aborted')
      }))

    it('waits for a client that reads slowly, and gets everything to it', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        client.ask([0, 20 * MiB - 1])
        await once(client.socket, 'readable')
        const [job] = server.jobs
        // Without a reader the connection fills up and then nothing moves.
        let before = -1
        while (job !== undefined && job.sentBytes > before) {
          before = job.sentBytes
          await new Promise((resolve) => setTimeout(resolve, 100))
        }
        expect(job?.sentBytes).to.be.lessThan(20 * MiB)
        expect(job?.writingBytes).to.be.within(1, MiB)
        const {body} = await client.answer()
        expect(body.equals(content.subarray(0, 20 * MiB))).to.equal(true)
        await server.whenSent(1)
        expect(server.sent).to.deep.equal([{outcome: 'sent', sentBytes: 20 * MiB}])
        client.socket.destroy()
      }))

    it('lets a small answer pass a large one', () =>
      withServer(async (server) => {
        const large = await RawClient.open(server.port)
        const small = await RawClient.open(server.port)
        large.ask([0, 23 * MiB])
        const isLargeDone = large.answer().then(({body}) => body.length === 23 * MiB + 1)
        for (let i = 0; i < 3; i++) {
          small.ask([i, i + 99])
          expect((await small.answer()).body.equals(content.subarray(i, i + 100))).to.equal(true)
        }
        expect(await isLargeDone).to.equal(true)
        expect(server.sent.slice(0, 2).map(({sentBytes}) => sentBytes)).to.deep.equal([100, 100])
        large.socket.destroy()
        small.socket.destroy()
      }))

    it('completes no body of a file that was touched meanwhile', () =>
      withServer(async (server, path) => {
        const client = await RawClient.open(server.port)
        client.ask([0, 20 * MiB - 1])
        await once(client.socket, 'readable')
        utimesSync(path, 1, 1)
        const {body} = await client.answer()
        expect(body.length).to.be.lessThan(20 * MiB)
        const small = await RawClient.open(server.port)
        small.ask([0, 9])
        expect((await small.answer()).status).to.equal(0)
        await server.whenSent(2)
        expect(server.sent.map(({outcome}) => outcome)).to.deep.equal(['aborted', 'aborted'])
      }))

    it('completes no body of a file that became shorter', () =>
      withServer(async (server, path) => {
        truncateSync(path, 70 * KiB)
        for (const end of [80 * KiB, 20 * MiB]) {
          const client = await RawClient.open(server.port)
          client.ask([0, end])
          expect((await client.answer()).body.length).to.be.lessThan(end)
        }
        await server.whenSent(2)
        expect(server.sent.map(({outcome}) => outcome)).to.deep.equal(['aborted', 'aborted'])
      }))

    it('closes the connection where the client asks for it, after the last byte', () =>
      withServer(async (server) => {
        for (const [head, end] of [
          ['HTTP/1.1\r\nHost: x\r\nConnection: close', 9],
          ['HTTP/1.1\r\nHost: x\r\nConnection: close', 9 * MiB],
          ['HTTP/1.0', 9],
          ['HTTP/1.0', 9 * MiB],
        ] as const) {
          const client = await RawClient.open(server.port)
          client.socket.write(`GET /0-${end} ${head}\r\n\r\n`)
          const {body, head: answered} = await client.answer()
          expect(body.equals(content.subarray(0, end + 1))).to.equal(true)
          expect(answered).to.match(/\r\nConnection: close(\r\n|$)/)
          if (!client.socket.readableEnded) await once(client.socket.resume(), 'end')
          client.socket.destroy()
        }
      }))

    it('keeps the connection, and says so, where the client does not ask otherwise', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        client.ask([0, 9], [0, 9 * MiB])
        for (let i = 0; i < 2; i++) {
          const {head} = await client.answer()
          expect(head).to.match(/^HTTP\/1.1 206 Partial Content\r\n/)
          expect(head).to.match(/\r\nConnection: keep-alive(\r\n|$)/)
          expect(head).to.match(/\r\nDate: \w{3}, [^\r]+ GMT\r\n/)
        }
        client.socket.destroy()
      }))

    it('sends a head of any length', () =>
      withServer(
        async (server) => {
          const client = await RawClient.open(server.port)
          for (const end of [9, 9 * MiB]) {
            client.ask([0, end])
            const {head, body} = await client.answer()
            expect(head.length).to.be.greaterThan(30_000)
            expect(body.equals(content.subarray(0, end + 1))).to.equal(true)
          }
          client.socket.destroy()
        },
        {headers: ['X-Long', 'x'.repeat(30_000)]},
      ))

    it('serves many clients at once, some of which go away', async function () {
      this.timeout(60_000)
      await withServer(async (server) => {
        const asked = Array.from({length: 100}, async (_, i) => {
          const client = await RawClient.open(server.port)
          const end = (i % 10) * 300 * KiB + i
          client.ask([i, end + i])
          if (i % 3 === 0) {
            client.socket.resetAndDestroy()
            return
          }
          const {body} = await client.answer()
          expect(body.equals(content.subarray(i, end + i + 1))).to.equal(true)
          client.socket.destroy()
        })
        await Promise.all(asked)
        await server.whenSent(server.jobs.length)
      })
    })

    it('holds little for clients that all read slowly, and gets everything to each', async function () {
      this.timeout(60_000)
      await withServer(async (server) => {
        const clients = await Promise.all(
          Array.from({length: 80}, () => RawClient.open(server.port)),
        )
        for (const [i, client] of clients.entries()) client.ask([i, i + 20 * MiB - 1])
        const isStuck = (): boolean =>
          server.jobs.length === 80 && server.jobs.every(({writingBytes}) => writingBytes > 0)
        let before = -1
        for (;;) {
          const sent = server.jobs.reduce((sum, {sentBytes}) => sum + sentBytes, 0)
          if (isStuck() && sent === before) break
          before = sent
          await new Promise((resolve) => setTimeout(resolve, 200))
        }
        expect(openPipes()).to.be.at.most(pipesBefore + 2 * 64)
        for (const [i, client] of clients.entries()) {
          if (i % 8 !== 0) {
            client.socket.resetAndDestroy()
            continue
          }
          const {body} = await client.answer()
          expect(body.equals(content.subarray(i, i + 20 * MiB)), `client ${i}`).to.equal(true)
          client.socket.destroy()
        }
        await server.whenSent(80)
        expect(server.sent.filter(({outcome}) => outcome === 'sent')).to.have.length(10)
      })
    })

    it('sends where no pipe is to be had', () =>
      withServer(async (server) => {
        const client = await RawClient.open(server.port)
        const limit = execFileSync('prlimit', ['--pid', `${process.pid}`, '--nofile', '-o', 'SOFT'])
        const setLimit = (count: number): Buffer =>
          execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${count}:`])
        const taken: Pipe[] = []
        // Programs that are started need descriptors too, so the bound is set before the rest are taken.
        setLimit(readdirSync('/proc/self/fd').length + 40)
        try {
          for (let pipe = takePipe(); pipe; pipe = takePipe()) taken.push(pipe)
          client.ask([3, 20 * MiB])
          const {body} = await client.answer()
          expect(body.equals(content.subarray(3, 20 * MiB + 1))).to.equal(true)
        } finally {
          taken.forEach(closePipe)
          setLimit(Number(/\d+/.exec(limit.toString())?.[0]))
          client.socket.destroy()
        }
      }))

    it('sends over TLS', () =>
      withTempDir(async (dir) => {
        const {key, cert} = makeTestCa(dir)
        await withServer(
          async (server) => {
            const socket = connectSecurely({port: server.port, rejectUnauthorized: false})
            await once(socket, 'secureConnect')
            socket.write('GET /3-2000003 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
            const parts: Buffer[] = []
            for await (const part of socket) parts.push(part as Buffer)
            const all = Buffer.concat(parts)
            const body = all.subarray(all.indexOf('\r\n\r\n') + 4)
            expect(body.equals(content.subarray(3, 2_000_004))).to.equal(true)
            if (name === 'fast') expect(handedOn).to.deep.equal(['3-2000003'])
          },
          {
            makeServer: (listener) => createSecureServer({key, cert}, listener),
          },
        )
      }))
  })
}
