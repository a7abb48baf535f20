/**
 * Every setting: its type, default, bounds, names and meaning. Flags, environment names, keys of the config file,
 * validation and docs/settings.md derive from this table. Nothing else in the program reads the environment.
 */
import {existsSync} from 'node:fs'
import {dirname, join, resolve} from 'node:path'
import {fail, printable} from './errors.ts'
import {backends} from './image.ts'
import {GiB, MiB, TiB, profiles} from './limits.ts'
import {logLevels, withoutSecrets} from './log.ts'
import {
  formatValue,
  parseValue,
  type SettingKind,
  type SettingValue,
  type ValueOf,
} from './setting-values.ts'
import {readSmallFile} from './small-file.ts'

/** One row of the table. `flag` is the command-line name; without it the setting has none. */
export type SettingSpec = SettingKind & {
  env?: readonly string[]
  /** Older names, looked at after `env`: a bad or empty value there is a warning, and ignored. */
  lenientEnv?: readonly string[]
  /** An empty variable of `env` is a bad value, not an absent one. */
  refusesEmpty?: boolean
  flag?: string
  /** The one command whose flag this is; there it hides a general flag of the same name. */
  command?: string
  /** Never printed; never from a flag (but for one that an older program promised, which warns). */
  isSecret?: boolean
  /** Not in help or docs. */
  isHidden?: boolean
  doc: string
}

function define<const T extends Record<string, SettingSpec>>(table: T): T {
  return table
}

const SECOND = 1000
const HOUR = 3600 * SECOND

