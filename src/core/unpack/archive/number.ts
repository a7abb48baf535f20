/** Numbers in tar headers and PAX records, read strictly: what parsers disagree about is malformed. */
import {fail} from '../../errors.ts'

const SPACE = 0x20
const ZERO = 0x30

/**
 * Reads one numeric header field: octal digits after optional spaces, ended by NULs or spaces or the field's end,
 * or base-256 (first byte 0x80, or 0xff for negative numbers).
 *
 * Errors: bad_archive.
 */
export function readNumber(
  block: Buffer,
  start: number,
  length: number,
  field: string,
  offset: number,
): number | undefined {
  const lead = block[start] ?? 0
  if (lead >= 0x80) return readBase256(block, start, length, field, offset)
  const end = start + length
  let at = start
  while (at < end && block[at] === SPACE) at++
  const digitsStart = at
  let value = 0
  for (; at < end; at++) {
    const digit = (block[at] ?? 0) - ZERO
    if (digit < 0 || digit > 7) break
    value = value * 8 + digit
  }
  const digitCount = at - digitsStart
  for (; at < end; at++) {
    const byte = block[at]
    if (byte !== 0 && byte !== SPACE) {
      throw fail('bad_archive', {offset, reason: `its ${field} field is not an octal number`})
    }
  }
  return digitCount === 0 ? undefined : value
}

function readBase256(
  block: Buffer,
  start: number,
  length: number,
  field: string,
  offset: number,
): number {
  const lead = block[start]
  if (lead !== 0x80 && lead !== 0xff) {
    throw fail('bad_archive', {offset, reason: `its ${field} field has an unknown encoding`})
  }
  // Two's complement over the whole field; the top bit of the first byte only marks the encoding, so a
  // positive number begins with 0x80 and a negative one with 0xff.
  const isNegative = lead === 0xff
  let value = isNegative ? -1n : 0n
  for (let at = start + 1; at < start + length; at++) {
    value = (value << 8n) | BigInt(block[at] ?? 0)
  }
  const isSafe =
    value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= BigInt(Number.MIN_SAFE_INTEGER)
  if (!isSafe) {
    throw fail('bad_archive', {offset, reason: `its ${field} is beyond every real value`})
  }
  return Number(value)
}

/**
 * The value of a field that is digits alone with its terminator, the form that no two parsers read differently; -1 for
 * every other form, which `readNumber` judges.
 */
export function readPlainOctal(block: Buffer, start: number, length: number): number {
  let at = start
  const end = start + length
  let value = 0
  while (at < end) {
    const digit = (block[at] ?? 0) - ZERO
    if (digit < 0 || digit > 7) break
    value = value * 8 + digit
    at++
  }
  if (at === start) return -1
  for (; at < end; at++) if (block[at] !== 0 && block[at] !== SPACE) return -1
  return value
}

/** An unsigned decimal of a PAX record or sparse map: digits alone. Undefined when it is not, or beyond 2^53 - 1. */
export function parseDecimal(text: string): number | undefined {
  if (!/^[0-9]{1,20}$/.test(text)) return undefined
  const value = Number(text)
  return Number.isSafeInteger(value) ? value : undefined
}

/** A PAX time: optional sign, digits, optional fraction; rounded down to the nanosecond. */
export function parseTime(text: string): {seconds: number; nanoseconds: number} | undefined {
  const match = /^(-?)([0-9]{1,20})(?:\.([0-9]{0,100}))?$/.exec(text)
  if (match === null) return undefined
  const whole = Number(match[2])
  if (!Number.isSafeInteger(whole)) return undefined
  const fraction = match[3] ?? ''
  const nanoseconds = Number(fraction.slice(0, 9).padEnd(9, '0'))
  if (match[1] === '') return {seconds: whole, nanoseconds}
  // Rounding down a negative number goes away from zero, so any digit past the ninth counts.
  const hasRest = /[1-9]/.test(fraction.slice(9))
  const below = nanoseconds + (hasRest ? 1 : 0)
  return below === 0
    ? {seconds: whole === 0 ? 0 : -whole, nanoseconds: 0}
    : {seconds: -whole - 1, nanoseconds: 1_000_000_000 - below}
}
