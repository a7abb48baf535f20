/**
 * Every failure imgstore can report: its code, its words, its advice, and its number on each door.
 * This table is the only place where these are decided; docs/errors.md is generated from it.
 */

import {withoutSecrets} from './log.ts'

/** What the state machine does about a failure. `wait`: it looks again now and then, and counts no attempt. */
export type Retry = 'never' | 'backoff' | 'wait' | 'after_fix'

/** Who can do something about a failure. */
export type Fault = 'user' | 'host' | 'source' | 'bug'

type Row<D> = {
  message: (details: D) => string
  hint: string
  fault: Fault
  retry: Retry
  /** Process exit code (docs/errors.md lists what each one means). */
  exit: number
  /** HTTP status code. */
  http: number
  /** gRPC status, in snake case. */
  grpc: string
}

function row<D>(value: Row<D>): Row<D> {
  return value
}

/** Exit codes and their meaning; only ever added to. */
export const exitCodes = {
  0: 'done',
  1: 'failed',
  2: 'wrong usage',
  3: 'partly done',
  10: 'not found',
  11: 'busy, locked, or the name is taken',
  12: 'integrity: the bytes are not what was promised',
  13: 'the source or the network failed',
  14: 'no space left',
  15: 'the host cannot do it',
  16: 'the archive is unsafe',
  17: 'not authorised',
  18: 'waited too long',
  70: 'a bug in imgstore',
  130: 'interrupted',
} as const