export const settingTable = define({
  // The store
  store: {
    kind: 'path',
    flag: 'store',
    env: ['IMGSTORE_STORE_PATH'],
    doc: "Directory of the store. Without it: ./store if it exists, /var/lib/imgstore/store if it exists, else the user's data directory.",
  },
  db: {
    kind: 'path',
    flag: 'db',
    env: ['IMGSTORE_DB_PATH'],
    doc: 'Database file. Without it: store.db beside the store directory.',
  },
  node: {
    kind: 'text',
    env: ['IMGSTORE_NODE'],
    doc: 'Id of this host in the database. Without it: an id made once and kept in the store.',
  },
  logLevel: {
    kind: 'choice',
    choices: logLevels,
    default: 'info',
    flag: 'log-level',
    env: ['IMGSTORE_LOG_LEVEL'],
    doc: 'How much is logged to standard error.',
  },
  logFormat: {
    kind: 'choice',
    choices: ['auto', 'json', 'text'],
    default: 'auto',
    flag: 'log-format',
    env: ['IMGSTORE_LOG_FORMAT'],
    doc: 'Form of log lines; auto is text on a terminal, else JSON.',
  },

  // The state machine
  concurrency: {
    kind: 'count',
    default: 2,
    min: 1,
    max: 64,
    flag: 'concurrency',
    env: ['IMGSTORE_CONCURRENCY'],
    doc: 'Images worked on at once.',
  },
  maxAttempts: {
    kind: 'count',
    default: 3,
    min: 1,
    max: 1000,
    flag: 'max-attempts',
    env: ['IMGSTORE_MAX_ATTEMPTS'],
    doc: 'Attempts at one step without progress before the image is FAILED.',
  },
  retryWaitMs: {
    kind: 'duration',
    default: SECOND,
    min: 0,
    max: HOUR,
    flag: 'retry-wait',
    env: ['IMGSTORE_RETRY_WAIT'],
    doc: 'Wait before the second attempt; it doubles with each further one.',
  },
  retryWaitMaxMs: {
    kind: 'duration',
    default: 60 * SECOND,
    min: 0,
    max: 24 * HOUR,
    env: ['IMGSTORE_RETRY_WAIT_MAX'],
    doc: 'Longest wait between two attempts (a Retry-After of the source may ask for more, up to an hour).',
  },
  retryJitterPercent: {
    kind: 'count',
    default: 20,
    min: 0,
    max: 100,
    env: ['IMGSTORE_RETRY_JITTER'],
    doc: 'Waits are varied at random by up to so many percent, upwards.',
  },
  leaseMs: {
    kind: 'duration',
    default: 30 * SECOND,
    min: 500,
    max: HOUR,
    env: ['IMGSTORE_LEASE'],
    doc: 'How long a worker that stays silent keeps its runs before another one takes them over.',
  },
  pollMs: {
    kind: 'duration',
    default: 200,
    min: 10,
    max: 60 * SECOND,
    env: ['IMGSTORE_POLL'],
    doc: 'How often a worker or a waiting command looks for changes in the database.',
  },

  // Sources
  maxBlobBytes: {
    kind: 'bytes',
    default: 256 * GiB,
    min: 1,
    max: 1024 * TiB,
    flag: 'max-blob-size',
    env: ['IMGSTORE_MAX_BLOB_SIZE'],
    doc: 'Largest download.',
  },
  stallTimeoutMs: {
    kind: 'duration',
    default: 60 * SECOND,
    min: 100,
    max: 24 * HOUR,
    flag: 'stall-timeout',
    env: ['IMGSTORE_STALL_TIMEOUT'],
    doc: 'Longest silence of a source before the attempt ends; less than 1 KiB in this time counts as silence.',
  },
  connectTimeoutMs: {
    kind: 'duration',
    default: 15 * SECOND,
    min: 100,
    max: HOUR,
    env: ['IMGSTORE_CONNECT_TIMEOUT'],
    doc: 'Longest wait for a connection to a source.',
  },
  totalTimeoutMs: {
    kind: 'duration',
    default: 24 * HOUR,
    min: 1000,
    max: 720 * HOUR,
    flag: 'total-timeout',
    env: ['IMGSTORE_TOTAL_TIMEOUT'],
    doc: 'Longest time for one attempt at a download.',
  },
  redirectsMax: {
    kind: 'count',
    default: 10,
    min: 0,
    max: 50,
    env: ['IMGSTORE_MAX_REDIRECTS'],
    doc: 'Redirects followed for one download.',
  },
  allowFile: {
    kind: 'flag',
    default: false,
    flag: 'allow-file',
    env: ['IMGSTORE_ALLOW_FILE'],
    doc: 'Allow file:// sources.',
  },
  allowPrivateRedirects: {
    kind: 'flag',
    default: false,
    env: ['IMGSTORE_ALLOW_PRIVATE_REDIRECTS'],
    doc: 'Follow redirects from a public address to a private one.',
  },
  caFile: {
    kind: 'path',
    flag: 'ca-file',
    env: ['IMGSTORE_CA_FILE'],
    doc: 'PEM file of certificate authorities to trust besides the built-in ones.',
  },
  bearerTokenFile: {
    kind: 'path',
    env: ['IMGSTORE_BEARER_TOKEN_FILE'],
    doc: 'File with a token that is sent to http(s) sources as Authorization: Bearer (never across hosts).',
  },
  httpProxy: {kind: 'text', env: ['http_proxy', 'HTTP_PROXY'], doc: 'Proxy for http:// sources.'},
  httpsProxy: {
    kind: 'text',
    env: ['https_proxy', 'HTTPS_PROXY'],
    doc: 'Proxy for https:// sources.',
  },
  noProxy: {
    kind: 'text',
    env: ['no_proxy', 'NO_PROXY'],
    doc: 'Hosts that are reached without a proxy.',
  },
  s3Endpoint: {
    kind: 'text',
    flag: 's3-endpoint',
    env: ['IMGSTORE_S3_ENDPOINT', 'AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'],
    doc: 'Address of the S3 service, when it is not AWS.',
  },
  s3Region: {
    kind: 'text',
    default: 'us-east-1',
    flag: 's3-region',
    env: ['IMGSTORE_S3_REGION', 'AWS_REGION', 'AWS_DEFAULT_REGION'],
    doc: 'Region that S3 requests are signed for.',
  },
  s3PathStyle: {
    kind: 'flag',
    default: false,
    flag: 's3-path-style',
    env: ['IMGSTORE_S3_PATH_STYLE'],
    doc: 'Address buckets by path (endpoint/bucket/key), as most S3 services other than AWS want. On by itself when an endpoint is set.',
  },
  s3Anonymous: {
    kind: 'flag',
    default: false,
    flag: 's3-anonymous',
    env: ['IMGSTORE_S3_ANONYMOUS'],
    doc: 'Send S3 requests unsigned. On by itself when no key is set.',
  },
  s3AccessKeyId: {
    kind: 'text',
    env: ['AWS_ACCESS_KEY_ID'],
    isSecret: true,
    doc: 'Access key for S3.',
  },
  s3SecretAccessKey: {
    kind: 'text',
    env: ['AWS_SECRET_ACCESS_KEY'],
    isSecret: true,
    doc: 'Secret key for S3.',
  },
  s3SessionToken: {
    kind: 'text',
    env: ['AWS_SESSION_TOKEN'],
    isSecret: true,
    doc: 'Session token for S3.',
  },

  // Unpacking; what is not set comes from the profile
  profile: {
    kind: 'choice',
    choices: profiles,
    default: 'strict',
    flag: 'profile',
    env: ['IMGSTORE_PROFILE'],
    doc: 'How archives are judged: strict (small and plain), image (a faithful root filesystem), data (plain files of any size).',
  },
  backend: {
    kind: 'choice',
    choices: backends,
    default: 'auto',
    flag: 'backend',
    env: ['IMGSTORE_BACKEND'],
    doc: 'How archives become root filesystems: dir extracts them, erofs indexes them where they are; auto is erofs where this host can mount it.',
  },
  maxFiles: {
    kind: 'count',
    min: 1,
    max: 1e9,
    flag: 'max-files',
    env: ['IMGSTORE_MAX_FILES'],
    doc: 'Most entries of an archive.',
  },
  maxFileBytes: {
    kind: 'bytes',
    min: 0,
    max: 1024 * TiB,
    flag: 'max-file-size',
    env: ['IMGSTORE_MAX_FILE_SIZE'],
    doc: 'Largest file of an archive.',
  },
  maxTotalBytes: {
    kind: 'bytes',
    min: 0,
    max: 1024 * TiB,
    flag: 'max-total-size',
    env: ['IMGSTORE_MAX_TOTAL_SIZE'],
    doc: 'Largest sum of the files of an archive.',
  },
  maxRatio: {
    kind: 'count',
    min: 1,
    max: 1e6,
    flag: 'max-ratio',
    env: ['IMGSTORE_MAX_RATIO'],
    doc: 'Most bytes that one compressed byte may become.',
  },
  maxDepth: {
    kind: 'count',
    min: 1,
    max: 2000,
    flag: 'max-depth',
    env: ['IMGSTORE_MAX_DEPTH'],
    doc: 'Deepest path of an archive.',
  },

  // Disk images
  chunkSizeBytes: {
    kind: 'bytes',
    default: 4 * MiB,
    min: 512,
    max: 64 * MiB,
    flag: 'chunk-size',
    env: ['IMGSTORE_CHUNK_SIZE'],
    doc: 'Size of the chunks that disk images are published in; a multiple of 512 bytes.',
  },

  // Mounts
  mountDriver: {
    kind: 'choice',
    choices: ['kernel', 'fuse'],
    default: 'kernel',
    flag: 'mount-driver',
    env: ['IMGSTORE_MOUNT_DRIVER'],
    doc: "What mounts images: the kernel's overlayfs, or the program fuse-overlayfs.",
  },
  mountNoexec: {
    kind: 'flag',
    default: false,
    env: ['IMGSTORE_MOUNT_NOEXEC'],
    doc: 'Mount active images noexec (they are always nodev and nosuid).',
  },
  runDriver: {
    kind: 'choice',
    choices: ['auto', 'runc', 'unshare'],
    default: 'auto',
    env: ['IMGSTORE_RUN_DRIVER'],
    doc: 'What `imgstore run` confines programs with; auto takes runc when it is installed.',
  },

  // Serving disk images
  listenAddr: {
    kind: 'address',
    default: '0.0.0.0:8080',
    command: 'serve',
    flag: 'listen-addr',
    env: ['IMGSTORE_LISTEN_ADDR', 'AERO_STORAGE_LISTEN_ADDR'],
    lenientEnv: ['AERO_BIND', 'AERO_STORAGE_SERVER_ADDR', 'AERO_STORAGE_SERVER_LISTEN_ADDR'],
    refusesEmpty: true,
    doc: 'Address that images are served at (IPv6 in brackets); port 0 takes any free one.',
  },
  imagesRoot: {
    kind: 'path',
    default: './images',
    flag: 'images-root',
    env: ['IMGSTORE_IMAGES_ROOT', 'AERO_STORAGE_IMAGE_ROOT'],
    lenientEnv: ['AERO_IMAGE_ROOT', 'AERO_IMAGE_DIR', 'AERO_STORAGE_SERVER_IMAGES_ROOT'],
    refusesEmpty: true,
    doc: 'Directory of the images, with or without manifest.json. Made when it does not exist.',
  },
  requireManifest: {
    kind: 'flag',
    default: false,
    command: 'serve',
    flag: 'require-manifest',
    env: ['IMGSTORE_REQUIRE_MANIFEST', 'AERO_STORAGE_REQUIRE_MANIFEST'],
    doc: 'Serve nothing without a manifest.json, instead of every file in the directory.',
  },
  corsOrigins: {
    kind: 'list',
    command: 'serve',
    flag: 'cors-origin',
    env: ['IMGSTORE_CORS_ORIGIN', 'AERO_STORAGE_CORS_ORIGIN'],
    lenientEnv: ['AERO_STORAGE_SERVER_CORS_ORIGIN'],
    doc: 'Origins whose pages may read the answers, with credentials; separated by commas. Without it, or with *, every page may, without credentials.',
  },
  resourcePolicy: {
    kind: 'text',
    default: 'same-site',
    command: 'serve',
    flag: 'cross-origin-resource-policy',
    env: ['IMGSTORE_CROSS_ORIGIN_RESOURCE_POLICY', 'AERO_STORAGE_CROSS_ORIGIN_RESOURCE_POLICY'],
    lenientEnv: ['AERO_STORAGE_CORP', 'AERO_STORAGE_SERVER_CROSS_ORIGIN_RESOURCE_POLICY'],
    doc: 'Which pages may embed what is served: same-origin, same-site or cross-origin.',
  },
  serveLogLevel: {
    kind: 'text',
    default: 'info',
    command: 'serve',
    flag: 'log-level',
    env: ['IMGSTORE_LOG_LEVEL', 'AERO_STORAGE_LOG_LEVEL'],
    lenientEnv: ['AERO_STORAGE_SERVER_LOG_LEVEL'],
    doc: 'How much `imgstore serve` logs to standard output: off, error, warn, info, debug, or directives as RUST_LOG has them.',
  },
  rustLog: {
    kind: 'text',
    command: 'serve',
    lenientEnv: ['RUST_LOG'],
    doc: 'Directives for the log of `imgstore serve`, before its --log-level; ignored when they cannot be read.',
  },
  maxConcurrentBytesRequests: {
    kind: 'count',
    default: 64,
    min: 0,
    max: 1e9,
    command: 'serve',
    flag: 'max-concurrent-bytes-requests',
    env: ['IMGSTORE_MAX_CONCURRENT_BYTES_REQUESTS', 'AERO_STORAGE_MAX_CONCURRENT_BYTES_REQUESTS'],
    refusesEmpty: true,
    doc: 'Requests for bytes or chunks answered at once; one more gets 429. 0: without limit.',
  },
  maxRangeBytes: {
    kind: 'bytes',
    default: 8 * MiB,
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    command: 'serve',
    flag: 'max-range-bytes',
    env: ['IMGSTORE_MAX_RANGE_BYTES', 'AERO_STORAGE_MAX_RANGE_BYTES'],
    refusesEmpty: true,
    doc: 'Longest range that is sent; a longer one gets 413.',
  },
  maxChunkBytes: {
    kind: 'bytes',
    default: 8 * MiB,
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    command: 'serve',
    flag: 'max-chunk-bytes',
    env: ['IMGSTORE_MAX_CHUNK_BYTES', 'AERO_STORAGE_MAX_CHUNK_BYTES'],
    refusesEmpty: true,
    doc: 'Largest chunk file that is sent; a larger one gets 413.',
  },
  publicCacheMaxAgeSecs: {
    kind: 'count',
    default: 3600,
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    command: 'serve',
    flag: 'public-cache-max-age-secs',
    env: ['IMGSTORE_PUBLIC_CACHE_MAX_AGE_SECS', 'AERO_STORAGE_PUBLIC_CACHE_MAX_AGE_SECS'],
    refusesEmpty: true,
    doc: 'Seconds that caches may keep the bytes of a public image.',
  },
  corsPreflightMaxAgeSecs: {
    kind: 'count',
    default: 86_400,
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    command: 'serve',
    flag: 'cors-preflight-max-age-secs',
    env: ['IMGSTORE_CORS_PREFLIGHT_MAX_AGE_SECS', 'AERO_STORAGE_CORS_PREFLIGHT_MAX_AGE_SECS'],
    refusesEmpty: true,
    doc: 'Seconds that a browser may remember the answer to a preflight.',
  },
  requireRange: {
    kind: 'flag',
    default: false,
    command: 'serve',
    flag: 'require-range',
    env: ['IMGSTORE_REQUIRE_RANGE'],
    lenientEnv: ['AERO_STORAGE_REQUIRE_RANGE'],
    doc: 'Refuse to send a whole image: a GET without a range gets 416.',
  },
  page: {
    kind: 'flag',
    default: true,
    command: 'serve',
    flag: 'page',
    env: ['IMGSTORE_PAGE'],
    doc: 'Show a page with the images to who opens / in a browser. `--no-page`: the API alone.',
  },
  disableMetrics: {
    kind: 'flag',
    default: false,
    command: 'serve',
    flag: 'disable-metrics',
    env: ['IMGSTORE_DISABLE_METRICS'],
    lenientEnv: ['AERO_STORAGE_DISABLE_METRICS'],
    doc: 'Serve no /metrics.',
  },
  metricsAuthToken: {
    kind: 'text',
    isSecret: true,
    command: 'serve',
    flag: 'metrics-auth-token',
    env: ['IMGSTORE_METRICS_AUTH_TOKEN', 'AERO_STORAGE_METRICS_AUTH_TOKEN'],
    doc: 'Token that /metrics asks for (Authorization: Bearer). On the command line every user of the host can see it: better the variable, or a file.',
  },
  metricsAuthTokenFile: {
    kind: 'path',
    command: 'serve',
    flag: 'metrics-auth-token-file',
    env: ['IMGSTORE_METRICS_AUTH_TOKEN_FILE'],
    doc: 'File with the token that /metrics asks for.',
  },
  metricsMaxIds: {
    kind: 'count',
    default: 100,
    min: 0,
    max: 1e6,
    command: 'serve',
    env: ['IMGSTORE_METRICS_MAX_IDS'],
    lenientEnv: ['AERO_IMAGE_METRICS_MAX_IDS'],
    doc: 'Images that are counted by their own name in the metrics; further ones are counted together.',
  },
  tlsCert: {
    kind: 'path',
    command: 'serve',
    flag: 'tls-cert',
    env: ['IMGSTORE_TLS_CERT'],
    doc: 'PEM file with the certificate and its chain: serve HTTPS, with HTTP/2. Read again on SIGHUP.',
  },
  tlsKey: {
    kind: 'path',
    command: 'serve',
    flag: 'tls-key',
    env: ['IMGSTORE_TLS_KEY'],
    doc: 'PEM file with the key of the certificate. Read again on SIGHUP.',
  },
  leaseSecretFile: {
    kind: 'path',
    command: 'serve',
    flag: 'lease-secret-file',
    env: ['IMGSTORE_LEASE_SECRET_FILE'],
    doc: 'File with secrets, one a line, by which leases are signed (the first) and accepted (all). With it private images need a lease. Read again on SIGHUP.',
  },
  leaseTokenFile: {
    kind: 'path',
    command: 'serve',
    flag: 'lease-token-file',
    env: ['IMGSTORE_LEASE_TOKEN_FILE'],
    doc: 'File with bearer tokens, one a line, whose holders may ask for leases at /v1/images/{id}/lease. Read again on SIGHUP.',
  },
  leaseTtlMs: {
    kind: 'duration',
    default: 15 * 60 * SECOND,
    min: 5 * SECOND,
    max: 24 * HOUR,
    command: 'serve',
    flag: 'lease-ttl',
    env: ['IMGSTORE_LEASE_TTL'],
    doc: 'How long a lease holds.',
  },
  publicUrl: {
    kind: 'text',
    command: 'serve',
    flag: 'public-url',
    env: ['IMGSTORE_PUBLIC_URL'],
    doc: 'Where clients reach this server, for the addresses in leases. Without it: where the request came to.',
  },
  maxConnections: {
    kind: 'count',
    default: 4096,
    min: 0,
    max: 1e6,
    command: 'serve',
    flag: 'max-connections',
    env: ['IMGSTORE_MAX_CONNECTIONS'],
    doc: 'Open connections; one more takes the place of the longest idle one. 0: without limit.',
  },
  maxConnectionsPerClient: {
    kind: 'count',
    default: 1024,
    min: 0,
    max: 1e6,
    command: 'serve',
    flag: 'max-connections-per-client',
    env: ['IMGSTORE_MAX_CONNECTIONS_PER_CLIENT'],
    doc: 'Open connections of one address (a proxy is one), or one IPv6 /64 network. 0: without limit.',
  },
  headerTimeoutMs: {
    kind: 'duration',
    default: 10 * SECOND,
    min: SECOND,
    max: HOUR,
    command: 'serve',
    flag: 'header-timeout',
    env: ['IMGSTORE_HEADER_TIMEOUT'],
    doc: 'Longest time for the head of a request, or a TLS handshake.',
  },
  idleTimeoutMs: {
    kind: 'duration',
    // Longer than the 60 s for which proxies commonly keep a connection: who closes first should be the proxy.
    default: 75 * SECOND,
    min: SECOND,
    max: HOUR,
    command: 'serve',
    flag: 'idle-timeout',
    env: ['IMGSTORE_IDLE_TIMEOUT'],
    doc: 'Longest rest of a connection between two requests.',
  },
  slowReaderTimeoutMs: {
    kind: 'duration',
    default: 60 * SECOND,
    min: SECOND,
    max: 24 * HOUR,
    command: 'serve',
    flag: 'slow-reader-timeout',
    env: ['IMGSTORE_SLOW_READER_TIMEOUT'],
    doc: 'A client that takes nothing of its answer for so long is cut off.',
  },
  slowReaderGraceMs: {
    kind: 'duration',
    default: 10 * SECOND,
    min: 100,
    max: HOUR,
    command: 'serve',
    flag: 'slow-reader-grace',
    env: ['IMGSTORE_SLOW_READER_GRACE'],
    doc: 'When no further request could be answered: a client that takes less than 4 KiB a second over so long makes room.',
  },
  drainTimeoutMs: {
    kind: 'duration',
    // Kubernetes and systemd commonly kill after 30 s and 90 s.
    default: 25 * SECOND,
    min: 0,
    max: 24 * HOUR,
    command: 'serve',
    flag: 'drain-timeout',
    env: ['IMGSTORE_DRAIN_TIMEOUT'],
    doc: 'How long answers under way may take when the server is told to stop.',
  },
  sender: {
    kind: 'choice',
    choices: ['auto', 'plain'],
    default: 'auto',
    command: 'serve',
    flag: 'sender',
    env: ['IMGSTORE_SENDER'],
    isHidden: true,
    doc: 'How bodies are sent: by the kernel where that is possible, or read and written.',
  },
  serveVersion: {
    kind: 'text',
    command: 'serve',
    env: ['AERO_STORAGE_SERVER_VERSION'],
    isHidden: true,
    doc: 'What /version says the version is.',
  },
  serveGitSha: {
    kind: 'text',
    command: 'serve',
    env: ['AERO_STORAGE_SERVER_GIT_SHA', 'GIT_SHA'],
    isHidden: true,
    doc: 'What /version says of the revision.',
  },
  serveBuiltAt: {
    kind: 'text',
    command: 'serve',
    env: ['AERO_STORAGE_SERVER_BUILD_TIMESTAMP', 'BUILD_TIMESTAMP'],
    isHidden: true,
    doc: 'What /version says of the time of the build.',
  },

  // Daemon and upkeep
  listen: {
    kind: 'text',
    flag: 'listen',
    env: ['IMGSTORE_LISTEN'],
    doc: "Address (host:port) of the worker's /healthz, /readyz and /metrics; :port alone means 127.0.0.1.",
  },
  staleAfterMs: {
    kind: 'duration',
    default: HOUR,
    min: 0,
    max: 8760 * HOUR,
    env: ['IMGSTORE_STALE_AFTER'],
    doc: 'Age at which cleanup removes parts and staging trees that no run needs.',
  },
  keepEventsMs: {
    kind: 'duration',
    default: 720 * HOUR,
    min: 0,
    max: 87_600 * HOUR,
    env: ['IMGSTORE_KEEP_EVENTS'],
    doc: 'Age at which a worker and cleanup forget runs that are over, with their events; the last run of each image stays.',
  },
  spaceReserveBytes: {
    kind: 'bytes',
    min: 0,
    max: 1024 * TiB,
    flag: 'space-reserve',
    env: ['IMGSTORE_SPACE_RESERVE'],
    doc: 'Free space in the store below which new work waits and /healthz fails. Without it: a twentieth of the file system, at most 1GiB.',
  },
  healthSpaceBytes: {
    kind: 'bytes',
    default: 0,
    min: 0,
    max: 1024 * TiB,
    env: ['IMGSTORE_HEALTH_SPACE'],
    doc: 'Free space in the store below which /healthz fails, where that is to be more than the reserve.',
  },
  failpoints: {
    kind: 'text',
    env: ['IMGSTORE_FAILPOINT'],
    isHidden: true,
    doc: 'For tests: places at which the program dies.',
  },
  notifySocket: {
    kind: 'text',
    env: ['NOTIFY_SOCKET'],
    isHidden: true,
    doc: 'Set by systemd: where readiness is told.',
  },
  watchdogUsec: {
    kind: 'count',
    min: 0,
    max: 1e12,
    env: ['WATCHDOG_USEC'],
    isHidden: true,
    doc: 'Set by systemd: how often it wants to hear that the loop runs.',
  },
  watchdogPid: {
    kind: 'count',
    min: 0,
    max: 2 ** 31,
    env: ['WATCHDOG_PID'],
    isHidden: true,
    doc: 'Set by systemd: the process that is to tell so; others have inherited the variables by accident.',
  },
})

