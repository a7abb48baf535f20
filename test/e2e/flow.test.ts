/** The life of an image as the older documents tell it and as the help of each command shows it, typed into a shell. */
import {spawnSync} from 'node:child_process'
import {existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {expect} from 'chai'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {makeBusyboxImage} from '../support/busybox-image.ts'
import {withDisks} from '../support/disk-examples.ts'
import {rawDisk, sha256Of} from '../support/disk-image.ts'
import {makeImage, readTree, type Image} from '../support/image-maker.ts'
import {program, until, useScenes, type Ran, type Running, type Scene} from '../support/program.ts'
import {missing, requires} from '../support/requires.ts'
import {expectSoundStore, imagesOf, mountsOf, namesIn} from '../support/store-check.ts'

type Manifest = {
  commands: Record<
    string,
    {
      id: string
      args: Record<string, {required?: boolean}>
      examples?: {description: string; command: string}[]
    }
  >
}
const manifest = JSON.parse(
  readFileSync(join(dirname(program), '../oclif.manifest.json'), 'utf8'),
) as Manifest

describe('the flow of an image', function () {
  requires('root', 'program:busybox')
  const newScene = useScenes()
  const newServer = useServers()

  it('goes as the first README has it: worker, fetch, status, list, cleanup', async () => {
    const scene = withPrograms(newScene())
    const image = makeImage(20)
    const url = (await newServer()).put('/image.tar', image.bytes)
    const ran = await inShell(
      scene,
      `imgstore worker 2> worker.log &
       imgstore fetch myimage ${url} ${image.digest}
       for i in $(seq 100); do
         imgstore status myimage > status.txt
         grep -q 'Image myimage: ACTIVE' status.txt && break
         sleep 0.1
       done
       cat status.txt
       imgstore list
       imgstore cleanup
       kill $!
       wait $!
       echo worker ended with $?`,
    )
    expect(ran.stderr).to.equal('')
    expect(ran.stdout).to.match(/^Enqueued image myimage\nImage myimage: ACTIVE\n/)
    expect(ran.stdout).to.match(/^NAME +STATE .*\nmyimage +ACTIVE /m)
    expect(ran.stdout).to.match(/\nNothing to remove: freed 0 B\nworker ended with 0\n$/)
    expect(readTree(join(scene.store, 'active/myimage'))).to.deep.equal(image.tree)
    await expectSoundStore(scene)
  })

  it('goes as the second has it: manager --daemon, manager fetch, status and cleanup', async () => {
    const scene = withPrograms(newScene())
    const image = makeImage(21)
    const url = (await newServer()).put('/image.tar', image.bytes)
    const at = '--db ./custom.db --store ./custom-store'
    const ran = await inShell(
      scene,
      `unset IMGSTORE_STORE_PATH IMGSTORE_DB_PATH
       manager --daemon ${at} 2> worker.log &
       manager fetch myimage ${url} ${image.digest} ${at}
       until manager status myimage ${at} | grep 'Image myimage: ACTIVE'; do sleep 0.1; done
       manager cleanup ${at}
       ls custom-store/active/myimage | wc -l
       kill $!
       wait $!
       manager deactivate myimage ${at}`,
    )
    expect(ran.stderr).to.equal('')
    expect(ran.stdout).to.match(
      /^Enqueued image myimage\nImage myimage: ACTIVE\nNothing to remove: freed 0 B\n[1-9]\d*\n[\s\S]*Image myimage: STORED\n$/,
    )
    expect(existsSync(join(scene.dir, 'custom.db'))).to.equal(true)
    expect(scene.mounts()).to.deep.equal([])
  })

  it('shows what happened: events as they come, runs, and a verified archive', async () => {
    const scene = newScene()
    const image = makeImage(22)
    const url = (await newServer()).put('/image.tar', image.bytes)
    await scene.ok(['worker', '--once'])
    const follower = scene.start(['events', '--follow', '--json'])
    const worker = scene.start(['worker'])
    await scene.ok(['fetch', 'one', url, image.digest])
    const steps = (): string[] => followed(follower).map(({event}) => event.to)
    await until('the last event', () => steps().includes('ACTIVE'))
    expect(steps()).to.deep.equal([
      'DOWNLOADING',
      'DOWNLOADED',
      'UNPACKING',
      'UNPACKED',
      'STORED',
      'ACTIVATING',
      'ACTIVE',
    ])
    follower.kill('SIGINT')
    expect((await follower.exited).code).to.equal(130)
    worker.kill('SIGTERM')
    await worker.exited

    const {runs} = await scene.json<{runs: {id: string; status: string}[]}>(['runs', 'list'])
    expect(runs.map(({status}) => status)).to.deep.equal(['done'])
    const shown = await scene.ok(['runs', 'show', runs[0]?.id ?? ''])
    expect(shown).to.match(/^Run \w{26}: done\n[\s\S]*ACTIVATING → ACTIVE/)
    expect(await scene.ok(['verify'])).to.match(/Checked 1 archive, .*: 0 damaged, 0 missing\n$/)
    await expectSoundStore(scene)
  })

  it('runs programs in the tree, and keeps what they write', async () => {
    const {scene} = await withTiny(newScene(), await newServer())
    const run = ['run', 'debian', '--', '/bin/sh', '-c']
    expect(
      await scene.ok([...run, 'cat /etc/os-release; id -u; echo hello > /root/note']),
    ).to.equal('NAME=tiny\n0\n')
    expect(readFileSync(join(scene.store, 'overlays/debian/upper/root/note'), 'utf8')).to.equal(
      'hello\n',
    )
    expect((await scene.run([...run, 'exit 7'])).code).to.equal(7)
    await scene.ok(['deactivate', 'debian'])
    expect(mountsOf(scene)).to.deep.equal([])
    await scene.ok(['activate', 'debian'])
    expect(await scene.ok([...run, 'cat /root/note'])).to.equal('hello\n')
    await scene.ok(['remove', 'debian'])
    for (const dir of ['blobs', 'images', 'overlays', 'active', 'staging'])
      expect(namesIn(scene, dir), dir).to.deep.equal([])
    await expectSoundStore(scene)
  })
})

describe('every command', function () {
  requires('root', 'program:busybox')
  const newScene = useScenes()
  const newServer = useServers()

  it('gives JSON with keys in snake case', async () => {
    const {scene, server, image} = await withTiny(newScene(), await newServer())
    const url = server.put('/other.tar', image.bytes)
    const {runs} = await scene.json<{runs: {id: string}[]}>(['runs', 'list'])
    const commands: Record<string, string[]> = {
      fetch: ['fetch', 'other', url, image.digest, '--profile', 'image', '--wait'],
      status: ['status'],
      list: ['list'],
      events: ['events'],
      'runs:list': ['runs', 'list'],
      'runs:show': ['runs', 'show', runs[0]?.id ?? ''],
      doctor: ['doctor', '--settings'],
      verify: ['verify'],
      cleanup: ['cleanup', '--dry-run'],
      backup: ['backup', './imgstore.tar', '--blobs'],
      restore: [
        'restore',
        './imgstore.tar',
        '--store',
        './restored/store',
        '--db',
        './restored.db',
      ],
      completion: ['completion', 'bash'],
      run: ['run', 'debian', '--', '/bin/sh', '-c', 'exit 0'],
      convert: ['convert', 'debian', '--backend', 'erofs'],
      deactivate: ['deactivate', 'debian'],
      activate: ['activate', 'debian'],
      retry: ['retry', 'debian'],
      remove: ['remove', 'other'],
      worker: ['worker', '--once'],
      'disk:publish': ['disk', 'publish', './debian.img', '--id', 'debian', '--version', 'sha256'],
      'disk:list': ['disk', 'list'],
      'disk:verify': ['disk', 'verify', './images/chunked/debian/r3'],
    }
    // What `serve` says is its log and its answers.
    const all = Object.keys(manifest.commands).filter((id) => id !== 'serve')
    expect(Object.keys(commands).sort()).to.deep.equal(all.sort())
    await withDisks(scene, () => Promise.resolve())
    for (const [id, args] of Object.entries(commands)) {
      const end = args.includes('--') ? args.indexOf('--') : args.length
      const ran = await scene.run(args.toSpliced(end, 0, '--json'))
      expect(ran.code, `${id}: ${ran.stdout}${ran.stderr}`).to.equal(0)
      for (const value of documents(ran.stdout, id)) expectSnakeCase(value, id)
    }
    await expectSoundStore(scene)
  })

  for (const {id, examples = []} of Object.values(manifest.commands)) {
    it(`has an example that works: ${id.replace(':', ' ')}`, async () => {
      expect(examples).to.have.length.greaterThan(0)
      for (const example of examples) {
        const command = example.command.replaceAll('<%= config.bin %>', 'imgstore')
        if (id.startsWith('disk:')) {
          const scene = withPrograms(newScene())
          await withDisks(scene, async (rewrite) => {
            const ran = await inShell(scene, rewrite(command))
            expect(ran.code, `${command}: ${ran.stdout}${ran.stderr}`).to.equal(0)
          })
          continue
        }
        if (id === 'serve') await expectServes(withPrograms(newScene()), command)
        else await expectExample(await withTiny(newScene(), await newServer(), command), command)
      }
    })
  }
})

describe('completion scripts of the built program', function () {
  requires('root', 'program:busybox')
  const newScene = useScenes()
  const newServer = useServers()

  it('load in bash and complete commands, flags and names of images', async () => {
    const {scene} = await withTiny(withPrograms(newScene()), await newServer())
    const script = await scene.ok(['completion', 'bash'])
    expect(spawnSync('bash', ['-n'], {input: script}).status).to.equal(0)
    const complete = async (words: string): Promise<string[]> => {
      const ran = await inShell(
        scene,
        `source <(imgstore completion bash)
         COMP_WORDS=(${words}) COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
         _imgstore
         printf '%s\\n' "\${COMPREPLY[@]}"`,
      )
      expect(ran.stderr).to.equal('')
      return ran.stdout.trim().split('\n')
    }
    expect(await complete('imgstore ac')).to.deep.equal(['activate'])
    expect(await complete('imgstore runs s')).to.deep.equal(['show'])
    expect(await complete('imgstore fetch --rep')).to.deep.equal(['--replace'])
    expect(await complete(`imgstore status d`)).to.deep.equal(['debian'])
  })

  for (const [shell, check] of [
    ['zsh', ['zsh', '-n']],
    ['fish', ['fish', '--no-execute']],
  ] as const) {
    if (missing(`program:${shell}`) !== undefined) continue
    it(`load in ${shell}`, async () => {
      const scene = newScene()
      const script = join(scene.dir, 'script')
      writeFileSync(script, await scene.ok(['completion', shell]))
      const [command, ...args] = check
      const ran = spawnSync(command, [...args, script], {encoding: 'utf8'})
      expect(ran.stderr).to.equal('')
      expect(ran.status).to.equal(0)
    })
  }
})

type Tiny = {scene: Scene; server: BlobServer; image: Image; url: string; run: string}

/** A store with the image `debian`, in the state that a command needs. */
async function withTiny(scene: Scene, server: BlobServer, command = ''): Promise<Tiny> {
  const tiny = command.includes('--kind disk') ? diskImage() : makeBusyboxImage()
  const url = server.put('/debian.tar', tiny.bytes)
  const fetch = ['fetch', 'debian', url, tiny.digest, '--wait']
  if (command.includes('retry')) await failFirst(scene, server, fetch, command)
  else if (!command.includes('fetch')) await scene.ok([...fetch, '--profile', 'image'])
  if (command.includes('imgstore activate')) await scene.ok(['deactivate', 'debian'])
  if (/imgstore restore|--force/.test(command)) await scene.ok(['backup', './imgstore.tar'])
  const {runs} = await scene.json<{runs: {id: string}[]}>(['runs', 'list'])
  const run = runs[0]?.id ?? ''
  return {scene: withPrograms(scene), server, image: {...tiny, tree: new Map()}, url, run}
}

function diskImage(): Pick<Image, 'bytes' | 'digest'> {
  const bytes = rawDisk()
  return {bytes, digest: sha256Of(bytes)}
}

/** Runs an example of `serve` at a free port, with the files that it names, until it says that it listens. */
async function expectServes(scene: Scene, example: string): Promise<void> {
  const command = example
    .replace('/srv/images', './images')
    .replace(/--listen-addr \S+/, '--listen-addr 127.0.0.1:0')
  scene.env['IMGSTORE_LISTEN_ADDR'] = '127.0.0.1:0'
  for (const name of ['secret', 'tokens'])
    writeFileSync(join(scene.dir, name), `${name.repeat(8)}\n`, {mode: 0o600})
  const made = spawnSync('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
    ...['-keyout', join(scene.dir, 'key.pem'), '-out', join(scene.dir, 'cert.pem')],
    ...['-subj', '/CN=localhost', '-days', '1'],
  ])
  expect(made.status, made.stderr.toString()).to.equal(0)
  const server = scene.start(['-c', `exec ${command}`], {command: 'bash'})
  await until(command, () =>
    server.out.stdout.includes('"message":"aero-storage-server listening"'),
  )
  server.kill('SIGINT')
  const ran = await server.exited
  expect(ran.code, `${command}: ${ran.stdout}${ran.stderr}`).to.equal(0)
}