export const errorTable = {
  // wrong usage
  wrong_usage: row<{reason: string}>({
    message: (d) => d.reason,
    hint: 'Run the command with --help: it shows what it takes, with examples.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 400,
    grpc: 'invalid_argument',
  }),
  invalid_name: row<{name: string}>({
    message: (d) => `${quote(d.name)} is not an image name`,
    hint: 'Use 1 to 128 letters, digits, dots, dashes or underscores, starting with a letter or digit.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 400,
    grpc: 'invalid_argument',
  }),
  invalid_digest: row<{digest: string}>({
    message: (d) => `${quote(d.digest)} is not a SHA-256 digest`,
    hint: 'Give 64 hexadecimal digits, with or without "sha256:" in front, as sha256sum prints them.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 400,
    grpc: 'invalid_argument',
  }),
  invalid_source: row<{url: string; reason: string}>({
    message: (d) => `cannot fetch from ${quote(d.url)}: ${d.reason}`,
    hint: 'Give an http://, https:// or s3://bucket/key address (file:// with --allow-file).',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 400,
    grpc: 'invalid_argument',
  }),
  invalid_setting: row<{setting: string; value: string; from: string; expected: string}>({
    message: (d) =>
      `setting ${d.setting} has the value ${quote(d.value)} (from ${d.from}); expected ${d.expected}`,
    hint: 'Correct the value where it was given; `imgstore doctor --settings` lists every setting and its origin.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 500,
    grpc: 'invalid_argument',
  }),
  unknown_setting: row<{setting: string; from: string}>({
    message: (d) => `there is no setting ${quote(d.setting)} (from ${d.from})`,
    hint: 'Remove it or correct its name; docs/settings.md lists them all.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 500,
    grpc: 'invalid_argument',
  }),
  disk_unfit: row<{path: string; reason: string}>({
    message: (d) => `${d.path} cannot be published: ${d.reason}`,
    hint: 'Pad a raw image with `truncate --size=%512 FILE`. Turn another format into raw with `qemu-img convert -O raw`, or fetch it with `imgstore fetch --kind disk`.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 422,
    grpc: 'invalid_argument',
  }),
  // not found
  image_not_found: row<{name: string}>({
    message: (d) => `there is no image named ${quote(d.name)} in this store`,
    hint: '`imgstore list` shows the images; `imgstore doctor` shows which store was taken and why.',
    fault: 'user',
    retry: 'never',
    exit: 10,
    http: 404,
    grpc: 'not_found',
  }),
  run_not_found: row<{run: string}>({
    message: (d) => `there is no run ${quote(d.run)} in this store`,
    hint: '`imgstore runs list` shows the runs.',
    fault: 'user',
    retry: 'never',
    exit: 10,
    http: 404,
    grpc: 'not_found',
  }),
  source_not_found: row<{url: string; status?: number}>({
    message: (d) =>
      `the source has nothing at ${d.url}${d.status === undefined ? '' : ` (status ${d.status})`}`,
    hint: 'Check the address; then `imgstore retry NAME`, or fetch again with --replace.',
    fault: 'source',
    retry: 'never',
    exit: 13,
    http: 502,
    grpc: 'not_found',
  }),
  disk_not_found: row<{place: string; what: string}>({
    message: (d) => `there is ${d.what} at ${quote(d.place)}`,
    hint: 'Check the path or address; a FILE in the working directory may be written ./FILE.',
    fault: 'user',
    retry: 'never',
    exit: 10,
    http: 404,
    grpc: 'not_found',
  }),
  file_not_found: row<{path: string}>({
    message: (d) => `there is no file ${quote(d.path)}`,
    hint: 'Check the path: it is taken from the working directory.',
    fault: 'user',
    retry: 'never',
    exit: 10,
    http: 404,
    grpc: 'not_found',
  }),
  // busy
  name_taken: row<{name: string; difference: string}>({
    message: (d) => `the name ${quote(d.name)} is taken by an image with another ${d.difference}`,
    hint: 'Choose another name, or give --replace to remove the old image first.',
    fault: 'user',
    retry: 'never',
    exit: 11,
    http: 409,
    grpc: 'already_exists',
  }),
  image_busy: row<{name: string; reason: string}>({
    message: (d) => `image ${quote(d.name)} is busy: ${d.reason}`,
    hint: 'Wait for it to finish (`imgstore status NAME --watch`), then try again.',
    fault: 'user',
    retry: 'backoff',
    exit: 11,
    http: 409,
    grpc: 'failed_precondition',
  }),
  wrong_state: row<{name: string; state: string; needed: string}>({
    message: (d) => `image ${quote(d.name)} is ${d.state}; this needs ${d.needed}`,
    hint: '`imgstore status NAME` shows what it waits for or why it failed.',
    fault: 'user',
    retry: 'never',
    exit: 1,
    http: 409,
    grpc: 'failed_precondition',
  }),
  wrong_kind: row<{name: string; kind: string; needed: string}>({
    message: (d) => `image ${quote(d.name)} is a ${d.kind}; this needs a ${d.needed}`,
    hint: '`imgstore status NAME` shows its kind; `imgstore fetch --kind` chooses it.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 409,
    grpc: 'failed_precondition',
  }),
  store_busy: row<{path: string}>({
    message: (d) => `the database ${d.path} is locked by another process`,
    hint: 'Try again; if it stays so, look for a stopped process that holds the file open.',
    fault: 'host',
    retry: 'backoff',
    exit: 11,
    http: 503,
    grpc: 'unavailable',
  }),
  lease_lost: row<{run: string}>({
    message: (d) => `run ${d.run} was taken over by another worker`,
    hint: 'Nothing to do: the other worker finishes it.',
    fault: 'host',
    retry: 'never',
    exit: 11,
    http: 409,
    grpc: 'aborted',
  }),
  blob_busy: row<{digest: string}>({
    message: (d) => `the download of blob sha256:${d.digest} was taken over by another worker`,
    hint: 'Nothing to do: the other worker finishes it.',
    fault: 'host',
    retry: 'backoff',
    exit: 11,
    http: 409,
    grpc: 'aborted',
  }),
  disk_taken: row<{place: string; difference: string}>({
    message: (d) => `${d.place} holds another disk already: ${d.difference}`,
    hint: 'Publish it under another --version or --id; --force replaces what is there.',
    fault: 'user',
    retry: 'never',
    exit: 11,
    http: 409,
    grpc: 'already_exists',
  }),
  disk_busy: row<{place: string}>({
    message: (d) => `another program is publishing to ${d.place} just now`,
    hint: 'Wait for it to end, then try again: what it has published is not written twice.',
    fault: 'host',
    retry: 'backoff',
    exit: 11,
    http: 409,
    grpc: 'aborted',
  }),
  file_changed: row<{path: string; reason: string}>({
    message: (d) => `${d.path} changed while it was read: ${d.reason}`,
    hint: 'Nothing was published. Stop whatever writes to it, or publish a copy or a snapshot of it.',
    fault: 'host',
    retry: 'after_fix',
    exit: 11,
    http: 409,
    grpc: 'aborted',
  }),
  mount_busy: row<{path: string; below?: string}>({
    message: (d) =>
      d.below === undefined
        ? `${d.path} is in use and cannot be unmounted`
        : `${d.path} cannot be taken away: something is mounted in it, at ${d.below}`,
    hint: 'End the processes that use it (`fuser -vm PATH` lists them) and unmount what was mounted in it, then try again.',
    fault: 'host',
    retry: 'after_fix',
    exit: 11,
    http: 409,
    grpc: 'failed_precondition',
  }),
  file_exists: row<{path: string}>({
    message: (d) => `${d.path} is there already`,
    hint: 'Choose another name, or give --force to replace it.',
    fault: 'user',
    retry: 'never',
    exit: 11,
    http: 409,
    grpc: 'already_exists',
  }),
  file_busy: row<{path: string}>({
    message: (d) => `another program is writing ${d.path} just now`,
    hint: 'Wait for it to end, or choose another name.',
    fault: 'host',
    retry: 'backoff',
    exit: 11,
    http: 409,
    grpc: 'aborted',
  }),
  store_exists: row<{path: string; images: number}>({
    message: (d) => `the database ${d.path} has images already (${d.images})`,
    hint: 'Give --force to put the backup in its place; the old database is kept beside it.',
    fault: 'host',
    retry: 'never',
    exit: 11,
    http: 409,
    grpc: 'already_exists',
  }),
  store_in_use: row<{path: string; by: string}>({
    message: (d) => `the database ${d.path} is in use by ${d.by}`,
    hint: 'Stop it (`systemctl stop imgstore-worker`), then try again.',
    fault: 'user',
    retry: 'never',
    exit: 11,
    http: 409,
    grpc: 'failed_precondition',
  }),
  // integrity
  backup_invalid: row<{path: string; reason: string}>({
    message: (d) => `${d.path} cannot be restored: ${printable(d.reason)}`,
    hint: 'Nothing was changed. Take another backup, or copy this one again from where it is whole.',
    fault: 'user',
    retry: 'never',
    exit: 12,
    http: 422,
    grpc: 'data_loss',
  }),
  digest_mismatch: row<{expected: string; actual: string; sizeBytes: number}>({
    message: (d) =>
      `the content has digest sha256:${d.actual}, expected sha256:${d.expected} (${d.sizeBytes} bytes read)`,
    hint: 'The source sent other bytes than it promised, or the checksum belongs to another file. Check both.',
    fault: 'source',
    retry: 'never',
    exit: 12,
    http: 502,
    grpc: 'data_loss',
  }),
  blob_damaged: row<{digest: string; reason: string}>({
    message: (d) => `blob sha256:${d.digest} is damaged: ${d.reason}`,
    hint: '`imgstore verify` moves damaged blobs to quarantine; `imgstore retry NAME` fetches them again.',
    fault: 'host',
    retry: 'after_fix',
    exit: 12,
    http: 500,
    grpc: 'data_loss',
  }),
  // source and network
  source_refused: row<{url: string; status?: number; reason: string}>({
    message: (d) =>
      `the source refused ${d.url}: ${[d.status === undefined ? '' : `status ${d.status}`, d.reason].filter(Boolean).join(', ')}`,
    hint: 'Check the address and the credentials; then `imgstore retry NAME`.',
    fault: 'source',
    retry: 'never',
    exit: 13,
    http: 502,
    grpc: 'unavailable',
  }),
  source_unavailable: row<{url: string; reason: string; retryAfterMs?: number}>({
    message: (d) => `${d.url} is not available: ${d.reason}`,
    hint: 'The server or the network is in trouble. It is tried again by itself; after that, `imgstore retry NAME`.',
    fault: 'source',
    retry: 'backoff',
    exit: 13,
    http: 502,
    grpc: 'unavailable',
  }),
  source_incomplete: row<{url: string; receivedBytes: number; expectedBytes: number}>({
    message: (d) => `${d.url} ended after ${d.receivedBytes} of ${d.expectedBytes} bytes`,
    hint: 'The connection was cut. It is resumed by itself; after that, `imgstore retry NAME`.',
    fault: 'source',
    retry: 'backoff',
    exit: 13,
    http: 502,
    grpc: 'unavailable',
  }),
  source_stalled: row<{url: string; idleMs: number; receivedBytes?: number}>({
    message: (d) =>
      `${d.url} sent ${d.receivedBytes ? `only ${d.receivedBytes} bytes in` : 'nothing for'} ${d.idleMs} ms`,
    hint: 'It is tried again by itself; --stall-timeout sets how long to wait.',
    fault: 'source',
    retry: 'backoff',
    exit: 13,
    http: 504,
    grpc: 'deadline_exceeded',
  }),
  source_not_image: row<{what: string}>({
    message: (d) => `the source gave ${d.what}, not a tar archive`,
    hint: 'Check the address: open it and see what it really serves.',
    fault: 'source',
    retry: 'never',
    exit: 13,
    http: 502,
    grpc: 'failed_precondition',
  }),
  bad_disk: row<{format: string; reason: string}>({
    message: (d) => `the ${d.format} image cannot be taken: ${d.reason}`,
    hint: 'Make a raw image of it where it comes from, and fetch that.',
    fault: 'source',
    retry: 'never',
    exit: 16,
    http: 422,
    grpc: 'failed_precondition',
  }),
  source_too_large: row<{url: string; sizeBytes: number; limitBytes: number}>({
    message: (d) =>
      `${d.url} is larger than the limit of ${d.limitBytes} bytes (${d.sizeBytes} so far)`,
    hint: 'Raise --max-blob-size if this size is right.',
    fault: 'user',
    retry: 'never',
    exit: 13,
    http: 502,
    grpc: 'resource_exhausted',
  }),
  redirect_refused: row<{url: string; reason: string}>({
    message: (d) => `a redirect from ${d.url} was not followed: ${d.reason}`,
    hint: 'Fetch from the final address if you trust it.',
    fault: 'source',
    retry: 'never',
    exit: 13,
    http: 502,
    grpc: 'failed_precondition',
  }),
  // space
  no_space: row<{path: string; reason?: string}>({
    message: (d) => `no space left for ${d.path}${d.reason ? ` (${d.reason})` : ''}`,
    hint: 'Free space or inodes (`imgstore cleanup`, `df -h`, `df -i`), then `imgstore retry NAME`.',
    fault: 'host',
    retry: 'after_fix',
    exit: 14,
    http: 507,
    grpc: 'resource_exhausted',
  }),
  space_low: row<{path: string; freeBytes: number; neededBytes: number; reserveBytes: number}>({
    message: (d) =>
      `waiting for space: ${size(d.freeBytes)} free, ${d.neededBytes > 0 ? `needs ${size(d.neededBytes)} and` : 'needs'} a reserve of ${size(d.reserveBytes)} (${d.path})`,
    hint: 'Free space: `imgstore cleanup`, or remove images. It then goes on by itself; --space-reserve sets the reserve.',
    fault: 'host',
    retry: 'wait',
    exit: 14,
    http: 507,
    grpc: 'resource_exhausted',
  }),
  // host
  io_failed: row<{path: string; reason: string}>({
    message: (d) => `reading or writing ${d.path} failed: ${d.reason}`,
    hint: 'Look at the disk and the kernel log; then `imgstore retry NAME`.',
    fault: 'host',
    retry: 'after_fix',
    exit: 1,
    http: 500,
    grpc: 'internal',
  }),
  permission_denied: row<{path: string; action: string; reason?: string}>({
    message: (d) => `not allowed to ${d.action} ${d.path}${d.reason ? ` (${d.reason})` : ''}`,
    hint: 'Run as the user who owns the store (often root), see that its file system can be written, or choose another one with --store.',
    fault: 'host',
    retry: 'after_fix',
    exit: 15,
    http: 500,
    grpc: 'permission_denied',
  }),
  store_newer: row<{path: string; found: string; known: string}>({
    message: (d) =>
      `the database ${d.path} was made by a newer imgstore (its schema is ${d.found}, this program knows ${d.known})`,
    hint: 'Upgrade imgstore. The database was not touched.',
    fault: 'host',
    retry: 'never',
    exit: 15,
    http: 500,
    grpc: 'failed_precondition',
  }),
  store_invalid: row<{path: string; reason: string}>({
    message: (d) => `${d.path} cannot be used as a store: ${d.reason}`,
    hint: 'Choose another path with --store or --db, or bring a backup back with `imgstore restore FILE --force`.',
    fault: 'host',
    retry: 'never',
    exit: 15,
    http: 500,
    grpc: 'failed_precondition',
  }),
  host_cannot_mount: row<{reason: string}>({
    message: (d) => `this host cannot mount images: ${d.reason}`,
    hint: '`imgstore doctor` says what is missing. The image is kept as STORED; a worker that can mount goes on from there.',
    fault: 'host',
    retry: 'after_fix',
    exit: 15,
    http: 500,
    grpc: 'failed_precondition',
  }),
  host_lacks: row<{what: string; need: string}>({
    message: (d) => `this host lacks ${d.what}, which is needed to ${d.need}`,
    hint: '`imgstore doctor` shows what the host has and how to get the rest.',
    fault: 'host',
    retry: 'after_fix',
    exit: 15,
    http: 500,
    grpc: 'failed_precondition',
  }),
  mount_failed: row<{path: string; reason: string}>({
    message: (d) => `mounting ${d.path} failed: ${d.reason}`,
    hint: '`imgstore doctor` checks what mounting needs; the kernel log (`dmesg`) says more.',
    fault: 'host',
    retry: 'backoff',
    exit: 15,
    http: 500,
    grpc: 'internal',
  }),
  unpack_failed: row<{reason: string}>({
    message: (d) => `unpacking failed: ${d.reason}`,
    hint: 'Try `imgstore retry NAME`; if it repeats, report it with the output of `imgstore doctor --json`.',
    fault: 'host',
    retry: 'backoff',
    exit: 1,
    http: 500,
    grpc: 'internal',
  }),
  compression_unsupported: row<{format: string; need: string}>({
    message: (d) => `the archive is compressed with ${d.format}, which needs ${d.need}`,
    hint: 'Install what is named, or recompress the archive with zstd or gzip.',
    fault: 'host',
    retry: 'after_fix',
    exit: 15,
    http: 500,
    grpc: 'failed_precondition',
  }),
  // unsafe archives
  unsafe_archive: row<{entry: string; offset: number; rule: string; flag?: string}>({
    message: (d) =>
      `the archive was refused: entry ${quote(d.entry)} at byte ${d.offset} ${d.rule}${d.flag ? ` (${d.flag} allows it)` : ''}`,
    hint: 'If you trust the archive, `imgstore retry NAME` with the flag that the message names goes on without a new download.',
    fault: 'source',
    retry: 'never',
    exit: 16,
    http: 422,
    grpc: 'failed_precondition',
  }),
  bad_archive: row<{offset: number; reason: string}>({
    message: (d) => `the archive is malformed at byte ${d.offset}: ${printable(d.reason)}`,
    hint: 'The bytes match their checksum, so the archive was made so. Make it again, e.g. with GNU tar.',
    fault: 'source',
    retry: 'never',
    exit: 16,
    http: 422,
    grpc: 'failed_precondition',
  }),
  // waiting and stopping
  wait_timeout: row<{name: string; state: string; timeoutMs: number}>({
    message: (d) => `waited ${d.timeoutMs} ms for image ${quote(d.name)}; it is ${d.state}`,
    hint: 'It goes on in the background if a worker runs; `imgstore status NAME` shows where it is.',
    fault: 'user',
    retry: 'never',
    exit: 18,
    http: 504,
    grpc: 'deadline_exceeded',
  }),
  // disk images
  catalog_invalid: row<{path: string; reason: string}>({
    message: (d) => `the catalog ${d.path} cannot be used: ${printable(d.reason)}`,
    hint: 'Correct the file; it is read again at the next request, without a restart.',
    fault: 'host',
    retry: 'after_fix',
    exit: 15,
    http: 500,
    grpc: 'failed_precondition',
  }),
  disk_changed: row<{id: string}>({
    message: (d) => `disk image ${quote(d.id)} was changed at the moment it was opened`,
    hint: 'Ask again: the answer is then about the new version.',
    fault: 'host',
    retry: 'backoff',
    exit: 11,
    http: 503,
    grpc: 'unavailable',
  }),
  interrupted: row<{what: string}>({
    message: (d) => `${d.what} was interrupted`,
    hint: 'Nothing is lost: the next worker, or the same command again, goes on from here.',
    fault: 'user',
    retry: 'never',
    exit: 130,
    http: 503,
    grpc: 'cancelled',
  }),
  command_failed: row<{command: string; reason: string}>({
    message: (d) => `${quote(d.command)} could not be run: ${d.reason}`,
    hint: 'Check that the program exists in the image (`imgstore run NAME -- /bin/sh -c "ls /"`).',
    fault: 'user',
    retry: 'never',
    exit: 1,
    http: 500,
    grpc: 'failed_precondition',
  }),
  // the HTTP door
  bad_request: row<{reason: string}>({
    message: (d) => `the request cannot be understood: ${d.reason}`,
    hint: 'Correct the request; docs/operations.md lists what is served.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 400,
    grpc: 'invalid_argument',
  }),
  route_not_found: row<{path: string}>({
    message: (d) => `nothing is served at ${quote(d.path)}`,
    hint: 'A worker with --listen serves /healthz, /readyz and /metrics.',
    fault: 'user',
    retry: 'never',
    exit: 10,
    http: 404,
    grpc: 'unimplemented',
  }),
  method_not_allowed: row<{method: string; path: string; allowed: readonly string[]}>({
    message: (d) =>
      `${d.method} is not served at ${quote(d.path)}; it takes ${d.allowed.join(', ')}`,
    hint: 'Use one of the methods that the Allow header names.',
    fault: 'user',
    retry: 'never',
    exit: 2,
    http: 405,
    grpc: 'unimplemented',
  }),
  address_in_use: row<{address: string}>({
    message: (d) => `another program listens on ${d.address} already`,
    hint: 'Choose another port with --listen, or end that program (`ss -ltnp` shows it).',
    fault: 'host',
    retry: 'after_fix',
    exit: 11,
    http: 503,
    grpc: 'unavailable',
  }),
  serve_failed: row<{reason: string}>({
    message: (d) => `cannot serve: ${d.reason}`,
    hint: 'Correct what is named; `imgstore serve --help` lists the flags, docs/serve.md says what they do.',
    fault: 'host',
    retry: 'after_fix',
    exit: 1,
    http: 500,
    grpc: 'failed_precondition',
  }),
  internal: row<{reason: string}>({
    message: (d) => `this is a bug in imgstore: ${d.reason}`,
    hint: 'Please report it with the command and this message.',
    fault: 'bug',
    retry: 'backoff',
    exit: 70,
    http: 500,
    grpc: 'internal',
  }),
} as const

