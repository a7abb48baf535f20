/**
 * The head of an answer as text, made faster than node:http does: what many answers have in common is put together and
 * checked once.
 */
import {STATUS_CODES, validateHeaderValue} from 'node:http'

const fixedTexts = new WeakMap<readonly string[], string>()

/**
 * The whole head, with `Date`, without `Connection`: for answers after which an HTTP/1.1 connection just stays open.
 *
 * Shape: names and values in turn. `fixed` is not changed after the first call with it.
 * Errors: a value that would end its line is a TypeError (node:http's own).
 */
export function headText(
  status: number,
  o: {fixed: readonly string[]; own: readonly string[]},
): string {
  let fixed = fixedTexts.get(o.fixed)
  if (fixed === undefined) fixedTexts.set(o.fixed, (fixed = lines(o.fixed)))
  return `${statusLine(status)}${fixed}${lines(o.own)}${dateLine()}\r\n`
}

function lines(headers: readonly string[]): string {
  let text = ''
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i] ?? ''
    const value = headers[i + 1] ?? ''
    validateHeaderValue(name, value)
    text += `${name}: ${value}\r\n`
  }
  return text
}

const statusLines = new Map<number, string>()

function statusLine(status: number): string {
  let line = statusLines.get(status)
  if (line === undefined) {
    line = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n`
    statusLines.set(status, line)
  }
  return line
}

let dateSecond = Number.NaN
let dateText = ''

function dateLine(): string {
  const now = Date.now()
  const second = Math.floor(now / 1000)
  if (second !== dateSecond) {
    dateSecond = second
    dateText = `Date: ${new Date(now).toUTCString()}\r\n`
  }
  return dateText
}