/** Brings `debian` to FAILED for the reason that a retry then mends. */
async function failFirst(
  scene: Scene,
  server: BlobServer,
  fetch: string[],
  retry: string,
): Promise<void> {
  if (retry.includes('--profile')) {
    expect((await scene.run(fetch)).code).to.equal(16)
  } else if (retry.includes('--max-file-size')) {
    const small = ['--profile', 'image', '--max-file-size', '1KiB']
    expect((await scene.run([...fetch, ...small])).code).to.equal(16)
  } else {
    const {bytes} = makeBusyboxImage()
    server.put('/debian.tar', bytes, (nth) => (nth === 0 ? {status: 404} : {}))
    expect((await scene.run([...fetch, '--profile', 'image'])).code).to.equal(13)
  }
}

/** Runs an example as it stands there, but for the source, the checksum and the run, which are real ones here. */
async function expectExample({scene, url, image, run}: Tiny, example: string): Promise<void> {
  const command = example
    .replace(/(https|s3):\/\/\S+/, url)
    .replace(/[0-9a-f]{64}/, image.digest)
    .replace(/01KAB3DEFGH4JKMNPQRSTVWXYZ/, run)
    .replace(/01KAB3\b/, run.slice(0, 20))
  mkdirSync(join(scene.dir, '.config/fish/completions'), {recursive: true})
  const shell = command.includes(' zsh') && missing('program:zsh') === undefined ? 'zsh' : 'bash'
  const prelude = shell === 'zsh' ? 'autoload -U compinit; compinit -u; ' : ''
  const started = scene.start(['-c', `${prelude}${command}`], {command: shell})
  // What goes on for ever is sound when it says that it is at work; a follower then exits as interrupted.
  const sign = command.includes('--follow')
    ? 'ACTIVE'
    : /worker(?!.*--once)/.test(command)
      ? 'worker started'
      : undefined
  if (sign !== undefined) {
    await until(command, () => (started.out.stdout + started.out.stderr).includes(sign))
    process.kill(-started.pid, 'SIGINT')
  }
  const ran = await started.exited
  const code = command.includes('--follow') ? 130 : 0
  expect(ran.code, `${command}: ${ran.stdout}${ran.stderr}`).to.equal(code)
  if (/--wait|retry/.test(command)) expect(imagesOf(scene)[0]?.state).to.equal('ACTIVE')
}

