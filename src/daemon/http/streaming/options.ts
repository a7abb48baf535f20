/** What the settings of `imgstore serve` mean for its door. */
import {fail} from '../../../core/errors.ts'
import {withoutSecrets} from '../../../core/log.ts'
import type {Settings} from '../../../core/settings.ts'
import {readSmallFile} from '../../../core/small-file.ts'
import type {DoorOptions} from './context.ts'
import {makeCors} from './cors.ts'
import {openLeases, readLines} from './lease.ts'
import {parseLogFilter, type LogFilter} from './log-filter.ts'
import {originalVersion} from './metrics.ts'
import type {ServerLimits, TlsFiles} from './server.ts'

const resourcePolicies = ['same-origin', 'same-site', 'cross-origin']

/**
 * The door's options for these settings; files of secrets are read.
 *
 * Errors: serve_failed.
 */
export function doorOptions(settings: Settings): DoorOptions {
  const {corsOrigins, leaseSecretFile, leaseTokenFile} = settings
  if (leaseTokenFile !== undefined && leaseSecretFile === undefined)
    throw fail('serve_failed', {reason: '--lease-token-file needs --lease-secret-file'})
  return {
    cors: makeCors({
      origins: corsOrigins && corsOrigins.length > 0 ? corsOrigins : undefined,
      resourcePolicy: resourcePolicyOf(settings),
      preflightMaxAgeSecs: settings.corsPreflightMaxAgeSecs,
    }),
    policy: {requireRange: settings.requireRange, maxRangeBytes: settings.maxRangeBytes},
    maxChunkBytes: settings.maxChunkBytes,
    publicCacheControl: `public, max-age=${settings.publicCacheMaxAgeSecs}, no-transform`,
    isMetricsOn: !settings.disableMetrics,
    metricsToken: metricsTokenOf(settings),
    leases:
      leaseSecretFile === undefined
        ? undefined
        : openLeases({
            secretFile: leaseSecretFile,
            tokenFile: leaseTokenFile,
            ttlMs: settings.leaseTtlMs,
          }),
    publicUrl: publicUrlOf(settings.publicUrl),
    version: {
      version: settings.serveVersion ?? originalVersion,
      gitSha: settings.serveGitSha ?? 'dev',
      builtAt: settings.serveBuiltAt ?? '',
    },
  }
}

function resourcePolicyOf(settings: Settings): string {
  const policy = settings.resourcePolicy.trim()
  if (policy === '') return 'same-site'
  if (resourcePolicies.includes(policy)) return policy
  const reason = `--cross-origin-resource-policy is ${shown(policy)}; expected one of ${resourcePolicies.join(', ')}`
  throw fail('serve_failed', {reason})
}

function metricsTokenOf(settings: Settings): string | undefined {
  const {metricsAuthToken, metricsAuthTokenFile} = settings
  const token = metricsAuthToken?.trim()
  if (token !== undefined && token !== '') return token
  if (metricsAuthTokenFile === undefined || settings.disableMetrics) return undefined
  return readLines(metricsAuthTokenFile, 'metrics token')[0]
}

function publicUrlOf(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const url = URL.parse(text)
  const isWeb = url?.protocol === 'http:' || url?.protocol === 'https:'
  const more = url && url.username + url.password + url.search + url.hash
  if (!isWeb || more !== '')
    throw fail('serve_failed', {
      reason: `--public-url is ${shown(text)}; expected an http(s) address without user, query or fragment`,
    })
  return url.href.replace(/\/$/, '')
}

/** A word that was given for a setting, as messages may show it. */
const shown = (text: string): string => JSON.stringify(withoutSecrets(text, {isTyped: true}))

/**
 * The log's level: RUST_LOG if it can be read, else the setting.
 *
 * Errors: serve_failed.
 */
export function logFilterOf(settings: Settings): LogFilter {
  const fromRust = settings.rustLog === undefined ? undefined : parseLogFilter(settings.rustLog)
  const filter = fromRust ?? parseLogFilter(settings.serveLogLevel)
  if (filter) return filter
  const reason = `--log-level is ${shown(settings.serveLogLevel)}; expected off, error, warn, info or debug`
  throw fail('serve_failed', {reason})
}

export function serverLimits(settings: Settings): ServerLimits {
  return {
    connectionsMax: settings.maxConnections,
    perClientMax: settings.maxConnectionsPerClient,
    stallMs: settings.slowReaderTimeoutMs,
    headersMs: settings.headerTimeoutMs,
    idleMs: settings.idleTimeoutMs,
  }
}

/**
 * Certificate and key, when both are set.
 *
 * Errors: serve_failed.
 */
export function readTls(settings: Settings): TlsFiles | undefined {
  const {tlsCert, tlsKey} = settings
  if (tlsCert === undefined && tlsKey === undefined) return undefined
  if (tlsCert === undefined || tlsKey === undefined)
    throw fail('serve_failed', {reason: '--tls-cert and --tls-key belong together'})
  return {cert: readPem(tlsCert), key: readPem(tlsKey)}
}

function readPem(path: string): string {
  try {
    return readSmallFile(path)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw fail('serve_failed', {reason}, {cause: error})
  }
}
