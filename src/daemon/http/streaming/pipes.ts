/** Pipes that are used again: one in a turn of the event loop, and one for each client that has no room for what is in it. */
import {closePipe, openPipe, type Pipe} from '../../../core/store.ts'

/**
 * What a pipe holds, and what is sent of a body at once (bench/streaming): with 256 KiB 1 MiB ranges take half as much
 * processor time again, with 1 MiB a tenth, and all pipes of a user have a bound too (64 MiB, pipe(7)).
 */
const capacity = 512 * 1024
/** A smaller one, which is all that the host gives to a user who has many, costs more than copying. */
const leastCapacity = 64 * 1024
const idleMax = 64
const idle: Pipe[] = []

/** An empty pipe; undefined when there is none to be had: no descriptors are left, or no memory for pipes. */
export function takePipe(): Pipe | undefined {
  const kept = idle.pop()
  if (kept) return kept
  let pipe: Pipe
  try {
    pipe = openPipe(capacity)
  } catch {
    return undefined
  }
  if (pipe.capacity >= leastCapacity) return pipe
  closePipe(pipe)
  return undefined
}

/** Takes back an empty pipe. One that is not empty is closed instead. */
export function givePipe(pipe: Pipe): void {
  if (idle.length < idleMax) idle.push(pipe)
  else closePipe(pipe)
}