export type SettingKey = keyof typeof settingTable
export const settingKeys = Object.keys(settingTable) as SettingKey[]

/** Every setting, checked and frozen. Sizes in bytes, durations in milliseconds; absent ones are undefined. */
export type Settings = {
  readonly [K in SettingKey]: (typeof settingTable)[K] extends {default: unknown}
    ? ValueOf<(typeof settingTable)[K]>
    : K extends 'store' | 'db'
      ? string
      : ValueOf<(typeof settingTable)[K]> | undefined
}

/** Where each value came from, as a sentence part: "flag --store", "IMGSTORE_STORE_PATH", "default". */
export type SettingOrigins = Readonly<Record<SettingKey, string>>

export type SettingInputs = {
  /** Values of flags that were given, by setting key; text or already typed. */
  flags?: Readonly<Partial<Record<SettingKey, SettingValue | undefined>>>
  /** The environment; `process.env` when absent. */
  env?: Readonly<Record<string, string | undefined>>
  /** Config file; `isRequired` when a person named it. */
  config?: {path: string; isRequired: boolean}
  /** The user's data directory, for the last choice of the store. */
  dataDir: string
  /** Relative paths are taken from here; the working directory when absent. */
  cwd?: string
}

export type ResolvedSettings = {
  settings: Settings
  origins: SettingOrigins
  /** What was ignored, one sentence each. */
  warnings: readonly string[]
}

