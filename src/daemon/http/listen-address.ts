import {fail} from '../../core/errors.ts'

export type ListenAddress = {host: string; port: number}

/**
 * Reads `host:port`. A host that is left out (`:9310`) means this machine alone (127.0.0.1): what answers without a
 * password must be opened to others on purpose, with `0.0.0.0:9310` or `[::]:9310`. Port 0 takes any free one.
 *
 * Errors: invalid_setting.
 */
export function parseListenAddress(text: string, from: string): ListenAddress {
  const match = /^(?:\[([0-9a-f:.]+(?:%\w+)?)\]|([\w.-]*)):(\d{1,5})$/i.exec(text)
  const port = Number(match?.[3])
  if (!match || port > 65_535) throw invalidListen(text, from)
  // Both loopback addresses may belong to "localhost"; one listener takes one of them, always the same.
  const name = match[1] ?? match[2] ?? ''
  return {host: name === '' || name === 'localhost' ? '127.0.0.1' : name, port}
}

export function invalidListen(value: string, from: string, reason?: string): Error {
  const expected = `host:port, :port or [ipv6]:port${reason === undefined ? '' : ` of this host (${reason})`}`
  return fail('invalid_setting', {setting: 'listen', value, from, expected})
}

/** The address as it stands in a URL. */
export function formatListenAddress(address: ListenAddress): string {
  return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`
}
