/**
 * Images over HTTP.
 *
 * The dangers: a redirect that carries credentials to a stranger, leads from TLS to clear text, or reaches into the
 * private network; a server that is silent for ever; an error page taken for an image. Redirects are therefore
 * followed here, one judged hop at a time, and got is used for single requests without retries of its own.
 */
import type {IncomingMessage} from 'node:http'
import got, {TimeoutError} from 'got'
import {fail} from '../errors.ts'
import {redact} from '../log.ts'
import {isPrivateAddress, literalAddress, publicLookup} from './addresses.ts'
import {Agents, proxyFor} from './agents.ts'
import type {OpenRequest, OpenedSource, Source, SourceOptions} from './contract.ts'
import {Deadline} from './deadline.ts'
import {judgeAnswer} from './http-answer.ts'
import {connectionError} from './http-error.ts'
import {openedFrom} from './opened.ts'

/** What a test replaces: its peers are all on loopback addresses. */
export type HttpDeps = {isPrivate: (address: string) => boolean}

export type Hop = {
  url: URL
  /** Sent to the first origin only. */
  authorization: string | undefined
  /** Whether the hop must not lead to a private address. */
  isGuarded: boolean
}

export type HopAnswer = {response: IncomingMessage; isPrivate: boolean; close: () => void}

/** The source at an http(s) address. Opening it asks the network; nothing is asked before. */
export function openHttpSource(
  url: URL,
  options: SourceOptions,
  deps: HttpDeps = {isPrivate: isPrivateAddress},
): Source {
  const first = firstHop(url, options)
  return {open: (request) => openHttp(first, request, options, deps)}
}

/** Where asking for an address begins: with its credentials, or else the settings'. */
export function firstHop(url: URL, options: SourceOptions): Hop {
  return {url: withoutUser(url), authorization: credentials(url, options), isGuarded: false}
}

async function openHttp(
  first: Hop,
  request: OpenRequest,
  options: SourceOptions,
  deps: HttpDeps,
): Promise<OpenedSource> {
  request.signal.throwIfAborted()
  const url = redact(first.url.href)
  const deadline = new Deadline(url, request.signal, options.totalTimeoutMs)
  const agents = new Agents(options)
  const {signal} = deadline
  let answer: HopAnswer | undefined
  const close = (): void => {
    answer?.close()
    deadline.clear()
    agents.close()
  }
  try {
    const headers = (hop: Hop): Record<string, string> => requestHeaders(hop, request)
    answer = await followHops(first, {options, deps, agents, deadline, method: 'GET', headers})
    const {response} = answer
    const head = judgeAnswer(url, response.statusCode ?? 0, response.headers, request.startByte)
    return openedFrom(head, {url, response, signal, close}, options)
  } catch (error) {
    close()
    signal.throwIfAborted()
    throw connectionError(url, error)
  }
}

export type HopContext = {
  options: SourceOptions
  deps: HttpDeps
  agents: Agents
  deadline: Deadline
  method: 'GET' | 'HEAD'
  headers: (hop: Hop) => Record<string, string>
}

/** Asks, and follows redirects while they are harmless, until there is an answer that is none. */
export async function followHops(first: Hop, context: HopContext): Promise<HopAnswer> {
  const {options} = context
  const seen = new Set<string>()
  let hop = first
  while (true) {
    seen.add(hop.url.href)
    const answer = await askOnce(hop, context)
    const status = answer.response.statusCode ?? 0
    const location = answer.response.headers.location
    if (![301, 302, 303, 307, 308].includes(status) || location === undefined) return answer
    answer.close()
    const url = redact(hop.url.href)
    if (seen.size > options.redirectsMax) {
      throw fail('redirect_refused', {url, reason: `more than ${options.redirectsMax} redirects`})
    }
    const target = parseLocation(location, hop.url)
    if (seen.has(target.href)) {
      throw fail('redirect_refused', {url, reason: 'it leads back to an address already asked'})
    }
    hop = {
      url: target,
      authorization: target.origin === hop.url.origin ? hop.authorization : undefined,
      isGuarded: !answer.isPrivate && !options.allowPrivateRedirects,
    }
  }
}

