/** The servers of bench/streaming.ts and bench/slow-clients.ts: one process each, on a port of its own. */
import {spawn, spawnSync, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {existsSync, readFileSync, readdirSync, writeFileSync} from 'node:fs'
import {connect, createServer} from 'node:net'
import {join, resolve} from 'node:path'

export type PeerName = 'nginx' | 'caddy' | 'imgstore' | 'imgstore-plain' | 'imgstore-log'

export type Peer = {
  name: PeerName
  port: number
  /** Of the server and its children. */
  pids: number[]
  stop(): Promise<void>
}

export type Site = {
  /** What is served; configuration and logs go beside it. */
  root: string
  dir: string
  tls?: {cert: string; key: string} | undefined
}

export function hasProgram(name: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${name}`]).status === 0
}

/** Starts a server and waits until it takes connections; undefined when its program is not installed. */
export async function startPeer(name: PeerName, site: Site): Promise<Peer | undefined> {
  const isOurs = name.startsWith('imgstore')
  if (!isOurs && !hasProgram(name)) return undefined
  const port = await freePort()
  const child = isOurs ? startOurs(name, site, port) : starters[name as 'nginx'](site, port)
  const exited = once(child, 'exit')
  const died = exited.then(() => Promise.reject(new Error(`${name} ended: see ${site.dir}`)))
  died.catch(() => undefined)
  await Promise.race([waitForPort(port), died])
  return {
    name,
    port,
    pids: treeOf(child.pid ?? 0),
    stop: async () => {
      if (child.exitCode === null) child.kill()
      await exited
    },
  }
}

function startNginx({root, dir, tls}: Site, port: number): ChildProcess {
  const config = join(dir, `nginx-${port}.conf`)
  const secure = tls ? `ssl_certificate ${tls.cert}; ssl_certificate_key ${tls.key};` : ''
  // One worker, no log, no limit on requests a connection, open files kept: as fast as it goes without threads.
  writeFileSync(
    config,
    `${process.getuid?.() === 0 ? 'user root; ' : ''}daemon off; worker_processes 1; pid ${dir}/nginx-${port}.pid;
     error_log ${dir}/nginx.log; events { worker_connections 8192; }
     http {
       access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600;
       open_file_cache max=2000 inactive=60s; open_file_cache_valid 30s; open_file_cache_min_uses 1;
       types {} default_type application/octet-stream;
       server { listen 127.0.0.1:${port}${tls ? ' ssl http2' : ''} backlog=4096; ${secure} root ${root}; }
     }`,
  )
  return spawn('nginx', ['-c', config, '-e', join(dir, 'nginx.log')], {stdio: 'inherit'})
}

function startCaddy({root, dir, tls}: Site, port: number): ChildProcess {
  const config = join(dir, `Caddyfile-${port}`)
  const place = tls ? `https://127.0.0.1:${port}` : `http://127.0.0.1:${port}`
  writeFileSync(
    config,
    `{
      admin off
      auto_https off
      log {
        level ERROR
      }
    }
    ${place} {
      ${tls ? `tls ${tls.cert} ${tls.key}` : ''}
      root * ${root}
      file_server
    }\n`,
  )
  const env = {...process.env, HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir}
  const args = ['run', '--config', config, '--adapter', 'caddyfile']
  return spawn('caddy', args, {stdio: ['ignore', 'ignore', 'inherit'], env})
}

const starters = {nginx: startNginx, caddy: startCaddy}

function startOurs(name: PeerName, {root, dir, tls}: Site, port: number): ChildProcess {
  if (!existsSync('dist/bundle'))
    throw new Error('run `npm run build` first: the built program is measured')
  const args = ['serve', '--images-root', root, '--listen-addr', `127.0.0.1:${port}`]
  args.push('--log-level', name === 'imgstore-log' ? 'info' : 'warn')
  args.push('--sender', name === 'imgstore-plain' ? 'plain' : 'auto')
  // A client that has just gone still counts until its end is noticed.
  args.push('--max-concurrent-bytes-requests', '1024')
  if (tls) args.push('--tls-cert', tls.cert, '--tls-key', tls.key)
  const env = {
    ...process.env,
    IMGSTORE_STORE_PATH: join(dir, 'store'),
    IMGSTORE_DB_PATH: join(dir, 'store.db'),
  }
  return spawn(resolve('bin/imgstore'), args, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env,
  })
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

async function waitForPort(port: number): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    const socket = connect(port, '127.0.0.1')
    const isUp = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false)
    socket.destroy()
    if (isUp) return
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`nothing listens on ${port}`)
}

function treeOf(pid: number): number[] {
  const children = new Map<number, number[]>()
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1')
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      children.set(parent, [...(children.get(parent) ?? []), Number(entry)])
    } catch {
      // Ended meanwhile.
    }
  }
  const found = [pid]
  for (const one of found) found.push(...(children.get(one) ?? []))
  return found
}

/** Forgets the peak of resident memory (proc(5), clear_refs), so that each case has its own. */
export function resetPeaks(peer: Peer): void {
  for (const pid of peer.pids) writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

/** The largest resident set since `resetPeaks`, all processes together, in MiB. */
export function peakMiB(peer: Peer): number {
  const kib = peer.pids.map((pid) => {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    return Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0)
  })
  return kib.reduce((sum, n) => sum + n, 0) / 1024
}

/** Seconds of processor time that the server has used so far. */
export function cpuSeconds(peer: Peer): number {
  const ticks = peer.pids.map((pid) => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return Number(fields[11]) + Number(fields[12])
  })
  return ticks.reduce((sum, n) => sum + n, 0) / 100
}
