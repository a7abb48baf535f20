/**
 * The daemon's log: one JSON object a line for machines, one readable line for a person at a terminal.
 * Both go to standard error and both pass through `cleanFields`, so that neither can show a secret of a URL.
 */
import {pino} from 'pino'
import {ImgstoreError, errorToJson, quote} from '../core/errors.ts'
import {plainJson, withoutSecrets, type LogFields, type LogLevel, type Logger} from '../core/log.ts'
import type {Settings} from '../core/settings.ts'

export type LogStream = {write(text: string): unknown; readonly isTTY?: boolean}

/** A logger whose level can be changed while it runs (SIGHUP). */
export type DaemonLogger = Logger & {setLevel(level: LogLevel): void}

/**
 * Makes the daemon's logger.
 *
 * Shape: JSON lines have `level` (as a word), `time` (ISO 8601, UTC), the fields, then `msg`.
 * Errors: none; what cannot be written is lost, never the work.
 */
export function makeLogger(
  settings: Pick<Settings, 'logLevel' | 'logFormat'>,
  stream: LogStream,
  options: {isTerminal?: boolean} = {},
): DaemonLogger {
  const isTerminal = options.isTerminal ?? stream.isTTY === true
  const isText = settings.logFormat === 'auto' ? isTerminal : settings.logFormat === 'text'
  return isText ? textLogger(settings.logLevel, stream) : jsonLogger(settings.logLevel, stream)
}

function jsonLogger(level: LogLevel, stream: LogStream): DaemonLogger {
  const logger = pino(
    {
      level,
      // The journal and container runtimes know process and host already.
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: {level: (label) => ({level: label})},
    },
    {write: (text: string) => void stream.write(plainJson(text))},
  )
  return {
    error: (fields, message) => logger.error(cleanFields(fields), message),
    warn: (fields, message) => logger.warn(cleanFields(fields), message),
    info: (fields, message) => logger.info(cleanFields(fields), message),
    debug: (fields, message) => logger.debug(cleanFields(fields), message),
    setLevel: (next) => {
      logger.level = next
    },
  }
}

const ranks: Record<LogLevel, number> = {silent: 0, error: 1, warn: 2, info: 3, debug: 4}

function textLogger(level: LogLevel, stream: LogStream): DaemonLogger {
  let rank = ranks[level]
  const writer =
    (name: Exclude<LogLevel, 'silent'>) =>
    (fields: LogFields, message: string): void => {
      if (ranks[name] > rank) return
      const time = new Date().toISOString()
      stream.write(`${time} ${name.padEnd(5)} ${message}${textFields(cleanFields(fields))}\n`)
    }
  return {
    error: writer('error'),
    warn: writer('warn'),
    info: writer('info'),
    debug: writer('debug'),
    setLevel: (next) => {
      rank = ranks[next]
    },
  }
}

function textFields(fields: LogFields): string {
  let text = ''
  for (const [key, value] of Object.entries(fields)) {
    if (value !== undefined) text += ` ${key}=${textValue(value)}`
  }
  return text
}

function textValue(value: unknown): string {
  if (typeof value === 'string') return /^[\w.:/@%+,-]+$/.test(value) ? value : quote(value)
  return quoteInside(JSON.stringify(value ?? null))
}

// JSON leaves characters that steer a terminal as they are; `quote` does not. Its own quotes are taken off again.
function quoteInside(json: string): string {
  return json.replaceAll(/[\u007f-\uffff]+/g, (part) => quote(part).slice(1, -1))
}

const depthMax = 6

/** The fields as they may be seen: URLs redacted wherever they stand, errors as plain objects. */
export function cleanFields(fields: LogFields): LogFields {
  const clean: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(fields)) clean[key] = cleanValue(value, depthMax)
  return clean
}

function cleanValue(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return withoutSecrets(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'function' || typeof value === 'symbol') return `(${typeof value})`
  if (typeof value !== 'object' || value === null) return value
  if (depth === 0) return '…'
  if (Array.isArray(value)) return value.map((item) => cleanValue(item, depth - 1))
  const plain = value instanceof Error ? plainError(value) : value
  return Object.fromEntries(
    Object.entries(plain).map(([key, item]) => [key, cleanValue(item, depth - 1)]),
  )
}

/** An error as log fields: what a person acts on; the stack only where the failure is a bug of ours. */
function plainError(error: Error): Record<string, unknown> {
  if (error instanceof ImgstoreError && error.fault !== 'bug') return errorToJson(error)
  const origin =
    error instanceof ImgstoreError && error.cause instanceof Error ? error.cause : error
  return {
    ...(error instanceof ImgstoreError ? errorToJson(error) : {message: error.message}),
    stack: origin.stack,
  }
}
