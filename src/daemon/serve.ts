/**
 * The host of the streaming surface: connects it to settings, signals, the log and systemd.
 *
 * SIGTERM and SIGINT let answers under way end (`--drain-timeout`), a second one ends the process at once. SIGHUP reads
 * settings, certificates and files of secrets again; no connection is dropped by it.
 */
import {ImgstoreError, fail, toImgstoreError} from '../core/errors.ts'
import {withoutSecrets} from '../core/log.ts'
import {
  settingKeys,
  settingTable,
  shownValue,
  type ResolvedSettings,
  type SettingKey,
  type SettingSpec,
  type Settings,
} from '../core/settings.ts'
import {makeDirectories, openStreams} from '../core/store.ts'
import type {StoreDisk, Streams} from '../core/stream.ts'
import {makeServeLog, type ServeLog} from './http/streaming/access-log.ts'
import {makeLineWriter} from './http/streaming/line-writer.ts'
import {logFilterOf} from './http/streaming/options.ts'
import {openStreaming, type Streaming} from './http/streaming/streaming.ts'
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

export type ServeOptions = ResolvedSettings & {
  /** Resolves the settings again, for SIGHUP. */
  configure: () => ResolvedSettings
  /** Disk images of a store, served beside those of the directory; asked at each request. */
  disks?: () => readonly StoreDisk[]
}

const standardOutput = 1
// After the drain: what is cut off then, messages to systemd, the last lines of the log.
const spareMs = 5000
const flushWithinMs = 1000

/** What a running server is built on: changing it takes a restart. */
const fixed: ReadonlySet<SettingKey> = new Set<SettingKey>([
  'listenAddr',
  'imagesRoot',
  'requireManifest',
  'metricsMaxIds',
  'page',
  'sender',
  'drainTimeoutMs',
])

/**
 * Serves until a signal says stop.
 *
 * Guarantees: resolves to the exit status 0 after SIGTERM or SIGINT, also when answers had to be cut off. The process
 * exits by itself, with 130 on a second signal.
 * Errors: serve_failed for everything that keeps it from starting.
 */
export async function runServe(o: ServeOptions): Promise<number> {
  const {settings} = o
  const writer = makeLineWriter(standardOutput)
  const log = makeServeLog({filter: logFilterOf(settings), write: (line) => writer.write(line)})
  const notifier = makeNotifier({socket: settings.notifySocket, log})
  const stopped = Promise.withResolvers<NodeJS.Signals>()
  let reload: (() => void) | undefined
  const signals = catchSignals({
    onStop: (signal) => stopped.resolve(signal),
    onReload: () => reload?.(),
    onLate: () => log.error({}, 'the server did not stop in time and is ended'),
    stopWithinMs: settings.drainTimeoutMs + spareMs,
  })
  try {
    const streams = openImages(o, log)
    try {
      const version = readVersion()
      const streaming = await openStreaming({
        settings,
        streams,
        log,
        version,
        linesLost: () => writer.linesLost,
      })
      reload = makeReload(o, streaming, log, notifier)
      await host({...o, streaming, log, notifier, version, stopped: stopped.promise})
      return 0
    } finally {
      reload = undefined
      streams.close()
    }
  } catch (error) {
    throw startFailure(error)
  } finally {
    await notifier.flush(flushWithinMs)
    await writer.close(flushWithinMs)
    signals.release()
  }
}

function openImages(o: ServeOptions, log: ServeLog): Streams {
  const {imagesRoot, requireManifest} = o.settings
  try {
    makeDirectories(imagesRoot)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw fail(
      'serve_failed',
      {reason: `the images directory cannot be made: ${reason}`},
      {cause: error},
    )
  }
  const {disks} = o
  return openStreams({imagesRoot, requireManifest, log, ...(disks ? {disks} : {})})
}

