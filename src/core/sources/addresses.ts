/**
 * Which network addresses are not public.
 *
 * The danger: a public server redirects the store to an address that only this host can reach (a cloud's metadata
 * service, an administration page) and gets its answer stored and served. A name is judged by the addresses it
 * resolves to at the moment of connecting, so that a name that changes in between (DNS rebinding) gains nothing.
 */
import {lookup as systemLookup, type LookupAddress, type LookupOptions} from 'node:dns'
import {BlockList, isIP} from 'node:net'

// IANA special-purpose address registries (RFC 6890 and its updates), without the documentation ranges.
const special = new BlockList()
for (const [net, prefix] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
] as const) {
  special.addSubnet(net, prefix, 'ipv4')
}
for (const [net, prefix] of [
  ['::', 96],
  ['64:ff9b:1::', 48],
  ['fc00::', 7],
  ['fe80::', 10],
  ['fec0::', 10],
  ['ff00::', 8],
] as const) {
  special.addSubnet(net, prefix, 'ipv6')
}

/** Whether an IP address is loopback, private, link-local, multicast or otherwise not on the public network. */
export function isPrivateAddress(address: string): boolean {
  const plain = address.replace(/%.*$/, '')
  const family = isIP(plain)
  if (family === 0) return false
  if (family === 4) return special.check(plain, 'ipv4')
  const embedded = embeddedIpv4(plain)
  return special.check(plain, 'ipv6') || (embedded !== undefined && special.check(embedded, 'ipv4'))
}

/** The IPv4 address inside a mapped (::ffff/96), NAT64 (64:ff9b::/96) or 6to4 (2002::/16) address. */
function embeddedIpv4(address: string): string | undefined {
  // The URL parser writes every IPv6 address in one canonical form.
  const canonical = new URL(`http://[${address}]/`).hostname.slice(1, -1)
  const tail = /^(?:::ffff:|64:ff9b::)([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(canonical)
  const head = /^2002:([0-9a-f]{1,4}):([0-9a-f]{1,4}):/.exec(canonical)
  const found = tail ?? head
  if (!found) return undefined
  const value = (parseInt(found[1] ?? '', 16) << 16) | parseInt(found[2] ?? '', 16)
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.')
}

/** The address that a URL's host is itself, without brackets; undefined for a name. */
export function literalAddress(hostname: string): string | undefined {
  const bare = hostname.replace(/^\[|\]$/g, '')
  return isIP(bare) === 0 ? undefined : bare
}

/** Why a connection was not made; its `code` tells it from the resolver's own errors. */
export class PrivateAddressError extends Error {
  readonly code = 'EPRIVATEADDRESS'
}

type LookupCallback = (
  error: NodeJS.ErrnoException | null,
  address: string | LookupAddress[],
  family?: number,
) => void

/** A resolver for sockets that refuses a name when any of its addresses is private. */
export function publicLookup(isPrivate: (address: string) => boolean) {
  return (hostname: string, options: LookupOptions, callback: LookupCallback): void => {
    systemLookup(hostname, {...options, all: true}, (error, addresses) => {
      if (error) {
        callback(error, [])
        return
      }
      const found = addresses.find(({address}) => isPrivate(address))
      const first = addresses[0]
      if (found || !first) {
        callback(
          new PrivateAddressError(`${hostname} is the private address ${found?.address ?? '?'}`),
          [],
        )
      } else if (options.all) callback(null, addresses)
      else callback(null, first.address, first.family)
    })
  }
}
