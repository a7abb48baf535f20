/** One thread of `simulate`: takes ranges of seeds until there are no more. */
import {parentPort} from 'node:worker_threads'
import {runSchedules} from './run.ts'

parentPort?.on('message', ({first, count}: {first: number; count: number}) => {
  runSchedules(first, count).then(
    (counts) => parentPort?.postMessage({counts}),
    (error: unknown) => parentPort?.postMessage({error: String(error)}),
  )
})
