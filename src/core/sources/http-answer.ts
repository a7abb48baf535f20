/** What the head of an HTTP answer says about the bytes that follow. */
import type {IncomingHttpHeaders} from 'node:http'
import {STATUS_CODES} from 'node:http'
import {fail, type ImgstoreError} from '../errors.ts'
import type {OpenedSource} from './contract.ts'

/** An answer without its body; `endByte` is where the body ends in the whole, when that is known. */
export type AnswerHead = Omit<OpenedSource, 'body' | 'close'> & {endByte?: number}

const contentRangePattern = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/i

/**
 * Reads a `Content-Range` of one range; undefined for anything that cannot be.
 *
 * Source: RFC 9110, section 14.4.
 */
export function parseContentRange(
  text: string | undefined,
): {firstByte: number; endByte: number; totalBytes?: number} | undefined {
  const match = contentRangePattern.exec(text?.trim() ?? '')
  if (!match) return undefined
  const firstByte = Number(match[1])
  const endByte = Number(match[2]) + 1
  if (endByte <= firstByte || !Number.isSafeInteger(endByte)) return undefined
  if (match[3] === '*') return {firstByte, endByte}
  const totalBytes = Number(match[3])
  return totalBytes < endByte || !Number.isSafeInteger(totalBytes)
    ? undefined
    : {firstByte, endByte, totalBytes}
}

/** A `Content-Length`, or undefined when there is none to believe. */
export function parseLength(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined
  return Number.isSafeInteger(Number(text)) ? Number(text) : undefined
}

/** Milliseconds of a `Retry-After` in seconds (of any number of digits) or as a date; undefined when it is neither. */
export function parseRetryAfter(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined) return undefined
  if (/^\s*\d+\s*$/.test(text)) return Math.min(Number(text) * 1000, Number.MAX_SAFE_INTEGER)
  const date = Date.parse(text)
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs)
}

/**
 * The text for a later `If-Range`: a strong ETag, else the date of the last change. A weak ETag is useless there.
 *
 * Source: RFC 9110, section 13.1.5.
 */
function validatorOf(headers: IncomingHttpHeaders): string | undefined {
  const {etag} = headers
  if (etag !== undefined && /^"[\u0021\u0023-\u007e\u0080-\u00ff]*"$/.test(etag)) return etag
  return headers['last-modified']
}

/** The coded failure for a status that brings no content. */
export function statusError(
  url: string,
  status: number,
  headers: IncomingHttpHeaders,
  detail?: string,
): ImgstoreError {
  const reason = detail ?? STATUS_CODES[status] ?? 'an unknown status'
  if (status === 404 || status === 410) return fail('source_not_found', {url, status})
  if (status >= 500 || status === 408 || status === 425 || status === 429) {
    const retryAfterMs = parseRetryAfter(headers['retry-after'], Date.now())
    return fail('source_unavailable', {
      url,
      reason: `status ${status}, ${reason}`,
      ...(retryAfterMs === undefined ? {} : {retryAfterMs}),
    })
  }
  return fail('source_refused', {url, status, reason})
}

/**
 * Says what an answer is good for.
 *
 * Errors: source_not_found, source_refused, source_unavailable by status.
 */
export function judgeAnswer(
  url: string,
  status: number,
  headers: IncomingHttpHeaders,
  startByte: number,
): AnswerHead {
  const validator = validatorOf(headers)
  const encoding = headers['content-encoding']?.trim().toLowerCase()
  const common = {
    ...(validator === undefined ? {} : {validator}),
    ...(headers['content-type'] === undefined ? {} : {contentType: headers['content-type']}),
    ...(encoding && encoding !== 'identity' ? {contentEncoding: encoding} : {}),
  }
  const length = parseLength(headers['content-length'])
  if (status === 200 || status === 203) {
    const size = length === undefined ? {} : {totalBytes: length, endByte: length}
    return {answer: 'whole', startByte: 0, ...common, ...size}
  }
  if (status === 206) {
    const range = parseContentRange(headers['content-range'])
    const isUsable =
      range?.firstByte === startByte &&
      common.contentEncoding === undefined &&
      !/^multipart\//i.test(common.contentType ?? '') &&
      (length === undefined || length === range.endByte - range.firstByte)
    if (!isUsable) return {answer: 'unusable', startByte, ...common}
    const {endByte, totalBytes} = range
    const size = totalBytes === undefined ? {endByte} : {endByte, totalBytes}
    return {answer: startByte === 0 ? 'whole' : 'range', startByte, ...common, ...size}
  }
  if (status === 416 && startByte > 0) {
    const total = /^bytes \*\/(\d{1,16})$/i.exec(headers['content-range']?.trim() ?? '')?.[1]
    if (total === undefined) return {answer: 'nothing_left', startByte, ...common}
    const totalBytes = Number(total)
    return {
      answer: totalBytes > startByte ? 'unusable' : 'nothing_left',
      startByte,
      totalBytes,
      ...common,
    }
  }
  throw statusError(url, status, headers)
}
