/** deploy/container/Containerfile, built by podman on a debootstrapped base and run as its first lines say. */
import {execFileSync, spawnSync} from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import {join, resolve} from 'node:path'
import {fileURLToPath} from 'node:url'
import {expect} from 'chai'
import {randomBytesOf} from '../support/disk-images.ts'
import {freePorts} from '../support/free-ports.ts'
import {until, useScenes, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {rootfsArchive} from '../support/rootfs-archive.ts'

const checkout = fileURLToPath(new URL('../..', import.meta.url))
const groupName = 'libpod_parent'

/** podman with everything that it keeps in the scene's directory. */
class Podman {
  readonly #args: string[]

  constructor(scene: Scene) {
    this.#args = ['--root', join(scene.dir, 'containers'), '--runroot', join(scene.dir, 'run')]
    this.#args.push('--cgroup-manager', 'cgroupfs', '--log-level', 'error')
  }

  run(...args: string[]): {status: number | null; stdout: string; stderr: string} {
    return spawnSync('podman', [...this.#args, ...args], {
      encoding: 'utf8',
      maxBuffer: 64 * 1024 ** 2,
    })
  }

  ok(...args: string[]): string {
    const {status, stdout, stderr} = this.run(...args)
    if (status !== 0) throw new Error(`podman ${args.join(' ')}: ${stdout}${stderr}`)
    return stdout
  }

  /** Removes containers and images, and the control groups that podman leaves empty. */
  reset(): void {
    this.run('rm', '--all', '--force', '--time', '0')
    this.run('rmi', '--all', '--force')
    const root = '/sys/fs/cgroup'
    for (const dir of [root, ...readdirSync(root).map((name) => join(root, name))])
      if (existsSync(join(dir, groupName))) removeEmpty(join(dir, groupName))
  }
}

function removeEmpty(group: string): void {
  for (const entry of readdirSync(group, {withFileTypes: true}))
    if (entry.isDirectory()) removeEmpty(join(group, entry.name))
  try {
    rmdirSync(group)
  } catch {
    // Another podman of this host is in it.
  }
}

/** A built checkout without what is for development only, as the Containerfile asks for. */
function makeContext(scene: Scene): string {
  const context = join(scene.dir, 'context')
  mkdirSync(context)
  for (const name of [
    'package.json',
    'package-lock.json',
    'oclif.manifest.json',
    'LICENSE',
    'bin',
    'dist',
  ])
    cpSync(join(checkout, name), join(context, name), {recursive: true})
  // Hard links would do, were they sure to be on one file system.
  const modules = resolve(checkout, 'node_modules')
  execFileSync('cp', ['-a', `${modules}/.`, join(context, 'node_modules')])
  const prune = ['prune', '--omit=dev', '--offline', '--ignore-scripts', '--no-audit', '--no-fund']
  execFileSync('npm', prune, {cwd: context, stdio: 'pipe'})
  return context
}

/** A container gets no higher limits than the host's own, where the host may not raise them. */
function limits(): string[] {
  const text = readFileSync('/proc/self/limits', 'utf8')
  return [
    ['nofile', /^Max open files\s+\d+\s+(\d+)/m],
    ['nproc', /^Max processes\s+\d+\s+(\d+)/m],
  ].flatMap(([name, pattern]) => {
    const most = Math.min(Number((pattern as RegExp).exec(text)?.[1] ?? 4096), 4096)
    return ['--ulimit', `${name as string}=${most}:${most}`]
  })
}

describe('the container', function () {
  requires('root', 'program:podman', 'program:runc', 'program:debootstrap', 'program:npm')
  this.timeout(600_000)
  const makeScene = useScenes()

  it('is built on a plain Debian, serves read-only as nobody in particular, and ends in peace', async () => {
    const scene = makeScene()
    const podman = new Podman(scene)
    const images = join(scene.dir, 'images')
    mkdirSync(images)
    const bytes = randomBytesOf(1_000_000)
    writeFileSync(join(images, 'disk.img'), bytes)
    // Scenes are their owner's alone, and the container's user is another.
    execFileSync('chmod', ['755', scene.dir, images])
    try {
      podman.ok('import', rootfsArchive(), 'localhost/imgstore-test-base')
      podman.ok(
        ...['build', '--network=none', '--layers=false', '--tag=localhost/imgstore-test'],
        ...['--build-arg=BASE=localhost/imgstore-test-base'],
        ...['--file', join(checkout, 'deploy/container/Containerfile'), makeContext(scene)],
      )
      rmSync(join(scene.dir, 'context'), {recursive: true})
      const [port = 0] = await freePorts(1)
      podman.ok(
        ...['run', '--detach', '--name=serve', '--network=host', '--read-only', ...limits()],
        ...['--env', `AERO_STORAGE_LISTEN_ADDR=127.0.0.1:${port}`],
        ...['--volume', `${images}:/images:ro`, 'localhost/imgstore-test', '--require-range'],
      )
      const url = `http://127.0.0.1:${port}`
      await until('the container to serve', async () => {
        const state = podman.ok('inspect', 'serve', '--format={{.State.Status}}').trim()
        if (state === 'exited') throw new Error(podman.run('logs', 'serve').stdout)
        return await fetch(`${url}/healthz`).then(
          ({ok}) => ok,
          () => false,
        )
      })
      const part = await fetch(`${url}/v1/images/disk.img`, {headers: {range: 'bytes=1000-500999'}})
      expect(part.status).to.equal(206)
      expect(Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(1000, 501_000))).to.equal(
        true,
      )
      // The flag behind the image's name reached the server.
      expect((await fetch(`${url}/v1/images/disk.img`)).status).to.equal(416)

      expect(podman.ok('exec', 'serve', 'id')).to.match(/^uid=10001\(?.*gid=10001/)
      for (const place of ['/opt/imgstore/x', '/images/x', '/x'])
        expect(podman.run('exec', 'serve', 'touch', place).status, place).to.not.equal(0)
      expect(podman.ok('exec', 'serve', 'aero-storage-server', '--version').trim()).to.match(
        /^aero-storage-server \d/,
      )

      podman.ok('stop', '--time=30', 'serve')
      expect(podman.ok('inspect', 'serve', '--format={{.State.ExitCode}}').trim()).to.equal('0')
      expect(podman.ok('logs', 'serve')).to.include('"message":"the server has stopped"')
    } finally {
      podman.reset()
    }
    expect(podman.ok('ps', '--all', '--quiet')).to.equal('')
    expect(scene.mounts().filter((point) => !point.endsWith('/containers/overlay'))).to.deep.equal(
      [],
    )
  })
})
