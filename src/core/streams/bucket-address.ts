import {fail} from '../errors.ts'

export type BucketAddress = {bucket: string; prefix: string}

/**
 * Reads `s3://bucket/prefix`. The prefix may be empty, and comes without a slash at its end.
 *
 * Errors: invalid_source.
 */
export function parseBucketAddress(text: string): BucketAddress {
  const match = /^s3:\/\/([A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:\/(.*))?$/s.exec(text)
  const prefix = (match?.[2] ?? '').replace(/\/+$/, '')
  const isClean =
    !/[\u0000-\u001f\u007f?#]/.test(prefix) && !prefix.includes('//') && !prefix.startsWith('/')
  if (match?.[1] === undefined || !isClean)
    throw fail('invalid_source', {url: text, reason: 'the form is s3://bucket/prefix'})
  return {bucket: match[1], prefix}
}
