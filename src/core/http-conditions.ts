/**
 * What a conditional request for bytes is answered with: one pure decision, made before anything is opened.
 *
 * Source: streaming specification, sections 2.1 to 2.5; for `If-Match` and `If-Unmodified-Since`, which are ours to add,
 * RFC 9110 section 13.2.2.
 */
import {parseRange, type RangeRefusal} from './byte-range.ts'
import {isWeakEtag, matchesEtag} from './etag.ts'
import {parseHttpDate, wholeSeconds} from './http-date.ts'
import type {Validators} from './stream.ts'

/** The conditional headers as Node gives them, one character a byte; of repeated `Range` lines the first. */
export type Conditions = {
  ifMatch?: string | undefined
  ifUnmodifiedSince?: string | undefined
  ifNoneMatch?: string | undefined
  ifModifiedSince?: string | undefined
}

export type BytesRequest = Conditions & {
  isHead: boolean
  range?: string | undefined
  ifRange?: string | undefined
}

export type BytesPolicy = {
  /** A GET without a satisfied range gets no body. */
  requireRange: boolean
  /** Longest range that is sent; whole images are not bounded by it. */
  maxRangeBytes: number
}

/** `rangeResult` is what is counted: nothing when there was no range or it was ignored. */
export type BytesDecision =
  | {
      readonly status: 206
      readonly start: number
      readonly end: number
      readonly rangeResult: 'valid'
    }
  | {readonly status: 200 | 304; readonly rangeResult: undefined}
  | {readonly status: 412; readonly rangeResult: 'invalid' | undefined}
  | {readonly status: 413 | 416; readonly rangeResult: 'invalid'}

const whole: BytesDecision = {status: 200, rangeResult: undefined}
const notModified: BytesDecision = {status: 304, rangeResult: undefined}
const preconditionFailed: BytesDecision = {status: 412, rangeResult: undefined}
const otherVersion: BytesDecision = {status: 412, rangeResult: 'invalid'}
const tooLarge: BytesDecision = {status: 413, rangeResult: 'invalid'}
const notSatisfiable: BytesDecision = {status: 416, rangeResult: 'invalid'}

/**
 * Decides the answer to a request for the bytes of an image.
 *
 * Shape: 206 carries the bytes to send, both ends included and inside the image; 200 is the whole image.
 * Cost: a few hundred nanoseconds for a plain range; every header is read once, in linear time.
 */
export function decideBytes(
  request: BytesRequest,
  image: Validators & {size: number},
  policy: BytesPolicy,
): BytesDecision {
  const condition = decideConditions(request, image)
  if (condition !== 200) return condition === 304 ? notModified : preconditionFailed
  const range = readable(request.range)
  if (policy.requireRange && !request.isHead) return decideRequired(request, range, image, policy)
  if (range === undefined) return whole
  if (request.ifRange !== undefined && !satisfiesIfRange(request.ifRange, image)) return whole
  const found = parseRange(range, image.size)
  if (found === 'other_unit') return whole
  if (typeof found === 'string') return refuse(found)
  return part(found.start, found.end, policy)
}

/** As above where a GET must ask for a range: syntax comes before `If-Range`, and a changed image is a 412. */
function decideRequired(
  request: BytesRequest,
  range: string | undefined,
  image: Validators & {size: number},
  policy: BytesPolicy,
): BytesDecision {
  if (range === undefined) return notSatisfiable
  const found = parseRange(range, image.size)
  if (found === 'other_unit' || found === 'too_large' || found === 'malformed') return refuse(found)
  if (request.ifRange !== undefined && !satisfiesIfRange(request.ifRange, image))
    return otherVersion
  if (typeof found === 'string') return refuse(found)
  return part(found.start, found.end, policy)
}

function refuse(refusal: RangeRefusal): BytesDecision {
  return refusal === 'too_large' ? tooLarge : notSatisfiable
}

function part(start: number, end: number, policy: BytesPolicy): BytesDecision {
  if (end - start + 1 > policy.maxRangeBytes) return tooLarge
  return {status: 206, start, end, rangeResult: 'valid'}
}

/**
 * Decides the answer to a conditional request for what is sent whole: a list, metadata, a manifest, a chunk. Without a
 * time (`modifiedNs` undefined) the two headers that give dates are ignored.
 */
export function decideConditions(request: Conditions, target: Validators): 200 | 304 | 412 {
  if (request.ifMatch !== undefined) {
    const tags = readable(request.ifMatch)
    if (tags === undefined || !matchesEtag(tags, target.etag, 'strong')) return 412
  } else if (request.ifUnmodifiedSince !== undefined) {
    if (isUntouchedSince(request.ifUnmodifiedSince, target) === false) return 412
  }
  if (request.ifNoneMatch !== undefined) {
    const tags = readable(request.ifNoneMatch)
    if (tags !== undefined && matchesEtag(tags, target.etag, 'weak')) return 304
  } else if (request.ifModifiedSince !== undefined) {
    if (isUntouchedSince(request.ifModifiedSince, target) === true) return 304
  }
  return 200
}

/** Whether a copy that a client has part of is this very version, so that a range may be joined to it. */
function satisfiesIfRange(value: string, image: Validators): boolean {
  const text = value.trim()
  // Weak tags never: two versions with one weak tag may differ in their bytes.
  if (text.startsWith('"')) return text === image.etag && !isWeakEtag(image.etag)
  if (isWeakEtag(text)) return false
  return isUntouchedSince(text, image) === true
}

/** Compared at whole seconds. Undefined when the date or the target's time is unknown. */
function isUntouchedSince(date: string, target: Validators): boolean | undefined {
  if (target.modifiedNs === undefined) return undefined
  const since = parseHttpDate(date)
  return since === undefined ? undefined : wholeSeconds(target.modifiedNs) <= since
}

/** A header value, unless it has bytes that are not printable ASCII: then it says nothing. */
function readable(value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  for (let i = 0; i < value.length; i++) if (value.charCodeAt(i) > 0x7e) return undefined
  return value
}