/** Puts `imgstore` and `manager` into the PATH of a scene. */
function withPrograms(scene: Scene): Scene {
  const bin = join(scene.dir, 'bin')
  if (!existsSync(bin)) {
    mkdirSync(bin)
    for (const name of ['imgstore', 'manager'])
      symlinkSync(join(dirname(program), name), join(bin, name))
    scene.env['PATH'] = `${bin}:${process.env['PATH'] ?? ''}`
  }
  return scene
}

async function inShell(scene: Scene, text: string): Promise<Ran> {
  return await scene.run(['-c', text], {command: 'bash'})
}

function followed(follower: Running): {kind: string; event: {to: string}}[] {
  const lines = follower.out.stdout.split('\n').slice(0, -1)
  return lines.map((line) => JSON.parse(line) as {kind: string; event: {to: string}})
}

/** One document, or one on each line. */
function documents(text: string, id: string): unknown[] {
  if (id === 'worker') expect(text).to.equal('')
  if (text.trim() === '') return []
  return text.startsWith('{\n')
    ? [JSON.parse(text)]
    : text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as unknown)
}

/** Keys in snake case, but where they are names from elsewhere (of settings, of variables). */
function expectSnakeCase(value: unknown, where: string): void {
  if (Array.isArray(value)) for (const item of value) expectSnakeCase(item, where)
  else if (typeof value === 'object' && value !== null)
    for (const [key, inner] of Object.entries(value)) {
      expect(key, `${where}: ${key}`).to.match(/^[a-z][a-z0-9]*(_[a-z0-9]+)*$/)
      expectSnakeCase(inner, where)
    }
}