/**
 * Resolves every setting: flag, then environment, then config file, then default.
 *
 * Errors: invalid_setting, unknown_setting.
 */
export function resolveSettings(inputs: SettingInputs): ResolvedSettings {
  const env = inputs.env ?? process.env
  const cwd = inputs.cwd ?? process.cwd()
  const file = readConfig(inputs.config)
  const values: Record<string, unknown> = {}
  const origins: Record<string, string> = {}
  const warnings: string[] = []
  for (const key of settingKeys) {
    const spec: SettingSpec = settingTable[key]
    const found = findValue(key, spec, inputs, env, file, warnings)
    if (found === undefined) {
      values[key] =
        spec.kind === 'path' && spec.default !== undefined
          ? resolve(cwd, spec.default)
          : spec.default
      origins[key] = 'default'
      continue
    }
    const value = parseValue(spec, found.raw)
    if (value === undefined) {
      const shown = spec.isSecret ? '***' : String(found.raw)
      throw fail('invalid_setting', {
        setting: key,
        value: shown,
        from: found.from,
        expected: expectation(spec),
      })
    }
    values[key] = spec.kind === 'path' ? resolve(cwd, String(value)) : value
    origins[key] = found.from
  }
  if (values['store'] === undefined) {
    const taken = findStore(cwd, inputs.dataDir)
    values['store'] = taken.path
    origins['store'] = taken.why
  }
  if (values['db'] === undefined) {
    values['db'] = join(dirname(values['store'] as string), 'store.db')
    origins['db'] = 'beside the store'
  }
  return {settings: Object.freeze(values) as Settings, origins: origins as SettingOrigins, warnings}
}

