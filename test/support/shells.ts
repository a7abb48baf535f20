/** Shells that are asked from a test: long-lived processes with a store of their own, side by side. */
import {fork, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {resolve} from 'node:path'
import type {Call} from './legal-orders.ts'
import type {Asked, Order} from './shell-process.ts'
import type {Scene} from './program.ts'

export type Shell = {
  pid: number
  /** One after another; resolves when all have been answered. */
  ask(orders: Order[]): Promise<Call[]>
  close(): Promise<void>
}

/** `words` name the sources by their digests. Close every shell, also when a test fails. */
export async function openShell(
  scene: Scene,
  number: number,
  words: Record<string, string>,
): Promise<Shell> {
  const child = fork(resolve('test/support/shell-process.ts'), {
    execArgv: ['--no-warnings'],
    env: {
      PATH: process.env['PATH'],
      HOME: scene.dir,
      NODE_COMPILE_CACHE: resolve('.cache/compile'),
      IMGSTORE_STORE_PATH: scene.store,
      IMGSTORE_DB_PATH: scene.db,
      IMGSTORE_BACKEND: 'dir',
      ...scene.env,
    },
  })
  await answerOf(child)
  let isBusy = false
  return {
    pid: child.pid ?? 0,
    ask: async (orders) => {
      const asked: Asked = {shell: number, orders, words}
      isBusy = true
      child.send(asked)
      const calls = (await answerOf(child)) as Call[]
      isBusy = false
      return calls
    },
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return
      const over = once(child, 'exit')
      // One that is still at it is of a test that failed.
      if (isBusy) child.kill('SIGKILL')
      else child.disconnect()
      await over
    },
  }
}

async function answerOf(child: ChildProcess): Promise<unknown> {
  return await new Promise((answer, refuse) => {
    const ended = (code: number | null): void => {
      refuse(new Error(`a shell ended with ${code}`))
    }
    child.once('exit', ended)
    child.once('message', (message) => {
      child.off('exit', ended)
      answer(message)
    })
  })
}
