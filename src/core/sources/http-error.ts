/** Turns what goes wrong with a connection into codes. */
import {fail, systemCode, type ImgstoreError, ImgstoreError as CodedError} from '../errors.ts'
import {PrivateAddressError} from './addresses.ts'

/** OpenSSL's and Node's words for a certificate that does not hold; asking again cannot help. */
const certificateCodes =
  /^(CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|CRL_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|ERR_TLS_CERT_)/

const reasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'the connection was refused',
  ECONNRESET: 'the connection was reset',
  EPIPE: 'the connection was closed',
  ENOTFOUND: 'the host name is not known',
  EAI_AGAIN: 'the host name could not be resolved just now',
  EHOSTUNREACH: 'the host cannot be reached',
  ENETUNREACH: 'the network cannot be reached',
  ETIMEDOUT: 'the connection timed out',
  EPROTO: 'the other side does not speak TLS there',
}

/** Every error in a chain of causes, outermost first. */
function* causes(error: unknown): Generator<Error> {
  let current = error
  for (let depth = 0; depth < 8 && current instanceof Error; depth++) {
    yield current
    if (current instanceof AggregateError) yield* causes(current.errors[0])
    current = current.cause
  }
}

/**
 * The coded failure for an error met while connecting or reading. `url` is without secrets.
 */
export function connectionError(url: string, error: unknown): ImgstoreError {
  let reason: string | undefined
  for (const found of causes(error)) {
    if (found instanceof CodedError) return found
    if (found instanceof PrivateAddressError) {
      return fail('redirect_refused', {url, reason: found.message}, {cause: error})
    }
    const code = systemCode(found)
    if (code !== undefined && certificateCodes.test(code)) {
      const text = `its TLS certificate is not trusted (${found.message || code})`
      return fail('source_refused', {url, reason: text}, {cause: error})
    }
    if (code !== undefined) reason ??= reasons[code]
  }
  const text = error instanceof Error ? error.message || systemCode(error) : String(error)
  return fail('source_unavailable', {url, reason: reason ?? text ?? 'unknown'}, {cause: error})
}
