/**
 * moto's S3 server on loopback, with IAM in force, so that it checks signatures. Debian 12 does not have it: it runs
 * in a root directory with Debian 13, made by debootstrap once and kept in `.cache`.
 */
import {execFileSync, spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {existsSync, mkdirSync, mkdtempSync, openSync, closeSync, readFileSync} from 'node:fs'
import {renameSync, rmSync} from 'node:fs'
import {join} from 'node:path'
import type {S3Server} from '../contract/s3-suite.ts'
import {freePorts} from './free-ports.ts'
import {aptSource} from './rootfs-archive.ts'

const cacheDir = join(import.meta.dirname, '../../.cache')
const suite = 'trixie'
// debootstrap does not follow dependencies on virtual packages: the backend of cryptography is named.
const packages = ['python3-moto', 'python3-flask', 'python3-flask-cors', 'python3-cffi-backend']
const region = 'eu-west-1'
const user = 'tester'

/** The root directory, made now if it is not cached: 430 MB, a minute or two. */
function motoRoot(): string {
  const path = join(cacheDir, `moto-${suite}`)
  if (existsSync(path)) return path
  const source = aptSource()
  if (source === undefined) throw new Error('this host has no apt source of Debian')
  mkdirSync(cacheDir, {recursive: true})
  const work = mkdtempSync(join(cacheDir, 'moto-'))
  try {
    const root = join(work, 'root')
    // In namespaces of its own, so that what debootstrap mounts and starts is gone with it.
    const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc']
    const args = ['--variant=minbase', `--include=${packages.join(',')}`, suite, root]
    execFileSync('unshare', [...apart, 'debootstrap', ...args, source.mirror], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    rmSync(join(root, 'var/cache/apt/archives'), {recursive: true, force: true})
    renameSync(root, path)
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
  return path
}

/** Starts the server as nobody inside that root; it keeps objects in memory, and its log in `dir`. */
export async function startMoto(dir: string): Promise<S3Server> {
  const root = motoRoot()
  const [port = 0] = await freePorts(1)
  const endpoint = `http://127.0.0.1:${port}`
  const log = join(dir, 'log')
  const logFile = openSync(log, 'a')
  const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups', '--no-new-privs']
  const asNobody = ['setpriv', ...nobody, '--bounding-set=-all', '--pdeathsig=KILL']
  const python = ['python3', '-m', 'moto.server', '--host', '127.0.0.1', '--port', String(port)]
  // Each program starts the next in its own place: the child is the server.
  const child = spawn('chroot', [root, ...asNobody, ...python], {
    stdio: ['ignore', logFile, logFile],
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      LANG: 'C.UTF-8',
      PYTHONDONTWRITEBYTECODE: '1',
      // The actions of `addUser`; whatever comes after them needs a signature.
      INITIAL_NO_AUTH_ACTION_COUNT: '3',
    },
  })
  closeSync(logFile)
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  try {
    await waitUntilUp(endpoint, child, log)
    return {endpoint, region, ...(await addUser(endpoint)), stop}
  } catch (error) {
    await stop()
    throw error
  }
}

async function waitUntilUp(endpoint: string, child: ChildProcess, log: string): Promise<void> {
  for (let tries = 0; tries < 300 && child.exitCode === null; tries++) {
    try {
      if ((await fetch(`${endpoint}/moto-api/data.json`)).ok) return
    } catch {
      // Not up yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  throw new Error(`moto did not start: ${readFileSync(log, 'utf8')}`)
}

/** Makes a user who may do everything with S3, by the three actions that need no signature. */
async function addUser(
  endpoint: string,
): Promise<Pick<S3Server, 'accessKeyId' | 'secretAccessKey'>> {
  const iam = async (action: Record<string, string>): Promise<string> => {
    const answer = await fetch(endpoint, {
      method: 'POST',
      // moto tells by the scope of a signature which service is meant.
      headers: {
        authorization: `AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=none`,
      },
      body: new URLSearchParams({Version: '2010-05-08', UserName: user, ...action}),
    })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`moto refused ${action['Action'] ?? ''}: ${text}`)
    return text
  }
  await iam({Action: 'CreateUser'})
  const statement = {Effect: 'Allow', Action: 's3:*', Resource: '*'}
  const policy = JSON.stringify({Version: '2012-10-17', Statement: [statement]})
  await iam({Action: 'PutUserPolicy', PolicyName: 's3', PolicyDocument: policy})
  const key = await iam({Action: 'CreateAccessKey'})
  const field = (name: string): string =>
    new RegExp(`<${name}>([^<]+)</${name}>`).exec(key)?.[1] ?? ''
  return {accessKeyId: field('AccessKeyId'), secretAccessKey: field('SecretAccessKey')}
}
