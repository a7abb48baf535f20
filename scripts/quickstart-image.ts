/**
 * Makes the image of the quickstart: a Debian or Ubuntu system by debootstrap where that is possible, else a small
 * root filesystem of this host's own programs. Both are real files that really run.
 */
import {spawn, spawnSync} from 'node:child_process'
import {createHash} from 'node:crypto'
import {copyFileSync, createReadStream, existsSync, globSync} from 'node:fs'
import {mkdirSync, mkdtempSync, readFileSync, realpathSync, renameSync, rmSync} from 'node:fs'
import {dirname, join, resolve} from 'node:path'
import {pipeline} from 'node:stream/promises'

export type DemoImage = {
  path: string
  sha256: string
  entries: number
  /** What it is, as the end of a sentence. */
  what: string
  profile: 'image' | 'strict'
}

type AptSource = {mirror: string; suite: string; keyring?: string}

const cacheDir = resolve('.cache/quickstart')
// A system that one can work in, of a size that real ones have.
const packages = ['ca-certificates', 'curl', 'git', 'iproute2', 'less', 'nano', 'perl', 'python3']

/** The best image this host can make; `say` tells what happens meanwhile. */
export async function makeImage(
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<DemoImage> {
  mkdirSync(cacheDir, {recursive: true})
  const isRoot = process.getuid?.() === 0
  const source = isRoot ? findAptSource() : undefined
  const reason = isRoot ? 'this host has no apt source of its own release' : 'that needs root'
  if (source) {
    try {
      return await debootstrapImage(source, say, signal)
    } catch (error) {
      if (signal.aborted) throw error
      say(
        `debootstrap did not work here: ${error instanceof Error ? error.message : String(error)}`,
      )
    }
  } else {
    say(`no Debian image: ${reason}`)
  }
  return hostFilesImage(isRoot, say)
}

async function debootstrapImage(
  source: AptSource,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<DemoImage> {
  const what = `a ${source.suite} system made by debootstrap from this host's apt source`
  const path = join(cacheDir, `${source.suite}-${process.arch}.tar`)
  if (existsSync(path)) {
    say(`using the image of an earlier run, ${path}`)
    return describe(path, what, 'image')
  }
  if (spawnSync('sh', ['-c', 'command -v debootstrap']).status !== 0) {
    say(
      'installing the Debian package debootstrap, which makes the image (apt-get install debootstrap)',
    )
    const install = 'apt-get install -qy --no-install-recommends debootstrap'
    await run(['sh', '-c', `(${install} || { apt-get -q update && ${install}; }) >&2`], signal)
  }
  const work = mkdtempSync(join(cacheDir, 'work-'))
  try {
    say(`making ${what}: about a minute, kept for the next time`)
    // In a mount namespace of its own, so that what debootstrap mounts is gone with it, however it ends.
    const args = ['--variant=minbase', `--include=${packages.join(',')}`]
    if (source.keyring) args.push(`--keyring=${source.keyring}`)
    const root = join(work, 'root')
    await run(
      [
        'unshare',
        '--mount',
        '--pid',
        '--fork',
        '--kill-child',
        '--mount-proc',
        'debootstrap',
        ...args,
        source.suite,
        root,
        source.mirror,
      ],
      signal,
    )
    rmSync(join(root, 'var/cache/apt/archives'), {recursive: true, force: true})
    await packTree(root, path, signal)
  } finally {
    spawnSync('rm', ['-rf', '--one-file-system', work])
  }
  return describe(path, what, 'image')
}

/** A shell, some tools and their libraries, copied from this host. */
async function hostFilesImage(isRoot: boolean, say: (text: string) => void): Promise<DemoImage> {
  say("packing a small root filesystem of this host's own programs instead")
  const work = mkdtempSync(join(cacheDir, 'work-'))
  try {
    const root = join(work, 'root')
    for (const dir of ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp', 'root'])
      mkdirSync(join(root, dir), {recursive: true})
    for (const name of ['sh', 'ls', 'cat', 'id', 'uname', 'head', 'sha256sum'])
      addProgram(root, name)
    for (const file of ['/etc/os-release', '/etc/passwd', '/etc/group']) addFile(root, file, file)
    const path = join(cacheDir, 'host-files.tar')
    await packTree(root, path, new AbortController().signal)
    return await describe(path, "a few of this host's own programs", isRoot ? 'image' : 'strict')
  } finally {
    rmSync(work, {recursive: true, force: true})
  }
}

function addProgram(root: string, name: string): void {
  const found = spawnSync('sh', ['-c', `command -v ${name}`], {encoding: 'utf8'}).stdout.trim()
  if (!found.startsWith('/')) return
  addFile(root, found, `/bin/${name}`)
  const libraries = spawnSync('ldd', [found], {encoding: 'utf8'}).stdout
  for (const [path] of libraries.matchAll(/\/\S+/g)) addFile(root, path, path)
}

/** Copies the file itself, not a link to it: the strict profile takes no absolute links. */
function addFile(root: string, path: string, as: string): void {
  const target = join(root, as)
  if (!existsSync(path) || existsSync(target)) return
  mkdirSync(dirname(target), {recursive: true})
  copyFileSync(realpathSync(path), target)
}

async function packTree(root: string, path: string, signal: AbortSignal): Promise<void> {
  const part = `${path}.part`
  const args = ['--create', '--numeric-owner', '--sort=name', '--format=posix', '--xattrs']
  await run(['tar', ...args, '--file', part, '--directory', root, '.'], signal)
  renameSync(part, path)
}

async function describe(
  path: string,
  what: string,
  profile: DemoImage['profile'],
): Promise<DemoImage> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  const listed = spawnSync('tar', ['--list', '--file', path], {
    encoding: 'utf8',
    maxBuffer: 256 * 1024 ** 2,
  })
  const entries = listed.stdout.split('\n').length - 1
  return {path, sha256: hash.digest('hex'), entries, what, profile}
}

/** Runs a program to its end; its last words become the error when it fails. */
function run([command = '', ...args]: string[], signal: AbortSignal): Promise<void> {
  const child = spawn(command, args, {stdio: ['ignore', 'pipe', 'pipe'], signal})
  let words = ''
  const listen = (bytes: Buffer): void => {
    words = (words + bytes.toString()).slice(-2000)
  }
  child.stdout.on('data', listen)
  child.stderr.on('data', listen)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0) resolve()
      else
        reject(new Error(`${command} ended with ${code}: ${words.trim().split('\n').at(-1) ?? ''}`))
    })
  })
}

