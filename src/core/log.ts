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
  const parsed = URL.parse(url)
  // `user:password@host`, the scheme forgotten, parses as a URL of the scheme `user`.
  if (!parsed || !url.includes('//')) return redactText(url)
  if (parsed.username || parsed.password) {
    parsed.username = '***'
    parsed.password = ''
  }
  for (const name of new Set(parsed.searchParams.keys())) {
    if (secretParameters.test(name)) parsed.searchParams.set(name, '***')
  }
  // A password with an unescaped `?` or `#` ends up behind it, with the `@` that was meant to end it.
  if (parsed.search.includes('@')) parsed.search = '?***'
  if (parsed.hash !== '') parsed.hash = '#***'
  return parsed.href
}

/** Of what is no URL nobody knows what is what: all that could be a secret goes. */
function redactText(text: string): string {
  if (text.includes('@')) return text.replace(/^([a-z0-9+.-]*:?\/\/)?.*$/is, '$1***')
  return text.replace(/[?#].*$/s, '?***')
}
