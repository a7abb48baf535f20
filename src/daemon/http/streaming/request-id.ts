import {randomUUID} from 'node:crypto'

const visible = /^[\x21-\x7e]{1,128}$/

/**
 * The id under which a request is answered and logged: the client's own `X-Request-Id` if it is 1 to 128 bytes of
 * visible ASCII once trimmed, else a new random UUID.
 *
 * Source: streaming specification, section 1.3.
 */
export function requestIdOf(given: string | undefined): string {
  if (given === undefined) return randomUUID()
  const trimmed = given.trim()
  return visible.test(trimmed) ? trimmed : randomUUID()
}

/** The user that a proxy in front names for the log: 1 to 128 bytes, trimmed. */
export function userIdOf(given: string | undefined): string | undefined {
  const trimmed = given?.trim()
  return trimmed === undefined || trimmed === '' || trimmed.length > 128 ? undefined : trimmed
}
