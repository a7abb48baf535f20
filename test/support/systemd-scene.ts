/** A real systemd that starts one unit of ours, in namespaces of its own, and no trace of it afterwards. */
import {spawnSync} from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs'
import {basename, join, resolve} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {fileURLToPath} from 'node:url'
import {program, until, type Scene} from './program.ts'

export type Manager = {
  /** Runs systemctl inside; what it printed when it did well. */
  systemctl(...args: string[]): string
  /** Properties of a unit, by `systemctl show`. */
  show(unit: string, ...properties: string[]): Record<string, string>
  /** Runs any program inside. */
  inside(...command: string[]): {status: number | null; stdout: string; stderr: string}
}

const script = fileURLToPath(new URL('systemd-scene.sh', import.meta.url))

/**
 * Boots systemd with `unit` installed, and ends it after `body`. The checkout of the program under test stands in
 * /opt/imgstore, and /usr/local/bin/imgstore is a link into it. `places`: what stands elsewhere inside, by path.
 */
export async function withSystemd(
  scene: Scene,
  o: {name: string; unit: string; places?: Readonly<Record<string, string>>},
  body: (manager: Manager) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(scene.dir, 'systemd-'))
  const unit = join(dir, o.name)
  writeFileSync(unit, o.unit)
  mkdirSync(join(dir, 'work'))
  const group = basename(scene.dir)
  const places = Object.entries(o.places ?? {}).map(([inside, outside]) => `${inside}=${outside}`)
  const args = [script, group, join(dir, 'work'), resolve(program, '../..'), unit, ...places]
  const running = scene.start(args, {command: 'bash'})
  try {
    const pid = await until('systemd to run', () => {
      if (running.isOver) throw new Error(`systemd ended: ${running.out.stderr}`)
      return bootedPid(running.pid)
    })
    const inside: Manager['inside'] = (...command) =>
      spawnSync('nsenter', ['--target', String(pid), '--mount', '--pid', '--', ...command], {
        encoding: 'utf8',
      })
    const systemctl: Manager['systemctl'] = (...words) => {
      const {status, stdout, stderr} = inside('systemctl', ...words)
      if (status !== 0)
        throw new Error(
          [`systemctl ${words.join(' ')}:`, stderr, inside('cat', '/run/scene.log').stdout].join(
            '\n',
          ),
        )
      return stdout
    }
    const show: Manager['show'] = (name, ...properties) =>
      Object.fromEntries(
        systemctl('show', name, `--property=${properties.join(',')}`)
          .trim()
          .split('\n')
          .map((line) => line.split(/=(.*)/s, 2) as [string, string]),
      )
    await until('systemd to answer', () => inside('systemctl', 'list-units').status === 0)
    await body({systemctl, show, inside})
  } finally {
    running.kill('SIGKILL')
    await running.exited
    await removeGroups(group)
  }
}

/** The first process of the namespaces, once it is systemd. */
function bootedPid(unsharePid: number): number | undefined {
  try {
    const children = readFileSync(`/proc/${unsharePid}/task/${unsharePid}/children`, 'utf8')
    const pid = Number(children.split(' ')[0])
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'systemd' ? pid : undefined
  } catch {
    return undefined
  }
}

/** Removes the control groups of that name; their last processes may just be ending. */
async function removeGroups(name: string): Promise<void> {
  const root = '/sys/fs/cgroup'
  const roots = [root, ...readdirSync(root).map((hierarchy) => join(root, hierarchy))]
  for (const group of roots.map((parent) => join(parent, name)).filter((path) => existsSync(path)))
    for (let i = 0; ; i++) {
      try {
        removeTree(group)
        break
      } catch (error) {
        if (i === 100) throw error
        await sleep(50)
      }
    }
}

function removeTree(group: string): void {
  for (const entry of readdirSync(group, {withFileTypes: true}))
    if (entry.isDirectory()) removeTree(join(group, entry.name))
  rmdirSync(group)
}
