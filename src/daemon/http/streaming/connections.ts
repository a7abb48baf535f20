/**
 * The caps on open connections. Who holds many connections and asks for nothing must not keep others out: a connection
 * over a cap takes the place of the one that has been idle for longest, and is refused only when all are at work.
 */
import type {Socket} from 'node:net'
import type {Rejection} from './metrics.ts'

export type ConnectionLimits = {
  /** 0: without limit. */
  connectionsMax: number
  /** Of one address (of IPv6, one /64 network). 0: without limit. */
  perClientMax: number
  /** A client that takes nothing of what waits for it for so long is cut off. */
  stallMs: number
  /** Between two requests of one connection. */
  idleMs: number
}

export class Connection {
  readonly socket: Socket
  readonly client: string
  /** Requests at work. */
  inFlight = 0
  /** Requests that wait for the answer before them. */
  waiting = 0
  idleSince: number
  /** Whether a request came; for the head of the first one Node has a timeout. */
  hasAsked = false
  readBytes = 0
  /** The socket that carries HTTP: over TLS another than the one below it. */
  surface: Socket
  /** Set where HTTP/2 is spoken. */
  session: {close(): void} | undefined
  seenBytes = 0
  seenAt: number

  constructor(socket: Socket, client: string, now: number) {
    this.socket = socket
    this.surface = socket
    this.client = client
    this.idleSince = now
    this.seenAt = now
  }

  /** A request begins; returns what is to be called when its answer is over. */
  begin(): () => void {
    this.inFlight++
    this.hasAsked = true
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      this.inFlight--
      this.idleSince = performance.now()
    }
  }
}

// Enough to find one that has been idle for long: the oldest come first.
const candidatesMax = 256
const sweepEveryMs = {least: 20, most: 2000}

export class Connections {
  #limits: ConnectionLimits
  readonly #open = new Set<Connection>()
  readonly #byClient = new Map<string, Set<Connection>>()
  readonly #bySocket = new WeakMap<object, Connection>()
  readonly #byPeer = new Map<string, Connection>()
  readonly #onRefused: (reason: Rejection) => void
  #timer: NodeJS.Timeout

  constructor(o: {limits: ConnectionLimits; onRefused: (reason: Rejection) => void}) {
    this.#limits = o.limits
    this.#onRefused = o.onRefused
    this.#timer = this.#startSweeps()
  }

  get limits(): ConnectionLimits {
    return this.#limits
  }

  set limits(limits: ConnectionLimits) {
    this.#limits = limits
    clearInterval(this.#timer)
    this.#timer = this.#startSweeps()
  }

  get size(): number {
    return this.#open.size
  }

  /** Takes a new connection in, or destroys it. */
  add(socket: Socket): void {
    const connection = new Connection(socket, clientOf(socket.remoteAddress), performance.now())
    const own = this.#byClient.get(connection.client)
    const {connectionsMax, perClientMax} = this.limits
    if (perClientMax > 0 && own && own.size >= perClientMax) {
      this.#onRefused('connections_per_client')
      if (!this.#evict(own)) {
        socket.destroy()
        return
      }
    }
    if (connectionsMax > 0 && this.#open.size >= connectionsMax) {
      this.#onRefused('connections')
      if (!this.#evict(this.#open)) {
        socket.destroy()
        return
      }
    }
    this.#keep(connection)
  }

  /** Connects a TLS socket with the connection below it. */
  addSurface(surface: Socket): void {
    const connection = this.#byPeer.get(peerOf(surface))
    if (!connection) return
    connection.surface = surface
    this.#bySocket.set(surface, connection)
  }

  /** Connects an HTTP/2 session, by the peer of its socket. */
  addSession(session: {close(): void}, socket: Socket): void {
    const connection = this.#byPeer.get(peerOf(socket))
    if (!connection) return
    connection.session = session
    this.#bySocket.set(session, connection)
  }

  of(socketOrSession: object): Connection | undefined {
    return this.#bySocket.get(socketOrSession)
  }

  /** Ends every connection that is not at work, or all of them. */
  end(o: {which: 'idle' | 'all'}): void {
    for (const connection of this.#open) {
      if (o.which === 'all') connection.socket.destroy()
      // Tells the client to open no further stream, and ends with the last one.
      else if (connection.session) connection.session.close()
      else if (isIdle(connection)) connection.surface.destroySoon()
    }
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #keep(connection: Connection): void {
    const {socket, client} = connection
    const peer = peerOf(socket)
    this.#open.add(connection)
    this.#bySocket.set(socket, connection)
    this.#byPeer.set(peer, connection)
    let own = this.#byClient.get(client)
    if (!own) this.#byClient.set(client, (own = new Set()))
    own.add(connection)
    socket.once('close', () => {
      this.#forget(connection)
      if (this.#byPeer.get(peer) === connection) this.#byPeer.delete(peer)
    })
  }

  #forget(connection: Connection): void {
    this.#open.delete(connection)
    const own = this.#byClient.get(connection.client)
    own?.delete(connection)
    if (own?.size === 0) this.#byClient.delete(connection.client)
  }

  /** Cuts off the connection that has been idle for longest; false when none is idle. */
  #evict(among: ReadonlySet<Connection>): boolean {
    let oldest: Connection | undefined
    let seen = 0
    for (const connection of among) {
      if (isIdle(connection)) {
        if (!oldest || connection.idleSince < oldest.idleSince) oldest = connection
        if (++seen >= candidatesMax) break
      }
    }
    if (!oldest) return false
    // Its 'close' comes later than the next connection may.
    this.#forget(oldest)
    oldest.socket.destroy()
    return true
  }

