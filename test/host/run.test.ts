import {spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import {runInRoot, type RunOptions, type RunResult} from '../../src/core/mounts/enter.ts'
import {mountsBelow, readMountTable} from '../../src/core/mounts/mount-table.ts'
import {mountOverlaySync, unmountSync} from '../../src/core/mounts/mount.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

/** A tiny image: busybox, two users, and an overlay on top of it, as an active image has. */
async function withImage(
  body: (rootDir: string, upperDir: string) => Promise<void>,
  prepare: (lowerDir: string) => void = () => undefined,
): Promise<void> {
  await withTempDir(async (dir) => {
    const spec = {
      lowerDir: join(dir, 'lower'),
      upperDir: join(dir, 'upper'),
      workDir: join(dir, 'work'),
      mountPoint: join(dir, 'active, one'),
      noexec: false,
      source: 'imgstore:one',
    }
    for (const path of [spec.lowerDir, spec.upperDir, spec.workDir, spec.mountPoint])
      mkdirSync(path)
    for (const path of ['bin', 'etc', 'home', 'tmp', 'dev', 'proc', 'sys'])
      mkdirSync(join(spec.lowerDir, path))
    copyFileSync('/bin/busybox', join(spec.lowerDir, 'bin/busybox'))
    for (const name of [
      'sh',
      'cat',
      'echo',
      'id',
      'ls',
      'mount',
      'mknod',
      'ps',
      'sleep',
      'hostname',
    ])
      symlinkSync('busybox', join(spec.lowerDir, 'bin', name))
    writeFileSync(
      join(spec.lowerDir, 'etc/passwd'),
      'root:x:0:0::/rooty:/bin/sh\nalice:x:1234:2345::/home/alice:/bin/sh\n',
    )
    writeFileSync(join(spec.lowerDir, 'etc/group'), 'root:x:0:\nstaff:x:50:\n')
    prepare(spec.lowerDir)
    const before = kernelMounts()
    mountOverlaySync(spec)
    try {
      await body(spec.mountPoint, spec.upperDir)
    } finally {
      unmountSync(spec.mountPoint)
    }
    expect(mountsBelow(dir), 'mounts left behind').to.deep.equal([])
    expect(kernelMounts()).to.deep.equal(before)
  })
}

/** Where the file systems are mounted that a program gets of its own. */
function kernelMounts(): string[] {
  const own = new Set(['proc', 'sysfs', 'devpts', 'devtmpfs', 'mqueue'])
  const table = readMountTable().filter((entry) => own.has(entry.fsType))
  return table.map((entry) => entry.mountPoint).sort()
}

/** Control groups of runs, in every hierarchy. */
function cgroups(): string[] {
  const root = '/sys/fs/cgroup'
  const dirs = [root, ...readdirSync(root).map((name) => join(root, name))]
  return dirs.flatMap((dir) => {
    try {
      return readdirSync(dir).filter((name) => /^imgstore-[0-9a-f]{16}$/.test(name))
    } catch {
      return [] // a file
    }
  })
}

async function rejected(promise: Promise<unknown>): Promise<ImgstoreError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

/** Ids of processes whose command line holds a text. */
function processesWith(text: string): string[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(text)
    } catch {
      return false
    }
  })
}

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 20))
}

/** A process of its own that runs a program in the image and ends with its exit code. */
function parentProgram(options: Pick<RunOptions, 'rootDir' | 'command' | 'driver'>): string[] {
  const source = new URL('../../src/core/mounts/enter.ts', import.meta.url).href
  const code = `
    const {runInRoot} = await import(${JSON.stringify(source)})
    const result = await runInRoot(${JSON.stringify({...options, name: 'one', stdio: 'inherit'})})
    process.exit(result.exitCode)`
  return [process.execPath, '--input-type=module', '-e', code]
}

