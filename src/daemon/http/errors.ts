/** Failures as HTTP answers: the error table says the status, every body has one shape. */
import {ImgstoreError, fail, toImgstoreError} from '../../core/errors.ts'

export type ErrorReply = {
  status: number
  body: {error: {code: string; message: string; hint: string}}
}

/**
 * The answer for anything a route threw. What a client did wrong in HTTP's own terms (a bad URL, a body too large)
 * keeps the status that the server gave it. A bug shows no inner words: those are for the log.
 */
export function errorReply(thrown: unknown): ErrorReply {
  const status = clientStatus(thrown)
  if (status !== undefined) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown)
    return reply(fail('bad_request', {reason}), status)
  }
  const error = toImgstoreError(thrown)
  if (error.fault === 'bug') return reply(fail('internal', {reason: 'the log says more'}))
  return reply(error)
}

function reply(error: ImgstoreError, status = error.http): ErrorReply {
  return {status, body: {error: {code: error.code, message: error.message, hint: error.hint}}}
}

/** The 4xx status that the HTTP server itself put on an error. */
function clientStatus(thrown: unknown): number | undefined {
  if (!(thrown instanceof Error) || thrown instanceof ImgstoreError) return undefined
  const status = 'statusCode' in thrown ? thrown.statusCode : undefined
  return typeof status === 'number' && status >= 400 && status < 500 ? status : undefined
}