type Found = {raw: unknown; from: string}

function findValue(
  key: SettingKey,
  spec: SettingSpec,
  inputs: SettingInputs,
  env: Readonly<Record<string, string | undefined>>,
  file: {path: string; values: Record<string, unknown>} | undefined,
  warnings: string[],
): Found | undefined {
  const flag = inputs.flags?.[key]
  if (flag !== undefined) return {raw: flag, from: `flag --${spec.flag ?? key}`}
  for (const name of spec.env ?? []) {
    const value = env[name]
    if (value !== undefined && (value !== '' || spec.refusesEmpty)) return {raw: value, from: name}
  }
  for (const name of spec.lenientEnv ?? []) {
    const value = env[name]
    if (value === undefined || (value === '' && !spec.refusesEmpty)) continue
    if (parseValue(spec, value) !== undefined) return {raw: value, from: name}
    const shown = spec.isSecret
      ? '***'
      : printable(JSON.stringify(withoutSecrets(value, {isTyped: true})))
    warnings.push(`${name}=${shown} is ignored; expected ${expectation(spec)}`)
  }
  if (file && Object.hasOwn(file.values, key)) return {raw: file.values[key], from: file.path}
  return undefined
}

function findStore(cwd: string, dataDir: string): {path: string; why: string} {
  const here = join(cwd, 'store')
  if (existsSync(here)) return {path: here, why: './store exists'}
  const system = '/var/lib/imgstore/store'
  if (existsSync(system)) return {path: system, why: `${system} exists`}
  return {path: join(dataDir, 'store'), why: "the user's data directory"}
}