export type ErrorCode = keyof typeof errorTable
export type ErrorDetails<C extends ErrorCode> = Parameters<(typeof errorTable)[C]['message']>[0]

/** One failure with everything a door needs to report it. Made by `fail()` only. */
export class ImgstoreError extends Error {
  override readonly name = 'ImgstoreError'
  readonly code: ErrorCode
  readonly hint: string
  readonly details: Readonly<Record<string, unknown>>
  readonly retry: Retry
  readonly fault: Fault
  readonly exit: number
  readonly http: number

  constructor(
    code: ErrorCode,
    details: Record<string, unknown>,
    options?: {cause?: unknown; retry?: Retry},
  ) {
    const found = errorTable[code] as Row<Record<string, unknown>>
    const shown = cleanDetails(details, found.fault === 'user')
    super(found.message(shown), options)
    this.code = code
    this.hint = found.hint
    this.details = shown
    this.retry = options?.retry ?? found.retry
    this.fault = found.fault
    this.exit = found.exit
    this.http = found.http
  }
}

/** Failures are shown, logged and kept: whatever words they hold, none may be an address with its password. */
function cleanDetails(details: Record<string, unknown>, isTyped: boolean): Record<string, unknown> {
  const clean = (value: unknown): unknown => {
    if (typeof value === 'string') return withoutSecrets(value, {isTyped})
    return Array.isArray(value) ? value.map(clean) : value
  }
  return Object.fromEntries(Object.entries(details).map(([key, value]) => [key, clean(value)]))
}

