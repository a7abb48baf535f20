/** The AWS SDK's client by our settings: nothing of it comes from the environment or from files. */
import type {S3ClientConfig} from '@aws-sdk/client-s3'
import {proxyFor, type Agents} from './agents.ts'
import type {SourceOptions} from './contract.ts'

/** How the SDK's client is made for these settings, whatever it is used for. */
export function clientConfig(options: SourceOptions, agents: Agents): S3ClientConfig {
  const {s3} = options
  const endpoint = new URL(s3.endpoint ?? 'https://s3.amazonaws.com')
  const isSigned = !s3.anonymous && s3.accessKeyId !== undefined
  const proxy = proxyFor(endpoint, options.proxyEnv)
  return {
    region: s3.region ?? 'us-east-1',
    ...(s3.endpoint === undefined ? {followRegionRedirects: true} : {endpoint: s3.endpoint}),
    forcePathStyle: s3.pathStyle,
    // Keys are handed in; the SDK's own search through environment and files must not happen.
    credentials: {
      accessKeyId: s3.accessKeyId ?? '',
      secretAccessKey: s3.secretAccessKey ?? '',
      ...(s3.sessionToken === undefined ? {} : {sessionToken: s3.sessionToken}),
    },
    ...(isSigned ? {} : {signer: {sign: (unsigned) => Promise.resolve(unsigned)}}),
    // Retries belong to the state machine, checks to the digest.
    maxAttempts: 1,
    retryMode: 'standard',
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    useArnRegion: false,
    useDualstackEndpoint: false,
    useFipsEndpoint: false,
    requestHandler: {
      connectionTimeout: options.connectTimeoutMs,
      requestTimeout: options.stallTimeoutMs,
      throwOnRequestTimeout: true,
      // Silence is watched where the body is read: there a slow disk is not taken for a slow server.
      socketTimeout: 0,
      ...(endpoint.protocol === 'https:'
        ? {httpsAgent: agents.https(proxy)}
        : {httpAgent: agents.http(proxy)}),
    },
  }
}
