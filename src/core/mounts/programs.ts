/** Where the host's own programs (mount, unshare, runc) are found. */
import {spawnSync} from 'node:child_process'
import {accessSync, constants} from 'node:fs'
import {join} from 'node:path'
import {fail} from '../errors.ts'

const searched = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

/** The environment of programs that run as root for us: found in fixed places, never by the caller's PATH. */
export const programEnv = {PATH: searched.join(':'), LC_ALL: 'C'}

/** The path of a program of the host, or undefined where it is not installed. */
export function findProgram(name: string): string | undefined {
  return searched
    .map((dir) => join(dir, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

/**
 * Runs a program of the host to its end; `fds` become its descriptors 3 and up.
 *
 * Errors: host_lacks where it is not installed; an error with the program's own words when it fails.
 */
export function runProgram(program: string, parameters: string[], fds: number[] = []): void {
  const result = spawnSync(program, parameters, {
    env: programEnv,
    stdio: ['ignore', 'ignore', 'pipe', ...fds],
    encoding: 'utf8',
  })
  if (result.error !== undefined) {
    throw fail('host_lacks', {what: program, need: 'mount images'}, {cause: result.error})
  }
  if (result.status !== 0) throw new Error(result.stderr.trim() || `${program} failed`)
}
