/**
 * Ceph's S3 gateway on loopback, without a cluster: its dbstore backend keeps objects in an SQLite file. Debian 12
 * does not have that: it runs in a root directory with Debian 13, made by debootstrap once and kept in `.cache`.
 *
 * It is here because it lies: a range is answered with the right header and with bytes of another place.
 */
import {execFileSync, spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {chmodSync, closeSync, existsSync, mkdirSync, mkdtempSync, openSync} from 'node:fs'
import {readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs'
import {basename, join} from 'node:path'
import type {S3Server} from '../contract/s3-suite.ts'
import {freePorts} from './free-ports.ts'
import {aptSource} from './rootfs-archive.ts'

const cacheDir = join(import.meta.dirname, '../../.cache')
const suite = 'trixie'
const keys = {accessKeyId: 'TESTER', secretAccessKey: 'radosgw-secret'}

/** In namespaces of their own, so that what these programs mount and start is gone with them. */
function runApart(command: readonly string[]): void {
  const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc']
  execFileSync('unshare', [...apart, ...command], {stdio: ['ignore', 'ignore', 'inherit']})
}

/** The root directory, made now if it is not cached: 650 MB, two minutes. */
function radosgwRoot(): string {
  const path = join(cacheDir, `radosgw-${suite}`)
  if (existsSync(path)) return path
  const source = aptSource()
  if (source === undefined) throw new Error('this host has no apt source of Debian')
  mkdirSync(cacheDir, {recursive: true})
  const work = mkdtempSync(join(cacheDir, 'radosgw-'))
  try {
    const root = join(work, 'root')
    runApart(['debootstrap', '--variant=minbase', suite, root, source.mirror])
    // No package may start a service.
    writeFileSync(join(root, 'usr/sbin/policy-rc.d'), '#!/bin/sh\nexit 101\n', {mode: 0o755})
    const install =
      'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends radosgw'
    runApart(['chroot', root, 'sh', '-c', install])
    rmSync(join(root, 'var/cache/apt/archives'), {recursive: true, force: true})
    rmSync(join(root, 'var/lib/apt/lists'), {recursive: true, force: true})
    renameSync(root, path)
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
  return path
}

/** Starts the gateway as nobody inside that root; its log goes to `dir`, its objects are gone when it stops. */
export async function startRadosgw(dir: string): Promise<S3Server> {
  const root = radosgwRoot()
  const [port = 0] = await freePorts(1)
  const endpoint = `http://127.0.0.1:${port}`
  const data = mkdtempSync(join(root, 'tmp', 'radosgw-'))
  chmodSync(data, 0o777)
  const place = join('/tmp', basename(data))
  writeFileSync(join(data, 'ceph.conf'), settings(place, port))
  const common = ['--no-mon-config', '-c', join(place, 'ceph.conf'), '-n', 'client.admin']
  const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups', '--no-new-privs']
  const asNobody = ['setpriv', ...nobody, '--bounding-set=-all', '--pdeathsig=KILL']
  const log = join(dir, 'log')
  const logFile = openSync(log, 'a')
  const env = {PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C.UTF-8', HOME: place}
  let child: ChildProcess | undefined
  const stop = async (): Promise<void> => {
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
    rmSync(data, {recursive: true, force: true})
  }
  try {
    const {accessKeyId, secretAccessKey} = keys
    const user = ['--uid=tester', '--display-name=tester']
    const secrets = ['--access-key', accessKeyId, '--secret-key', secretAccessKey]
    execFileSync(
      'chroot',
      [root, ...asNobody, 'radosgw-admin', ...common, 'user', 'create', ...user, ...secrets],
      {env, stdio: ['ignore', logFile, logFile]},
    )
    child = spawn('chroot', [root, ...asNobody, 'radosgw', ...common, '-f'], {
      env,
      stdio: ['ignore', logFile, logFile],
    })
    await waitUntilUp(endpoint, child, log)
    return {endpoint, region: 'us-east-1', ...keys, stop}
  } catch (error) {
    await stop()
    throw error
  } finally {
    closeSync(logFile)
  }
}

function settings(place: string, port: number): string {
  return `[global]
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
[client]
rgw_backend_store = dbstore
rgw_config_store = dbstore
dbstore_db_dir = ${place}
dbstore_config_uri = file:${place}/config.db
rgw_frontends = beast endpoint=127.0.0.1:${port}
rgw_data = ${place}
run_dir = ${place}
log_file = ${place}/log
admin_socket = ${place}/socket
`
}

async function waitUntilUp(endpoint: string, child: ChildProcess, log: string): Promise<void> {
  for (let tries = 0; tries < 300 && child.exitCode === null; tries++) {
    try {
      if ((await fetch(endpoint)).ok) return
    } catch {
      // Not up yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  throw new Error(`radosgw did not start: ${readFileSync(log, 'utf8')}`)
}
