/**
 * The loop host: opens the store, lets it work on runs, and connects that work to signals, the log, systemd and HTTP.
 *
 * SIGTERM and SIGINT stop the worker within ten seconds: nothing new is claimed, the step at work is finished or given
 * back. A second one ends the process at once, which loses nothing either: the next worker resumes from the journal.
 * SIGHUP reads the settings again.
 */
import type {RunEvent} from '../core/image.ts'
import type {Logger} from '../core/log.ts'
import type {SettingOrigins, Settings} from '../core/settings.ts'
import {openStore, type Store} from '../core/store.ts'
import {eventLogger} from './event-log.ts'
import {makeLogger, type DaemonLogger} from './logger.ts'
import {
  makeNotifier,
  monotonicUsec,
  startWatchdog,
  watchdogUsecOf,
  type Notifier,
} from './notify.ts'
import {mergeSettings} from './reload.ts'
import {catchSignals} from './signals.ts'
import {readVersion} from './version.ts'

export type Configuration = {settings: Settings; origins: SettingOrigins}

export type WorkerOptions = Configuration & {
  /** Resolves the settings again, for SIGHUP. */
  configure: () => Configuration
  /** Ends when nothing is left to do. */
  once: boolean
  /** Standard error is a terminal: a person reads the log. */
  isTerminal: boolean
}

// A stop takes at most 10 s: so long for the step at work, then for answers and messages under way.
const releaseWithinMs = 8000
const hangUpWithinMs = 500
const flushWithinMs = 1000
const stopWithinMs = 9700

const statusEveryMs = 10_000
// Without a beat for so long (or five polls) the worker calls itself not ready.
const silenceMaxMs = 10_000

/**
 * Works on the runs of a store until a signal says stop, or with `once` until nothing is left to do.
 *
 * Guarantees: resolves to the exit status: 0, also after SIGTERM and SIGINT; 3 with `once` when an image FAILED in
 * this session. The process exits by itself, with 130 on a second signal and with 1 when a stop took ten seconds.
 * Errors: those of openStore; invalid_setting, address_in_use and permission_denied for `listen`.
 */
export async function runWorker(o: WorkerOptions): Promise<number> {
  // A log that nobody reads any more is no reason to stop working.
  process.stderr.on('error', () => undefined)
  const log = makeLogger(o.settings, process.stderr, {isTerminal: o.isTerminal})
  const stop = new AbortController()
  const notifier = makeNotifier({socket: o.settings.notifySocket, log})
  let reload: (() => void) | undefined
  const signals = catchSignals({
    onStop: (signal) => {
      log.info({signal}, 'worker is stopping')
      notifier.send('STOPPING=1', 'STATUS=stopping')
      stop.abort()
    },
    onReload: () => reload?.(),
    onLate: () => log.error({after_ms: stopWithinMs}, 'worker did not stop in time and is ended'),
    stopWithinMs,
  })
  try {
    const listener = await prepareListener(o)
    const store = await openStore({
      settings: o.settings,
      origins: o.origins,
      log,
      role: 'worker',
    })
    try {
      reload = makeReload({...o, store, log, notifier})
      const {failed} = await host({...o, store, log, notifier, listener, signal: stop.signal})
      return o.once && failed > 0 ? 3 : 0
    } finally {
      reload = undefined
      await store.close()
    }
  } finally {
    await notifier.flush(flushWithinMs)
    signals.release()
  }
}

type HostOptions = WorkerOptions & {
  store: Store
  log: DaemonLogger
  notifier: Notifier
  listener: Listener | undefined
  signal: AbortSignal
}

