/** Objects of an S3 bucket: looked at, listed, read, written and removed one by one, through the AWS SDK. */
import type {Readable} from 'node:stream'
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3'
import type {Digest} from '../digest.ts'
import {fail} from '../errors.ts'
import {KeptAgents} from './agents.ts'
import type {SourceOptions} from './contract.ts'
import {statusError} from './http-answer.ts'
import {connectionError} from './http-error.ts'
import {clientConfig} from './s3-client.ts'

/** What a reader of an object gets to see beside its bytes. */
export type ObjectHead = {
  sizeBytes: number
  /** The digest that the writer noted with the object. */
  sha256?: string
  cacheControl?: string
  contentEncoding?: string
  contentType?: string
}

export type PutOptions = {
  contentType: string
  cacheControl: string
  sha256: Digest
  /** Refuses where the service can when there is such an object. */
  isOnlyNew?: boolean
}

/**
 * One bucket. Every function but `list` asks once for each try; tries are repeated with growing waits on 5xx, 429 and
 * broken connections.
 *
 * Errors: source_refused, source_unavailable, source_stalled, source_not_found (no such bucket); the signal's reason.
 */
export type Bucket = {
  /** `s3://bucket/key`, for messages. */
  addressOf(key: string): string
  head(key: string): Promise<ObjectHead | undefined>
  /** Sizes of the objects whose keys begin with `prefix`, by key. */
  list(prefix: string): Promise<Map<string, number>>
  /** The body must be read to its end or destroyed. */
  get(key: string): Promise<(ObjectHead & {body: Readable}) | undefined>
  /** False when it was only to be written new, and there is one. */
  put(key: string, bytes: Uint8Array, options: PutOptions): Promise<boolean>
  remove(key: string): Promise<void>
  close(): void
}

// The name of our note in the object's own metadata (x-amz-meta-sha256).
const digestName = 'sha256'

export function openBucket(
  name: string,
  options: SourceOptions & {maxAttempts: number},
  signal: AbortSignal,
): Bucket {
  const agents = new KeptAgents(options)
  const client = new S3Client({
    ...clientConfig(options, agents),
    // Here nobody above repeats a single request.
    maxAttempts: options.maxAttempts,
  })
  const addressOf = (key: string): string => `s3://${name}/${key}`
  const abort = {abortSignal: signal}
  return {
    addressOf,
    head: (key) =>
      guard(addressOf(key), signal, async () =>
        absentAs404(async () =>
          headOf(await client.send(new HeadObjectCommand({Bucket: name, Key: key}), abort)),
        ),
      ),
    list: (prefix) => guard(addressOf(prefix), signal, () => listAll(client, name, prefix, signal)),
    get: (key) =>
      guard(addressOf(key), signal, async () =>
        absentAs404(async () => {
          const found = await client.send(new GetObjectCommand({Bucket: name, Key: key}), abort)
          return {...headOf(found), body: found.Body as Readable}
        }),
      ),
    put: (key, bytes, put) =>
      guard(addressOf(key), signal, () => putObject(client, {name, key, signal}, bytes, put)),
    remove: async (key) => {
      await guard(addressOf(key), signal, () =>
        client.send(new DeleteObjectCommand({Bucket: name, Key: key}), abort),
      )
    },
    close: () => {
      client.destroy()
      agents.close()
    },
  }
}

/** Runs one request and turns what goes wrong into codes. */
async function guard<T>(address: string, signal: AbortSignal, body: () => Promise<T>): Promise<T> {
  signal.throwIfAborted()
  try {
    return await body()
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof Error && error.message.includes('requestTimeout'))
      throw fail(
        'source_unavailable',
        {url: address, reason: 'no answer came in time'},
        {cause: error},
      )
    const status = statusOf(error)
    if (status === undefined) throw connectionError(address, error)
    // The code is one word by S3's rules; anything else a server sends is not shown.
    const word = error instanceof Error && /^\w{1,64}$/.test(error.name) ? error.name : undefined
    throw statusError(address, status, {}, word)
  }
}

function statusOf(error: unknown): number | undefined {
  return error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined
}

/** Undefined for an object that is not there; a bucket that is not there is an error. */
async function absentAs404<T>(body: () => Promise<T>): Promise<T | undefined> {
  try {
    return await body()
  } catch (error) {
    const isBucket = error instanceof Error && error.name === 'NoSuchBucket'
    if (statusOf(error) === 404 && !isBucket) return undefined
    throw error
  }
}

function headOf(found: {
  ContentLength?: number | undefined
  CacheControl?: string | undefined
  ContentEncoding?: string | undefined
  ContentType?: string | undefined
  Metadata?: Record<string, string> | undefined
}): ObjectHead {
  const sha256 = found.Metadata?.[digestName]
  return {
    sizeBytes: found.ContentLength ?? 0,
    ...(sha256 === undefined ? {} : {sha256}),
    ...(found.CacheControl === undefined ? {} : {cacheControl: found.CacheControl}),
    ...(found.ContentEncoding === undefined ? {} : {contentEncoding: found.ContentEncoding}),
    ...(found.ContentType === undefined ? {} : {contentType: found.ContentType}),
  }
}

async function listAll(
  client: S3Client,
  bucket: string,
  prefix: string,
  signal: AbortSignal,
): Promise<Map<string, number>> {
  const sizes = new Map<string, number>()
  let token: string | undefined
  do {
    const page = await client.send(
      new ListObjectsV2Command({
        Bucket: bucket,
        Prefix: prefix,
        ...(token === undefined ? {} : {ContinuationToken: token}),
      }),
      {abortSignal: signal},
    )
    for (const {Key, Size} of page.Contents ?? []) if (Key !== undefined) sizes.set(Key, Size ?? 0)
    token = page.IsTruncated === true ? page.NextContinuationToken : undefined
  } while (token !== undefined)
  return sizes
}

async function putObject(
  client: S3Client,
  {name, key, signal}: {name: string; key: string; signal: AbortSignal},
  bytes: Uint8Array,
  put: PutOptions,
): Promise<boolean> {
  const command = new PutObjectCommand({
    Bucket: name,
    Key: key,
    Body: bytes,
    ContentLength: bytes.length,
    ContentType: put.contentType,
    CacheControl: put.cacheControl,
    ContentEncoding: 'identity',
    Metadata: {[digestName]: put.sha256},
    ...(put.isOnlyNew === true ? {IfNoneMatch: '*'} : {}),
  })
  // What the signature covers, and what the service compares the body with: without it the SDK would hash again.
  command.middlewareStack.add(
    (next) => async (args) => {
      const request = args.request as {headers: Record<string, string>}
      request.headers['x-amz-content-sha256'] = put.sha256
      return await next(args)
    },
    {step: 'build', name: 'bodyDigest'},
  )
  try {
    await client.send(command, {abortSignal: signal})
    return true
  } catch (error) {
    const status = put.isOnlyNew === true ? statusOf(error) : undefined
    if (status === 412) return false
    if (status !== 501) throw error
    // The service knows no conditions for writing (OpenStack Swift): asked first is the most that can be done.
    const head = new HeadObjectCommand({Bucket: name, Key: key})
    if (await absentAs404(async () => client.send(head, {abortSignal: signal}))) return false
    return await putObject(client, {name, key, signal}, bytes, {...put, isOnlyNew: false})
  }
}
