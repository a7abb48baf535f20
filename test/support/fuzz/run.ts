/** Runs the fuzzing threads and watches them: for hangs, for memory, for what they report. */
import {join} from 'node:path'
import {Worker} from 'node:worker_threads'

export type FuzzJob = {
  /** The number of the first case; the next one is `stride` further. */
  seed: number
  stride: number
  cases: number
  untilMs: number
  /** Every so many cases one is unpacked into a directory, in this process or in the child that users get. */
  extractEvery: number
  childEvery: number
  shared: SharedArrayBuffer
}

export type FuzzOptions = {
  seed: number
  cases: number
  durationMs: number
  threads: number
  extractEvery: number
  childEvery: number
  onProgress?: (done: number) => void
}

export type FuzzReport = {
  done: number
  /** How many cases of which kind ended how. */
  counts: Record<string, number>
  failures: {seed: number; text: string}[]
  peakRssBytes: number
  /** The case that took the most time of its thread, not of the processes that unpack; 0 ms after very few cases. */
  slowest: {seed: number; cpuMs: number}
}

/** Five seconds of work on one case, or a minute of waiting: a busy machine is not a hang. */
const HANG_CPU_MS = 5000
const HANG_WALL_MS = 60_000
/** A thread keeps a few MiB of sources and small archives; the rest is a leak. */
const HEAP_MIB_MAX = 256

type Message =
  | {kind: 'failed'; seed: number; text: string}
  | {kind: 'ended'; counts: Record<string, number>; slowest: FuzzReport['slowest']}

/** Fuzzes until the cases or the time are used up, or a case fails in every thread. The umask is 0 meanwhile. */
export async function runFuzz(options: FuzzOptions): Promise<FuzzReport> {
  const report: FuzzReport = {
    done: 0,
    counts: {},
    failures: [],
    peakRssBytes: 0,
    slowest: {seed: options.seed, cpuMs: 0},
  }
  const watched: SharedArrayBuffer[] = []
  const umask = process.umask(0)
  const look = setInterval(() => {
    report.peakRssBytes = Math.max(report.peakRssBytes, process.memoryUsage.rss())
    options.onProgress?.(doneOf(watched))
  }, 500)
  try {
    const threads = Array.from({length: options.threads}, (_, index) => {
      const shared = new SharedArrayBuffer(16)
      watched.push(shared)
      const share = Math.ceil((options.cases - index) / options.threads)
      return runThread(
        {
          seed: options.seed + index,
          stride: options.threads,
          cases: share,
          untilMs: Date.now() + options.durationMs,
          extractEvery: options.extractEvery,
          childEvery: options.childEvery,
          shared,
        },
        options.threads,
        report,
      )
    })
    await Promise.all(threads)
  } finally {
    clearInterval(look)
    process.umask(umask)
  }
  report.done = doneOf(watched)
  return report
}

const doneOf = (all: SharedArrayBuffer[]): number =>
  all.reduce((sum, shared) => sum + Number(Atomics.load(new BigInt64Array(shared), 1)), 0)

const cpuMs = (): number => {
  const {user, system} = process.cpuUsage()
  return Math.round((user + system) / 1000)
}

function runThread(job: FuzzJob, threads: number, report: FuzzReport): Promise<void> {
  const worker = new Worker(join(import.meta.dirname, 'worker.ts'), {
    workerData: job,
    // The unpacker closes its descriptors itself, some of them opened by system calls that Node did not see.
    trackUnmanagedFds: false,
    resourceLimits: {maxOldGenerationSizeMb: HEAP_MIB_MAX},
  })
  const shared = new BigInt64Array(job.shared)
  const current = (): number => Number(Atomics.load(shared, 0))
  let lastDone = -1n
  let sinceMs = Date.now()
  let sinceCpuMs = cpuMs()
  const watch = setInterval(() => {
    const done = Atomics.load(shared, 1)
    if (done !== lastDone) {
      lastDone = done
      sinceMs = Date.now()
      sinceCpuMs = cpuMs()
      return
    }
    const [wall, cpu] = [Date.now() - sinceMs, cpuMs() - sinceCpuMs]
    // The other threads work too, and count together.
    if (cpu > HANG_CPU_MS * threads || wall > HANG_WALL_MS) {
      report.failures.push({seed: current(), text: `it hangs: ${wall} ms, ${cpu} ms of CPU`})
      void worker.terminate()
    }
  }, 500)
  return new Promise((resolve) => {
    worker.on('message', (message: Message) => {
      if (message.kind === 'failed') report.failures.push(message)
      else {
        for (const [what, count] of Object.entries(message.counts)) {
          report.counts[what] = (report.counts[what] ?? 0) + count
        }
        if (message.slowest.cpuMs > report.slowest.cpuMs) report.slowest = message.slowest
      }
    })
    // Out of memory comes here too.
    worker.on('error', (error) => report.failures.push({seed: current(), text: String(error)}))
    worker.on('exit', () => {
      clearInterval(watch)
      resolve()
    })
  })
}
