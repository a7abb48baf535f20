/** What a person shows to see private images: a token for leases, which is kept nowhere but in its field. */
import {byId} from './dom.js'

/** @returns {Record<string, string>} headers of a request */
export function credentials() {
  const token = byId('token', HTMLInputElement).value.trim()
  // Anything else is no token, and a header with it could not be sent.
  return /^[!-~]+$/.test(token) ? {authorization: `Bearer ${token}`} : {}
}
