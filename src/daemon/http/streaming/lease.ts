/**
 * Leases: short-lived, signed permissions to read one private image.
 *
 * A lease is `v1.<payload>.<signature>`, both parts in base64url: the payload is JSON `{"img", "exp"}` (image id, seconds
 * since the epoch), the signature HMAC-SHA256 over `v1.<payload>`. It is a capability: whoever has it may read that image
 * until it expires. Secrets and tokens come from files; what replaces them takes the old leases' validity with it.
 */
import {createHash, createHmac, timingSafeEqual} from 'node:crypto'
import {fail} from '../../../core/errors.ts'
import {readSmallFile} from '../../../core/small-file.ts'

export type LeaseVerdict = 'valid' | 'absent' | 'expired' | 'wrong'

export type Leases = {
  /** How long new leases hold. */
  readonly ttlMs: number
  /** Whether anybody may ask this server for leases. */
  readonly canIssue: boolean
  issue(imageId: string): {lease: string; expiresAtMs: number}
  /** Judges what a request brought: the value of `cap` in its query, and its `Authorization` header. */
  verdict(imageId: string, o: {query: string; authorization: string | undefined}): LeaseVerdict
  /** Whether the `Authorization` header bears a token that may ask for leases. */
  isIssuer(authorization: string | undefined): 'yes' | 'absent' | 'wrong'
}

const secretBytesMin = 16
const leaseCharsMax = 1024
const fileBytesMax = 64 * 1024

/**
 * Makes leases with the secrets of a file, one a line: the first signs, all are accepted, so that one can be replaced
 * while leases of the old one run out.
 *
 * Errors: serve_failed.
 */
export function openLeases(o: {
  secretFile: string
  tokenFile: string | undefined
  ttlMs: number
  now?: () => number
}): Leases {
  const now = o.now ?? (() => Date.now())
  const secrets = readLines(o.secretFile, 'lease secret').map((line) => Buffer.from(line))
  if (secrets.some((secret) => secret.length < secretBytesMin))
    throw cannotUse(o.secretFile, 'lease secret', `a secret has at least ${secretBytesMin} bytes`)
  const tokens =
    o.tokenFile === undefined ? [] : readLines(o.tokenFile, 'lease token').map(fingerprint)
  const sign = (secret: Buffer, text: string): Buffer =>
    createHmac('sha256', secret).update(text).digest()

  const judge = (imageId: string, lease: string): LeaseVerdict => {
    const parts = lease.length <= leaseCharsMax ? lease.split('.') : []
    const [version, payload, signature] = parts
    if (parts.length !== 3 || version !== 'v1' || !payload || !signature) return 'wrong'
    const given = Buffer.from(signature, 'base64url')
    // Every secret is tried, so that the time says nothing about which one fits.
    const isSigned = secrets
      .map((secret) => isEqual(sign(secret, `v1.${payload}`), given))
      .includes(true)
    const claims = isSigned ? readPayload(payload) : undefined
    if (claims?.img !== imageId) return 'wrong'
    return now() < claims.exp * 1000 ? 'valid' : 'expired'
  }
  return {
    ttlMs: o.ttlMs,
    canIssue: tokens.length > 0,
    issue: (imageId) => {
      const exp = Math.floor((now() + o.ttlMs) / 1000)
      const payload = Buffer.from(JSON.stringify({img: imageId, exp})).toString('base64url')
      const signature = sign(secrets[0] ?? Buffer.alloc(0), `v1.${payload}`).toString('base64url')
      return {lease: `v1.${payload}.${signature}`, expiresAtMs: exp * 1000}
    },
    verdict: (imageId, {query, authorization}) => {
      let worst: LeaseVerdict = 'absent'
      // A proxy may have put credentials of its own into the header: either place will do.
      for (const lease of [queryParameter(query, 'cap'), bearerOf(authorization)]) {
        if (lease === undefined) continue
        const verdict = judge(imageId, lease)
        if (verdict === 'valid') return verdict
        if (worst !== 'expired') worst = verdict
      }
      return worst
    },
    isIssuer: (authorization) => {
      const token = bearerOf(authorization)
      if (token === undefined) return 'absent'
      const given = fingerprint(token)
      return tokens.map((known) => timingSafeEqual(known, given)).includes(true) ? 'yes' : 'wrong'
    },
  }
}

/** The token of an `Authorization: Bearer` header; undefined for any other scheme and for more words than one. */
export function bearerOf(authorization: string | undefined): string | undefined {
  return authorization === undefined ? undefined : /^bearer +(\S+) *$/i.exec(authorization)?.[1]
}

/** Whether a bearer token is the one expected, in a time that says nothing about either. */
export function isToken(expected: string, given: string): boolean {
  return timingSafeEqual(fingerprint(expected), fingerprint(given))
}

/** The first value of a query parameter, percent-decoded. */
export function queryParameter(query: string, name: string): string | undefined {
  if (!query.includes(name)) return undefined
  return new URLSearchParams(query).get(name) ?? undefined
}

function fingerprint(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

function isEqual(a: Buffer, b: Buffer): boolean {
  return a.length === b.length && timingSafeEqual(a, b)
}

function readPayload(payload: string): {img: string; exp: number} | undefined {
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(payload, 'base64url').toString())
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const {img, exp} = value as {img?: unknown; exp?: unknown}
  return typeof img === 'string' && typeof exp === 'number' ? {img, exp} : undefined
}

/**
 * The lines of a file of secrets, without blank ones, white space at their ends, and comments (`#`).
 *
 * Errors: serve_failed.
 */
export function readLines(path: string, what: string): string[] {
  let text: string
  try {
    text = readSmallFile(path)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw cannotUse(path, what, reason, error)
  }
  if (text.length > fileBytesMax) throw cannotUse(path, what, 'it is too large')
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
  if (lines.length === 0) throw cannotUse(path, what, 'it is empty')
  return lines
}

function cannotUse(path: string, what: string, reason: string, cause?: unknown): Error {
  return fail(
    'serve_failed',
    {reason: `the ${what} file ${path} cannot be used: ${reason}`},
    {cause},
  )
}
