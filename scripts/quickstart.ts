/**
 * `npm run quickstart`: the life of an image on this host, with the real program and a real image: made, served over
 * HTTP, fetched by a worker, mounted, written into, run, removed. It leaves nothing but the cached image in .cache.
 * Without root or overlayfs it goes as far as the host can, says why, and that is no failure.
 */
import {spawn, type ChildProcess} from 'node:child_process'
import {
  createReadStream,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
} from 'node:fs'
import {rmSync, statSync, writeFileSync} from 'node:fs'
import {createServer, type Server} from 'node:http'
import type {AddressInfo} from 'node:net'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {setTimeout} from 'node:timers/promises'
import {makeImage, type DemoImage} from './quickstart-image.ts'

const imgstore = resolve('bin/imgstore')
const hostCannotExit = 15

const home = mkdtempSync(join(tmpdir(), 'imgstore-quickstart-'))
const store = join(home, 'store')
const workerLog = join(home, 'worker.log')
const mountPoint = join(store, 'active/demo')

const stop = new AbortController()
const children = new Set<ChildProcess>()
let worker: ChildProcess | undefined
let server: Server | undefined

for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, onSignal)
try {
  await tour()
} catch (error) {
  if (!stop.signal.aborted) {
    process.exitCode = 1
    console.error(`\nquickstart failed: ${error instanceof Error ? error.message : String(error)}`)
    if (existsSync(workerLog)) process.stderr.write(readFileSync(workerLog))
  }
} finally {
  await leaveNothing()
}

async function tour(): Promise<void> {
  title('An image')
  const image = await makeImage((text) => console.log(text), stop.signal)
  const size = `${(statSync(image.path).size / 1024 ** 2).toFixed(0)} MiB`
  console.log(`The image is ${image.what}: ${image.entries.toLocaleString('en')} entries, ${size}.`)

  title('A server and a worker')
  const url = await serve(image)
  console.log(`Serving it at ${url}`)
  console.log(`The store is ${store} (IMGSTORE_STORE_PATH)`)
  startWorker()

  title('From the URL to a mounted root filesystem')
  const fetch = ['fetch', 'demo', url, image.sha256, '--profile', image.profile, '--wait']
  const exit = await run(fetch, [0, hostCannotExit])
  await run(['status', 'demo'])
  await showStates()
  if (exit === hostCannotExit) {
    showTree(join(store, 'images/demo/rootfs'))
    console.log(
      '\nThis host takes an image as far as STORED: unpacked, not mounted. The reason stands above;',
    )
    console.log(
      '`imgstore doctor` says more. Where overlays can be mounted (root), the tour goes on from here.',
    )
  } else {
    await useImage()
  }

  title('Taking it away')
  await run(['remove', 'demo', '--wait'])
  await run(['cleanup'])
  await run(['list'])
}

async function useImage(): Promise<void> {
  showTree(mountPoint)

  title('Writing into it')
  const note = 'root/hello.txt'
  show(`echo 'written through the mount' > ${join(mountPoint, note)}`)
  writeFileSync(join(mountPoint, note), 'written through the mount\n')
  const landed = join(store, 'overlays/demo/upper', note)
  show(`cat ${landed}`)
  process.stdout.write(readFileSync(landed))
  if (existsSync(join(store, 'images/demo/rootfs', note)))
    throw new Error('the image itself changed')
  console.log('The image itself is as it was; the change is in the upper directory of its overlay.')

  title('Running a program in it')
  await run([
    'run',
    'demo',
    '--',
    '/bin/sh',
    '-c',
    'head -1 /etc/os-release; cat /root/hello.txt; id',
  ])

  await run(['deactivate', 'demo', '--wait'])
}

type Events = {events: {from?: string; to?: string; duration_ms?: number}[]}

/** Each state that the image passed, and how long the step that led to it took. */
async function showStates(): Promise<void> {
  const {events} = JSON.parse(await output(['events', 'demo', '--json'])) as Events
  for (const {from, to, duration_ms: tookMs} of events)
    console.log(`  ${(from ?? '').padEnd(12)} → ${(to ?? '').padEnd(12)} ${tookMs ?? '-'} ms`)
}

