/** A small image on a loopback server that can be told to stall in the middle. */
import {spawnSync} from 'node:child_process'
import {createHash, randomBytes} from 'node:crypto'
import {once} from 'node:events'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {createServer} from 'node:http'
import type {AddressInfo} from 'node:net'
import {join} from 'node:path'

export type ImageServer = {
  url: string
  digest: string
  sizeBytes: number
  /** While true, answers stop in the middle of what was asked for and stay open. */
  isStalling: boolean
  /** The Range header of every request, in order. */
  ranges: (string | undefined)[]
}

export async function withImageServer<T>(
  dir: string,
  o: {fileBytes: number},
  body: (server: ImageServer) => Promise<T>,
): Promise<T> {
  mkdirSync(join(dir, 'root', 'etc'), {recursive: true})
  writeFileSync(join(dir, 'root', 'etc', 'hello'), 'hello\n')
  writeFileSync(join(dir, 'root', 'data'), randomBytes(o.fileBytes))
  const made = spawnSync('tar', ['-C', join(dir, 'root'), '-cf', join(dir, 'image.tar'), '.'])
  if (made.status !== 0) throw new Error(made.stderr.toString())
  const bytes = readFileSync(join(dir, 'image.tar'))
  const state: ImageServer = {
    url: '',
    digest: createHash('sha256').update(bytes).digest('hex'),
    sizeBytes: bytes.length,
    isStalling: false,
    ranges: [],
  }
  const server = createServer((request, response) => {
    if (request.url !== '/image.tar') {
      response.writeHead(404).end()
      return
    }
    state.ranges.push(request.headers.range)
    const start = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
    const part = bytes.subarray(start)
    response.writeHead(start > 0 ? 206 : 200, {
      'content-type': 'application/x-tar',
      'content-length': part.length,
      'accept-ranges': 'bytes',
      etag: '"one"',
      ...(start > 0 && {
        'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}`,
      }),
    })
    if (state.isStalling) response.write(part.subarray(0, Math.ceil(part.length / 2)))
    else response.end(part)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/image.tar`
  try {
    return await body(state)
  } finally {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  }
}
