/**
 * Times as HTTP and as JSON write them. In between, a time is nanoseconds since the epoch (bigint), as file systems
 * keep it; an HTTP date is whole seconds.
 */

const second = 1_000_000_000n
/** The first nanosecond of the year 10000, which neither format can write. */
const yearTenThousand = 253_402_300_800n * second

const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const days = '(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)'
const longDays = '(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day'
const month = `(${months.join('|')})`
const time = '(\\d\\d):(\\d\\d):(\\d\\d)'

const imfFixdate = new RegExp(`^${days}, (\\d\\d) ${month} (\\d{4}) ${time} GMT$`)
const rfc850 = new RegExp(`^${longDays}, (\\d\\d)-${month}-(\\d\\d) ${time} GMT$`)
const asctime = new RegExp(`^${days} ${month} ([ \\d]\\d) ${time} (\\d{4})$`)

/**
 * Reads an HTTP date in any of its three forms: whole seconds since the epoch, or undefined for anything else.
 *
 * The name of the day is not held against the date. Of a year in two digits, 70 and later is of the last century.
 * Source: RFC 9110 section 5.6.7.
 */
export function parseHttpDate(text: string): number | undefined {
  const trimmed = text.trim()
  // The longest form: "Wednesday, 09-Nov-94 08:49:37 GMT".
  if (trimmed.length > 33) return undefined
  const fix = imfFixdate.exec(trimmed)
  if (fix) return toSeconds(fix[3], fix[2], fix[1], fix[4], fix[5], fix[6])
  const old = rfc850.exec(trimmed)
  if (old) {
    const year = Number(old[3])
    return toSeconds(year < 70 ? year + 2000 : year + 1900, old[2], old[1], old[4], old[5], old[6])
  }
  const unix = asctime.exec(trimmed)
  if (unix) return toSeconds(unix[6], unix[1], unix[2], unix[3], unix[4], unix[5])
  return undefined
}

/** The seconds of a date that exists; a leap second counts as the second after it. */
function toSeconds(
  year: unknown,
  monthName: unknown,
  day: unknown,
  hour: unknown,
  minute: unknown,
  seconds: unknown,
): number | undefined {
  const monthIndex = months.indexOf(String(monthName))
  return secondsOf(
    Number(year),
    monthIndex,
    Number(day),
    Number(hour),
    Number(minute),
    Number(seconds),
  )
}

function secondsOf(
  year: number,
  monthIndex: number,
  day: number,
  hour: number,
  minute: number,
  seconds: number,
): number | undefined {
  if (hour > 23 || minute > 59 || seconds > 60) return undefined
  const date = new Date(0)
  // Unlike Date.UTC, this takes the years 0 to 99 as they are.
  date.setUTCFullYear(year, monthIndex, day)
  if (date.getUTCMonth() !== monthIndex || date.getUTCDate() !== day) return undefined
  return date.getTime() / 1000 + hour * 3600 + minute * 60 + seconds
}

/** Whole seconds of a time, rounded down: what an HTTP date can say of it. */
export function wholeSeconds(ns: bigint): number {
  const seconds = ns / second
  return Number(ns % second < 0n ? seconds - 1n : seconds)
}

/**
 * A time as `Last-Modified` says it (IMF-fixdate, whole seconds, rounded down), or undefined where the header is to be
 * left out: unknown, before 1970, or past the year 9999.
 *
 * Source: streaming specification, section 1.10.
 */
export function formatHttpDate(ns: bigint | undefined): string | undefined {
  if (!isWritable(ns)) return undefined
  return new Date(wholeSeconds(ns) * 1000).toUTCString()
}

/**
 * A time as RFC 3339 in UTC: up to nine digits of a second without trailing zeros, no fraction when it is zero. What is
 * unknown or cannot be written is 1970-01-01T00:00:00Z.
 *
 * Source: streaming specification, section 1.7.
 */
export function formatRfc3339(ns: bigint | undefined): string {
  const known = isWritable(ns) ? ns : 0n
  const date = new Date(wholeSeconds(known) * 1000).toISOString().slice(0, 19)
  const fraction = known % second
  if (fraction === 0n) return `${date}Z`
  return `${date}.${fraction.toString().padStart(9, '0').replace(/0+$/, '')}Z`
}

function isWritable(ns: bigint | undefined): ns is bigint {
  return ns !== undefined && ns >= 0n && ns < yearTenThousand
}

const rfc3339 =
  /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/

/**
 * Reads an RFC 3339 time with seconds and an offset: nanoseconds since the epoch (negative before 1970), or undefined
 * for anything else. Digits past the ninth of a fraction are dropped.
 *
 * Source: RFC 3339 section 5.6; streaming specification, section 3.1, `last_modified`.
 */
export function parseRfc3339(text: string): bigint | undefined {
  const match = rfc3339.exec(text)
  if (!match) return undefined
  const [, year, monthText, day, hour, minute, seconds, fraction, sign, hours, minutes] = match
  const local = secondsOf(
    Number(year),
    Number(monthText) - 1,
    Number(day),
    Number(hour),
    Number(minute),
    Number(seconds),
  )
  if (local === undefined) return undefined
  let offset = 0
  if (sign !== undefined) {
    if (Number(hours) > 23 || Number(minutes) > 59) return undefined
    offset = (Number(hours) * 3600 + Number(minutes) * 60) * (sign === '-' ? -1 : 1)
  }
  const nanoseconds = BigInt((fraction ?? '').slice(0, 9).padEnd(9, '0'))
  const ns = BigInt(local - offset) * second + nanoseconds
  return ns < yearTenThousand ? ns : undefined
}