  #startSweeps(): NodeJS.Timeout {
    const {least, most} = sweepEveryMs
    const everyMs = Math.min(most, Math.max(least, this.#limits.idleMs / 10))
    return setInterval(() => this.#sweep(), everyMs).unref()
  }

  /**
   * Ends connections that have been idle for long, and cuts off clients that leave small answers untaken (those that hold
   * a permit are watched there): no other timeout looks at them. Node's own for idle connections makes and drops a timer
   * for every request.
   */
  #sweep(): void {
    const now = performance.now()
    for (const connection of this.#open) {
      const {surface} = connection
      if (connection.inFlight > 0 || surface.writableLength === 0) {
        connection.seenAt = now
        // Who has begun another request is not idle: its head has a timeout of its own.
        if (surface.bytesRead !== connection.readBytes) {
          connection.readBytes = surface.bytesRead
          connection.idleSince = now
        }
        const isOver = isUnused(connection) && now - connection.idleSince >= this.limits.idleMs
        if (isOver) surface.destroySoon()
        continue
      }
      const taken = surface.bytesWritten - surface.writableLength
      if (taken !== connection.seenBytes) {
        connection.seenBytes = taken
        connection.seenAt = now
      } else if (now - connection.seenAt >= this.limits.stallMs) {
        this.#onRefused('stalled')
        connection.socket.destroy()
      }
    }
  }
}

/** Whether it waits for a request; HTTP/2 sessions have a timeout of their own. */
function isUnused(connection: Connection): boolean {
  const {inFlight, waiting, hasAsked, session} = connection
  return inFlight === 0 && waiting === 0 && hasAsked && !session
}

function isIdle(connection: Connection): boolean {
  return connection.inFlight === 0 && connection.surface.writableLength === 0
}

function peerOf(socket: Pick<Socket, 'remoteAddress' | 'remotePort'>): string {
  return `${socket.remoteAddress ?? ''} ${socket.remotePort ?? ''}`
}

/** Who counts as one client: an IPv4 address, or the /64 network that one IPv6 host commonly has to itself. */
export function clientOf(address: string | undefined): string {
  const text = address ?? ''
  const mapped = /^::ffff:([\d.]+)$/i.exec(text)?.[1]
  if (mapped !== undefined || !text.includes(':')) return mapped ?? text
  const [head = '', tail] = text.split('%', 1)[0]?.split('::') ?? []
  const groups = head === '' ? [] : head.split(':')
  const missing =
    tail === undefined ? 0 : 8 - groups.length - (tail === '' ? 0 : tail.split(':').length)
  while (groups.length < 4 && missing > 0) groups.push('0')
  return groups.slice(0, 4).join(':')
}
