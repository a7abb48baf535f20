/** Images in S3 and what speaks its protocol: one GetObject, signed (SigV4) or not, through the AWS SDK. */
import type {IncomingHttpHeaders, IncomingMessage} from 'node:http'
import {GetObjectCommand, S3Client, S3ServiceException} from '@aws-sdk/client-s3'
import type {GetObjectCommandInput} from '@aws-sdk/client-s3'
import {fail} from '../errors.ts'
import {redact} from '../log.ts'
import {Agents} from './agents.ts'
import type {OpenRequest, OpenedSource, Source, SourceOptions} from './contract.ts'
import {Deadline} from './deadline.ts'
import {judgeAnswer, statusError, type AnswerHead} from './http-answer.ts'
import {connectionError} from './http-error.ts'
import {openedFrom} from './opened.ts'
import {clientConfig} from './s3-client.ts'

/** The source at an `s3://bucket/key` address that `parseSourceUrl` has passed. */
export function openS3Source(url: URL, options: SourceOptions): Source {
  return {open: (request) => openS3(url, request, options)}
}

async function openS3(
  url: URL,
  request: OpenRequest,
  options: SourceOptions,
): Promise<OpenedSource> {
  request.signal.throwIfAborted()
  const shown = redact(url.href)
  const deadline = new Deadline(shown, request.signal, options.totalTimeoutMs)
  const agents = new Agents(options)
  const client = new S3Client(clientConfig(options, agents))
  const {signal} = deadline
  let response: IncomingMessage | undefined
  const close = (): void => {
    response?.destroy()
    deadline.clear()
    client.destroy()
    agents.close()
  }
  try {
    const asked = await getObject(
      {client, url, shown, signal, stallTimeoutMs: options.stallTimeoutMs},
      request,
    )
    response = asked.response
    return openedFrom(asked.head, {url: shown, response, signal, close}, options)
  } catch (error) {
    close()
    signal.throwIfAborted()
    throw connectionError(shown, error)
  }
}

type S3Object = {
  client: S3Client
  url: URL
  shown: string
  signal: AbortSignal
  stallTimeoutMs: number
}
type Asked = {head: AnswerHead; response: IncomingMessage}

/** One GetObject; when the object is no longer the one that the range belongs to, a second one for all of it. */
async function getObject(object: S3Object, request: Omit<OpenRequest, 'signal'>): Promise<Asked> {
  const {client, url, shown, signal, stallTimeoutMs} = object
  const {startByte, validator} = request
  const versionId = url.searchParams.get('versionId')
  const input: GetObjectCommandInput = {
    Bucket: url.host,
    Key: decodeURIComponent(url.pathname.slice(1)),
    ...(versionId === null ? {} : {VersionId: versionId}),
    ...(startByte > 0 ? {Range: `bytes=${startByte}-`} : {}),
    // S3 ignores If-Range; If-Match says the same with a 412. Only an ETag can be matched.
    ...(startByte > 0 && validator?.startsWith('"') ? {IfMatch: validator} : {}),
  }
  const command = new GetObjectCommand(input)
  let raw: {statusCode: number; headers: IncomingHttpHeaders; body: IncomingMessage} | undefined
  command.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args)
      raw = result.response as typeof raw
      return result
    },
    {step: 'deserialize', priority: 'low', name: 'keepResponse'},
  )
  try {
    await client.send(command, {abortSignal: signal})
    if (raw === undefined) throw fail('source_unavailable', {url: shown, reason: 'no response'})
    return {head: judgeAnswer(shown, raw.statusCode, raw.headers, startByte), response: raw.body}
  } catch (error) {
    if (error instanceof Error && error.message.includes('requestTimeout')) {
      throw fail('source_stalled', {url: shown, idleMs: stallTimeoutMs}, {cause: error})
    }
    if (raw === undefined || !(error instanceof S3ServiceException)) throw error
    raw.body.destroy()
    if (raw.statusCode === 412 && input.IfMatch !== undefined) {
      return await getObject(object, {startByte: 0})
    }
    if (raw.statusCode === 416) {
      return {head: judgeAnswer(shown, 416, raw.headers, startByte), response: raw.body}
    }
    // The code is one word by S3's rules; anything else a server sends is not shown.
    const detail = /^\w{1,64}$/.test(error.name) ? error.name : undefined
    throw statusError(shown, raw.statusCode, raw.headers, detail)
  }
}
