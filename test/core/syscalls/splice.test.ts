import {once} from 'node:events'
import {closeSync, ftruncateSync, openSync, readSync, writeSync} from 'node:fs'
import {connect, createServer, type AddressInfo, type Socket} from 'node:net'
import {join} from 'node:path'
import {expect} from 'chai'
import {systemCode} from '../../../src/core/errors.ts'
import {
  closePipe,
  hasSocketCalls,
  memoryOf,
  openPipe,
  readAhead,
  send,
  spliceFromFile,
  spliceToSocket,
  WOULD_BLOCK,
  type Pipe,
} from '../../../src/core/syscalls/splice.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const farOffset = 6 * 2 ** 30 + 1

function codeOf(call: () => unknown): string | undefined {
  try {
    call()
  } catch (error) {
    return systemCode(error)
  }
  return undefined
}

/** Two ends of a connection; the near one's descriptor, and a file of 300,000 bytes with five more behind 6 GiB. */
async function withConnection(
  body: (o: {
    socketFd: number
    near: Socket
    far: Socket
    fileFd: number
    pipe: Pipe
  }) => Promise<void>,
): Promise<void> {
  await withTempDir(async (dir) => {
    const fileFd = openSync(join(dir, 'file'), 'w+')
    writeSync(fileFd, Buffer.alloc(300_000, 'abc'))
    writeSync(fileFd, 'far!!', farOffset)
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const far = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const connected = once(far, 'connect')
    const [near] = (await once(server, 'connection')) as [Socket]
    await connected
    const pipe = openPipe(128 * 1024)
    try {
      const {fd} = (near as unknown as {_handle: {fd: number}})._handle
      await body({socketFd: fd, near, far, fileFd, pipe})
    } finally {
      closePipe(pipe)
      near.destroy()
      far.destroy()
      server.close()
      await once(server, 'close')
      closeSync(fileFd)
    }
  })
}

async function take(socket: Socket, bytes: number): Promise<string> {
  let text = ''
  while (text.length < bytes) {
    const data = socket.read() as Buffer | null
    if (data === null) await once(socket, 'readable')
    else text += data.toString('latin1')
  }
  return text
}

describe('system calls on sockets', () => {
  it('can be made here', () => {
    expect(hasSocketCalls()).to.equal(true)
  })

  it('send the asked part of a buffer, and of a file from behind 4 GiB, in one stream', () =>
    withConnection(async ({socketFd, far, fileFd, pipe}) => {
      expect(send(socketFd, Buffer.from('xxhead:xx'), 2, 5, true)).to.equal(5)
      expect(spliceFromFile(fileFd, 1, pipe, 7)).to.equal(7)
      expect(spliceFromFile(fileFd, farOffset, pipe, 5)).to.equal(5)
      expect(spliceToSocket(pipe, socketFd, 9, true)).to.equal(9)
      expect(spliceToSocket(pipe, socketFd, 3, false)).to.equal(3)
      expect(send(socketFd, Buffer.from('end'), 0, 3, false)).to.equal(3)
      expect(await take(far, 20)).to.equal('head:bcabcabfar!!end')
    }))

  it('put into a pipe what a file has, and nothing from behind its end', () =>
    withConnection(({fileFd, pipe}) => {
      ftruncateSync(fileFd, 300_000)
      expect(spliceFromFile(fileFd, 299_998, pipe, 100)).to.equal(2)
      expect(spliceFromFile(fileFd, 300_000, pipe, 100)).to.equal(0)
      expect(spliceFromFile(fileFd, farOffset, pipe, 100)).to.equal(0)
      const bytes = Buffer.alloc(10)
      expect(readSync(pipe.readFd, bytes)).to.equal(2)
      expect(bytes.toString('latin1', 0, 2)).to.equal('bc')
      return Promise.resolve()
    }))

  it('put no more into a pipe than it holds', () =>
    withConnection(({fileFd, pipe}) => {
      expect(pipe.capacity).to.equal(128 * 1024)
      expect(spliceFromFile(fileFd, 0, pipe, 300_000)).to.equal(pipe.capacity)
      expect(spliceFromFile(fileFd, 0, pipe, 1)).to.equal(WOULD_BLOCK)
      // A part of a page takes a page's place.
      expect(readSync(pipe.readFd, Buffer.alloc(pipe.capacity))).to.equal(pipe.capacity)
      expect(spliceFromFile(fileFd, 100, pipe, 300_000)).to.equal(pipe.capacity - 100)
      return Promise.resolve()
    }))

  it('say that a full connection takes no more, and keep the rest in the pipe', () =>
    withConnection(({socketFd, far, fileFd, pipe}) => {
      far.pause()
      let total = 0
      let piped = 0
      for (;;) {
        if (piped === 0) piped = spliceFromFile(fileFd, total, pipe, 3000)
        const taken = spliceToSocket(pipe, socketFd, piped, true)
        if (taken === WOULD_BLOCK) break
        total = (total + taken) % 270_000
        piped -= taken
      }
      expect(send(socketFd, Buffer.alloc(10), 0, 10, false)).to.equal(WOULD_BLOCK)
      const rest = Buffer.alloc(3000)
      expect(readSync(pipe.readFd, rest)).to.equal(piped)
      const wanted = Buffer.alloc(6000, 'abc').subarray(total % 3, (total % 3) + piped)
      expect(rest.subarray(0, piped).equals(wanted)).to.equal(true)
      return Promise.resolve()
    }))

  it('tell that what was just written is in memory, and ask for what is not', () =>
    withConnection(({fileFd}) => {
      expect(memoryOf(fileFd, 0)).to.equal('in')
      expect(memoryOf(fileFd, farOffset + 4)).to.equal('in')
      // Behind the end there is nothing to wait for; of no file nothing is known.
      expect(memoryOf(fileFd, farOffset + 5)).to.equal('in')
      expect(memoryOf(-1, 0)).to.equal('in')
      readAhead(fileFd, 0, 4096)
      readAhead(-1, 0, 4096)
      return Promise.resolve()
    }))

  it('name what is wrong', () =>
    withConnection(async ({socketFd, near, far, fileFd, pipe}) => {
      const bytes = Buffer.from('abc')
      for (const [start, length] of [
        [-1, 2],
        [0, 4],
        [3, 1],
        [0, -1],
        [0.5, 1],
        [Number.NaN, 1],
      ] as const) {
        expect(codeOf(() => send(socketFd, bytes, start, length, false))).to.equal('EFAULT')
      }
      expect(codeOf(() => send(-1, bytes, 0, 3, false))).to.equal('EBADF')
      expect(codeOf(() => spliceFromFile(-1, 0, pipe, 3))).to.equal('EBADF')
      spliceFromFile(fileFd, 0, pipe, 3)
      expect(codeOf(() => spliceToSocket(pipe, -1, 3, false))).to.equal('EBADF')
      const closed = once(near, 'close')
      far.resetAndDestroy()
      near.on('error', () => undefined).resume()
      // Until the near end's loop has seen the reset, it is the kernel alone that knows.
      let code: string | undefined
      for (let i = 0; i < 1000 && code === undefined; i++) {
        code = codeOf(() => send(socketFd, bytes, 0, 3, false))
      }
      expect(['EPIPE', 'ECONNRESET']).to.include(code)
      await closed
    }))
})
