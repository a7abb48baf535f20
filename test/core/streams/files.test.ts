import {spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {
  mkdirSync,
  readdirSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {setTimeout} from 'node:timers/promises'
import {expect} from 'chai'
import {Files, isAbsent, type FilesOptions} from '../../../src/core/streams/files.ts'
import type {OpenedFile} from '../../../src/core/stream.ts'
import {withTempDir} from '../../support/temp-dir.ts'

type World = {
  root: string
  files: Files
  open: (name: string) => OpenedFile
  isOpen: (name: string) => number
}

/** A directory with the files 0 to 9 (each with its name as content), and a cache of four. */
function withFiles(
  body: (world: World) => Promise<void> | void,
  options: Partial<FilesOptions> = {},
): Promise<void> {
  return withTempDir(async (root) => {
    for (let i = 0; i < 10; i++) writeFileSync(join(root, `${i}`), `${i}`)
    const files = new Files({root, openMax: 4, ...options})
    const open = (name: string): OpenedFile => {
      const path = join(root, name)
      const known = files.look(path)
      if (isAbsent(known)) throw new Error(known.reason)
      const opened = files.open(path, known, known)
      if (!opened) throw new Error('changed')
      return opened
    }
    try {
      await body({root, files, open, isOpen: (name) => descriptorsOf(join(root, name))})
    } finally {
      files.close()
    }
    expect(descriptorsOf(root)).to.equal(0)
  })
}

/** How many descriptors of this process are open on a file at this path or below it, removed ones among them. */
function descriptorsOf(path: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      const place = readlinkSync(`/proc/self/fd/${fd}`).replace(/ \(deleted\)$/, '')
      return place === path || place.startsWith(`${path}/`)
    } catch {
      // The one that read the directory.
      return false
    }
  }).length
}

function contentOf(file: OpenedFile): string {
  const buffer = Buffer.alloc(file.size)
  readSync(file.fd, buffer, 0, file.size, 0)
  return buffer.toString()
}

describe('descriptors of served files', () => {
  it('are shared by all readers of a file and kept for the next', () =>
    withFiles(({files, open, isOpen}) => {
      const [one, two] = [open('0'), open('0')]
      expect(one.fd).to.equal(two.fd)
      expect(contentOf(one)).to.equal('0')
      one.release()
      two.release()
      const three = open('0')
      expect(three.fd).to.equal(one.fd)
      three.release()
      expect([files.openCount, isOpen('0')]).to.deep.equal([1, 1])
    }))

  it('are no more than the cache holds when nobody reads', () =>
    withFiles(({root, files, open}) => {
      for (let i = 0; i < 50; i++) open(`${i % 10}`).release()
      expect(files.openCount).to.equal(4)
      expect(descriptorsOf(root)).to.equal(4)
    }))

  it('go in the order of their last use', () =>
    withFiles(({open, isOpen}) => {
      for (const name of ['0', '1', '2', '3', '0', '4']) open(name).release()
      expect(['0', '1', '2', '3', '4'].map(isOpen)).to.deep.equal([1, 0, 1, 1, 1])
    }))

  it('stay open for those who read, however many they are, and close with the last of them', () =>
    withFiles(({root, files, open, isOpen}) => {
      const reading = Array.from({length: 10}, (_, index) => open(`${index}`))
      expect(reading.map(contentOf).join('')).to.equal('0123456789')
      expect(files.openCount).to.equal(4)
      expect(descriptorsOf(root)).to.equal(10)
      const again = open('0')
      expect(isOpen('0')).to.equal(2)
      for (const file of reading) file.release()
      expect(contentOf(again)).to.equal('0')
      again.release()
      expect(descriptorsOf(root)).to.equal(4)
    }))

  it('give up those that nobody reads first', () =>
    withFiles(({open, isOpen}) => {
      const held = open('0')
      for (const name of ['1', '2', '3', '4', '5']) open(name).release()
      expect(['0', '1', '2', '3', '4', '5'].map(isOpen)).to.deep.equal([1, 0, 0, 1, 1, 1])
      const same = open('0')
      expect(same.fd).to.equal(held.fd)
      same.release()
      held.release()
    }))

  it('are released once, however often that is said', () =>
    withFiles(({open}) => {
      const [one, two] = [open('0'), open('0')]
      one.release()
      one.release()
      one.release()
      expect(one.isUnchanged()).to.equal(false)
      expect(two.isUnchanged()).to.equal(true)
      expect(contentOf(two)).to.equal('0')
      two.release()
    }))

  it('of a replaced file close with its last reader', () =>
    withFiles(({root, open, isOpen}) => {
      const old = open('0')
      writeFileSync(join(root, 'new'), 'new')
      renameSync(join(root, 'new'), join(root, '0'))
      const fresh = open('0')
      expect([contentOf(old), contentOf(fresh)]).to.deep.equal(['0', 'new'])
      old.release()
      expect(isOpen('0')).to.equal(1)
      fresh.release()
    }))

  it('of a removed file close when it is missed', () =>
    withFiles(({root, files, open}) => {
      open('0').release()
      rmSync(join(root, '0'))
      expect(descriptorsOf(root)).to.equal(1)
      expect(isAbsent(files.look(join(root, '0')))).to.equal(true)
      expect(descriptorsOf(root)).to.equal(0)
    }))

  it('of a file that is never asked for again close after a while, and no other', () =>
    withFiles(
      async ({root, open, isOpen}) => {
        const held = open('1')
        open('0').release()
        rmSync(join(root, '0'))
        while (descriptorsOf(root) > 1) await setTimeout(5)
        expect(isOpen('1')).to.equal(1)
        held.release()
        while (descriptorsOf(root) > 0) await setTimeout(5)
        open('2').release()
        while (descriptorsOf(root) > 0) await setTimeout(5)
      },
      {idleCheckMs: 10},
    ))

  it('outlive the end of the service only as long as somebody reads', () =>
    withFiles(({root, files, open}) => {
      const file = open('0')
      open('1').release()
      files.close()
      expect(descriptorsOf(root)).to.equal(1)
      expect(contentOf(file)).to.equal('0')
      file.release()
      expect(descriptorsOf(root)).to.equal(0)
    }))

  it('are given up for others when the process has no more of them', () =>
    withTempDir((root) => {
      const script = `
        import {openSync, writeFileSync} from 'node:fs'
        import {Files} from '${import.meta.dirname}/../../../src/core/streams/files.ts'
        const root = process.argv[1]
        for (let i = 0; i < 20; i++) writeFileSync(root + '/' + i, String(i))
        const files = new Files({root, openMax: 256})
        const open = (i) => { const p = root + '/' + i; const k = files.look(p); return files.open(p, k, k) }
        for (let i = 0; i < 10; i++) open(i).release()
        const taken = []
        try { for (;;) taken.push(openSync('/dev/null')) } catch (error) { if (error.code !== 'EMFILE') throw error }
        for (let i = 10; i < 19; i++) open(i).release()
        console.log(files.openCount)
        let held
        try { held = Array.from({length: 20}, (_, i) => open(i)) } catch (error) { console.log(error.code) }`
      const limit = 'ulimit -n 64; exec "$@"'
      const args = ['--input-type=module', '--eval', script, root]
      const child = spawnSync('sh', ['-c', limit, 'sh', process.execPath, ...args], {
        encoding: 'utf8',
      })
      expect(child.stderr).to.equal('')
      const [count, code] = child.stdout.trim().split('\n')
      expect(Number(count)).to.be.within(1, 9)
      expect(code).to.equal('io_failed')
    }))
})

