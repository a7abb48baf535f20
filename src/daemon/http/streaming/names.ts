/** The id, version and chunk name of a request, checked in the order that clients of the original know. */
import {decodeSegment, isStreamId, segmentBounds} from '../../../core/stream-ids.ts'
import {answerError, answerText} from './answers.ts'
import type {Exchange} from './exchange.ts'

/** Whether the raw segments are short enough to be looked at; answers 404 where they are not. */
export function areSegmentsShort(exchange: Exchange): boolean {
  const {image = '', version = '', chunk = ''} = exchange.match
  const isLong = image.length > segmentBounds.idBytesMax
  if (!isLong && version.length <= segmentBounds.idBytesMax)
    if (chunk.length <= segmentBounds.chunkNameBytesMax) return true
  exchange.imageId = '<invalid>'
  answerError(exchange, 404, [], isLong ? {asBytes: true} : {})
  return false
}

export type Names = {image: string; version: string | undefined; chunk: string | undefined}

/** The decoded names with id and version checked; undefined when that was answered with 400 or 404. */
export function readNames(exchange: Exchange): Names | undefined {
  const {match} = exchange
  exchange.imageId = '<invalid>'
  const image = decoded(exchange, match.image ?? '', 'image_id')
  if (image === undefined) return undefined
  const version =
    match.version === undefined ? undefined : decoded(exchange, match.version, 'version')
  if (version === undefined && match.version !== undefined) return undefined
  const chunk = match.chunk === undefined ? undefined : decoded(exchange, match.chunk, 'chunk_name')
  if (chunk === undefined && match.chunk !== undefined) return undefined
  if (!isStreamId(image) || (version !== undefined && !isStreamId(version))) {
    answerError(exchange, 404)
    return undefined
  }
  exchange.imageId = image
  return {image, version, chunk}
}

function decoded(exchange: Exchange, raw: string, name: string): string | undefined {
  const text = decodeSegment(raw)
  if (text === undefined) answerText(exchange, 400, `Invalid URL: Invalid UTF-8 in \`${name}\``)
  return text
}
