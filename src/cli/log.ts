/** Log lines of a command, for the person who typed it; the worker has its own, richer log. */
import {logLevels, plainJson, type LogFields, type Logger, type LogLevel} from '../core/log.ts'
import {printable, toJson} from './print.ts'

/** Writes lines of `level` and above to `stream`: text `warn: sentence (key=value …)`, or one JSON object a line. */
export function createCliLogger(o: {
  level: LogLevel
  isJson: boolean
  stream: {write(text: string): unknown}
}): Logger {
  const limit = o.level === 'silent' ? -1 : logLevels.indexOf(o.level)
  const writer =
    (level: LogLevel) =>
    (fields: LogFields, message: string): void => {
      if (logLevels.indexOf(level) > limit) return
      const line = o.isJson
        ? plainJson(
            JSON.stringify({
              level,
              time: new Date().toISOString(),
              ...jsonFields(fields),
              msg: message,
            }),
          )
        : `${level}: ${message}${textFields(fields)}`
      o.stream.write(`${line}\n`)
    }
  return {
    error: writer('error'),
    warn: writer('warn'),
    info: writer('info'),
    debug: writer('debug'),
  }
}

function jsonFields(fields: LogFields): Record<string, unknown> {
  const plain = Object.entries(fields).map(([key, value]) => [
    key,
    value instanceof Error ? value.message : value,
  ])
  return toJson(Object.fromEntries(plain)) as Record<string, unknown>
}

function textFields(fields: LogFields): string {
  const parts = Object.entries(jsonFields(fields)).flatMap(([key, value]) => {
    if (value === undefined) return []
    const text = typeof value === 'string' ? value : JSON.stringify(value)
    return [`${key}=${printable(text)}`]
  })
  return parts.length === 0 ? '' : ` (${parts.join(', ')})`
}