describe('a place that is exchanged all the time', () => {
  it('never gives what is outside, and never waits for what never comes', () =>
    withTempDir(async (dir) => {
      const root = join(dir, 'root')
      mkdirSync(root)
      mkdirSync(join(dir, 'outside'))
      writeFileSync(join(dir, 'outside/x'), 'secret')
      mkdirSync(join(root, 'inner'))
      writeFileSync(join(root, 'inner/x'), 'inside')
      symlinkSync('inner', join(root, 'way'))
      const swapper = spawn(process.execPath, ['--input-type=module', '--eval', swapperOf(root)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const ended = once(swapper, 'exit')
      const files = new Files({root, openMax: 4})
      const seen = {inside: 0, absent: 0, changed: 0}
      const ask = (path: string): void => {
        const known = files.look(path)
        if (isAbsent(known)) {
          seen.absent++
          return
        }
        const file = files.open(path, known, known)
        if (!file) {
          seen.changed++
          return
        }
        expect(contentOf(file)).to.equal('inside')
        file.release()
        seen.inside++
      }
      try {
        await once(swapper.stdout, 'data')
        // Until each outcome was met often; the bound is for a machine on which the swapper hardly runs.
        for (let i = 0; i < 200_000 && !(i > 5000 && seen.inside > 500 && seen.absent > 500); i++) {
          ask(join(root, 'x'))
          ask(join(root, 'way/x'))
          if (i % 100 === 0) await setTimeout(1)
        }
      } finally {
        swapper.kill('SIGKILL')
        await ended
        files.close()
      }
      expect(seen.inside).to.be.greaterThan(0)
      expect(seen.absent).to.be.greaterThan(0)
      expect(descriptorsOf(dir)).to.equal(0)
    }))
})

/** Puts one after the other in the place of `x`: a file inside, links in and out, a FIFO, a directory; and turns `way`. */
function swapperOf(root: string): string {
  return `
    import {mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync} from 'node:fs'
    import {execFileSync} from 'node:child_process'
    process.chdir(${JSON.stringify(root)})
    execFileSync('mkfifo', ['fifo'])
    const makers = [
      (to) => writeFileSync(to, 'inside'),
      (to) => symlinkSync('../outside/x', to),
      (to) => symlinkSync('inner/x', to),
      (to) => symlinkSync('fifo', to),
      (to) => symlinkSync('/dev/zero', to),
      (to) => symlinkSync('inner', to),
    ]
    console.log('ready')
    for (let i = 0; ; i++) {
      makers[i % makers.length]('x.next')
      renameSync('x.next', 'x')
      symlinkSync(i % 2 === 0 ? '../outside' : 'inner', 'way.next')
      renameSync('way.next', 'way')
    }`
}