/** Who starts the original reads 1 as "could not start" and 2 as "wrong usage"; finer codes would be lost on them. */
function startFailure(error: unknown): ImgstoreError {
  const known = toImgstoreError(error)
  if (known.exit === 2 || known.code === 'serve_failed' || known.fault === 'bug') return known
  return fail('serve_failed', {reason: known.message}, {cause: error})
}

async function host(
  o: ServeOptions & {
    streaming: Streaming
    log: ServeLog
    notifier: Notifier
    version: string
    stopped: Promise<NodeJS.Signals>
  },
): Promise<void> {
  const {settings, streaming, log, notifier} = o
  for (const warning of o.warnings) log.warn({warning}, 'a setting is ignored')
  if (o.origins.metricsAuthToken.startsWith('flag '))
    log.warn(
      {
        flag: '--metrics-auth-token',
        better: 'IMGSTORE_METRICS_AUTH_TOKEN or --metrics-auth-token-file',
      },
      'a secret on the command line can be seen by every user of this host',
    )
  log.info(
    {
      address: streaming.address,
      version: o.version,
      sender: streaming.sender,
      pid: process.pid,
      ...shownSettings(settings),
    },
    'aero-storage-server listening',
  )
  notifier.send('READY=1', `STATUS=serving at ${streaming.address}`)
  const watchdog = keepWatchdog(settings, notifier)
  try {
    const signal = await o.stopped
    log.info({signal, drain_ms: settings.drainTimeoutMs}, 'the server is stopping')
    notifier.send('STOPPING=1', 'STATUS=stopping')
    const isClean = await streaming.close(settings.drainTimeoutMs)
    if (!isClean) log.warn({}, 'answers under way were cut off')
    log.info({}, 'the server has stopped')
  } finally {
    watchdog.stop()
  }
}

/** Beats as long as the event loop turns. */
function keepWatchdog(settings: Settings, notifier: Notifier): {stop(): void} {
  const watchdogUsec = watchdogUsecOf(settings)
  if (watchdogUsec === undefined) return {stop: () => undefined}
  const watchdog = startWatchdog({watchdogUsec, notifier})
  watchdog.beat()
  const timer = setInterval(() => watchdog.beat(), Math.max(1, watchdogUsec / 4000))
  return {
    stop: () => {
      clearInterval(timer)
      watchdog.stop()
    },
  }
}

/** Every setting of the server, as a log line shows it. */
function shownSettings(settings: Settings): Record<string, unknown> {
  const shown: Record<string, unknown> = {}
  for (const key of settingKeys) {
    const spec: SettingSpec = settingTable[key]
    if ((spec.command !== 'serve' && key !== 'imagesRoot') || spec.isHidden) continue
    const value = settings[key]
    const name = key.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)
    if (spec.isSecret) shown[name] = value === undefined ? 'not set' : 'set'
    else if (typeof value === 'string') shown[name] = shownValue(spec, value)
    else if (Array.isArray(value))
      shown[name] = value.map((word) => withoutSecrets(String(word), {isTyped: true}))
    else if (value !== undefined) shown[name] = value
  }
  return shown
}

function makeReload(
  o: ServeOptions,
  streaming: Streaming,
  log: ServeLog,
  notifier: Notifier,
): () => void {
  let current = o.settings
  return () => {
    notifier.send('RELOADING=1', monotonicUsec())
    try {
      const next = o.configure()
      const {settings, changed, needRestart} = mergeSettings(current, next.settings, {
        fixed,
        command: 'serve',
      })
      const isTls = current.tlsCert !== undefined
      if (isTls !== (settings.tlsCert !== undefined))
        throw fail('serve_failed', {reason: 'TLS cannot be switched on or off without a restart'})
      streaming.reload(settings)
      current = settings
      for (const warning of next.warnings) log.warn({warning}, 'a setting is ignored')
      log.info({changed}, 'settings reloaded')
      if (needRestart.length > 0) log.warn({settings: needRestart}, 'settings need a restart')
    } catch (error) {
      log.error({error}, 'settings were not reloaded; the old ones hold')
    }
    notifier.send('READY=1')
  }
}