/** Makes the error of one table row; `details` are checked against the row by the compiler. Use as `throw fail(…)`. */
export function fail<C extends ErrorCode>(
  code: C,
  details: ErrorDetails<C>,
  options?: {cause?: unknown},
): ImgstoreError {
  return new ImgstoreError(code, details, options)
}

/** The same failure, worth another attempt: whoever met it knows something that says it may pass. */
export function asPassing(error: ImgstoreError): ImgstoreError {
  return new ImgstoreError(error.code, error.details, {cause: error, retry: 'backoff'})
}

/**
 * Any thrown value as an `ImgstoreError`; what is not one already becomes `internal`. Only what the system itself said
 * no to, at a place where nobody expected it, is no bug: a directory where a file belongs, a pipe, a dead disk.
 */
export function toImgstoreError(error: unknown): ImgstoreError {
  if (error instanceof ImgstoreError) return error
  const refused = refusedPath(error)
  if (refused) return fromSystemError(error, refused.path, refused.syscall)
  const reason = error instanceof Error ? error.message : String(error)
  return fail('internal', {reason}, {cause: error})
}

/** What a system call on a path said no to; an error of a descriptor that is not open is a bug of ours. */
function refusedPath(error: unknown): {path: string; syscall: string} | undefined {
  if (!(error instanceof Error)) return undefined
  const {path, syscall} = error as {path?: unknown; syscall?: unknown}
  if (syscall === 'uv_cwd') return {path: 'the working directory', syscall}
  return typeof path === 'string' && typeof syscall === 'string' ? {path, syscall} : undefined
}

