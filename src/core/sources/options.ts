/** What the settings say about sources. */
import {fromSystemError} from '../errors.ts'
import type {Settings} from '../settings.ts'
import {readSmallFile} from '../small-file.ts'
import type {SourceOptions} from './contract.ts'

/**
 * How sources are opened by these settings.
 *
 * Errors: permission_denied, io_failed when the token's file cannot be read.
 */
export function sourceOptionsOf(settings: Settings): SourceOptions {
  const token =
    settings.bearerTokenFile === undefined ? undefined : readToken(settings.bearerTokenFile)
  const {s3Endpoint, s3AccessKeyId, s3SecretAccessKey, s3SessionToken} = settings
  return {
    redirectsMax: settings.redirectsMax,
    stallTimeoutMs: settings.stallTimeoutMs,
    connectTimeoutMs: settings.connectTimeoutMs,
    totalTimeoutMs: settings.totalTimeoutMs,
    maxBlobBytes: settings.maxBlobBytes,
    allowFile: settings.allowFile,
    allowPrivateRedirects: settings.allowPrivateRedirects,
    proxyEnv: {
      HTTP_PROXY: settings.httpProxy,
      HTTPS_PROXY: settings.httpsProxy,
      NO_PROXY: settings.noProxy,
    },
    s3: {
      region: settings.s3Region,
      pathStyle: settings.s3PathStyle || s3Endpoint !== undefined,
      anonymous: settings.s3Anonymous || s3AccessKeyId === undefined,
      ...(s3Endpoint === undefined ? {} : {endpoint: s3Endpoint}),
      ...(s3AccessKeyId === undefined ? {} : {accessKeyId: s3AccessKeyId}),
      ...(s3SecretAccessKey === undefined ? {} : {secretAccessKey: s3SecretAccessKey}),
      ...(s3SessionToken === undefined ? {} : {sessionToken: s3SessionToken}),
    },
    ...(settings.caFile === undefined ? {} : {caFile: settings.caFile}),
    ...(token === undefined ? {} : {bearerToken: token}),
  }
}

function readToken(path: string): string {
  try {
    return readSmallFile(path).trim()
  } catch (error) {
    throw fromSystemError(error, path, 'read')
  }
}
