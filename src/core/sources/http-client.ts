/** Single requests over HTTP whose answers are judged by their headers, over connections that are kept. */
import type {IncomingHttpHeaders} from 'node:http'
import {redact} from '../log.ts'
import {isPrivateAddress} from './addresses.ts'
import {KeptAgents} from './agents.ts'
import {readBatches} from './batches.ts'
import type {SourceOptions} from './contract.ts'
import {Deadline} from './deadline.ts'
import {firstHop, followHops, type HopAnswer, type HttpDeps} from './http.ts'
import {parseContentRange, parseLength, statusError} from './http-answer.ts'
import {connectionError} from './http-error.ts'

export type HttpQuestion = {
  method: 'GET' | 'HEAD'
  headers?: Readonly<Record<string, string>>
  signal: AbortSignal
}

export type HttpAnswer = {
  /** The address asked, without secrets. */
  url: string
  status: number
  headers: IncomingHttpHeaders
  /** Content-Length, where it can be believed. */
  lengthBytes?: number
  /** The total that a Content-Range names. */
  rangeTotalBytes?: number
  /** A coded failure that says what the status means, for those that bring no content. */
  toError(): Error
  /**
   * The body in batches, as it came; ends with the body's own end, which must be where Content-Length says.
   * Errors: source_incomplete, source_stalled, source_unavailable, source_too_large; the signal's reason.
   */
  body(bytesMax: number): AsyncGenerator<readonly Buffer[], void, undefined>
  /** Lets go of the answer; needed when `body` is not read to its end. */
  close(): void
}

export type HttpClient = {
  /**
   * Asks once, and follows harmless redirects. Any status is an answer.
   *
   * Errors: source_unavailable, source_refused, source_stalled, redirect_refused; the signal's reason.
   */
  ask(url: URL, question: HttpQuestion): Promise<HttpAnswer>
  close(): void
}

export function openHttpClient(
  options: SourceOptions,
  deps: HttpDeps = {isPrivate: isPrivateAddress},
): HttpClient {
  const agents = new KeptAgents(options)
  return {
    close: () => {
      agents.close()
    },
    async ask(url, question) {
      const shown = redact(url.href)
      const deadline = new Deadline(shown, question.signal, options.totalTimeoutMs)
      const {signal} = deadline
      let found: HopAnswer | undefined
      const close = (): void => {
        found?.close()
        deadline.clear()
      }
      try {
        question.signal.throwIfAborted()
        const {method} = question
        const context = {options, deps, agents, deadline, method}
        found = await followHops(firstHop(url, options), {
          ...context,
          headers: ({authorization}) => ({
            'user-agent': 'imgstore',
            accept: '*/*',
            ...question.headers,
            ...(authorization === undefined ? {} : {authorization}),
          }),
        })
        return answerOf(shown, found, {signal, close, stallTimeoutMs: options.stallTimeoutMs})
      } catch (error) {
        close()
        signal.throwIfAborted()
        throw connectionError(shown, error)
      }
    },
  }
}

type Connection = {signal: AbortSignal; stallTimeoutMs: number; close: () => void}

function answerOf(url: string, {response}: HopAnswer, connection: Connection): HttpAnswer {
  const {signal, stallTimeoutMs, close} = connection
  const {headers} = response
  const status = response.statusCode ?? 0
  const lengthBytes = parseLength(headers['content-length'])
  const total = parseContentRange(headers['content-range'])?.totalBytes
  return {
    url,
    status,
    headers,
    ...(lengthBytes === undefined ? {} : {lengthBytes}),
    ...(total === undefined ? {} : {rangeTotalBytes: total}),
    toError: () => statusError(url, status, headers),
    async *body(bytesMax) {
      try {
        yield* readBatches(response, {
          url,
          signal,
          stallTimeoutMs,
          startByte: 0,
          ...(lengthBytes === undefined ? {} : {endByte: lengthBytes}),
          maxBlobBytes: bytesMax,
          describe: (error) => connectionError(url, error),
        })
      } finally {
        close()
      }
    },
    close,
  }
}