/** The shape in which a failure leaves the program as JSON. */
export type ErrorJson = {
  code: string
  message: string
  hint: string
  details: Record<string, unknown>
}

export function errorToJson(error: ImgstoreError): ErrorJson {
  return {code: error.code, message: error.message, hint: error.hint, details: {...error.details}}
}

/** The `code` of a Node system error (`ENOENT` …), or undefined for anything else. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error && 'code' in error && typeof error.code === 'string'))
    return undefined
  if (!/^unknown/i.test(error.code) || !('errno' in error)) return error.code
  return unnamed[-Number(error.errno)] ?? error.code
}

/** What disks say and libuv has no name for (`UNKNOWN`, `Unknown system error -122`): asm-generic/errno.h of Linux. */
const unnamed: Readonly<Record<number, string>> = {
  117: 'EUCLEAN',
  121: 'EREMOTEIO',
  122: 'EDQUOT',
}

/**
 * Turns a Node system error met at `path` into a coded one; drivers call it where they meet the error.
 * `action` is a verb ("write") for the permission message. Errors that carry a code already pass through.
 */
export function fromSystemError(error: unknown, path: string, action: string): ImgstoreError {
  if (error instanceof ImgstoreError) return error
  const code = systemCode(error)
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return fail('no_space', {path, reason: code}, {cause: error})
    case 'EACCES':
    case 'EPERM':
      return fail('permission_denied', {path, action}, {cause: error})
    case 'EROFS': {
      const reason = 'its file system is read-only'
      return fail('permission_denied', {path, action, reason}, {cause: error})
    }
    default: {
      const reason = error instanceof Error ? error.message : String(error)
      return fail('io_failed', {path, reason}, {cause: error})
    }
  }
}

/**
 * Text from outside, fit for a terminal: control characters, bidirectional marks and quotes are escaped
 * and very long text is cut in the middle.
 */
export function quote(text: string): string {
  return escapeControls(JSON.stringify(cutMiddle(text)))
}

/** Text of ours that holds words from outside: as `quote`, without the quotes. */
export function printable(text: string): string {
  return escapeControls(cutMiddle(text))
}

/** Bytes in the largest binary unit that leaves a digit before the point. */
function size(bytes: number): string {
  const exponent = bytes < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(bytes) / 10))
  return `${(bytes / 1024 ** exponent).toFixed(exponent === 0 ? 0 : 1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][exponent]}`
}

function cutMiddle(text: string): string {
  return text.length > 300 ? `${text.slice(0, 200)}…${text.slice(-80)}` : text
}

function escapeControls(text: string): string {
  // Cc and Cf: control and format characters; Zl and Zp: the other line ends.
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => {
    const hex = (c.codePointAt(0) ?? 0).toString(16)
    return hex.length > 4 ? `\\u{${hex}}` : `\\u${hex.padStart(4, '0')}`
  })
}
