/**
 * What Prometheus reads of the streaming surface: the original's metrics under their names and labels, and ours.
 *
 * A request touches plain numbers only, found by the route's index and the method's; text is made when somebody asks.
 * Every label has a fixed set of values or a bound: what clients send can add no series without end.
 * Source: streaming specification, section 6.1.
 */
import {monitorEventLoopDelay} from 'node:perf_hooks'
import {Gauge, Registry, collectDefaultMetrics} from 'prom-client'
import {Buckets, histogramText, metricText, type Series} from './metric-text.ts'
import {routeOf, routes, type Route} from './router.ts'

export const originalVersion = '0.1.0'

const methodLabels = [
  'GET',
  'HEAD',
  'OPTIONS',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'TRACE',
  'CONNECT',
  'OTHER',
] as const
const methodIndexes = new Map<string, number>(methodLabels.map((method, i) => [method, i]))

const durationBounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const otherImages = '__other__'

export type StoreErrorKind = 'meta' | 'open_range' | 'manifest'
/** Why a request was turned away, a connection refused or an answer given up. */
export type Rejection =
  'in_flight' | 'connections' | 'connections_per_client' | 'headers' | 'slow_reader' | 'stalled'

/** Requests of one method on one route. */
class RequestCounts {
  readonly statuses = new Map<number, {value: number}>()
  readonly durations = new Buckets(durationBounds)

  status(status: number): {value: number} {
    let found = this.statuses.get(status)
    if (!found) this.statuses.set(status, (found = {value: 0}))
    return found
  }
}

export type Metrics = {
  /** Counts one matched request when its answer was decided; `seconds` is how long that took. */
  countRequest(route: Route, method: string, status: number, seconds: number): void
  /** Counts body bytes of an image that the operating system took. */
  countBytes(imageId: string, bytes: number): void
  countRange(result: 'valid' | 'invalid'): void
  countStoreError(kind: StoreErrorKind): void
  countRejection(reason: Rejection): void
  countAbort(): void
  /** A few sums, without a scrape. */
  totals(): {requests: number; sentBytes: number; refused: number}
  /** The answer to GET /metrics. */
  render(): Promise<string>
  close(): void
}

export type MetricsOptions = {
  imageIdsMax: number
  version: string
  /** Asked at each scrape. */
  state: () => {
    inFlight: number
    connections: number
    openFiles: number
    catalogProblems: number
    logLinesLost: number
  }
}

export function makeMetrics(o: MetricsOptions): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({register: registry})
  const loopDelay = monitorEventLoopDelay({resolution: 20})
  loopDelay.enable()
  const renderOwn = ownGauges(registry, o, loopDelay)
  const requests: (RequestCounts | undefined)[] = []
  const requestsOf = (route: Route, methodIndex: number): RequestCounts =>
    (requests[route.index * methodLabels.length + methodIndex] ??= new RequestCounts())
  for (const label of ['/metrics', '/v1/images/:image_id'])
    requestsOf(routeOf(label), 0).status(200)

  const images = new Map<string, {value: number}>([[otherImages, {value: 0}]])
  let requestCount = 0
  let sentBytes = 0
  let aborts = 0
  const ranges = {valid: {value: 0}, invalid: {value: 0}}
  const storeErrors = {meta: {value: 0}, open_range: {value: 0}, manifest: {value: 0}}
  const rejections: Record<Rejection, {value: number}> = {
    in_flight: {value: 0},
    connections: {value: 0},
    connections_per_client: {value: 0},
    headers: {value: 0},
    slow_reader: {value: 0},
    stalled: {value: 0},
  }
  return {
    countRequest: (route, method, status, seconds) => {
      const counts = requestsOf(route, methodIndexes.get(method) ?? methodLabels.length - 1)
      counts.status(status).value++
      requestCount++
      counts.durations.observe(seconds)
    },
    countBytes: (imageId, bytes) => {
      sentBytes += bytes
      let found = images.get(imageId)
      if (!found) {
        const isRoom = images.size <= o.imageIdsMax && imageId.length <= 128
        found = isRoom ? {value: 0} : images.get(otherImages)
        if (!found) return
        if (isRoom) images.set(imageId, found)
      }
      found.value += bytes
    },
    countRange: (result) => {
      ranges[result].value++
    },
    countStoreError: (kind) => {
      storeErrors[kind].value++
    },
    countRejection: (reason) => {
      rejections[reason].value++
    },
    countAbort: () => {
      aborts++
    },
    totals: () => ({requests: requestCount, sentBytes, refused: rejections.in_flight.value}),
    render: async () => {
      const own = await renderOwn()
      return [
        requestText(requests),
        counter(
          'image_bytes_served_total',
          'Bytes of images and chunks that were sent.',
          'image_id',
          images,
        ),
        counter('range_requests_total', 'Range requests by outcome.', 'result', entries(ranges)),
        counter(
          'store_errors_total',
          'Failures to read what is served.',
          'kind',
          entries(storeErrors),
        ),
        counter(
          'imgstore_serve_rejected_total',
          'Requests turned away, connections refused and answers given up, by reason.',
          'reason',
          entries(rejections),
        ),
        metricText({
          name: 'imgstore_serve_sent_bytes_total',
          help: 'Body bytes that the operating system took.',
          type: 'counter',
          series: [{labels: {}, value: sentBytes}],
        }),
        metricText({
          name: 'imgstore_serve_aborted_total',
          help: 'Answers whose body did not reach its end.',
          type: 'counter',
          series: [{labels: {}, value: aborts}],
        }),
        own,
      ].join('')
    },
    close: () => {
      loopDelay.disable()
      registry.clear()
    },
  }
}

