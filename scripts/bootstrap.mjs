// Makes a checkout ready: installs from the lock file when it changed, builds when the sources changed.
// Runs before every npm script that needs it, from an empty clone, on the host's own Node (20 or newer) and
// npm (10 or newer); so it imports built-ins only. It prints only what it does: nothing to do, nothing said.
//
//   node scripts/bootstrap.mjs                   install and build
//   node scripts/bootstrap.mjs --install-only    install
import {spawnSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {delimiter, join, sep} from 'node:path'
import {fileURLToPath} from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '')
const modules = join(root, 'node_modules')
const carriedNode = join(modules, 'node/bin/node')
// Each stamp lives in the directory it speaks of, so that it is gone when the directory is.
const installStamp = join(modules, '.imgstore-stamp')
const buildStamp = join(root, 'dist/.stamp')
const wantsBuild = !process.argv.includes('--install-only')
const lockTakenExit = 75

process.chdir(root)
if (!isReady()) {
  if (process.argv.includes('--locked')) makeReady()
  else underLock()
}

function isReady() {
  return !needsInstall() && !(wantsBuild && needsBuild())
}

function needsInstall() {
  return read(installStamp) !== installHash()
}

function needsBuild() {
  return read(buildStamp) !== buildHash() || !existsSync(join(root, 'oclif.manifest.json'))
}

/** Runs this script again under a file lock that the kernel drops when we die, however we die. */
function underLock() {
  mkdirSync(join(root, '.cache'), {recursive: true})
  const lock = join(root, '.cache/bootstrap.lock')
  const again = [lock, process.execPath, ...process.argv.slice(1), '--locked']
  let done = spawnSync('flock', ['-n', '-E', String(lockTakenExit), ...again], {stdio: 'inherit'})
  if (done.error) return makeReady() // no flock on this host: then without a lock
  if (done.status === lockTakenExit) {
    say('another bootstrap is at work in this checkout; waiting for it')
    // execPath may be the Node that the other one is just replacing.
    again[1] = existsSync(process.execPath) ? process.execPath : 'node'
    done = spawnSync('flock', again, {stdio: 'inherit'})
  }
  process.exitCode = done.status ?? 1
}

function makeReady() {
  if (needsInstall()) install()
  if (wantsBuild && needsBuild()) build()
}

function install() {
  const hash = installHash()
  rmSync(installStamp, {force: true})
  // Without --ignore-scripts npm 10 would compile better-sqlite3 although it ships its binary.
  npm('install packages', ['ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund'])
  npm('install Node', ['rebuild', 'node'])
  if (spawnSync(carriedNode, ['--version']).status !== 0) {
    if (Number(process.versions.node.split('.')[0]) < 24 || process.execPath === carriedNode)
      stop('the package "node" brought no program for this machine, and the host has no Node 24.')
    say(`no carried Node for this machine; the host's ${process.version} will do`)
  }
  writeFileSync(installStamp, hash)
}

function build() {
  const hash = buildHash()
  npm('build', ['run', '--silent', 'build'])
  writeFileSync(buildStamp, hash)
}

/** Runs npm, quietly while it goes well. */
function npm(title, args) {
  const startedMs = Date.now()
  say(`${title} …`)
  const {command, before} = npmProgram()
  const done = spawnSync(command, [...before, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
    env: {...process.env, PATH: hostPath()},
  })
  if (done.status !== 0) {
    process.stderr.write(`${done.stdout ?? ''}${done.stderr ?? ''}`)
    stop(`npm ${args.join(' ')} failed${done.error ? `: ${done.error.message}` : ''}`)
  }
  say(`${title} ${((Date.now() - startedMs) / 1000).toFixed(1)} s`)
}

/** The npm that started us (npx may have brought another than PATH's), else PATH's. */
function npmProgram() {
  const cli = process.env.npm_execpath
  return cli && /npm-cli\.js$/.test(cli)
    ? {command: 'node', before: [cli]}
    : {command: 'npm', before: []}
}

/** PATH without our own node_modules: npm must not run on a Node that it is about to replace. */
function hostPath() {
  const parts = (process.env.PATH ?? '').split(delimiter)
  const foreign = parts.filter((part) => !part.startsWith(modules + sep))
  const hasNode = foreign.some((part) => existsSync(join(part, 'node')))
  return (hasNode ? foreign : parts).join(delimiter)
}

function installHash() {
  const machine = `${process.platform} ${process.arch}`
  return createHash('sha256')
    .update(machine)
    .update(readFileSync('package-lock.json'))
    .digest('hex')
}

function buildHash() {
  const hash = createHash('sha256')
  const add = (path) => hash.update(`${path}\0`).update(readFileSync(path)).update('\0')
  for (const path of ['package.json', 'package-lock.json', 'tsconfig.json']) add(path)
  for (const path of ['scripts/bundle.mjs', 'scripts/no-wsl.mjs']) add(path)
  for (const dir of ['src', 'migrations']) files(dir).forEach(add)
  return hash.digest('hex')
}

function files(dir) {
  if (!existsSync(dir)) return []
  const entries = readdirSync(dir, {withFileTypes: true}).sort((a, b) => (a.name < b.name ? -1 : 1))
  return entries.flatMap((entry) =>
    entry.isDirectory() ? files(join(dir, entry.name)) : [join(dir, entry.name)],
  )
}

function read(path) {
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined
}

function say(text) {
  console.error(`bootstrap: ${text}`)
}

function stop(text) {
  console.error(`bootstrap: ${text}`)
  process.exit(1)
}
