/** From the head of an answer and its connection to what the caller reads. */
import type {IncomingMessage} from 'node:http'
import {fail} from '../errors.ts'
import {readBatches} from './batches.ts'
import type {OpenedSource, SourceOptions} from './contract.ts'
import type {AnswerHead} from './http-answer.ts'
import {connectionError} from './http-error.ts'

export type Connection = {
  /** Address for messages, already without secrets. */
  url: string
  response: IncomingMessage
  signal: AbortSignal
  /** Lets go of everything; called once or more. */
  close: () => void
}

/**
 * Errors: source_too_large at once when the head says so; then `connection` is the caller's to close.
 */
export function openedFrom(
  head: AnswerHead,
  connection: Connection,
  options: SourceOptions,
): OpenedSource {
  const {url, response, signal, close} = connection
  const {endByte, ...opened} = head
  const sizeBytes = opened.totalBytes ?? endByte ?? 0
  if (sizeBytes > options.maxBlobBytes) {
    throw fail('source_too_large', {url, sizeBytes, limitBytes: options.maxBlobBytes})
  }
  const hasBody = opened.answer === 'whole' || opened.answer === 'range'
  if (!hasBody) close()
  async function* body(): AsyncGenerator<readonly Buffer[], void, undefined> {
    if (!hasBody) return
    try {
      yield* readBatches(response, {
        url,
        signal,
        stallTimeoutMs: options.stallTimeoutMs,
        startByte: opened.startByte,
        ...(endByte === undefined ? {} : {endByte}),
        maxBlobBytes: options.maxBlobBytes,
        describe: (error) => connectionError(url, error),
      })
    } finally {
      close()
    }
  }
  return {
    ...opened,
    body: body(),
    close: () => {
      close()
      return Promise.resolve()
    },
  }
}
