/** Connections: proxies, certificates and the limits on where a redirect may lead. */
import {Agent as HttpAgent} from 'node:http'
import {Agent as HttpsAgent} from 'node:https'
import {BlockList, isIP} from 'node:net'
import {createSecureContext, getCACertificates} from 'node:tls'
import {fail} from '../errors.ts'
import {MiB} from '../limits.ts'
import {readSmallFile} from '../small-file.ts'
import {literalAddress} from './addresses.ts'
import {BulkAgent} from './bulk.ts'
import type {SourceOptions} from './contract.ts'

type ProxyEnv = Readonly<Record<string, string | undefined>>

/** The proxy for an address by HTTP_PROXY, HTTPS_PROXY and NO_PROXY (lower case wins, as in curl), or undefined. */
export function proxyFor(url: URL, env: ProxyEnv = {}): string | undefined {
  const value = (name: string): string | undefined => env[name.toLowerCase()] ?? env[name]
  const proxy = value(url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY')
  if (!proxy) return undefined
  const exceptions = (value('NO_PROXY') ?? '').split(',').map((text) => text.trim().toLowerCase())
  return exceptions.some((text) => text !== '' && isException(url, text)) ? undefined : proxy
}

function isException(url: URL, pattern: string): boolean {
  if (pattern === '*') return true
  const literal = literalAddress(url.hostname)
  const [net, prefix] = pattern.split('/')
  if (literal !== undefined && net !== undefined && prefix !== undefined) {
    if (isIP(net) === 0 || isIP(net) !== isIP(literal) || !/^\d{1,3}$/.test(prefix)) return false
    if (Number(prefix) > (isIP(net) === 4 ? 32 : 128)) return false
    const list = new BlockList()
    list.addSubnet(net, Number(prefix), isIP(net) === 4 ? 'ipv4' : 'ipv6')
    return list.check(literal, isIP(literal) === 4 ? 'ipv4' : 'ipv6')
  }
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  const host = literal ?? url.hostname.replace(/\.$/, '')
  const bare = pattern.replace(/^\*?\./, '').replace(/^\[(.*)\]$/, '$1')
  return host === bare || `${host}:${port}` === bare || (!literal && host.endsWith(`.${bare}`))
}

/** Makes agents when first asked for them; each connection is used once, unless they are `KeptAgents`. */
export class Agents {
  readonly #options: Pick<SourceOptions, 'caFile' | 'proxyEnv'>
  readonly #made: (HttpAgent | HttpsAgent)[] = []
  protected readonly isKept: boolean = false

  constructor(options: Pick<SourceOptions, 'caFile' | 'proxyEnv'>) {
    this.#options = options
  }

  http(proxy: string | undefined): HttpAgent {
    const keepAlive = this.isKept
    const agent =
      proxy !== undefined
        ? new HttpAgent({keepAlive, proxyEnv: {HTTP_PROXY: proxy}})
        : keepAlive
          ? new HttpAgent({keepAlive})
          : new BulkAgent()
    this.#made.push(agent)
    return agent
  }

  https(proxy: string | undefined): HttpsAgent {
    const agent = new HttpsAgent({
      keepAlive: this.isKept,
      ...(proxy === undefined ? {} : {proxyEnv: {HTTPS_PROXY: proxy}}),
      ca: trustedCertificates(this.#options.caFile),
    })
    this.#made.push(agent)
    return agent
  }

  /** Ends every connection. */
  close(): void {
    for (const agent of this.#made.splice(0)) agent.destroy()
  }
}

/** One agent for each way out, whose connections serve many requests: for many small answers from one place. */
export class KeptAgents extends Agents {
  protected override readonly isKept = true
  readonly #kept = new Map<string, HttpAgent | HttpsAgent>()

  override http(proxy: string | undefined): HttpAgent {
    return this.#keep(`http ${proxy ?? ''}`, () => super.http(proxy))
  }

  override https(proxy: string | undefined): HttpsAgent {
    return this.#keep(`https ${proxy ?? ''}`, () => super.https(proxy))
  }

  #keep<T extends HttpAgent | HttpsAgent>(name: string, make: () => T): T {
    const agent = (this.#kept.get(name) as T | undefined) ?? make()
    this.#kept.set(name, agent)
    return agent
  }
}

const trusted = new Map<string, string[]>()

/** Node's own roots, the system's, and those of `caFile`; read once in a process. */
function trustedCertificates(caFile: string | undefined): string[] {
  const known = trusted.get(caFile ?? '')
  if (known) return known
  const roots = new Set([...getCACertificates('default'), ...getCACertificates('system')])
  if (caFile !== undefined) roots.add(readCertificates(caFile))
  const list = [...roots]
  trusted.set(caFile ?? '', list)
  return list
}

function readCertificates(path: string): string {
  const expected = 'a readable file of PEM certificates'
  try {
    const text = readSmallFile(path, 16 * MiB)
    if (!text.includes('-----BEGIN CERTIFICATE-----')) throw new Error('no certificate in it')
    createSecureContext({ca: text})
    return text
  } catch (cause) {
    throw fail(
      'invalid_setting',
      {setting: 'caFile', value: path, from: 'settings', expected},
      {cause},
    )
  }
}