async function host(o: HostOptions): Promise<{worked: number; failed: number}> {
  const {store, log, notifier, settings} = o
  const version = readVersion()
  const pulse = makePulse(o.signal, settings.pollMs)
  const watchdogUsec = watchdogUsecOf(settings)
  const watchdog = watchdogUsec === undefined ? undefined : startWatchdog({watchdogUsec, notifier})
  const door = await o.listener?.open({store, log, version, readiness: () => pulse.readiness()})
  const logEvent = eventLogger(log)
  const statusTimer = setInterval(() => void tellStatus(store, notifier, log), statusEveryMs)
  try {
    log.info(
      {version, node: store.node, store: settings.store, db: settings.db, listen: door?.address},
      'worker started',
    )
    const result = await store.work({
      signal: o.signal,
      once: o.once,
      releaseWithinMs,
      onBeat: () => {
        if (pulse.beat() === 'first') notifier.send('READY=1', 'STATUS=working')
        watchdog?.beat()
      },
      onEvent: (event) => {
        logEvent(event)
        door?.observe(event)
      },
    })
    log.info({...result}, 'worker stopped')
    return result
  } finally {
    clearInterval(statusTimer)
    watchdog?.stop()
    await door?.close(hangUpWithinMs)
  }
}

type Readiness = {isReady: boolean; detail: string}

/** Remembers when the loop gave its last sign of life. */
function makePulse(
  signal: AbortSignal,
  pollMs: number,
): {beat(): 'first' | 'further'; readiness(): Readiness} {
  let lastAt: number | undefined
  const silenceMs = Math.max(silenceMaxMs, 5 * pollMs)
  return {
    beat: () => {
      const which = lastAt === undefined ? 'first' : 'further'
      lastAt = performance.now()
      return which
    },
    readiness: () => {
      if (signal.aborted) return {isReady: false, detail: 'stopping'}
      if (lastAt === undefined) return {isReady: false, detail: 'starting'}
      const quietMs = Math.round(performance.now() - lastAt)
      return quietMs > silenceMs
        ? {isReady: false, detail: `no sign of life for ${quietMs} ms`}
        : {isReady: true, detail: 'running'}
    },
  }
}

type OpenDoor = {
  address: string
  observe(event: RunEvent): void
  close(withinMs: number): Promise<void>
}
type Listener = {
  open(o: {
    store: Store
    log: Logger
    version: string
    readiness: () => Readiness
  }): Promise<OpenDoor>
}

/** Checks the address before anything is opened; HTTP and metrics are loaded only when somebody wants them. */
async function prepareListener(o: Configuration): Promise<Listener | undefined> {
  const {listen} = o.settings
  if (listen === undefined) return undefined
  const {parseListenAddress} = await import('./http/listen-address.ts')
  const address = parseListenAddress(listen, o.origins.listen)
  const {buildServer, startServer} = await import('./http/server.ts')
  const {healthRoutes} = await import('./http/routes/health.ts')
  const {makeMetrics} = await import('./http/routes/metrics.ts')
  return {
    open: async ({store, log, version, readiness}) => {
      const metrics = makeMetrics({store, version, log})
      const routes = [healthRoutes({store, readiness, log}), metrics.routes]
      const server = await startServer(buildServer({log, routes}), address, o.origins.listen)
      return {...server, observe: (event) => metrics.observe(event)}
    },
  }
}

function makeReload(
  o: WorkerOptions & {store: Store; log: DaemonLogger; notifier: Notifier},
): () => void {
  const {store, log, notifier} = o
  let current = o.settings
  return () => {
    notifier.send('RELOADING=1', monotonicUsec())
    try {
      const {settings, changed, needRestart} = mergeSettings(current, o.configure().settings)
      store.reload(settings)
      log.setLevel(settings.logLevel)
      current = settings
      log.info({changed}, 'settings reloaded')
      if (needRestart.length > 0) log.warn({settings: needRestart}, 'settings need a restart')
    } catch (error) {
      log.error({error}, 'settings were not reloaded; the old ones hold')
    }
    notifier.send('READY=1')
  }
}

async function tellStatus(store: Store, notifier: Notifier, log: Logger): Promise<void> {
  try {
    const counts = Object.entries(await store.countByState()).filter(([, count]) => count > 0)
    const text = counts.map(([state, count]) => `${count} ${state}`).join(', ')
    notifier.send(`STATUS=images: ${text || 'none'}`)
  } catch (error) {
    log.warn({error}, 'the state of the store could not be told')
  }
}
