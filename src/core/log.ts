/** Logs for the person who runs the program: a constant sentence plus fields, never values inside the sentence. */

export const logLevels = ['error', 'warn', 'info', 'debug', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

export type LogFields = Readonly<Record<string, unknown>>

/** Pino's shape, so that pino itself fits. */
export type Logger = {
  error(fields: LogFields, message: string): void
  warn(fields: LogFields, message: string): void
  info(fields: LogFields, message: string): void
  debug(fields: LogFields, message: string): void
}

const nothing = (): void => undefined
/** Says nothing; the default of library use and of tests. */
export const silentLogger: Logger = {error: nothing, warn: nothing, info: nothing, debug: nothing}

/** Names of query parameters that bear secrets: those of S3, GCS, Azure and CloudFront, and what others commonly use. */
const secretParameters =
  /token|secret|signature|credential|passw|pwd|api[-_]?key|accesskey|jwt|session|^(sig|key|auth|authorization|code|policy)$/i

/** A URL without what must not be seen: user, password and the values of secret-bearing query parameters. */
export function redact(url: string): string {
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    // Not a URL: nobody knows what is what, so all that could be a secret goes.
    return url.replace(/^(.*?\/\/)?.*@/s, '$1***@').replace(/[?#].*$/s, '?***')
  }
  if (parsed.username || parsed.password) {
    parsed.username = '***'
    parsed.password = ''
  }
  for (const name of new Set(parsed.searchParams.keys())) {
    if (secretParameters.test(name)) parsed.searchParams.set(name, '***')
  }
  return parsed.href
}
