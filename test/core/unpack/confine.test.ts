/** What a process can still do once it is confined; tried in processes of their own, because it cannot be undone. */
import {execFileSync} from 'node:child_process'
import {existsSync, linkSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {landlockVersion} from '../../../src/core/syscalls/confine.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const home = join(import.meta.dirname, '../../..')

/** Runs `body` confined to `dir/in`; it prints the error codes it met. */
function confined(
  dir: string,
  body: string,
  options: {canExecute?: boolean; otherFds?: string} = {},
): string {
  mkdirSync(join(dir, 'in'))
  writeFileSync(join(dir, 'outside'), 'outside')
  const script = `
    import fs from 'node:fs'
    import net from 'node:net'
    import {execFileSync} from 'node:child_process'
    import {confine, limitResources} from ${JSON.stringify(join(home, 'src/core/syscalls/confine.ts'))}
    const rootFd = fs.openSync(${JSON.stringify(join(dir, 'in'))}, fs.constants.O_DIRECTORY)
    process.chdir(${JSON.stringify(dir)})
    const otherFds = ${options.otherFds ?? '[]'}
    if (!confine({rootFd, otherFds, canExecute: ${options.canExecute ?? false}})) throw new Error('not confined')
    const attempt = (act) => {
      try { act(); console.log('done') } catch (error) { console.log(error.code) }
    }
    ${body}
  `
  const args = ['--input-type=module', '-e', script]
  return execFileSync(process.execPath, args, {encoding: 'utf8'}).trim().replaceAll('\n', ' ')
}

describe('confinement', function () {
  before(function () {
    if (landlockVersion() >= 2) return
    console.log('    skipped: this kernel has no Landlock 2')
    this.skip()
  })

  it('lets a process make, link and remove what it likes below its directory', () =>
    withTempDir((dir) => {
      const said = confined(
        dir,
        `attempt(() => fs.mkdirSync('in/d'))
         attempt(() => fs.writeFileSync('in/f', 'x'))
         attempt(() => fs.linkSync('in/f', 'in/d/g'))
         attempt(() => fs.symlinkSync('/etc', 'in/s'))
         attempt(() => fs.rmSync('in/f'))
         attempt(() => fs.readFileSync('outside'))`,
      )
      expect(said).to.equal('done done done done done done')
      expect(readFileSync(join(dir, 'in/d/g'), 'utf8')).to.equal('x')
    }))

  it('lets it write nothing else, also not through links', () =>
    withTempDir((dir) => {
      const said = confined(
        dir,
        `attempt(() => fs.writeFileSync('outside', 'x'))
         attempt(() => fs.truncateSync('outside'))
         attempt(() => fs.writeFileSync('new', 'x'))
         attempt(() => fs.mkdirSync('new'))
         attempt(() => fs.rmSync('outside'))
         attempt(() => fs.renameSync('outside', 'in/outside'))
         fs.symlinkSync('../outside', 'in/link')
         attempt(() => fs.writeFileSync('in/link', 'x'))`,
      )
      expect(said.split(' ').filter((code) => !['EACCES', 'EXDEV'].includes(code))).to.deep.equal(
        [],
      )
      expect(readFileSync(join(dir, 'outside'), 'utf8')).to.equal('outside')
      expect(existsSync(join(dir, 'new'))).to.equal(false)
      linkSync(join(dir, 'outside'), join(dir, 'still-there'))
    }))

  it('lets it write below each of several directories, and nowhere between', () =>
    withTempDir((dir) => {
      mkdirSync(join(dir, 'other'))
      const body = `attempt(() => fs.writeFileSync('other/f', 'x'))
         attempt(() => fs.writeFileSync('in/f', 'x'))
         attempt(() => fs.writeFileSync('new', 'x'))`
      expect(confined(dir, body)).to.equal('EACCES done EACCES')
      mkdirSync(join(dir, 'second', 'other'), {recursive: true})
      const other = `[fs.openSync('other', fs.constants.O_DIRECTORY)]`
      expect(confined(join(dir, 'second'), body, {otherFds: other})).to.equal('done done EACCES')
    }))

  it('lets it start programs only when it says so', () =>
    withTempDir((dir) => {
      const body = `attempt(() => execFileSync('/bin/true'))`
      expect(confined(dir, body)).to.equal('EACCES')
      mkdirSync(join(dir, 'second'))
      expect(confined(join(dir, 'second'), body, {canExecute: true})).to.equal('done')
    }))

  it('takes the network away where Landlock can (version 4)', function () {
    if (landlockVersion() < 4) this.skip()
    return withTempDir((dir) => {
      const said = confined(
        dir,
        `net.createServer().on('error', (error) => console.log(error.code)).listen(0, '127.0.0.1')
         net.connect(9, '127.0.0.1').on('error', (error) => console.log(error.code))`,
      )
      expect(said).to.equal('EACCES EACCES')
    })
  })

  it('ends what takes more processor time than it is given', () =>
    withTempDir((dir) => {
      let signal: unknown
      try {
        confined(
          dir,
          'limitResources({fileBytesMax: 1000, descriptorsMax: 64, cpuSecondsMax: 1}); for (;;);',
        )
      } catch (error) {
        signal = (error as {signal?: unknown}).signal
      }
      expect(signal).to.equal('SIGXCPU')
    }))

  it('limits files and descriptors', () =>
    withTempDir((dir) => {
      const said = confined(
        dir,
        `limitResources({fileBytesMax: 1000, descriptorsMax: 64})
         const limits = fs.readFileSync('/proc/self/limits', 'utf8')
         console.log(/Max file size +(\\d+ +\\d+)/.exec(limits)[1].replace(/ +/, ':'))
         console.log(/Max core file size +(\\d+ +\\d+)/.exec(limits)[1].replace(/ +/, ':'))
         console.log(/Max open files +(\\d+ +\\d+)/.exec(limits)[1].replace(/ +/, ':'))`,
      )
      expect(said).to.equal('1000:1000 0:0 64:64')
    }))
})
