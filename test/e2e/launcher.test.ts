/** bin/imgstore and bin/manager as they are really started: through links, without a shell's PATH, without their Node. */
import {spawnSync} from 'node:child_process'
import {cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {expect} from 'chai'
import {withTempDir} from '../support/temp-dir.ts'

const imgstore = resolve('bin/imgstore')
const manager = resolve('bin/manager')
const carriedNode = resolve('node_modules/node/bin/node')
const version = (JSON.parse(readFileSync('package.json', 'utf8')) as {version: string}).version
const versionLine = new RegExp(`^imgstore/${version} linux-\\w+ node-v24\\.`)

type Ran = {status: number | null; stdout: string; stderr: string}

function start(command: string[], options: {path?: string; cwd?: string} = {}): Ran {
  const [program = '', ...args] = command
  const {status, stdout, stderr} = spawnSync(program, args, {
    encoding: 'utf8',
    cwd: options.cwd,
    env: {...process.env, PATH: options.path ?? '/usr/bin:/bin', NODE_ENV: ''},
  })
  return {status, stdout, stderr}
}

/** A directory with a `node` that reports an old version of itself, as on a host whose Node is 20. */
function makeOldNode(dir: string): string {
  const bin = join(dir, 'old-node')
  mkdirSync(bin)
  const preload = join(bin, 'old.cjs')
  writeFileSync(
    preload,
    `Object.defineProperty(process, 'versions', {value: {...process.versions, node: '20.20.2'}})\n`,
  )
  const script = `#!/bin/sh\nexec '${carriedNode}' --require '${preload}' "$@"\n`
  writeFileSync(join(bin, 'node'), script, {mode: 0o755})
  return bin
}

/** The package's files without what it carries, as `root`. */
function copyPackage(root: string): string {
  mkdirSync(root, {recursive: true})
  cpSync('bin', join(root, 'bin'), {recursive: true})
  cpSync('package.json', join(root, 'package.json'))
  return join(root, 'bin/imgstore')
}

describe('bin/imgstore', () => {
  it('runs on the Node that the package carries, whatever PATH has', () =>
    withTempDir((dir) => {
      const ran = start([imgstore, '--version'], {path: `${makeOldNode(dir)}:/usr/bin:/bin`})
      expect(ran.stdout).to.match(versionLine)
      expect(ran.status).to.equal(0)
    }))

  it('answers a word that is no command with the nearest one, also where Node is told to be in development', () =>
    withTempDir((dir) => {
      for (const mode of ['', 'development', 'test']) {
        // In development oclif makes a directory for temporary files.
        const env = ['env', `NODE_ENV=${mode}`, `TMPDIR=${dir}`]
        const ran = start([...env, imgstore, 'statsu', 'web'])
        expect(ran.stderr).to.equal(
          'Error: there is no command "statsu"\nTry: imgstore status, or imgstore --help\n',
        )
        expect(ran.stdout).to.equal('')
        expect(ran.status).to.equal(2)
      }
      const {stdout, status} = start([imgstore, 'bogus', '--json'])
      expect(JSON.parse(stdout)).to.have.nested.property('error.code', 'wrong_usage')
      expect(status).to.equal(2)
    }))

  it('shows with `help` what --help shows', () => {
    for (const [words, flags] of [
      [[], ['--help']],
      [['fetch'], ['fetch', '--help']],
      [
        ['fetch', 'debian', '--quiet'],
        ['fetch', '--help'],
      ],
      [['runs'], ['runs', '--help']],
      [
        ['runs', 'show'],
        ['runs', 'show', '--help'],
      ],
    ] as const) {
      const [ran, wanted] = [start([imgstore, 'help', ...words]), start([imgstore, ...flags])]
      expect(wanted.stdout).to.contain('USAGE')
      expect(ran.stdout).to.equal(wanted.stdout)
      expect([ran.status, ran.stderr]).to.deep.equal([0, ''])
    }
    const {stderr, status} = start([imgstore, 'help', 'bogus'])
    expect([status, stderr]).to.deep.equal([
      2,
      'Error: there is no command "bogus"\nTry: imgstore --help\n',
    ])
  })

  it('runs through the chain of links that npm i -g makes', () =>
    withTempDir((dir) => {
      mkdirSync(join(dir, 'lib/node_modules'), {recursive: true})
      mkdirSync(join(dir, 'bin'))
      symlinkSync(resolve('.'), join(dir, 'lib/node_modules/imgstore'))
      symlinkSync('../lib/node_modules/imgstore/bin/imgstore', join(dir, 'bin/imgstore'))
      symlinkSync('../lib/node_modules/imgstore/bin/manager', join(dir, 'bin/manager'))
      for (const name of ['imgstore', 'manager']) {
        const ran = start([join(dir, 'bin', name), '--version'])
        expect(ran.stdout).to.match(versionLine)
      }
    }))

  it('runs by name from PATH, by a relative path, and as an argument of sh', () =>
    withTempDir((dir) => {
      symlinkSync(imgstore, join(dir, 'imgstore'))
      const path = `${dir}:/usr/bin:/bin`
      expect(start(['sh', '-c', 'imgstore --version'], {path}).stdout).to.match(versionLine)
      expect(start(['bin/imgstore', '--version']).stdout).to.match(versionLine)
      expect(start(['sh', 'imgstore', '--version'], {cwd: resolve('bin')}).stdout).to.match(
        versionLine,
      )
    }))

  it('finds the Node that npm installed beside the package', () =>
    withTempDir((dir) => {
      const copied = copyPackage(join(dir, 'node_modules/imgstore'))
      mkdirSync(join(dir, 'node_modules/node/bin'), {recursive: true})
      symlinkSync(carriedNode, join(dir, 'node_modules/node/bin/node'))
      const ran = start([copied, '--version'], {path: `${makeOldNode(dir)}:/usr/bin:/bin`})
      // That Node is new enough: the next thing that is missing is the build.
      expect(ran.stderr).to.contain('npm run build')
      expect(ran.status).to.equal(15)
    }))

  it('says what to do and exits 15 when the only Node is too old', () =>
    withTempDir((dir) => {
      const copied = copyPackage(join(dir, 'imgstore'))
      const ran = start([copied, 'status'], {path: `${makeOldNode(dir)}:/usr/bin:/bin`})
      expect(ran.stderr).to.contain('needs Node 24 or newer; this is Node 20.20.2')
      expect(ran.stderr).to.contain('npm rebuild node')
      expect(ran.stdout).to.equal('')
      expect(ran.status).to.equal(15)
    }))

  it('hands every argument and the exit code on as they are', () =>
    withTempDir((dir) => {
      const store = join(dir, 'a store')
      const ran = start([imgstore, 'status', 'no such', '--json', '--store', store])
      expect(ran.status).to.equal(2)
      const {error} = JSON.parse(ran.stdout) as {error: {code: string; details: {name: string}}}
      expect(error.code).to.equal('invalid_name')
      expect(error.details.name).to.equal('no such')
    }))
})

describe('bin/manager', () => {
  for (const [title, flags] of [
    ['first', (db: string, store: string) => ['--daemon', '--db', db, '--store', store, '--once']],
    ['last', (db: string, store: string) => ['--db', db, '--store', store, '--once', '--daemon']],
  ] as const) {
    it(`runs the worker for --daemon, given ${title}`, () =>
      withTempDir((dir) => {
        const db = join(dir, 'custom db.sqlite')
        const ran = start([manager, ...flags(db, join(dir, 'custom-store'))])
        expect(ran.status, ran.stderr).to.equal(0)
        expect(existsSync(db)).to.equal(true)
      }))
  }

  it('hands commands on: status, fetch and cleanup are those of imgstore', () =>
    withTempDir((dir) => {
      const at = ['--db', join(dir, 'store.db'), '--store', join(dir, 'store')]
      expect(start([manager, 'cleanup', ...at]).status).to.equal(0)
      expect(start([manager, 'status', 'nosuch', ...at]).status).to.equal(10)
      expect(start([manager, 'fetch', 'x', 'http://127.0.0.1/x', 'abc', ...at]).status).to.equal(2)
    }))

  it('does not read --daemon in the arguments of a command', () =>
    withTempDir((dir) => {
      const ran = start([manager, 'status', '--daemon', '--store', join(dir, 'store')])
      expect(ran.status).to.equal(2)
      expect(ran.stderr).to.contain('--daemon')
    }))
})
