/**
 * OpenStack Swift with its S3 door, run by hand on loopback: one device, tempauth and s3api, everything in one directory.
 * Needs Debian's swift-proxy, swift-account, swift-container and swift-object, and extended attributes in that directory.
 */
import {execFileSync, spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {userInfo} from 'node:os'
import {join} from 'node:path'
import type {S3Server} from '../contract/s3-suite.ts'
import {freePorts} from './free-ports.ts'

const backends = ['account', 'container', 'object'] as const
const region = 'swift-1'

function backendConfig(dir: string, name: string, port: number): string {
  return `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${port}
user = ${userInfo().username}
swift_dir = ${dir}
devices = ${join(dir, 'devices')}
mount_check = false
fallocate_reserve = 0
workers = 0
log_level = ERROR
[pipeline:main]
pipeline = ${name}-server
[app:${name}-server]
use = egg:swift#${name}
`
}

function proxyConfig(dir: string, port: number): string {
  return `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${port}
user = ${userInfo().username}
swift_dir = ${dir}
workers = 0
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
# tempauth insists on a cache, but does without its server: nobody listens there.
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:9
[filter:s3api]
use = egg:swift#s3api
location = ${region}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
`
}

function makeRing(dir: string, name: string, port: number): void {
  const run = (...args: string[]): void => {
    execFileSync('swift-ring-builder', [`${name}.builder`, ...args], {cwd: dir, stdio: 'pipe'})
  }
  run('create', '4', '1', '1')
  run('add', `r1z1-127.0.0.1:${port}/d1`, '1')
  run('rebalance')
}

async function waitUntilHealthy(
  endpoint: string,
  children: ChildProcess[],
  log: string,
): Promise<void> {
  for (let tries = 0; tries < 150; tries++) {
    if (children.some((child) => child.exitCode !== null)) break
    try {
      if ((await fetch(`${endpoint}/healthcheck`)).ok) return
    } catch {
      // Not up yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  throw new Error(`swift did not start: ${readFileSync(log, 'utf8')}`)
}

/** Starts the four servers; `dir` belongs to them until `stop` has resolved. */
export async function startSwift(dir: string): Promise<S3Server> {
  mkdirSync(join(dir, 'devices', 'd1'), {recursive: true})
  const [proxyPort = 0, ...backendPorts] = await freePorts(1 + backends.length)
  const log = join(dir, 'log')
  writeFileSync(log, '')
  const children: ChildProcess[] = []
  const start = (name: string, config: string): void => {
    const path = join(dir, `${name}-server.conf`)
    writeFileSync(path, config)
    const command = `exec swift-${name}-server ${path} -v >>${log} 2>&1`
    children.push(spawn('sh', ['-c', command], {stdio: 'ignore'}))
  }
  const stop = async (): Promise<void> => {
    for (const child of children) {
      if (child.exitCode !== null || child.signalCode !== null) continue
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  }
  const endpoint = `http://127.0.0.1:${proxyPort}`
  try {
    for (const [index, name] of backends.entries()) {
      const port = backendPorts[index] ?? 0
      makeRing(dir, name, port)
      start(name, backendConfig(dir, name, port))
    }
    start('proxy', proxyConfig(dir, proxyPort))
    await waitUntilHealthy(endpoint, children, log)
  } catch (error) {
    await stop()
    throw error
  }
  return {endpoint, region, accessKeyId: 'test:tester', secretAccessKey: 'testing', stop}
}