/** Serves one file, as any static server would. */
async function serve(image: DemoImage): Promise<string> {
  const sizeBytes = statSync(image.path).size
  server = createServer((request, response) => {
    response.writeHead(200, {'content-type': 'application/x-tar', 'content-length': sizeBytes})
    if (request.method === 'HEAD') response.end()
    // A client that goes away in the middle is no failure of the server.
    else pipeline(createReadStream(image.path), response).catch(() => undefined)
  })
  await new Promise<void>((done) => server?.listen(0, '127.0.0.1', done))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/image.tar`
}

/** The tour's own settings, and none that the host's environment may have. */
function environment(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(([name]) => !name.startsWith('IMGSTORE_'))
  return {
    ...Object.fromEntries(entries),
    IMGSTORE_STORE_PATH: store,
    IMGSTORE_DB_PATH: join(home, 'store.db'),
    no_proxy: '127.0.0.1',
  }
}

function startWorker(): void {
  show('imgstore worker &')
  const log = openSync(workerLog, 'a')
  // In a process group of its own: Ctrl-C reaches us, and we stop the worker when its work is undone.
  worker = spawn(imgstore, ['worker'], {
    env: environment(),
    stdio: ['ignore', log, log],
    detached: true,
  })
}

/** Runs one command as a user would, and gives its exit code, which must be one of `expected`. */
async function run(args: string[], expected = [0]): Promise<number> {
  stop.signal.throwIfAborted()
  show(`imgstore ${args.map((arg) => (/^[\w./:-]+$/.test(arg) ? arg : `'${arg}'`)).join(' ')}`)
  const child = spawn(imgstore, args, {env: environment(), stdio: ['ignore', 'inherit', 'inherit']})
  children.add(child)
  const code = await ended(child)
  children.delete(child)
  stop.signal.throwIfAborted()
  if (!expected.includes(code)) throw new Error(`imgstore ${args[0]} ended with ${code}`)
  return code
}

/** What a command prints. */
async function output(args: string[]): Promise<string> {
  show(`imgstore ${args.join(' ')}`)
  const child = spawn(imgstore, args, {env: environment(), stdio: ['ignore', 'pipe', 'inherit']})
  children.add(child)
  let text = ''
  child.stdout.on('data', (bytes: Buffer) => (text += bytes.toString()))
  const closed = new Promise((done) => child.once('close', done))
  const code = await ended(child)
  await closed
  children.delete(child)
  stop.signal.throwIfAborted()
  if (code !== 0) throw new Error(`imgstore ${args[0] ?? ''} ended with ${code}`)
  return text
}

function ended(child: ChildProcess): Promise<number> {
  return new Promise((done, reject) => {
    child.on('error', reject)
    child.on('exit', (code) => done(code ?? 1))
  })
}

function showTree(dir: string): void {
  show(`ls ${dir}`)
  console.log(readdirSync(dir).join('  '))
}

function title(text: string): void {
  stop.signal.throwIfAborted()
  console.log(`\n── ${text}`)
}

function show(command: string): void {
  console.log(`\n$ ${command}`)
}

function onSignal(name: NodeJS.Signals): void {
  if (stop.signal.aborted) return
  console.error(`\n${name}: stopping and removing what the tour made`)
  process.exitCode = 130
  stop.abort()
  // A terminal's Ctrl-C has reached the running command too; a second signal would cut it short.
  const afterMs = name === 'SIGINT' ? 3000 : 0
  void setTimeout(afterMs, undefined, {ref: false}).then(() => {
    for (const child of children) child.kill('SIGTERM')
  })
}

async function leaveNothing(): Promise<void> {
  if (worker && worker.exitCode === null && worker.signalCode === null) {
    const done = ended(worker)
    worker.kill('SIGTERM')
    const late = setTimeout(15_000, undefined, {ref: false}).then(() => worker?.kill('SIGKILL'))
    await Promise.race([done, late.then(() => done)])
  }
  server?.closeAllConnections()
  server?.close()
  for (const point of mountsBelow(home).reverse()) await unmount(point)
  const left = mountsBelow(home)
  if (left.length > 0) {
    // Never delete through a mount.
    console.error(`still mounted, so ${home} is left as it is: ${left.join(', ')}`)
    process.exitCode = 1
    return
  }
  rmSync(home, {recursive: true, force: true})
  if (process.exitCode === undefined)
    console.log('\nThe worker is stopped and the store removed. `npm test` runs the tests.')
}

async function unmount(point: string): Promise<void> {
  for (const args of [[point], ['--lazy', point]]) {
    if ((await ended(spawn('umount', args, {stdio: 'ignore'}))) === 0) return
  }
}

function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .map((text) =>
      text.replaceAll(/\\(\d{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8))),
    )
    .filter((point) => point.startsWith(`${dir}/`))
}
