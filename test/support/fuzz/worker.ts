/**
 * Fuzzes from one number on, in a thread of its own, so that whoever started it can see it hang and stop it. It shares
 * two words with its starter: the number of the case at work, and how many are done.
 */
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {parentPort, workerData} from 'node:worker_threads'
import {fuzzCase} from './cases.ts'
import {checkInProcess} from './check.ts'
import {checkExtraction, type ExtractWay} from './extract-case.ts'
import type {FuzzJob} from './run.ts'

const WARM_CASES = 1000

const job = workerData as FuzzJob
const shared = new BigInt64Array(job.shared)
const counts: Record<string, number> = {}
const slowest = {seed: job.seed, cpuMs: 0}

function count(what: string): void {
  counts[what] = (counts[what] ?? 0) + 1
}

/** Of this thread: a busy machine makes no case slow. */
function threadCpuMs(): number {
  const {user, system} = process.threadCpuUsage()
  return (user + system) / 1000
}

async function attempt(seed: number, dir: string): Promise<void> {
  count(`${fuzzCase(seed).kind} ${checkInProcess(seed)}`)
  const ways: ExtractWay[] = []
  if (seed % job.extractEvery === 0) ways.push('here')
  if (seed % job.childEvery === 0) ways.push('child')
  for (const way of ways) count(`unpacked ${way} ${await checkExtraction(seed, dir, way)}`)
}

const dir = mkdtempSync(join(tmpdir(), 'imgstore-fuzz-'))
try {
  for (let done = 0; done < job.cases; done++) {
    const seed = job.seed + done * job.stride
    Atomics.store(shared, 0, BigInt(seed))
    const startedMs = threadCpuMs()
    try {
      await attempt(seed, dir)
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
      parentPort?.postMessage({kind: 'failed', seed, text})
      rmSync(dir, {recursive: true, force: true})
      break
    }
    Atomics.store(shared, 1, BigInt(done + 1))
    const cpuMs = threadCpuMs() - startedMs
    // The first cases also compile the program.
    if (done >= WARM_CASES && cpuMs > slowest.cpuMs) Object.assign(slowest, {seed, cpuMs})
    if (done % 1000 === 0 && Date.now() > job.untilMs) break
  }
} finally {
  rmSync(dir, {recursive: true, force: true})
}
parentPort?.postMessage({kind: 'ended', counts, slowest})