function entries(counts: Readonly<Record<string, {value: number}>>): [string, {value: number}][] {
  return Object.entries(counts)
}

function counter(
  name: string,
  help: string,
  label: string,
  counts: Iterable<[string, {value: number}]>,
): string {
  const series = [...counts].map(([key, {value}]) => ({labels: {[label]: key}, value}))
  return metricText({name, help, type: 'counter', series})
}

function requestText(requests: readonly (RequestCounts | undefined)[]): string {
  const series: Series[] = []
  const durations: {labels: {method: string; route: string}; buckets: Buckets}[] = []
  requests.forEach((counts, i) => {
    const route = routes[Math.floor(i / methodLabels.length)]?.label
    const method = methodLabels[i % methodLabels.length]
    if (!counts || route === undefined || method === undefined) return
    for (const [status, {value}] of counts.statuses)
      series.push({labels: {method, route, status: String(status)}, value})
    durations.push({labels: {method, route}, buckets: counts.durations})
  })
  return (
    metricText({
      name: 'http_requests_total',
      help: 'Requests by method, route and status.',
      type: 'counter',
      series,
    }) +
    histogramText({
      name: 'http_request_duration_seconds',
      help: 'Time until the head of the answer.',
      series: durations,
    })
  )
}

/** Gauges that are read when somebody asks, in a registry of their own beside the process's own numbers. */
function ownGauges(
  registry: Registry,
  o: MetricsOptions,
  loopDelay: ReturnType<typeof monitorEventLoopDelay>,
): () => Promise<string> {
  const registers = [registry]
  const gauge = (name: string, help: string): Gauge => new Gauge({name, help, registers})
  const inFlight = gauge('imgstore_serve_in_flight_requests', 'Requests that hold a permit.')
  const connections = gauge('imgstore_serve_connections', 'Open connections.')
  const openFiles = gauge('imgstore_serve_open_files', 'Files that answers are being sent from.')
  const problems = gauge(
    'imgstore_serve_catalog_problems',
    'Entries left out of the list when it was last made; -1 when the catalog could not be read.',
  )
  const lost = gauge('imgstore_serve_log_lines_lost', 'Log lines that nobody took in time.')
  const delay = new Gauge({
    name: 'imgstore_serve_event_loop_delay_seconds',
    help: 'How late the event loop was since the last scrape.',
    // "quantile" belongs to summaries.
    labelNames: ['percentile'],
    registers,
  })
  new Gauge({
    name: 'aero_storage_server_build_info',
    help: 'Always 1; the version of the surface.',
    labelNames: ['version'],
    registers,
  }).set({version: originalVersion}, 1)
  new Gauge({
    name: 'imgstore_build_info',
    help: 'Always 1; the labels say which imgstore this is and which Node runs it.',
    labelNames: ['version', 'node_version'],
    registers,
  }).set({version: o.version, node_version: process.versions.node}, 1)
  return async () => {
    const now = o.state()
    inFlight.set(now.inFlight)
    connections.set(now.connections)
    openFiles.set(now.openFiles)
    problems.set(now.catalogProblems)
    lost.set(now.logLinesLost)
    for (const percentile of [50, 99])
      delay.set({percentile: String(percentile)}, loopDelay.percentile(percentile) / 1e9)
    delay.set({percentile: '100'}, loopDelay.count === 0 ? 0 : loopDelay.max / 1e9)
    loopDelay.reset()
    return await registry.metrics()
  }
}
