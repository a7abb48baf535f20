/** Random schedules in all processors at once. */
import {once} from 'node:events'
import {Worker} from 'node:worker_threads'
import {noCounts} from './run.ts'
import type {Counts} from './schedule.ts'

const rangeSize = 5000

/**
 * Runs `count` schedules from seed `first` on in `threads` threads.
 *
 * Errors: what a schedule violated, with its seed. Cost: some 100 µs of one processor each.
 */
export async function simulate(first: number, count: number, threads: number): Promise<Counts> {
  const total = noCounts()
  const end = first + count
  let next = first
  const work = async (): Promise<void> => {
    const thread = new Worker(new URL('thread.ts', import.meta.url), {execArgv: ['--no-warnings']})
    try {
      while (next < end) {
        const range = {first: next, count: Math.min(rangeSize, end - next)}
        next += range.count
        thread.postMessage(range)
        const [answer] = (await once(thread, 'message')) as [{counts?: Counts; error?: string}]
        if (!answer.counts) throw new Error(answer.error ?? 'a thread gave no answer')
        for (const key of Object.keys(total) as (keyof Counts)[]) total[key] += answer.counts[key]
      }
    } finally {
      await thread.terminate()
    }
  }
  await Promise.all(Array.from({length: threads}, work))
  return total
}