/** The address that a Location header names. Errors: redirect_refused. */
function parseLocation(location: string, base: URL): URL {
  const url = redact(base.href)
  // Node reads header bytes as Latin-1; servers write UTF-8.
  const target = URL.parse(Buffer.from(location, 'latin1').toString('utf8'), base.href)
  if (target === null) throw fail('redirect_refused', {url, reason: 'its Location is no URL'})
  if (target.protocol !== 'https:' && target.protocol !== 'http:') {
    const reason = `it leads to a ${target.protocol.slice(0, -1).slice(0, 20)} address`
    throw fail('redirect_refused', {url, reason})
  }
  if (base.protocol === 'https:' && target.protocol === 'http:') {
    throw fail('redirect_refused', {url, reason: 'it leads from https to http'})
  }
  return withoutUser(target)
}

/** One request, up to the head of its answer. */
function askOnce(hop: Hop, context: HopContext): Promise<HopAnswer> {
  const {options, deps, agents, deadline, method} = context
  const {url} = hop
  const proxy = proxyFor(url, options.proxyEnv)
  const literal = literalAddress(url.hostname)
  const isNamedPrivate =
    literal === undefined ? /(^|\.)localhost\.?$/i.test(url.hostname) : deps.isPrivate(literal)
  if (hop.isGuarded && isNamedPrivate) {
    const reason = `it leads to the private address ${url.hostname}`
    return Promise.reject(fail('redirect_refused', {url: redact(url.href), reason}))
  }
  const stream = got.stream(url.href, {
    method,
    agent: url.protocol === 'https:' ? {https: agents.https(proxy)} : {http: agents.http(proxy)},
    headers: context.headers(hop),
    followRedirect: false,
    throwHttpErrors: false,
    retry: {limit: 0},
    // Bytes are hashed and resumed as the server stores them; got must not touch them.
    decompress: false,
    timeout: {
      lookup: options.connectTimeoutMs,
      connect: options.connectTimeoutMs,
      secureConnect: options.connectTimeoutMs,
      response: options.stallTimeoutMs,
    },
    // A proxy resolves names itself, and its own address is often private.
    ...(hop.isGuarded && proxy === undefined ? {dnsLookup: publicLookup(deps.isPrivate)} : {}),
  })
  return new Promise((resolve, reject) => {
    const close = (): void => {
      deadline.signal.removeEventListener('abort', onAbort)
      stream.destroy()
    }
    const onAbort = (): void => {
      close()
      reject(deadline.signal.reason as Error)
    }
    deadline.signal.addEventListener('abort', onAbort, {once: true})
    stream.on('error', (error) => {
      close()
      reject(error instanceof TimeoutError ? timeoutError(url, error, options) : error)
    })
    stream.once('response', (response: IncomingMessage) => {
      // The bytes are taken from the response itself: got's own stream face is one more copy of the bookkeeping.
      response.removeAllListeners('readable')
      const address = proxy === undefined ? response.socket.remoteAddress : undefined
      const isPrivate = isNamedPrivate || (address !== undefined && deps.isPrivate(address))
      resolve({response, isPrivate, close})
    })
  })
}

function requestHeaders(hop: Hop, request: OpenRequest): Record<string, string> {
  const headers: Record<string, string> = {
    'user-agent': 'imgstore',
    accept: '*/*',
    'accept-encoding': 'identity',
  }
  if (hop.authorization !== undefined) headers['authorization'] = hop.authorization
  if (request.startByte > 0) {
    headers['range'] = `bytes=${request.startByte}-`
    if (request.validator !== undefined) headers['if-range'] = request.validator
  }
  return headers
}

function timeoutError(url: URL, error: TimeoutError, options: SourceOptions): Error {
  const shown = redact(url.href)
  if (error.event === 'response') {
    return fail('source_stalled', {url: shown, idleMs: options.stallTimeoutMs}, {cause: error})
  }
  const reason = `connecting took longer than ${options.connectTimeoutMs} ms (${error.event})`
  return fail('source_unavailable', {url: shown, reason}, {cause: error})
}

function withoutUser(url: URL): URL {
  const bare = new URL(url)
  bare.username = ''
  bare.password = ''
  bare.hash = ''
  return bare
}

function credentials(url: URL, options: SourceOptions): string | undefined {
  if (url.username || url.password) {
    const pair = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
    return `Basic ${Buffer.from(pair).toString('base64')}`
  }
  return options.bearerToken === undefined ? undefined : `Bearer ${options.bearerToken}`
}
