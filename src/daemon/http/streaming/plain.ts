/**
 * Health, readiness, version and metrics.
 *
 * Source: streaming specification, sections 1.6, 6.1 and 6.3.
 */
import type {Exchange} from './exchange.ts'
import {bearerOf, isToken} from './lease.ts'

export function answerHealth(exchange: Exchange): void {
  answerPlain(exchange, 200, 'text/plain; charset=utf-8', 'ok\n')
}

export function answerHealthz(exchange: Exchange): void {
  answerPlain(exchange, 200, 'application/json', '{"status":"ok"}')
}

/** Ready while the catalog can be read and makes sense; an image whose file is missing leaves the others ready. */
export function answerReady(exchange: Exchange): void {
  let isReady: boolean
  try {
    isReady = !exchange.door.listImages().problems.some(({kind}) => kind === 'entry')
  } catch {
    // `listImages` has logged it.
    isReady = false
  }
  const body = isReady ? '{"status":"ok"}' : '{"status":"error"}'
  answerPlain(exchange, isReady ? 200 : 503, 'application/json', body)
}

export function answerVersion(exchange: Exchange): void {
  const {version, gitSha, builtAt} = exchange.door.options.version
  answerPlain(exchange, 200, 'application/json', JSON.stringify({version, gitSha, builtAt}))
}

function answerPlain(exchange: Exchange, status: number, type: string, body: string): void {
  const length = String(Buffer.byteLength(body))
  const headers = ['Content-Type', type, 'Content-Length', length, ...exchange.cors]
  exchange.answer(status, headers, body)
}

export async function answerMetrics(exchange: Exchange): Promise<void> {
  const {door, headers} = exchange
  const expected = door.options.metricsToken
  if (expected !== undefined) {
    const token = bearerOf(headers.authorization)
    if (token === undefined) {
      answerRefusal(exchange, 401, ['WWW-Authenticate', 'Bearer'])
      return
    }
    if (!isToken(expected, token)) {
      answerRefusal(exchange, 403, [])
      return
    }
  }
  const text = await door.metrics.render()
  const length = String(Buffer.byteLength(text))
  const type = 'text/plain; version=0.0.4'
  const own = ['Content-Type', type, 'Content-Length', length, ...exchange.cors]
  exchange.answer(200, own, text)
}

function answerRefusal(exchange: Exchange, status: 401 | 403, more: readonly string[]): void {
  const own = ['Content-Length', '0', 'Cache-Control', 'no-store', ...more, ...exchange.cors]
  exchange.answer(status, own)
}
