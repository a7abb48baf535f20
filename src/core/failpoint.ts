/**
 * A named place where a test can make the program die or fail: `failpoint('unpack.renamed')` after each durable act.
 * Nothing happens unless a test armed it: in its own process by `armFailpoint`, in a child by IMGSTORE_FAILPOINT
 * (read once, by settings, and handed to `armFailpointFrom`).
 */
type Action = 'exit' | 'stop' | 'throw' | (() => void)

const armed = new Map<string, {action: Action; skip: number}>()
let isAnyArmed = false

export function failpoint(name: string): void {
  if (!isAnyArmed) return
  const found = armed.get(name)
  if (!found) return
  if (found.skip-- > 0) return
  if (found.action === 'exit') process.kill(process.pid, 'SIGKILL')
  else if (found.action === 'stop') stopHere()
  else if (found.action === 'throw') throw new Error(`failpoint ${name}`)
  else found.action()
}

/** Stops the process until somebody sends SIGCONT. The wait gives the signal time to reach all threads. */
function stopHere(): void {
  process.kill(process.pid, 'SIGSTOP')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
}

export function armFailpoint(name: string, action: Action, skip = 0): void {
  armed.set(name, {action, skip})
  isAnyArmed = true
}

export function disarmFailpoints(): void {
  armed.clear()
  isAnyArmed = false
}

/** Arms from text: `name`, `name=exit`, `=stop`, `=throw`, each with `@N` to let N passes go by first; comma-separated. */
export function armFailpointsFrom(text: string): void {
  for (const part of text.split(',')) {
    const match = /^([\w.-]+)(?:=(exit|stop|throw))?(?:@(\d+))?$/.exec(part.trim())
    if (match?.[1]) armFailpoint(match[1], (match[2] ?? 'exit') as Action, Number(match[3] ?? 0))
  }
}