for (const driver of ['unshare', 'runc'] as const) {
  describe(`running a program in an image by ${driver}`, function () {
    requires('root', 'program:busybox', `program:${driver}`)
    this.timeout(60_000)

    const run = (rootDir: string, command: string[], more: Partial<RunOptions> = {}) =>
      runInRoot({rootDir, command, name: 'one', driver, stdio: 'pipe', ...more})
    const shell = (rootDir: string, script: string, more: Partial<RunOptions> = {}) =>
      run(rootDir, ['sh', '-c', script], more)

    it('gives back its output and its exit code', () =>
      withImage(async (rootDir) => {
        const result = await shell(rootDir, 'echo out; echo err >&2; exit 7')
        expect(result).to.deep.equal({exitCode: 7, stdout: 'out\n', stderr: 'err\n'})
        expect((await run(rootDir, ['/bin/busybox', 'true'])).exitCode).to.equal(0)
      }))

    it('gives 128 and the number of the signal that ended it', () =>
      withImage(async (rootDir) => {
        const result = await shell(rootDir, 'kill -SEGV $$')
        expect(result.exitCode).to.equal(139)
        if (driver === 'unshare') expect(result.signal).to.equal('SIGSEGV')
      }))

    it('hands parameters over as they are, shell characters and all', () =>
      withImage(async (rootDir) => {
        const words = ['$(id)', '; rm -rf /', '`id`', '\'"', 'a\nb', '-n', '', 'é', '*']
        const result = await run(rootDir, [
          'sh',
          '-c',
          'for w; do echo "[$w]"; done',
          'sh',
          ...words,
        ])
        expect(result.stdout).to.equal(words.map((word) => `[${word}]\n`).join(''))
      }))

    it('says that a program is not there, or may not be executed', () =>
      withImage(async (rootDir) => {
        const missing = await rejected(run(rootDir, ['no-such-program']))
        expect(missing.code).to.equal('command_failed')
        expect(missing.message).to.match(/no such program|not found/)
        const forbidden = await rejected(run(rootDir, ['/etc/passwd']))
        expect(forbidden.code).to.equal('command_failed')
        expect(forbidden.message).to.match(/may not be executed|permission denied/)
      }))

    it('starts it with a clean environment and what is given', () =>
      withImage(async (rootDir) => {
        process.env['IMGSTORE_TEST_SECRET'] = 'leak'
        try {
          const env = {GIVEN: 'a b', LANG: 'C'}
          const {stdout} = await run(rootDir, ['/bin/busybox', 'env'], {env})
          expect(stdout?.trim().split('\n').sort()).to.deep.equal([
            'GIVEN=a b',
            'HOME=/rooty',
            'LANG=C',
            'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
            'TERM=dumb',
          ])
        } finally {
          delete process.env['IMGSTORE_TEST_SECRET']
        }
      }))

    it('runs it as the user, in the directory and on the host name that were asked for', () =>
      withImage(async (rootDir) => {
        const script = 'echo $(id -u):$(id -g):$(id -G) $HOME $PWD $(hostname)'
        const asAlice = await shell(rootDir, script, {user: 'alice', cwd: '/tmp'})
        expect(asAlice.stdout).to.equal('1234:2345:2345 /home/alice /tmp one\n')
        const asNumbers = await shell(rootDir, script, {user: '7:staff'})
        expect(asNumbers.stdout).to.equal('7:50:50 / / one\n')
        const asRoot = await shell(rootDir, script)
        expect(asRoot.stdout).to.equal('0:0:0 /rooty / one\n')
        const nobody = await rejected(shell(rootDir, script, {user: 'mallory'}))
        expect(nobody).to.include({code: 'command_failed'})
        expect(nobody.message).to.include('no user mallory')
      }))

    it('writes into the upper directory of the image', () =>
      withImage(async (rootDir, upperDir) => {
        expect((await shell(rootDir, 'echo changed > /etc/new')).exitCode).to.equal(0)
        expect(readFileSync(join(upperDir, 'etc/new'), 'utf8')).to.equal('changed\n')
      }))

    it('sees none of the processes, mounts and files of the host', () =>
      withImage(async (rootDir) => {
        const {stdout = ''} = await shell(rootDir, 'cat /proc/self/mountinfo; ls /')
        const mounts = stdout.split('\n').filter((line) => / - /.test(line))
        const points = mounts.map((line) => line.split(' ')[4] ?? '')
        expect(points.filter((point) => !/^\/($|proc|dev|sys)/.test(point))).to.deep.equal([])
        expect(stdout).to.not.include(' - ext4 ').and.not.include('/boot')
        const ids = (await shell(rootDir, 'ls /proc')).stdout?.split('\n') ?? []
        expect(ids.filter((id) => /^\d+$/.test(id)).length).to.be.lessThan(6)
      }))

    it('gives it the usual devices, which work, and a private /dev/shm', () =>
      withImage(async (rootDir) => {
        const script = `set -e
          echo gone > /dev/null; [ "$(head -c 4 /dev/zero | wc -c)" = 4 ]
          [ "$(head -c 4 /dev/urandom | wc -c)" = 4 ]; echo x > /dev/shm/x
          ! echo x > /dev/full; [ -c /dev/tty ]; [ -e /dev/pts/ptmx ]; echo ok; ls /dev`
        const result = await shell(rootDir, script.replaceAll(/\b(head|wc)\b/g, 'busybox $1'))
        const [ok, ...names] = result.stdout?.trim().split('\n') ?? []
        expect(ok, result.stderr).to.equal('ok')
        expect(names).to.include.members(['fd', 'full', 'null', 'ptmx', 'pts', 'random', 'shm'])
        expect(names).to.include.members(['stdin', 'stdout', 'stderr', 'tty', 'urandom', 'zero'])
        expect(existsSync('/dev/shm/x')).to.equal(false)
      }))

    it('keeps root of the image from mounting, from kernel settings and from disks', () =>
      withImage(async (rootDir) => {
        const disk = readFileSync('/proc/partitions', 'utf8').match(/^\s*(\d+)\s+(\d+)\s/m)
        const script = `
          mount -t tmpfs x /tmp 2>/dev/null && echo mounted
          echo x > /proc/sys/kernel/hostname && echo set
          echo h > /proc/sysrq-trigger && echo sysrq
          echo x > /sys/kernel/uevent_helper && echo sys
          [ -s /proc/kcore ] && echo kcore
          for d in /dev /tmp /dev/shm; do
            mknod $d/disk b ${disk?.[1] ?? 7} ${disk?.[2] ?? 0} && cat $d/disk && echo opened $d
          done
          cat /proc/1/environ /proc/1/root/etc/hostname && echo outside
          busybox chroot /proc/1/cwd /bin/true && echo chrooted
          busybox grep -E 'CapEff|NoNewPrivs' /proc/self/status`
        const {stdout} = await shell(rootDir, script)
        expect(stdout).to.equal('CapEff:\t00000000a80425fb\nNoNewPrivs:\t1\n')
      }))

    it('cannot steer the process that started it', () =>
      withImage(async (rootDir) => {
        const script =
          'kill -USR1 1; kill -TERM 1; kill -KILL 1; sleep 0.5; cat /proc/net/tcp; echo ok'
        const result = await shell(rootDir, script)
        expect(result.exitCode).to.equal(0)
        expect(result.stderr).to.not.include('ebugger')
        expect(result.stdout?.split('\n').length, result.stdout).to.equal(3)
      }))

    it('has no network but a loopback of its own, or that of the host when asked', () =>
      withImage(async (rootDir) => {
        const look = ['/bin/busybox', 'readlink', '/proc/self/ns/net']
        const host = readlinkSync('/proc/self/ns/net')
        expect((await run(rootDir, look)).stdout?.trim())
          .to.match(/^net:/)
          .and.not.equal(host)
        expect((await run(rootDir, look, {network: 'host'})).stdout?.trim()).to.equal(host)
      }))

    it('ends with everything it started', () =>
      withImage(async (rootDir) => {
        const result = await shell(rootDir, '(sleep 7654321 &) ; echo started')
        expect(result.stdout).to.equal('started\n')
        await until(() => processesWith('sleep\x007654321').length === 0)
      }))

    it('keeps the image mounted while it runs', () =>
      withImage(async (rootDir) => {
        const stop = new AbortController()
        const running = run(rootDir, ['sleep', '7654322'], {signal: stop.signal})
        await until(() => processesWith('sleep\x007654322').length > 0)
        expect(() => unmountSync(rootDir)).to.throw(ImgstoreError, 'in use')
        stop.abort()
        expect((await running).exitCode).to.equal(143)
        expect((await rejected(run(rootDir, ['echo'], {signal: stop.signal}))).code).to.equal(
          'interrupted',
        )
        expect(processesWith('sleep\x007654322')).to.deep.equal([])
      }))

    it('is killed when it does not end after an abort', () =>
      withImage(async (rootDir) => {
        const stop = new AbortController()
        const script = "trap '' TERM; sleep 7654323; sleep 7654323"
        const running = rejected(shell(rootDir, script, {signal: stop.signal, graceMs: 100}))
        await until(() => processesWith('sleep\x007654323').length > 0)
        stop.abort()
        expect((await running).code).to.equal('interrupted')
        await until(() => processesWith('7654323').length === 0)
      }))

    it('dies with its parent, however that ends', () =>
      withImage(async (rootDir) => {
        const [program = '', ...parameters] = parentProgram({
          rootDir,
          command: ['sleep', '7654324'],
          driver,
        })
        const parent = spawn(program, parameters, {stdio: 'ignore'})
        await until(() => processesWith('sleep\x007654324').length > 0)
        const closed = once(parent, 'close')
        parent.kill('SIGKILL')
        await closed
        await until(() => processesWith('7654324').length === 0)
        await until(() => cgroups().length === 0)
      }))

    it('gets the signals of its parent and decides its exit code', () =>
      withImage(async (rootDir) => {
        const script =
          "trap 'exit 41' INT; trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"
        for (const [signal, exitCode] of [
          ['SIGINT', 41],
          ['SIGTERM', 42],
        ] as const) {
          const [program = '', ...parameters] = parentProgram({
            rootDir,
            command: ['sh', '-c', script],
            driver,
          })
          const parent = spawn(program, parameters, {stdio: ['ignore', 'pipe', 'inherit']})
          await once(parent.stdout, 'data')
          const closed = once(parent, 'close')
          parent.kill(signal)
          expect((await closed)[0]).to.equal(exitCode)
        }
      }))

    it('gets Ctrl-C from a terminal', function () {
      requiresScript(this)
      return withImage(async (rootDir) => {
        const script = "trap 'echo caught; exit 43' INT; echo ready; while :; do sleep 0.1; done"
        const words = parentProgram({rootDir, command: ['sh', '-c', script], driver})
        const quoted = words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ')
        const terminal = spawn('script', ['-qec', `exec ${quoted}`, '/dev/null'], {
          stdio: ['pipe', 'pipe', 'inherit'],
        })
        let seen = ''
        terminal.stdout.setEncoding('utf8').on('data', (text: string) => (seen += text))
        const closed = once(terminal, 'close')
        await until(() => seen.includes('ready'))
        terminal.stdin.write('\x03')
        expect((await closed)[0]).to.equal(43)
        expect(seen.match(/caught/g)).to.have.length(1)
      })
    })

    for (const name of ['proc', 'dev', 'sys']) {
      for (const target of ['/', '../../../../../../tmp', 'etc']) {
        it(`refuses an image whose /${name} is a link to ${target}, and touches nothing`, () =>
          withImage(
            async (rootDir) => {
              const before = readdirSync('/tmp')
              const error = await rejected(run(rootDir, ['echo', 'hi']))
              expect(error.code).to.equal('command_failed')
              expect(error.message).to.include(`/${name} of the image is not a directory`)
              expect(readdirSync('/tmp').filter((entry) => !before.includes(entry)))
                .to.not.include('null')
                .and.not.include('shm')
            },
            (lower) => {
              rmSync(join(lower, name), {recursive: true})
              symlinkSync(target, join(lower, name))
            },
          ))
      }
    }

    it('makes the directories that an image lacks', () =>
      withImage(
        async (rootDir) => {
          expect((await run(rootDir, ['echo', 'hi'])).stdout).to.equal('hi\n')
        },
        (lower) => {
          for (const name of ['proc', 'dev', 'sys']) rmSync(join(lower, name), {recursive: true})
        },
      ))

    it('is not held up or fooled by lists of users that are no files', () =>
      withImage(
        async (rootDir) => {
          const byName = await rejected(run(rootDir, ['echo', 'hi'], {user: 'root'}))
          expect(byName.message).to.include('no user root')
          const byNumber = run(rootDir, ['echo', 'hi'], {user: '7'})
          // runc reads the lists by itself, and would wait for the pipe for ever.
          if (driver === 'unshare') expect((await byNumber).stdout).to.equal('hi\n')
          else expect((await rejected(byNumber)).message).to.include('passwd of the image is not')
        },
        (lower) => {
          rmSync(join(lower, 'etc/passwd'))
          spawnSync('mkfifo', [join(lower, 'etc/passwd')])
          rmSync(join(lower, 'etc/group'))
          symlinkSync('/etc/group', join(lower, 'etc/group'))
        },
      ))
  })
}

