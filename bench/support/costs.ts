/** What the programs in bench/ measure with: wall and CPU of a command and all its children, medians, ratios. */
import {spawnSync} from 'node:child_process'

/** CPU is user plus system of all processes. */
export type Cost = {wallMs: number; cpuMs: number}

/** Runs a command to its end; bash's `time` counts all its children. Errors: throws when it fails. */
export function measure(command: readonly string[], env?: NodeJS.ProcessEnv): Cost {
  const script = 'TIMEFORMAT="%3R %3U %3S"; time "$@" 3>&2 2>/dev/null'
  const options = {encoding: 'utf8', ...(env === undefined ? {} : {env})} as const
  const run = spawnSync('bash', ['-c', script, 'bash', ...command], options)
  if (run.status !== 0) throw new Error(`${command.join(' ')} failed: ${run.stdout} ${run.stderr}`)
  const line = run.stderr.trim().split('\n').at(-1) ?? ''
  const [wall = 0, user = 0, system = 0] = line.split(' ').map((text) => Number(text) * 1000)
  return {wallMs: wall, cpuMs: user + system}
}

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN

export const round = (value: number, digits = 2): number => Number(value.toFixed(digits))

/** Medians of ours beside a peer's, and how they compare: ours divided by the peer's. */
export function ratios(ours: readonly Cost[], peer: readonly Cost[]): Record<string, number> {
  const of = (costs: readonly Cost[], key: keyof Cost): number =>
    median(costs.map((cost) => cost[key]))
  return {
    wall_ratio: round(of(ours, 'wallMs') / of(peer, 'wallMs'), 3),
    cpu_ratio: round(of(ours, 'cpuMs') / of(peer, 'cpuMs'), 3),
    wall_ms: round(of(ours, 'wallMs'), 0),
    cpu_ms: round(of(ours, 'cpuMs'), 0),
    peer_wall_ms: round(of(peer, 'wallMs'), 0),
    peer_cpu_ms: round(of(peer, 'cpuMs'), 0),
  }
}
