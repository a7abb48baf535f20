import {randomBytes} from 'node:crypto'
import {fail} from './errors.ts'

/** The name a person gave to an image; fit to be one path component. Made by `parseImageName` only. */
export type ImageName = string & {readonly brand: 'ImageName'}
/** A run of the state machine. */
export type RunId = string & {readonly brand: 'RunId'}
/** A process that works on runs. */
export type OwnerId = string & {readonly brand: 'OwnerId'}
/** A host, as the store knows it. */
export type NodeId = string & {readonly brand: 'NodeId'}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/

/**
 * Checks an image name.
 *
 * Errors: invalid_name.
 */
export function parseImageName(text: string): ImageName {
  if (!namePattern.test(text)) throw fail('invalid_name', {name: text})
  return text as ImageName
}

/** Whether a text is the id of a host. */
export function isNodeIdText(text: string): boolean {
  return /^[A-Za-z0-9._-]{1,128}$/.test(text)
}

const alphabet = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/**
 * A new ULID: 26 characters that sort by time (48 bits of milliseconds) and are unique by 80 random bits.
 *
 * Source: the ULID specification (Crockford's base 32).
 */
export function newUlid(nowMs: number): string {
  let time = ''
  let rest = nowMs
  for (let i = 0; i < 10; i++) {
    time = alphabet.charAt(rest % 32) + time
    rest = Math.floor(rest / 32)
  }
  let random = ''
  for (const byte of randomBytes(16)) random += alphabet.charAt(byte % 32)
  return time + random
}
