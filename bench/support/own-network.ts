/**
 * A network of the benchmark's own, so that the way in which TCP sends is the same wherever it runs: with `bbr` a server's
 * bytes leave on timers whose cost no process pays, and with Linux's default, `cubic`, they leave in the server's calls.
 */
import {spawnSync} from 'node:child_process'
import {readFileSync} from 'node:fs'

const mark = 'IMGSTORE_BENCH_NETWORK'

/** The congestion control that new connections get here. */
export function congestionControl(): string {
  return readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim()
}

/**
 * Runs this program again in a network namespace with nothing but loopback and the congestion control that is asked for
 * (`host` leaves all as it is), and ends with its exit code. Returns in the process that runs there. Needs root.
 */
export function enterOwnNetwork(congestion: string): void {
  if (congestion === 'host' || process.env[mark]) return
  const setUp = 'ip link set lo up && echo "$0" > /proc/sys/net/ipv4/tcp_congestion_control'
  const args = ['--net', 'sh', '-c', `${setUp} && exec "$@"`, congestion]
  const done = spawnSync('unshare', [...args, process.execPath, ...process.argv.slice(1)], {
    stdio: 'inherit',
    env: {...process.env, [mark]: '1'},
  })
  process.exit(done.status ?? 1)
}
