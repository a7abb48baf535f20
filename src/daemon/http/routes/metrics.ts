/**
 * What Prometheus reads: every metric of imgstore, by name, in one place. Counters and durations are fed by the events
 * of this process; states, runs and space are read from the store when somebody asks.
 */
import {Counter, Gauge, Histogram, Registry, collectDefaultMetrics} from 'prom-client'
import {imageStates, type RunEvent} from '../../../core/image.ts'
import type {Logger} from '../../../core/log.ts'
import {waitReasons, type Store} from '../../../core/store.ts'
import type {Routes} from '../server.ts'

export type MetricsStore = Pick<Store, 'countByState' | 'countWaiting' | 'health'> & {
  runs: Pick<Store['runs'], 'list'>
}

export type Metrics = {
  /** Counts one event of the state machine. */
  observe(event: RunEvent): void
  /** GET /metrics: the text format of Prometheus. */
  routes: Routes
}

// From a transition that only writes a row to a download of hours.
const durationBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600]

export function makeMetrics(o: {store: MetricsStore; version: string; log: Logger}): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({register: registry})
  const observe = eventCounters(registry)
  const refresh = storeGauges(registry, o)
  new Gauge({
    name: 'imgstore_build_info',
    help: 'Always 1; the labels say which imgstore this is and which Node runs it.',
    labelNames: ['version', 'node_version'],
    registers: [registry],
  }).set({version: o.version, node_version: process.versions.node}, 1)
  return {
    observe,
    routes: (app) => {
      app.get('/metrics', async (_request, reply) => {
        await refresh()
        const text = await registry.metrics()
        return reply.type(registry.contentType).header('cache-control', 'no-store').send(text)
      })
    },
  }
}

function eventCounters(registry: Registry): (event: RunEvent) => void {
  const registers = [registry]
  const transitions = new Counter({
    name: 'imgstore_transitions_total',
    help: 'State changes of images made by this process.',
    labelNames: ['from', 'to'],
    registers,
  })
  const durations = new Histogram({
    name: 'imgstore_step_duration_seconds',
    help: 'How long one attempt at a step took, by how it ended.',
    labelNames: ['machine', 'step', 'outcome'],
    buckets: durationBuckets,
    registers,
  })
  const fetched = new Counter({
    name: 'imgstore_fetched_bytes_total',
    help: 'Bytes received from sources for downloads that were completed.',
    registers,
  })
  const retries = new Counter({
    name: 'imgstore_retries_total',
    help: 'Attempts that failed and are tried again, by error code.',
    labelNames: ['step', 'code'],
    registers,
  })
  const failures = new Counter({
    name: 'imgstore_failures_total',
    help: 'Steps that ended in FAILED, by error code.',
    labelNames: ['step', 'code'],
    registers,
  })
  return (event) => {
    const step = event.step ?? 'none'
    const code = event.error?.code ?? 'none'
    if (event.kind === 'transition' && event.from && event.to)
      transitions.inc({from: event.from, to: event.to})
    if (event.kind === 'retry') retries.inc({step, code})
    if (event.kind === 'failed') failures.inc({step, code})
    const bytes = event.detail?.['downloaded_bytes']
    if (typeof bytes === 'number' && bytes > 0) fetched.inc(bytes)
    if (event.step !== undefined && event.durationMs !== undefined)
      durations.observe(
        {machine: 'image', step: event.step, outcome: outcomeOf(event)},
        event.durationMs / 1000,
      )
  }
}

function outcomeOf(event: RunEvent): string {
  return event.kind === 'transition' || event.kind === 'removed' ? 'done' : event.kind
}

function storeGauges(
  registry: Registry,
  o: {store: MetricsStore; log: Logger},
): () => Promise<void> {
  const registers = [registry]
  const images = new Gauge({
    name: 'imgstore_images',
    help: 'Images of this host by state.',
    labelNames: ['state'],
    registers,
  })
  const runsActive = new Gauge({
    name: 'imgstore_runs_active',
    help: 'Runs that some worker is working on.',
    registers,
  })
  const freeBytes = new Gauge({
    name: 'imgstore_store_free_bytes',
    help: 'Free space in the file system of the store.',
    registers,
  })
  const reserveBytes = new Gauge({
    name: 'imgstore_space_reserve_bytes',
    help: 'Free space in the file system of the store below which new work waits.',
    registers,
  })
  const waitingImages = new Gauge({
    name: 'imgstore_waiting_images',
    help: 'Images whose run waits, by what for: room on the disk, or the next attempt.',
    labelNames: ['reason'],
    registers,
  })
  const isUp = new Gauge({
    name: 'imgstore_store_up',
    help: '1 while the store could be read for this answer; what is read from it is absent otherwise.',
    registers,
  })
  return async () => {
    try {
      const [counts, waits, runs, {space}] = await Promise.all([
        o.store.countByState(),
        o.store.countWaiting(),
        o.store.runs.list({isOpen: true, limit: runsMax}),
        o.store.health(),
      ])
      for (const state of imageStates) images.set({state}, counts[state])
      runsActive.set(runs.filter((run) => run.status === 'running').length)
      freeBytes.set(space.freeBytes)
      reserveBytes.set(space.reserveBytes)
      for (const reason of waitReasons) waitingImages.set({reason}, waits[reason])
      isUp.set(1)
    } catch (error) {
      // The process's own numbers are wanted most when the store is in trouble.
      o.log.warn({error}, 'metrics were read without the store')
      for (const gauge of [runsActive, freeBytes, reserveBytes]) gauge.remove()
      images.reset()
      waitingImages.reset()
      isUp.set(0)
    }
  }
}

const runsMax = 10_000