/** The first of the host's apt sources that has the host's own release. */
export function findAptSource(etcApt = '/etc/apt'): AptSource | undefined {
  if (!existsSync('/etc/os-release')) return undefined
  const release = readFileSync('/etc/os-release', 'utf8')
  const suite = /^VERSION_CODENAME="?([\w.-]+)"?$/m.exec(release)?.[1]
  const files = globSync(['sources.list', 'sources.list.d/*.{list,sources}'], {cwd: etcApt})
  return files
    .sort()
    .flatMap((file) => {
      const text = readFileSync(join(etcApt, file), 'utf8')
      return file.endsWith('.sources') ? parseStanzas(text) : parseLines(text)
    })
    .find((source) => source.suite === suite && /^https?:/.test(source.mirror))
}

/** `deb [signed-by=…] http://mirror.example/debian bookworm main` */
function parseLines(text: string): AptSource[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+main\b/.exec(line)
    if (!match?.[2] || !match[3]) return []
    return [source(match[2], match[3], /signed-by=(\S+)/.exec(match[1] ?? '')?.[1])]
  })
}

/** The deb822 form: stanzas of `Types:`, `URIs:`, `Suites:`, `Components:`, `Signed-By:`. */
function parseStanzas(text: string): AptSource[] {
  const plain = text.replaceAll(/^#.*\n?/gm, '')
  return plain.split(/\n\s*\n/).flatMap((stanza) => {
    const field = (name: string): string[] =>
      new RegExp(`^${name}:(.*)$`, 'im').exec(stanza)?.[1]?.trim().split(/\s+/) ?? []
    const isUsed = field('Types').includes('deb') && field('Enabled')[0] !== 'no'
    if (!isUsed || !field('Components').includes('main')) return []
    return field('URIs').flatMap((mirror) =>
      field('Suites').map((suite) => source(mirror, suite, field('Signed-By')[0])),
    )
  })
}

function source(mirror: string, suite: string, keyring: string | undefined): AptSource {
  return keyring?.startsWith('/') ? {mirror, suite, keyring} : {mirror, suite}
}
