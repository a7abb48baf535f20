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

/**
 * Any text without the secrets of the addresses in it. `isTyped` is for words that a person gave us: they may be an
 * address at the wrong place, or a misspelt one. Text that holds none comes back as it is.
 *
 * Cost: linear; patterns that look for an address from every letter on are not, and there are words of 100 KB.
 */
export function withoutSecrets(text: string, {isTyped = false} = {}): string {
  if (!text.includes('://') && !(isTyped && text.includes(':'))) return text
  if (isTyped && /^\s*[a-z0-9+.-]*:?\/\//i.test(text)) return redactIfNeeded(text)
  return text.replaceAll(/[^\s"'<>\\]+/g, (word) => {
    if (word.includes('://')) return redactWord(word)
    const colon = word.indexOf(':')
    if (!isTyped || colon < 0) return word
    if (word.includes('@', colon)) return '***'
    // An address that was taken for a path has lost a slash.
    return word.includes(':/') ? word.replace(/[?#].*$/s, '?***') : word
  })
}

/** A word with one or more addresses in it, such as `url=http://…`. */
function redactWord(word: string): string {
  const starts: number[] = []
  for (let at = word.indexOf('://'); at >= 0; at = word.indexOf('://', at + 3)) {
    let start = at
    while (start > (starts.at(-1) ?? 0) && /[a-z0-9+.-]/i.test(word[start - 1] ?? '')) start--
    starts.push(start)
  }
  const pieces = starts.map((start, i) => redactIfNeeded(word.slice(start, starts[i + 1])))
  return word.slice(0, starts[0]) + pieces.join('')
}

function redactIfNeeded(url: string): string {
  return /[@?#]/.test(url) ? redact(url) : url
}

/**
 * JSON that is fit for a terminal too: what steers one or hides text is escaped, also where JSON itself would let it
 * stand. It means the same as before.
 */
export function plainJson(json: string): string {
  return json.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => {
    if (c === '\n') return c
    const units = Array.from({length: c.length}, (_, i) => c.charCodeAt(i))
    return units.map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`).join('')
  })
}
