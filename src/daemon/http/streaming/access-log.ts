/**
 * The log of the streaming surface: JSON lines in the shape that the original's readers know.
 *
 * The line of a request is put together by hand, as at full load JSON.stringify of nested objects would cost more than
 * the answer; what clients send is escaped where it can hold anything but plain characters.
 * Source: streaming specification, section 6.2.
 */
import {errorToJson, toImgstoreError} from '../../../core/errors.ts'
import {plainJson, withoutSecrets, type LogFields, type Logger} from '../../../core/log.ts'
import {defaultTarget, type LogFilter} from './log-filter.ts'

/** Which request a line is about. */
export type RequestSpan = {
  requestId: string
  method: string
  /** Raw, without the query: that may hold a lease. */
  path: string
  route: string
  imageId?: string | undefined
  userId?: string | undefined
}

/** What the line of one request says. */
export type RequestLine = RequestSpan & {
  status: number
  sentBytes: number
  /** Until the head of the answer. */
  latencySeconds: number
  /** Set when the body did not reach its end. */
  isAborted: boolean
}

export type ServeLog = Logger & {
  /** Whether lines of requests are wanted at all. */
  readonly isInfo: boolean
  request(line: RequestLine): void
  /** A failure met while answering; `span` names the request. */
  failure(message: string, error: unknown, span: RequestSpan): void
  setFilter(filter: LogFilter): void
}

const levels = ['', 'ERROR', 'WARN', 'INFO', 'DEBUG']
const pathMax = 256
const target = defaultTarget

export function makeServeLog(o: {
  filter: LogFilter
  write: (line: string) => void
  now?: () => number
}): ServeLog {
  let {filter} = o
  const now = o.now ?? (() => Date.now())
  const stamp = makeStamp(now)
  const line = (rank: number, message: string, fields: LogFields, span = ''): void => {
    if (filter.rank < rank) return
    const level = levels[rank] ?? ''
    const json = plainJson(JSON.stringify({message, ...cleanFields(fields)}))
    o.write(
      `{"timestamp":"${stamp()}","level":"${level}","fields":${json},"target":"${target}"${span}}\n`,
    )
  }
  return {
    get isInfo() {
      return filter.rank >= 3
    },
    error: (fields, message) => line(1, message, fields),
    warn: (fields, message) => line(2, message, fields),
    info: (fields, message) => line(3, message, fields),
    debug: (fields, message) => line(4, message, fields),
    request: (r) => {
      if (filter.rank < 3) return
      const aborted = r.isAborted ? ',"aborted":true' : ''
      const span = spanOf(r)
      o.write(
        `{"timestamp":"${stamp()}","level":"INFO","fields":{"message":"request complete","status":${r.status},"bytes_sent":${r.sentBytes},"latency_seconds":${secondsText(r.latencySeconds)}${aborted}},"target":"${target}","span":${span},"spans":[${span}]}\n`,
      )
    },
    failure: (message, error, r) => {
      const span = spanOf(r)
      line(1, message, {error: errorText(error)}, `,"span":${span},"spans":[${span}]`)
    },
    setFilter: (next) => {
      filter = next
    },
  }
}

function spanOf(r: RequestSpan): string {
  const image = r.imageId === undefined ? '' : `,"image_id":${text(r.imageId)}`
  const user = r.userId === undefined ? '' : `,"user_id":${text(r.userId)}`
  return `{"request_id":${text(r.requestId)},"method":${text(r.method)},"path":${text(cutPath(r.path))},"route":"${r.route}"${image}${user},"name":"http_request"}`
}

/** At most 256 bytes: Node gives a path as one character a byte. */
export function cutPath(path: string): string {
  return path.length <= pathMax ? path : `${path.slice(0, pathMax - 3)}...`
}

function secondsText(seconds: number): string {
  return seconds < 1e-6 ? '0' : String(Math.round(seconds * 1e6) / 1e6)
}

const plain = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/

/** A JSON string. Beyond JSON's own rules nothing but printable ASCII stands in it: lines are read on terminals too. */
function text(value: string): string {
  if (plain.test(value)) return `"${value}"`
  return JSON.stringify(value).replaceAll(
    /[\u007f-\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** RFC 3339 with microseconds. The clock has milliseconds; what is below them counts up within one. */
function makeStamp(now: () => number): () => string {
  let lastMs = -1
  let prefix = ''
  let within = 0
  return () => {
    const ms = now()
    if (ms === lastMs) {
      within = Math.min(999, within + 1)
    } else {
      lastMs = ms
      within = 0
      prefix = new Date(ms).toISOString().slice(0, -1)
    }
    return `${prefix}${within < 10 ? '00' : within < 100 ? '0' : ''}${within}Z`
  }
}

function cleanFields(fields: LogFields): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [
      key,
      value instanceof Error ? errorText(value) : cleanValue(value),
    ]),
  )
}

function cleanValue(value: unknown): unknown {
  if (typeof value === 'string') return withoutSecrets(value)
  if (Array.isArray(value)) return value.map(cleanValue)
  return typeof value === 'bigint' ? String(value) : value
}

/** What happened, for whoever runs the server; of a bug also where. */
function errorText(error: unknown): unknown {
  const coded = toImgstoreError(error)
  if (coded.fault !== 'bug') return errorToJson(coded)
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
