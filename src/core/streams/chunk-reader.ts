/** Where the chunked form of a disk image is read from, as the verifier sees it. */
import type {Digest} from '../digest.ts'

/**
 * One chunk as it was seen; what is no file has no size. `problems` are about how it is kept or delivered, as sentence
 * parts.
 */
export type SeenChunk = {sizeBytes?: number; digest?: Digest; readBytes: number; problems: string[]}

export type ChunkReader = {
  /** For messages, without secrets. */
  readonly place: string
  /** Errors: disk_not_found when there is none; those of the place. */
  manifest(): Promise<{bytes: Uint8Array; problems: string[]}>
  /** Looks at a chunk without reading it where that is possible; undefined when it is not there. */
  look(name: string, sizeBytes: number): Promise<SeenChunk | undefined>
  /** Reads and hashes a chunk; there is no digest when it does not have `sizeBytes` bytes. */
  read(name: string, sizeBytes: number, buffer: Buffer<ArrayBuffer>): Promise<SeenChunk | undefined>
  /** The names of what lies beside the chunks, where the place can say so. */
  list?(): Promise<readonly string[]>
  close(): void
}

/** What a reader of the format would refuse about an answer's headers (streaming specification, section 11). */
export function headerProblems(headers: {
  contentEncoding?: string | undefined
  cacheControl?: string | undefined
}): string[] {
  const problems: string[] = []
  const encoding = headers.contentEncoding?.trim().toLowerCase() ?? ''
  if (encoding !== '' && encoding !== 'identity')
    problems.push(`it is sent with Content-Encoding ${encoding.slice(0, 40)}`)
  const directives = (headers.cacheControl ?? '')
    .split(',')
    .map((text) => text.trim().toLowerCase())
  if (!directives.includes('no-transform')) problems.push('its Cache-Control lacks no-transform')
  return problems
}
