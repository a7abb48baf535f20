/** What every endpoint of the streaming surface works with. */
import type {IncomingMessage, ServerResponse} from 'node:http'
import type {BytesPolicy} from '../../../core/http-conditions.ts'
import type {Streams} from '../../../core/stream.ts'
import type {ServeLog} from './access-log.ts'
import type {Cors} from './cors.ts'
import type {Leases} from './lease.ts'
import type {Metrics} from './metrics.ts'
import type {Permits} from './permits.ts'
import type {AnswerRequest, AnswerResponse, Sender} from './sender.ts'

/** What a reload may change. */
export type DoorOptions = {
  cors: Cors
  policy: BytesPolicy
  maxChunkBytes: number
  /** `Cache-Control` of the bytes of a public image. */
  publicCacheControl: string
  isMetricsOn: boolean
  metricsToken: string | undefined
  /** Set: private images need a lease. */
  leases: Leases | undefined
  /** Where clients reach this server, without a slash at the end; undefined: where the request says it came to. */
  publicUrl: string | undefined
  version: VersionInfo
}

export type VersionInfo = {version: string; gitSha: string; builtAt: string}

/** Other things that are served at paths of their own: the page that a person opens. Asked after the API's routes. */
export type Page = {
  /**
   * Answers the request and returns true, or returns false where it serves nothing.
   * Shape: `path` is the raw path without the query; only GET and HEAD are handed over.
   */
  handle(o: {
    path: string
    accept: string | undefined
    request: IncomingMessage
    response: ServerResponse
  }): boolean
}

export type DoorContext = {
  options: DoorOptions
  readonly streams: Streams
  readonly permits: Permits
  readonly metrics: Metrics
  readonly log: ServeLog
  readonly sender: Sender
  /** The list of images; logs once when it cannot be read. */
  listImages(): ReturnType<Streams['list']>
  countOpenFile(change: 1 | -1): void
  /** Whether the answer needs no word about its connection, which just stays open. */
  keepsConnection(request: AnswerRequest, response: AnswerResponse): boolean
  /** Leaves out or adds the `Connection` header as this answer needs it. */
  tidyConnection(request: AnswerRequest, response: AnswerResponse, headers: string[]): void
}
