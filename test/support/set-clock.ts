/** A clock that a test sets for whole processes, by Debian's libfaketime. The steady clock goes on as it does. */
import {existsSync, readdirSync, renameSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'

/** The library, or undefined where the package `faketime` is not installed. */
function libraryPath(): string | undefined {
  return readdirSync('/usr/lib', {withFileTypes: true})
    .map(({name}) => join('/usr/lib', name, 'faketime/libfaketime.so.1'))
    .find((path) => existsSync(path))
}

export type SetClock = {
  /** For the environment of the processes. */
  env: Record<string, string>
  /** How far their clock is off from now on; they see it within a second, not all at once. */
  set(offsetSeconds: number): void
}

export function makeSetClock(dir: string): SetClock {
  const library = libraryPath()
  if (library === undefined) throw new Error('libfaketime.so.1 is missing: apt install faketime')
  const path = join(dir, 'clock')
  const set = (offsetSeconds: number): void => {
    // Never half written.
    writeFileSync(`${path}.new`, `${offsetSeconds < 0 ? '' : '+'}${offsetSeconds}\n`)
    renameSync(`${path}.new`, path)
  }
  set(0)
  return {
    set,
    env: {
      LD_PRELOAD: library,
      DONT_FAKE_MONOTONIC: '1',
      FAKETIME_CACHE_DURATION: '1',
      FAKETIME_TIMESTAMP_FILE: path,
    },
  }
}

/** Removes what libfaketime leaves in shared memory of each process that ended or was killed. */
export function removeClockLeftovers(): void {
  const place = '/dev/shm'
  for (const name of readdirSync(place)) {
    const pid = /^(?:sem\.faketime_sem|faketime_shm)_(\d+)$/.exec(name)?.[1]
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(place, name), {force: true})
  }
}
