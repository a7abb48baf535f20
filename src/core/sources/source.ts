import {fail} from '../errors.ts'
import {redact} from '../log.ts'
import type {Source, SourceOptions} from './contract.ts'

export type {OpenRequest, OpenedSource, Source, SourceOptions} from './contract.ts'

const urlCharactersMax = 8192
const bucketPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/

/**
 * Checks the address of an image.
 *
 * Shape: `http(s)://[user:password@]host/…`, `s3://bucket/key` (the key percent-encoded, `?versionId=…` allowed),
 * `file:///path` when allowed.
 * Errors: invalid_source.
 */
export function parseSourceUrl(text: string, options: {allowFile: boolean}): URL {
  const refuse = (reason: string): Error => fail('invalid_source', {url: redact(text), reason})
  if (text.length > urlCharactersMax)
    throw refuse(`it is longer than ${urlCharactersMax} characters`)
  if (/[\u0000-\u0020\u007f]/.test(text)) throw refuse('it holds blanks or control characters')
  const url = URL.parse(text)
  if (url === null) throw refuse('it is not a URL')
  switch (url.protocol) {
    case 'http:':
    case 'https:':
      checkUserinfo(url, refuse)
      return url
    case 's3:':
      checkS3(url, refuse)
      return url
    case 'file:':
      if (!options.allowFile) throw refuse('file addresses are not allowed here')
      if (url.host !== '' || url.search !== '' || url.hash !== '') {
        throw refuse('a file address has the form file:///path')
      }
      if (/%2f|%00/i.test(url.pathname) || !isDecodable(url.pathname)) {
        throw refuse('its path cannot be decoded')
      }
      return url
    default:
      throw refuse(`${url.protocol.slice(0, -1)} addresses are not supported`)
  }
}

function checkUserinfo(url: URL, refuse: (reason: string) => Error): void {
  if (!isDecodable(url.username) || !isDecodable(url.password)) {
    throw refuse('its user or password cannot be decoded')
  }
}

function checkS3(url: URL, refuse: (reason: string) => Error): void {
  if (url.username || url.password || url.port) {
    throw refuse('an S3 address has no user or port; keys and endpoint are settings')
  }
  if (!bucketPattern.test(url.host)) throw refuse('it names no bucket')
  if (url.pathname.length < 2) throw refuse('it names no key')
  if (!isDecodable(url.pathname)) throw refuse('its key cannot be decoded')
  for (const name of url.searchParams.keys()) {
    if (name !== 'versionId') throw refuse('only ?versionId= may follow the key')
  }
  if (url.hash) throw refuse('a # in a key is written %23')
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

/**
 * The source at an address. got and the AWS SDK are loaded only when an address needs them.
 *
 * Errors: invalid_source; invalid_setting when the certificate file cannot be read.
 */
export async function openSource(text: string, options: SourceOptions): Promise<Source> {
  const url = parseSourceUrl(text, options)
  switch (url.protocol) {
    case 's3:':
      return (await import('./s3.ts')).openS3Source(url, options)
    case 'file:':
      return (await import('./file.ts')).openFileSource(url, options)
    default:
      return (await import('./http.ts')).openHttpSource(url, options)
  }
}