function requiresScript(context: Mocha.Context): void {
  if (spawnSync('script', ['--version']).error !== undefined) context.skip()
}

describe('running a program in an image', function () {
  requires('root', 'program:busybox')
  this.timeout(60_000)

  it('collects processes that the program left behind', () =>
    withImage(async (rootDir) => {
      const script = `for i in 1 2 3; do (sleep 0.1 &); done; sleep 0.5
        busybox ps -o pid,stat | busybox grep -c ' Z'`
      const result: RunResult = await runInRoot({
        rootDir,
        command: ['sh', '-c', script],
        name: 'one',
        driver: 'unshare',
        stdio: 'pipe',
      })
      expect(result.stdout).to.equal('0\n')
    }))

  it('cannot type into the terminal it shares', () =>
    withImage(async (rootDir) => {
      const result = await runInRoot({
        rootDir,
        command: ['/bin/busybox', 'grep', '^Seccomp:', '/proc/self/status'],
        name: 'one',
        driver: 'unshare',
        stdio: 'pipe',
      })
      expect(result.stdout).to.equal('Seccomp:\t2\n')
    }))

  it('needs an absolute directory, a program and no NUL', async () => {
    const base = {rootDir: '/', name: 'one', driver: 'unshare', stdio: 'pipe'} as const
    for (const wrong of [
      {command: []},
      {command: ['']},
      {command: ['echo', 'a\0b']},
      {command: ['echo'], cwd: 'tmp'},
    ]) {
      expect((await rejected(runInRoot({...base, ...wrong}))).code).to.equal('command_failed')
    }
  })
})
