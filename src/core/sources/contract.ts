/**
 * Where images come from, as the rest of the program sees it.
 *
 * Vocabulary: a *source* is one address. *Opening* it asks once for its bytes, from some byte on. The *answer* says
 * what came of the wish to start there:
 * - `whole`: the body starts at byte 0 (nothing else was asked, or the source does not give ranges, or it changed);
 * - `range`: the body starts at the byte that was asked for;
 * - `nothing_left`: the source says that it ends at or before that byte; there is no body;
 * - `unusable`: an answer to a range that cannot be placed (no Content-Range, another start, several parts, an
 *   encoded range); there is no body.
 * A source never guesses: whether to ask again or to begin anew is the caller's choice, who also has the digest.
 */

/** Resolved settings of a source; handed in, never read from the environment. */
export type SourceOptions = {
  /** A PEM file of certificates to trust besides the system's. */
  caFile?: string
  /** The values of HTTP_PROXY, HTTPS_PROXY and NO_PROXY. */
  proxyEnv?: Readonly<Record<string, string | undefined>>
  redirectsMax: number
  /** The longest silence: until the answer starts, and between any two bytes of it. */
  stallTimeoutMs: number
  connectTimeoutMs: number
  /** From opening to the last byte. */
  totalTimeoutMs: number
  maxBlobBytes: number
  allowFile: boolean
  /** Lets a public address redirect to a loopback, private or link-local one. */
  allowPrivateRedirects: boolean
  s3: {
    endpoint?: string
    region?: string
    pathStyle: boolean
    /** Ask without a signature even when there are keys. Without keys it is always so. */
    anonymous: boolean
    accessKeyId?: string
    secretAccessKey?: string
    sessionToken?: string
  }
  /** For http(s) addresses without a user of their own; never sent to another origin by a redirect. */
  bearerToken?: string
}

export type OpenRequest = {
  startByte: number
  /** The validator of the bytes before `startByte`, as an earlier answer gave it. */
  validator?: string
  signal: AbortSignal
}

export type OpenedSource = {
  answer: 'whole' | 'range' | 'nothing_left' | 'unusable'
  /** First byte of the body. */
  startByte: number
  /** The whole size, when the source says it. */
  totalBytes?: number
  /** Opaque text for the next `OpenRequest`: a strong ETag, a date, or a file's version. */
  validator?: string
  contentType?: string
  /** How the source says the body is encoded (`gzip`), though it was asked not to. The body is given as it came. */
  contentEncoding?: string
  /**
   * The bytes in batches of about 1 MiB. Read once; the buffers of a batch may be reused when the next one is asked for.
   * Errors: source_incomplete, source_stalled, source_unavailable, source_too_large; the signal's reason.
   */
  body: AsyncIterable<readonly Buffer[]>
  /** Lets go of the connection or file. Needed when `body` is not read to its end; harmless otherwise. */
  close(): Promise<void>
}

/** One address that can be asked for its bytes, again and again. */
export interface Source {
  /**
   * Errors: source_not_found, source_refused, source_unavailable, source_stalled, source_too_large, redirect_refused;
   * the signal's reason when it aborts.
   */
  open(request: OpenRequest): Promise<OpenedSource>
}