function readConfig(
  config: SettingInputs['config'],
): {path: string; values: Record<string, unknown>} | undefined {
  if (!config) return undefined
  let text: string
  try {
    text = readSmallFile(config.path)
  } catch (error) {
    if (!config.isRequired) return undefined
    const reason = error instanceof Error ? error.message : String(error)
    throw fail('invalid_setting', {
      setting: 'config',
      value: config.path,
      from: '--config',
      expected: `a readable file (${reason})`,
    })
  }
  let values: unknown
  try {
    values = JSON.parse(text)
  } catch {
    values = undefined
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw fail('invalid_setting', {
      setting: 'config',
      value: config.path,
      from: config.path,
      expected: 'a JSON object of settings',
    })
  }
  for (const key of Object.keys(values)) {
    if (!Object.hasOwn(settingTable, key))
      throw fail('unknown_setting', {setting: key, from: config.path})
  }
  return {path: config.path, values: values as Record<string, unknown>}
}

/** A setting's value as it may be seen: no secret, and no address with its password. */
export function shownValue(spec: SettingSpec, value: SettingValue | undefined): string {
  if (value === undefined) return ''
  return spec.isSecret ? '***' : withoutSecrets(formatValue(spec, value), {isTyped: true})
}

/** What a value must look like, for messages and docs: "a size from 1 to 256 GiB". */
export function expectation(spec: SettingSpec): string {
  const range =
    'min' in spec ? ` from ${formatValue(spec, spec.min)} to ${formatValue(spec, spec.max)}` : ''
  switch (spec.kind) {
    case 'path':
      return 'a path of this host'
    case 'text':
      return 'text'
    case 'flag':
      return 'true or false'
    case 'list':
      return 'a list, separated by commas'
    case 'address':
      return 'a numeric address with a port, such as 127.0.0.1:8080 or [::1]:8080'
    case 'choice':
      return `one of ${spec.choices.join(', ')}`
    case 'count':
      return `a whole number${range}`
    case 'bytes':
      return `a size${range} (such as 100MiB)`
    case 'duration':
      return `a duration${range} (such as 30s)`
  }
}
