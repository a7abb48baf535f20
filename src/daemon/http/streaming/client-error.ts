/**
 * What is no request to Node's parser, answered on the bare socket. Among it are requests with a method that the parser
 * does not know: those get the 405 or 404 that any other wrong method gets.
 */
import type {Socket} from 'node:net'
import {splitTarget} from './router.ts'

export type ClientError = NodeJS.ErrnoException & {rawPacket?: Buffer; bytesParsed?: number}

export type BareAnswer = {status: number; headers: readonly string[]}

const reasons: Record<number, string> = {
  400: 'Bad Request',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
}

/**
 * Answers and closes the connection. `answerTo` says what an unknown method is answered on a path, and does what belongs
 * to it (log, metrics).
 */
export function answerClientError(
  error: ClientError,
  socket: Socket,
  answerTo: (request: {method: string; path: string}) => BareAnswer,
): void {
  if (answered.has(socket)) return
  // Where an answer is under way, these bytes would end up inside it.
  if (error.code === 'ECONNRESET' || !socket.writable || hasAnswer(socket)) {
    socket.destroy()
    return
  }
  const {status, headers} = decide(error, answerTo)
  endWith(socket, status, headers)
}

function decide(
  error: ClientError,
  answerTo: (request: {method: string; path: string}) => BareAnswer,
): BareAnswer {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return {status: 431, headers: []}
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return {status: 408, headers: []}
    case 'HPE_INVALID_METHOD': {
      const line = requestLine(error)
      const request = line && /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP\/1\.[01]$/.exec(line)
      if (!request) return {status: 400, headers: []}
      return answerTo({method: request[1] ?? '', path: splitTarget(request[2] ?? '').path})
    }
    default:
      return {status: 400, headers: []}
  }
}

/** Sockets whose end is under way: what still comes is no longer parsed. */
const answered = new WeakSet<Socket>()
const lingerMs = 1000

/** Ends a connection with an answer that has no body. */
export function endWith(socket: Socket, status: number, headers: readonly string[]): void {
  let text = `HTTP/1.1 ${status} ${reasons[status] ?? ''}\r\n`
  for (let i = 0; i + 1 < headers.length; i += 2)
    text += `${headers[i] ?? ''}: ${headers[i + 1] ?? ''}\r\n`
  text += `Content-Length: 0\r\nConnection: close\r\nDate: ${new Date().toUTCString()}\r\n\r\n`
  answered.add(socket)
  socket.end(text)
  // Closing a socket that has unread bytes resets it, and the client may lose the answer: so what it still sends is
  // read and dropped, but not for long.
  const timer = setTimeout(() => socket.destroy(), lingerMs)
  socket.once('close', () => clearTimeout(timer))
  socket.resume()
}

const lineCharsMax = 8192

/** The request line in which the parser gave up; what came before it in the packet was other requests. */
function requestLine(error: ClientError): string | undefined {
  const packet = error.rawPacket
  if (!packet) return undefined
  const at = Math.min(error.bytesParsed ?? 0, packet.length)
  const from = at === 0 ? 0 : packet.lastIndexOf(0x0a, at - 1) + 1
  const to = packet.indexOf(0x0d, from)
  if (to < 0 || to - from > lineCharsMax) return undefined
  return packet.toString('latin1', from, to)
}

/** Node's own mark of the answer that a socket is at. */
function hasAnswer(socket: Socket): boolean {
  const answer = (socket as {_httpMessage?: {headersSent: boolean} | null})._httpMessage
  return answer !== undefined && answer !== null
}
